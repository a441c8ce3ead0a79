/** Real files, loop devices, small file systems and FUSE devices for the device tests; each cleans itself up. */
import { execFileSync, spawn } from "node:child_process";
import fs from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import type { ExecutionContext } from "ava";
import { systemClock } from "../../src/base/clock.ts";
import type { Clock } from "../../src/base/ports.ts";
import { openDevice } from "../../src/engine/device/open-device.ts";
import { needRoot } from "../cli/need-root.ts";
import { needTools } from "../support/tools.ts";

/** Runs a program and gives its output; its error output is in the error. */
export function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** True when a program that the test needs is missing: then the test is to return at once (support/tools.ts). */
export function skippedWithoutPrograms(t: ExecutionContext, ...programs: string[]): boolean {
  return !needTools(t, programs);
}

/** The same for a test that needs root. */
export function skippedWithoutRoot(t: ExecutionContext, ...programs: string[]): boolean {
  return !needRoot(t) || skippedWithoutPrograms(t, ...programs);
}

/** Runs once at the end of the test; a later call runs earlier. */
function atEnd(t: ExecutionContext, action: () => unknown): void {
  t.teardown(async () => {
    await action();
  });
}

/** Images of whole file systems lie in memory where possible: mkfs and sync then do not wait for this machine's disk. */
const imageParent = fs.existsSync("/dev/shm") ? "/dev/shm" : tmpdir();

export function temporaryDirectory(t: ExecutionContext, parent = tmpdir()): string {
  const path = fs.mkdtempSync(join(parent, "tidemark-device-"));
  atEnd(t, () => fs.rmSync(path, { recursive: true, force: true }));
  return path;
}

export function sparseFile(directory: string, name: string, sizeBytes: number): string {
  const path = join(directory, name);
  fs.closeSync(fs.openSync(path, "w"));
  fs.truncateSync(path, sizeBytes);
  return path;
}

export function fileOf(directory: string, name: string, content: Uint8Array): string {
  const path = join(directory, name);
  fs.writeFileSync(path, content);
  return path;
}

/** A loop device over the file. */
export function loopDevice(t: ExecutionContext, path: string, ...options: string[]): string {
  const device = run("losetup", "--find", "--show", ...options, path).trim();
  atEnd(t, () => run("losetup", "--detach", device));
  return device;
}

/** A loop device over a partitioned image, with a device for each partition; kernels without table readers are told. */
export function partitionedLoop(t: ExecutionContext, path: string): string {
  const disk = loopDevice(t, path, "--partscan");
  if (!fs.existsSync(`${disk}p1`)) run("partx", "--add", disk);
  return disk;
}

/** Image file behind a loop device. */
export function imageOf(device: string): string {
  return fs.readFileSync(`/sys/block/${basename(device)}/loop/backing_file`, "utf8").trim();
}

/** A mounted file system in a file of its own; its directory. */
export function mounted(
  t: ExecutionContext,
  directory: string,
  kind: "ext4" | "xfs" | "btrfs",
  sizeBytes: number,
): string {
  const image = sparseFile(temporaryDirectory(t, imageParent), `${kind}.img`, sizeBytes);
  const quiet = kind === "ext4" ? ["-q", "-F"] : kind === "xfs" ? ["-q", "-m", "reflink=1"] : ["-q"];
  run(`mkfs.${kind}`, ...quiet, image);
  const point = join(directory, `${kind}-mount`);
  fs.mkdirSync(point);
  run("mount", "-o", "loop", image, point);
  atEnd(t, () => run("umount", point));
  return point;
}

/** A file system in memory of this size. */
export function memoryFileSystem(t: ExecutionContext, directory: string, sizeBytes: number): string {
  const point = join(directory, "tmpfs-mount");
  fs.mkdirSync(point);
  run("mount", "-t", "tmpfs", "-o", `size=${sizeBytes}`, "tmpfs", point);
  atEnd(t, () => run("umount", point));
  return point;
}

/** A FUSE file served by nbdkit with these arguments (filters, plugin, parameters). */
export async function fuseFile(t: ExecutionContext, directory: string, ...nbdkit: string[]): Promise<string> {
  return (await fuseDevice(t, directory, ...nbdkit)).path;
}

/** The same; `abort` ends its server, which ends with an error whatever waits for it. */
export async function fuseDevice(
  t: ExecutionContext,
  directory: string,
  ...nbdkit: string[]
): Promise<{ readonly path: string; readonly abort: () => void }> {
  const point = join(directory, "fuse-mount");
  fs.mkdirSync(point);
  const child = spawn("nbdfuse", [join(point), "--command", "nbdkit", "-s", "--exit-with-parent", ...nbdkit], {
    stdio: "ignore",
  });
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  atEnd(t, async () => {
    run("fusermount3", "-u", "-z", point);
    await ended;
  });
  const path = join(point, "nbd");
  for (let attempt = 0; attempt < 200; attempt++) {
    if (fs.existsSync(path)) return { path, abort: () => child.kill("SIGKILL") };
    await systemClock.sleep(50);
  }
  throw new Error("nbdfuse did not come up");
}

/** Time stands still for the device, so that a busy test machine never looks like a slow device. */
export const stillClock: Clock = { ...systemClock, monotonicMs: () => 0 };

/** Opens a device for the length of the test. */
export async function opened(t: ExecutionContext, path: string) {
  const device = await openDevice(path, { clock: stillClock });
  atEnd(t, () => device.close());
  return device;
}

/** Reads by whichever way the device offers first. */
export async function readBack(
  device: { tryRead(o: number, b: Uint8Array): boolean; read(o: number, b: Uint8Array): Promise<void> },
  offsetBytes: number,
  lengthBytes: number,
): Promise<Buffer> {
  const buffer = Buffer.alloc(lengthBytes, 0xee);
  if (!device.tryRead(offsetBytes, buffer)) await device.read(offsetBytes, buffer);
  return buffer;
}

/** Bytes that tell their place: every 8-byte word differs, none is zero. */
export function pattern(lengthBytes: number, seed: number): Buffer {
  const words = new Uint32Array(Math.ceil(lengthBytes / 4));
  for (let index = 0; index < words.length; index++) words[index] = (Math.imul(index + 1, 2654435761) ^ seed) | 1;
  return Buffer.from(words.buffer, 0, lengthBytes);
}
