/**
 * Opens a path as a volume's backing: checks, opens exclusively, finds out what the device can do.
 *
 * Order: realpath → look (kind) → refuse what is in use (the tables name the user) → open with O_NOFOLLOW (and O_EXCL for
 * a block device) → compare with what was looked at → lock → size. From then on only the descriptor is used.
 * Every refusal is a TidemarkError with a hint: PATH_NOT_FOUND, PATH_NOT_USABLE, PERMISSION_DENIED, SIZE_INVALID,
 * PATH_MOUNTED, PATH_HELD.
 */
import { spawn } from "node:child_process";
import fs, { type BigIntStats, constants } from "node:fs";
import { realpath, stat, statfs } from "node:fs/promises";
import { promisify } from "node:util";
import { TidemarkError } from "../../base/errors.ts";
import type { Clock, DeviceCapabilities } from "../../base/ports.ts";
import { EAGAIN, EINVAL, errnoName, errnoNameOf, ioErrorOf, pathError } from "./errno.ts";
import { HostDevice, type InlineMode } from "./host-device.ts";
import { native } from "./native.ts";
import { sizeProblem } from "./size-rule.ts";
import {
  deviceNumberText,
  diskOf,
  holderOf,
  inodeText,
  isSwap,
  kernelHoldersOf,
  loopOver,
  mountPointOf,
  partitionsOf,
  readTable,
} from "./system-tables.ts";

export interface OpenOptions {
  readonly clock: Clock;
}

/** What a path is, as a volume would see it. */
export interface PathFacts {
  /** With symbolic links resolved. */
  readonly path: string;
  readonly kind: "file" | "block";
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly cloneDomain: string | undefined;
}

const fstatOf = (fd: number): Promise<BigIntStats> => promisify(fs.fstat)(fd, { bigint: true });

const MEMORY_FILE_SYSTEMS = new Set([0x01021994, 0x858458f6]); // tmpfs, ramfs
const BTRFS = 0x9123683e;
/** Says for everything that it is data; zeros must be looked for. */
const FUSE = 0x65735546;
/** File systems that share extents, for files that cannot be asked because they are read-only. */
const SHARING_FILE_SYSTEMS = new Set([0x58465342, BTRFS, 0xca451a4e]); // xfs, btrfs, bcachefs
const FILE_PAGE_BYTES = 4096;

/** Opens exclusively; the lock is held until `close()`. Falls back to read-only when the path may not be written. */
export async function openDevice(path: string, options: OpenOptions): Promise<HostDevice> {
  const real = await realpath(path).catch((error: unknown) => {
    throw pathError(error, path);
  });
  const looked = await look(real);
  const inUse = await usedBy(real, looked);
  if (inUse !== undefined) throw inUse;
  const { fd, readOnly } = await openDescriptor(real, looked);
  try {
    const facts = await fstatOf(fd);
    if (inodeText(facts) !== inodeText(looked) || facts.rdev !== looked.rdev) throw changed(real);
    if (looked.isFile()) await lockFile(fd, real, inodeText(facts));
    return looked.isFile()
      ? await fileDevice(fd, real, readOnly, options)
      : await blockDevice(fd, real, readOnly, options);
  } catch (error) {
    fs.closeSync(fd);
    throw pathError(error, real);
  }
}

/** The same checks as `openDevice`; nothing stays open. A path that is open already gives PATH_HELD (see identityOf). */
export async function inspectPath(path: string, options: OpenOptions): Promise<PathFacts> {
  const device = await openDevice(path, options);
  const { kind, sizeBytes, readOnly, capabilities } = device;
  await device.close();
  return { path: device.path, kind, sizeBytes, readOnly, cloneDomain: capabilities.cloneDomain };
}

