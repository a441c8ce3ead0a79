/**
 * System calls that Node does not offer, through koffi.
 *
 * Role: thin and typed; no policy. Every call gives a number: a result >= 0, or -errno. `...Async` forms run in libuv's
 * thread pool and resolve to the same number; the plain forms may block and belong into copier workers, except those
 * that never wait (`preadNowait`, `ioctl` queries of block devices).
 * Invariants:
 *   1. Buffers are passed as addresses; the caller keeps the view alive until the call has ended.
 *   2. Where koffi cannot be loaded `native` is undefined; the product then works without holes and extent sharing.
 */
import { createRequire } from "node:module";
import { endianness } from "node:os";

export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;
export const FALLOC_PUNCH_HOLE_KEEP_SIZE = 0x03;
export const FALLOC_ZERO_RANGE_KEEP_SIZE = 0x11;
const RWF_NOWAIT = 0x08;
const LOCK_EX_NB = 0x06;
const POSIX_FADV_WILLNEED = 3;
const POSIX_FADV_DONTNEED = 4;
const SYNC_FILE_RANGE_WRITE = 0x02;
const FICLONERANGE = 0x4020940d;
const BLKGETSIZE64 = 0x80081272;
const BLKDISCARD = 0x1277;

type Callback = (error: unknown, result: number | bigint) => void;
interface Function_ {
  (...values: number[]): number;
  async(...values: [...number[], Callback]): void;
}
interface Koffi {
  load(path: string | null): { func(name: string, result: string, parameters: string[]): Function_ };
  address(view: Uint8Array): bigint;
  errno(): number;
}

export interface NativeCalls {
  /** Reads only what is in the page cache. -EAGAIN: it is not; -EOPNOTSUPP: the file cannot tell. */
  preadNowait(fd: number, into: Uint8Array, offsetBytes: number): number;
  /** The next data (SEEK_DATA) or hole (SEEK_HOLE) at or after `offsetBytes`; -ENXIO: none before the end. */
  seek(fd: number, offsetBytes: number, whence: number): number;
  seekAsync(fd: number, offsetBytes: number, whence: number): Promise<number>;
  fallocate(fd: number, mode: number, offsetBytes: number, lengthBytes: number): number;
  fallocateAsync(fd: number, mode: number, offsetBytes: number, lengthBytes: number): Promise<number>;
  /** Bytes copied; may be short; 0 at the source's end. */
  copyFileRange(
    fromFd: number,
    fromOffsetBytes: number,
    toFd: number,
    toOffsetBytes: number,
    lengthBytes: number,
  ): number;
  /** Shares extents: all of the range or an error. */
  cloneRange(fromFd: number, fromOffsetBytes: number, toFd: number, toOffsetBytes: number, lengthBytes: number): number;
  /** Starts writeback of dirty pages and does not wait for it to end. */
  startWriteback(fd: number, offsetBytes: number, lengthBytes: number): number;
  /** Begins to read a range into the page cache; does not wait for the medium. A hint: the result does not matter. */
  willNeed(fd: number, offsetBytes: number, lengthBytes: number): number;
  /** Drops what the page cache has of a file or device and need not write. A hint: the result does not matter. */
  dropCacheAsync(fd: number): Promise<number>;
  /** Exclusive lock on the open file description, without waiting; -EAGAIN: somebody else has it. */
  lockExclusiveAsync(fd: number): Promise<number>;
  /** Asks for sharing a block with itself, which changes nothing: -EINVAL where sharing exists, else -EOPNOTSUPP. */
  cloneProbeAsync(fd: number): Promise<number>;
  /** Bytes of a block device. */
  blockSize(fd: number): number;
  blockDiscardAsync(fd: number, offsetBytes: number, lengthBytes: number): Promise<number>;
}

function loadKoffi(): Koffi | undefined {
  try {
    return createRequire(import.meta.url)("koffi") as Koffi;
  } catch {
    // Feature detection: no prebuilt binary for this platform. openDevice() and doctor report what is missing then.
    return undefined;
  }
}

