/**
 * Local block devices: who uses one, making it durable, loop devices.
 *
 * Role: facts from /sys and /proc and the calls of losetup; knows nothing of volumes.
 */
import { closeSync, constants, existsSync, fsyncSync, openSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename } from "node:path";
import { Failure } from "../failure.ts";
import { runTool, waitUntil } from "./process.ts";

const RELEASE_TIMEOUT_MS = 10_000;

/** Makes a loop device over `file` and returns its path. */
export async function attachLoop(file: string, access: { readOnly: boolean }): Promise<string> {
  const base = ["--find", "--show", "--partscan", ...(access.readOnly ? ["--read-only"] : [])];
  try {
    // Direct I/O keeps the file's pages out of the cache: a volume that is copied onto while it is attached would
    // otherwise be read as it was before.
    return (await runTool("losetup", [...base, "--direct-io=on", file])).trim();
  } catch (error) {
    if (findLoop(file) === undefined && !(error instanceof Failure && /direct/i.test(error.message))) throw error;
    const made = findLoop(file); // older losetup makes the device and only then fails to switch it
    if (made !== undefined) return made;
    return (await runTool("losetup", [...base, file])).trim();
  }
}

/** Loop device whose backing file is `file`. */
export function findLoop(file: string): string | undefined {
  for (const name of readdirSync("/sys/block")) {
    if (name.startsWith("loop") && backingFile(name) === file) return `/dev/${name}`;
  }
  return undefined;
}

/** Gives a loop device back, and waits until the kernel has let go of the file. */
export async function detachLoop(device: string, file: string): Promise<void> {
  await runTool("losetup", ["--detach", device]);
  const name = basename(device);
  if (await waitUntil(() => backingFile(name) !== file, RELEASE_TIMEOUT_MS)) return;
  throw deviceBusy(device, "it is still open");
}

/** Everything written to the device is durable afterwards. Throws FLUSH_FAILED. */
export function flushDevice(device: string): void {
  const fd = openSync(device, constants.O_RDONLY);
  try {
    fsyncSync(fd);
  } catch (error) {
    const message = `${device} could not be flushed: ${(error as Error).message}`;
    throw new Failure("DATA_LOSS", message, { reason: "FLUSH_FAILED", metadata: { device } }, { cause: error });
  } finally {
    closeSync(fd);
  }
}

/** Throws DEVICE_MOUNTED or DEVICE_BUSY when anything uses the device or a partition of it. */
export function refuseIfUsed(device: string): void {
  const names = [device, ...partitionsOf(device)];
  for (const { source, mountPoint, deviceNumber } of mounts()) {
    if (!names.includes(source) && !names.some((name) => deviceNumberOf(name) === deviceNumber)) continue;
    const hint = `umount ${mountPoint}`;
    throw new Failure("FAILED_PRECONDITION", `${device} is mounted at ${mountPoint}`, {
      reason: "DEVICE_MOUNTED",
      hint,
      metadata: { device, mountPoint },
    });
  }
  const swap = readFileSync("/proc/swaps", "utf8")
    .split("\n")
    .find((line) => names.includes(line.split(/\s/)[0] ?? ""));
  if (swap !== undefined) throw deviceBusy(device, "it is used as swap space");
  const holders = names.flatMap((name) => holdersOf(name));
  if (holders.length > 0) throw deviceBusy(device, `it is part of ${holders.join(", ")}`);
  if (heldExclusively(device))
    throw deviceBusy(device, "another program holds it, or it is mounted in another namespace");
}

function deviceBusy(device: string, why: string): Failure {
  const hint = `find out who uses it: fuser -v ${device}; lsblk ${device}`;
  return new Failure("FAILED_PRECONDITION", `${device} is in use: ${why}`, {
    reason: "DEVICE_BUSY",
    hint,
    metadata: { device },
  });
}

function heldExclusively(device: string): boolean {
  try {
    closeSync(openSync(device, constants.O_RDONLY | constants.O_EXCL));
    return false;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EBUSY") return true;
    throw error;
  }
}

function partitionsOf(device: string): string[] {
  const name = basename(device);
  const directory = `/sys/block/${name}`;
  if (!existsSync(directory)) return [];
  return readdirSync(directory)
    .filter((entry) => entry.startsWith(name))
    .map((entry) => `/dev/${entry}`);
}

function holdersOf(device: string): string[] {
  const directory = `/sys/class/block/${basename(device)}/holders`;
  return existsSync(directory) ? readdirSync(directory).map((name) => `/dev/${name}`) : [];
}

/** `major:minor` of a device; empty when it has no node. */
function deviceNumberOf(device: string): string {
  const file = `/sys/class/block/${basename(device)}/dev`;
  return existsSync(file) ? readFileSync(file, "utf8").trim() : "";
}

function backingFile(loop: string): string | undefined {
  try {
    // The kernel says "(deleted)" of a file whose FUSE server has died; its path is still ours.
    return readFileSync(`/sys/block/${loop}/loop/backing_file`, "utf8").replace(/( \(deleted\))?\n$/, "");
  } catch {
    return undefined; // not set up: the file exists only while it is
  }
}

interface Mount {
  readonly source: string;
  readonly mountPoint: string;
  readonly deviceNumber: string;
  readonly type: string;
}

/** Mounts that this process can see, in the order in which they were made. */
export function mounts(): Mount[] {
  const lines = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .filter((line) => line !== "");
  return lines.map((line) => {
    const [before = "", after = ""] = line.split(" - ");
    const fields = before.split(" ");
    const [type = "", source = ""] = after.split(" ");
    return { deviceNumber: fields[2] ?? "", mountPoint: plainPath(fields[4] ?? ""), type, source: plainPath(source) };
  });
}

/** Undoes the octal escapes of mountinfo. */
function plainPath(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_match, digits: string) => String.fromCharCode(Number.parseInt(digits, 8)));
}

/** True when `path` is a block device. */
export function isBlockDevice(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isBlockDevice() === true;
}