async function look(path: string): Promise<BigIntStats> {
  const facts = await stat(path, { bigint: true }).catch((error: unknown) => {
    throw pathError(error, path);
  });
  if (facts.isFile() || facts.isBlockDevice()) return facts;
  const what = facts.isDirectory()
    ? "a directory"
    : facts.isFIFO()
      ? "a named pipe"
      : facts.isCharacterDevice()
        ? "a character device"
        : facts.isSocket()
          ? "a socket"
          : "something else";
  throw new TidemarkError("PATH_NOT_USABLE", {
    message: `${path} is ${what}, not a regular file or a block device`,
    hint: "name an image file or a block device",
    metadata: { path },
  });
}

function changed(path: string): TidemarkError {
  return new TidemarkError("PATH_NOT_USABLE", {
    message: `${path} was replaced while it was opened`,
    hint: "see who moves files there, then repeat",
    metadata: { path },
  });
}

function held(path: string, by: string, metadata: Readonly<Record<string, string>>): TidemarkError {
  return new TidemarkError("PATH_HELD", {
    message: `${path} is in use by ${by}`,
    hint: "stop its user or detach it there first; a volume needs its backing for itself",
    metadata: { path, ...metadata },
  });
}

/** Refusal with the user's name if the tables show one: a mount, a loop device over the file, swap, a kernel device. */
async function usedBy(path: string, facts: BigIntStats): Promise<TidemarkError | undefined> {
  const inode = inodeText(facts);
  if (facts.isFile()) {
    if (await isSwap({ inode, device: undefined })) return held(path, "the kernel as swap", { holder: "swap" });
    const loop = await loopOver(inode);
    return loop === undefined ? undefined : held(path, `loop device ${loop}`, { holder: loop });
  }
  const device = deviceNumberText(facts.rdev);
  if (await isSwap({ inode, device })) return held(path, "the kernel as swap", { holder: "swap" });
  const point = await mountPointOf([device, ...(await partitionsOf(device))]);
  if (point !== undefined) {
    return new TidemarkError("PATH_MOUNTED", {
      message: `${path} is mounted at ${point}`,
      hint: `unmount it first (umount ${point}), then mount it through the box: tidemark volume attach`,
      metadata: { path, mountPoint: point },
    });
  }
  const holders = await kernelHoldersOf(device);
  return holders.length === 0
    ? undefined
    : held(path, `kernel device ${holders.join(", ")}`, { holder: holders.join(",") });
}

/** O_NONBLOCK: a path that turned into a pipe, or a file under a lease, must not stop us. */
async function openDescriptor(path: string, facts: BigIntStats): Promise<{ fd: number; readOnly: boolean }> {
  const flags = constants.O_NOFOLLOW | constants.O_NONBLOCK | (facts.isBlockDevice() ? constants.O_EXCL : 0);
  const attempt = (mode: number): Promise<number> =>
    new Promise((resolve, reject) =>
      fs.open(path, mode | flags, (error, fd) => (error === null ? resolve(fd) : reject(error))),
    );
  try {
    return { fd: await attempt(constants.O_RDWR), readOnly: false };
  } catch (error) {
    const errno = errnoNameOf(error);
    if (errno === "EBUSY") throw await heldBySomebody(path, facts);
    if (errno !== "EACCES" && errno !== "EPERM" && errno !== "EROFS") throw pathError(error, path);
  }
  try {
    return { fd: await attempt(constants.O_RDONLY), readOnly: true };
  } catch (error) {
    throw errnoNameOf(error) === "EBUSY" ? await heldBySomebody(path, facts) : pathError(error, path);
  }
}

async function heldBySomebody(path: string, facts: BigIntStats): Promise<TidemarkError> {
  const holder = await holderOf(path, inodeText(facts));
  if (holder === undefined) return held(path, "another program or the kernel", {});
  const who = holder.pid === process.pid ? "this box itself" : `process ${holder.pid} (${holder.command})`;
  return held(path, who, { holder: holder.command, pid: String(holder.pid) });
}