/** Binds every call once; throws when the C library lacks one. */
function bind(koffi: Koffi): NativeCalls {
  const library = koffi.load(null);
  const offset = "int64_t";
  const address = "uintptr_t";
  const preadv2 = library.func("preadv2", "int64_t", ["int", address, "int", offset, "int"]);
  const lseek = library.func("lseek", offset, ["int", offset, "int"]);
  const fallocate = library.func("fallocate", "int", ["int", "int", offset, offset]);
  const copyFileRange = library.func("copy_file_range", "int64_t", ["int", address, "int", address, "size_t", "uint"]);
  const fadvise = library.func("posix_fadvise", "int", ["int", offset, offset, "int"]);
  const syncFileRange = library.func("sync_file_range", "int", ["int", offset, offset, "uint"]);
  const flock = library.func("flock", "int", ["int", "int"]);
  const ioctl = library.func("ioctl", "int", ["int", "ulong", address]);

  const addressOf = addressCache(koffi);
  const result = (value: number): number => (value < 0 ? -koffi.errno() : value);
  const later = inPool(koffi);

  const vector = new Uint32Array(4);
  const vectorAddress = addressOf(new Uint8Array(vector.buffer));
  const fillVector = (view: Uint8Array): void => {
    const base = addressOf(view);
    vector[0] = base;
    vector[1] = base / 4294967296;
    vector[2] = view.length;
  };
  const scratch = new BigUint64Array(4);
  const scratchAddress = addressOf(new Uint8Array(scratch.buffer));
  const onArguments = (fd: number, request: number, values: readonly bigint[]): Promise<number> => {
    const block = new BigUint64Array(values);
    // The last use of `block` keeps it alive until the call has ended.
    return later(ioctl, fd, request, addressOf(new Uint8Array(block.buffer))).finally(() => block.fill(0n));
  };

  return {
    preadNowait: (fd, into, offsetBytes) => {
      fillVector(into);
      return result(preadv2(fd, vectorAddress, 1, offsetBytes, RWF_NOWAIT));
    },
    seek: (fd, offsetBytes, whence) => result(lseek(fd, offsetBytes, whence)),
    seekAsync: (fd, offsetBytes, whence) => later(lseek, fd, offsetBytes, whence),
    fallocate: (fd, mode, offsetBytes, lengthBytes) => result(fallocate(fd, mode, offsetBytes, lengthBytes)),
    fallocateAsync: (fd, mode, offsetBytes, lengthBytes) => later(fallocate, fd, mode, offsetBytes, lengthBytes),
    copyFileRange: (fromFd, fromOffsetBytes, toFd, toOffsetBytes, lengthBytes) => {
      scratch[0] = BigInt(fromOffsetBytes);
      scratch[1] = BigInt(toOffsetBytes);
      return result(copyFileRange(fromFd, scratchAddress, toFd, scratchAddress + 8, lengthBytes, 0));
    },
    cloneRange: (fromFd, fromOffsetBytes, toFd, toOffsetBytes, lengthBytes) => {
      scratch[0] = BigInt(fromFd);
      scratch[1] = BigInt(fromOffsetBytes);
      scratch[2] = BigInt(lengthBytes);
      scratch[3] = BigInt(toOffsetBytes);
      return result(ioctl(toFd, FICLONERANGE, scratchAddress));
    },
    willNeed: (fd, offsetBytes, lengthBytes) => fadvise(fd, offsetBytes, lengthBytes, POSIX_FADV_WILLNEED) as number,
    dropCacheAsync: (fd) => later(fadvise, fd, 0, 0, POSIX_FADV_DONTNEED),
    startWriteback: (fd, offsetBytes, lengthBytes) =>
      result(syncFileRange(fd, offsetBytes, lengthBytes, SYNC_FILE_RANGE_WRITE)),
    lockExclusiveAsync: (fd) => later(flock, fd, LOCK_EX_NB),
    cloneProbeAsync: (fd) => onArguments(fd, FICLONERANGE, [BigInt(fd), 0n, 4096n, 0n]),
    blockSize: (fd) => {
      const value = result(ioctl(fd, BLKGETSIZE64, scratchAddress));
      return value < 0 ? value : Number(scratch[0]);
    },
    blockDiscardAsync: (fd, offsetBytes, lengthBytes) =>
      onArguments(fd, BLKDISCARD, [BigInt(offsetBytes), BigInt(lengthBytes)]),
  };
}

/** Runs a call in libuv's thread pool; resolves to its result or -errno. */
function inPool(koffi: Koffi): (call: Function_, ...values: number[]) => Promise<number> {
  return (call, ...values) =>
    new Promise((resolve, reject) => {
      call.async(...values, (error, value) => {
        const errno = koffi.errno(); // koffi sets it to the pool thread's for the length of this callback
        if (error) reject(error);
        else resolve(Number(value) < 0 ? -errno : Number(value));
      });
    });
}

/**
 * Address of a view's first byte. The address of each ArrayBuffer is asked for once: a buffer never moves while it is
 * attached, and a detached one has only views of length 0.
 */
function addressCache(koffi: Koffi): (view: Uint8Array) => number {
  const known = new WeakMap<ArrayBufferLike, number>();
  let lastBuffer: ArrayBufferLike | undefined;
  let lastAddress = 0;
  return (view) => {
    const buffer = view.buffer;
    if (buffer !== lastBuffer) {
      let found = known.get(buffer);
      if (found === undefined) {
        found = Number(koffi.address(new Uint8Array(buffer)));
        known.set(buffer, found);
      }
      lastBuffer = buffer;
      lastAddress = found;
    }
    return lastAddress + view.byteOffset;
  };
}

/** The bound calls of this thread; undefined where they cannot be had. */
export const native: NativeCalls | undefined = bindIfPossible();

function bindIfPossible(): NativeCalls | undefined {
  if (process.platform !== "linux" || endianness() !== "LE") return undefined;
  const koffi = process.env["TIDEMARK_NO_NATIVE"] === "1" ? undefined : loadKoffi();
  if (koffi === undefined) return undefined;
  try {
    return bind(koffi);
  } catch {
    // A C library without one of the calls (older than glibc 2.27): as if koffi were missing.
    return undefined;
  }
}
