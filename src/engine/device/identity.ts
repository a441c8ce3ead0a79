/**
 * Identity of what lies behind a path, so that nothing is opened twice under different names.
 *
 * Role: gives a set of keys; two volumes whose sets share a key would touch the same bytes.
 *   file:<dev>:<ino>   a regular file, whatever its names
 *   block:<maj>:<min>  a block device; a disk also has the keys of its partitions (not the reverse: two partitions of
 *                      one disk are different volumes), a loop device and its partitions also the key of the file behind
 */
import { fstat, stat as statCallback } from "node:fs";
import { promisify } from "node:util";
import { pathError } from "./errno.ts";
import { deviceNumberText, diskOf, inodeText, loopBackingOf, partitionsOf } from "./system-tables.ts";

const fstatOf = promisify(fstat);
const statOf = promisify(statCallback);

/** Loop devices over files on loop devices ...: deeper nesting is not followed. */
const LOOP_DEPTH_MAX = 8;

/**
 * Identity keys of an open descriptor or a path (symbolic links followed).
 * Throws PATH_NOT_FOUND, PERMISSION_DENIED, PATH_NOT_USABLE.
 */
export async function identityOf(target: number | string): Promise<string[]> {
  try {
    const facts =
      typeof target === "number" ? await fstatOf(target, { bigint: true }) : await statOf(target, { bigint: true });
    if (!facts.isBlockDevice()) return [`file:${inodeText(facts)}`];
    return await blockKeys(deviceNumberText(facts.rdev), 0);
  } catch (error) {
    throw pathError(error, String(target));
  }
}

async function blockKeys(number: string, depth: number): Promise<string[]> {
  const keys = new Set([`block:${number}`]);
  for (const partition of await partitionsOf(number)) keys.add(`block:${partition}`);
  const disk = await diskOf(number);
  const backing = (await loopBackingOf(number)) ?? (disk === undefined ? undefined : await loopBackingOf(disk));
  if (backing !== undefined && depth < LOOP_DEPTH_MAX) {
    for (const key of await backingKeys(backing, depth + 1)) keys.add(key);
  }
  return [...keys];
}

async function backingKeys(path: string, depth: number): Promise<string[]> {
  try {
    const facts = await statOf(path, { bigint: true });
    if (facts.isBlockDevice()) return await blockKeys(deviceNumberText(facts.rdev), depth);
    return [`file:${inodeText(facts)}`];
  } catch {
    // The file behind the loop device has lost this name (deleted or another mount namespace): nothing to compare with.
    return [];
  }
}