/** flock on our own descriptor; it goes away with the descriptor, also when the process is killed. */
async function lockFile(fd: number, path: string, inode: string): Promise<void> {
  const result = native === undefined ? await lockByCommand(fd, path) : await native.lockExclusiveAsync(fd);
  if (result >= 0) return;
  if (result === -EAGAIN) {
    const facts = await fstatOf(fd);
    throw inodeText(facts) === inode ? await heldBySomebody(path, facts) : changed(path);
  }
  throw new TidemarkError("PATH_NOT_USABLE", {
    message: `${path} cannot be locked (${errnoName(-result)}), so nothing would keep a second user away`,
    hint: "keep it on a file system with locks (flock)",
    metadata: { path },
  });
}

/** Without native calls: util-linux `flock` locks the open file description it inherits from us. */
function lockByCommand(fd: number, path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn("flock", ["-n", "-x", "3"], { stdio: ["ignore", "ignore", "ignore", fd] });
    child.once("error", () =>
      reject(
        new TidemarkError("PATH_NOT_USABLE", {
          message: `${path} cannot be locked: neither native calls nor the command flock are available`,
          hint: "install util-linux",
          metadata: { path },
        }),
      ),
    );
    child.once("exit", (code) => resolve(code === 0 ? 0 : -EAGAIN));
  });
}

async function fileDevice(fd: number, path: string, readOnly: boolean, { clock }: OpenOptions): Promise<HostDevice> {
  const facts = await fstatOf(fd);
  const sizeBytes = Number(facts.size);
  const problem = sizeProblem(path, sizeBytes);
  if (problem !== undefined) throw problem;
  const fileSystem = (await statfs(`/proc/self/fd/${fd}`)).type;
  const inMemory = MEMORY_FILE_SYSTEMS.has(fileSystem);
  const inlineRead = inMemory ? "plain" : askRead(fd);
  const capabilities: DeviceCapabilities = {
    holes: native !== undefined && fileSystem !== FUSE,
    // Not tried out: punching a hole, also behind the end, counts as a write to the file (foreign-writes.ts).
    trim: !readOnly && native !== undefined,
    cloneDomain: (await sharesExtents(fd, fileSystem, readOnly))
      ? `${fileSystem.toString(16)}:${facts.dev}`
      : undefined,
  };
  return new HostDevice(
    fd,
    { path, kind: "file", sizeBytes, readOnly, capabilities, inlineRead, pageBytes: FILE_PAGE_BYTES },
    clock,
  );
}

async function blockDevice(fd: number, path: string, asked: boolean, { clock }: OpenOptions): Promise<HostDevice> {
  const number = deviceNumberText((await fstatOf(fd)).rdev);
  const sectors = Number((await readTable(`/sys/dev/block/${number}/size`)).trim());
  const sizeBytes = native === undefined ? sectors * 512 : native.blockSize(fd);
  if (sizeBytes < 0) throw ioErrorOf({ code: errnoName(-sizeBytes) }, { path, action: "ask the size of" });
  const problem = sizeProblem(path, sizeBytes);
  if (problem !== undefined) throw problem;
  const readOnly = asked || (await readTable(`/sys/dev/block/${number}/ro`)).trim() === "1";
  const queue = `/sys/dev/block/${(await diskOf(number)) ?? number}/queue`;
  const discard = Number(await readTable(`${queue}/discard_max_bytes`));
  const inlineRead = askRead(fd);
  return new HostDevice(
    fd,
    {
      path,
      kind: "block",
      sizeBytes,
      readOnly,
      capabilities: { holes: false, trim: !readOnly && native !== undefined && discard > 0, cloneDomain: undefined },
      inlineRead,
      pageBytes: FILE_PAGE_BYTES,
    },
    clock,
  );
}

/** Whether the file can answer from the page cache alone (FUSE and most network file systems cannot). */
function askRead(fd: number): InlineMode {
  const result = native?.preadNowait(fd, new Uint8Array(512), 0);
  return result === undefined || (result < 0 && result !== -EAGAIN) ? "never" : "nowait";
}

async function sharesExtents(fd: number, fileSystem: number, readOnly: boolean): Promise<boolean> {
  if (native === undefined) return false;
  if (readOnly) return SHARING_FILE_SYSTEMS.has(fileSystem);
  return (await native.cloneProbeAsync(fd)) === -EINVAL;
}
