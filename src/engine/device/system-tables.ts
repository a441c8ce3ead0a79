/**
 * What the kernel's tables say about a device: partitions, loop backing, mounts, swap, holders.
 *
 * Role: reads /proc and /sys only, so it cannot hang on a stalled device. Missing tables read as empty: the exclusive
 * opening itself (O_EXCL, flock) is what protects; these tables only make the refusal speak.
 */
import { readdir, readFile, readlink, stat } from "node:fs/promises";
import { SharedRead } from "./shared-read.ts";

/** Entries of /proc that a search for a holder looks at. */
const HOLDER_SEARCH_MAX = 20_000;

/** `major:minor` of a device number, as /sys and /proc write it. */
export function deviceNumberText(device: bigint): string {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn);
  const minor = (device & 0xffn) | ((device >> 12n) & ~0xffn);
  return `${major}:${minor}`;
}

/** Content of a kernel table, or "" where this system has none. */
export async function readTable(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch {
    return "";
  }
}

async function names(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch {
    return [];
  }
}

/** Device numbers of the partitions of a disk. */
export async function partitionsOf(number: string): Promise<string[]> {
  const base = `/sys/dev/block/${number}`;
  const found: string[] = [];
  for (const name of await names(base)) {
    if ((await readTable(`${base}/${name}/partition`)) === "") continue;
    const partition = (await readTable(`${base}/${name}/dev`)).trim();
    if (partition !== "") found.push(partition);
  }
  return found;
}

/** Device number of the disk a partition lies on; undefined if `number` is not a partition. */
export async function diskOf(number: string): Promise<string | undefined> {
  const base = `/sys/dev/block/${number}`;
  if ((await readTable(`${base}/partition`)) === "") return undefined;
  const disk = (await readTable(`${base}/../dev`)).trim();
  return disk === "" ? undefined : disk;
}

/** Path of the file behind a loop device; undefined if `number` is not one in use. */
export async function loopBackingOf(number: string): Promise<string | undefined> {
  const path = (await readTable(`/sys/dev/block/${number}/loop/backing_file`)).replace(/\n$/, "");
  return path === "" ? undefined : path;
}

/** `dev:ino` of a file from its stat. */
export function inodeText(facts: { readonly dev: bigint; readonly ino: bigint }): string {
  return `${deviceNumberText(facts.dev)}:${facts.ino}`;
}

interface LoopDevice {
  readonly name: string;
  /** `dev:ino` of the file behind it. */
  readonly inode: string;
}

async function readLoops(): Promise<LoopDevice[]> {
  const loops: LoopDevice[] = [];
  for (const name of await names("/sys/block")) {
    if (!name.startsWith("loop")) continue;
    const backing = (await readTable(`/sys/block/${name}/loop/backing_file`)).replace(/\n$/, "");
    const facts = backing === "" ? undefined : await statOf(backing);
    if (facts !== undefined) loops.push({ name, inode: inodeText(facts) });
  }
  return loops;
}

const loops = new SharedRead(readLoops);

/** `/dev/loopN` that uses the file with this `dev:ino`. */
export async function loopOver(inode: string): Promise<string | undefined> {
  const found = (await loops.request()).find((loop) => loop.inode === inode);
  return found && `/dev/${found.name}`;
}

async function statOf(path: string) {
  try {
    return await stat(path, { bigint: true });
  } catch {
    return undefined;
  }
}

/** Undoes the octal escapes of /proc tables. */
function plainText(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/** Where one of these device numbers is mounted. */
export async function mountPointOf(numbers: readonly string[]): Promise<string | undefined> {
  for (const line of (await readTable("/proc/self/mountinfo")).split("\n")) {
    const fields = line.split(" ");
    const [number, , point] = fields.slice(2, 5);
    if (number === undefined || point === undefined) continue;
    if (numbers.includes(number)) return plainText(point);
    // btrfs shows a number of its own; its source names the device.
    const source = plainText(fields[fields.indexOf("-") + 2] ?? "");
    if (!number.startsWith("0:") || !source.startsWith("/dev/")) continue;
    const facts = await statOf(source);
    if (facts?.isBlockDevice() && numbers.includes(deviceNumberText(facts.rdev))) return plainText(point);
  }
  return undefined;
}

/** True if the path's file or device is used as swap. */
export async function isSwap(key: { readonly inode: string; readonly device: string | undefined }): Promise<boolean> {
  for (const line of (await readTable("/proc/swaps")).split("\n").slice(1)) {
    const path = plainText(line.split(/\s+/)[0] ?? "");
    if (!path.startsWith("/")) continue;
    const facts = await statOf(path);
    if (facts === undefined) continue;
    if (facts.isBlockDevice() ? deviceNumberText(facts.rdev) === key.device : inodeText(facts) === key.inode)
      return true;
  }
  return false;
}

export interface Holder {
  readonly pid: number;
  readonly command: string;
}

/** The process that holds a flock on this inode, or, failing that, one that has the path open. */
export async function holderOf(path: string, inode: string): Promise<Holder | undefined> {
  const [major, minor, ino] = inode.split(":");
  const file = `${hex(major)}:${hex(minor)}:${ino}`;
  for (const line of (await readTable("/proc/locks")).split("\n")) {
    const fields = line.trim().split(/\s+/);
    if (fields[1] !== "FLOCK" || fields[5] !== file) continue;
    const pid = Number(fields[4]);
    if (pid > 0) return { pid, command: await commandOf(pid) };
  }
  return openerOf(path);
}

function hex(decimal: string | undefined): string {
  return Number(decimal).toString(16).padStart(2, "0");
}

async function commandOf(pid: number): Promise<string> {
  return (await readTable(`/proc/${pid}/comm`)).trim() || "unknown";
}

/** A process with this path open, by the links in /proc only: stat of a foreign descriptor may hang. */
async function openerOf(path: string): Promise<Holder | undefined> {
  let looked = 0;
  for (const entry of await names("/proc")) {
    const pid = Number(entry);
    if (!Number.isInteger(pid)) continue;
    for (const fd of await names(`/proc/${pid}/fd`)) {
      if (++looked > HOLDER_SEARCH_MAX) return undefined;
      const link = await readlink(`/proc/${pid}/fd/${fd}`).catch(() => "");
      if (link === path) return { pid, command: await commandOf(pid) };
    }
  }
  return undefined;
}

/** Names of the kernel devices (device mapper, md, bcache) built on this one. */
export async function kernelHoldersOf(number: string): Promise<string[]> {
  return names(`/sys/dev/block/${number}/holders`);
}
