/**
 * A regular file or a block device of this machine, through its open descriptor.
 *
 * Role: I/O only; `openDevice` has checked, opened and locked the descriptor, and nothing here uses the path except in
 * messages. `tryRead`/`tryWrite` answer from the page cache on the caller's thread; everything else runs in the thread
 * pool, at most DEVICE_OPERATIONS_MAX at once.
 * Invariants:
 *   1. `tryRead` never waits: it asks with RWF_NOWAIT, or the file system is memory.
 *   2. `tryWrite` is used only where reads can be asked that way (not FUSE, not network) and while the device is not slow
 *      (inline-gate.ts). Asking writes not to wait is of no use: ext4 and block devices cannot, btrfs and shared xfs
 *      extents always decline.
 *   3. A failed sync fails the device for good, and what the page cache says of it goes with it: pages that never
 *      reached the medium may be marked clean, and whoever opened the device next would read them.
 */
import fs from "node:fs";
import { assert } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";
import {
  DEVICE_INLINE_BYTES_MAX,
  DEVICE_OPERATIONS_MAX,
  DEVICE_QUEUE_MAX,
  DEVICE_RANGE_PIECE_BYTES,
} from "../../base/limits.ts";
import type { AllocationExtent, BlockDevice, Clock, DeviceCapabilities } from "../../base/ports.ts";
import { MiB } from "../../base/units.ts";
import { EINTR, EINVAL, ENXIO, errnoName, type IoPlace, ioError, ioErrorOf, isUnsupported } from "./errno.ts";
import { identityOf } from "./identity.ts";
import { InlineGate } from "./inline-gate.ts";
import { FALLOC_PUNCH_HOLE_KEEP_SIZE, FALLOC_ZERO_RANGE_KEEP_SIZE, native, SEEK_DATA, SEEK_HOLE } from "./native.ts";
import { OperationQueue } from "./operation-queue.ts";
import { assertRange } from "./range-check.ts";
import { SharedSync } from "./shared-sync.ts";
import { sizeProblem } from "./size-rule.ts";

/** How reads on the caller's thread are possible: asked without waiting, always (memory), or not at all. */
export type InlineMode = "nowait" | "plain" | "never";

export interface HostDeviceFacts {
  readonly path: string;
  readonly kind: "file" | "block";
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly capabilities: DeviceCapabilities;
  readonly inlineRead: InlineMode;
  /** Partial writes need the rest of the page: they leave the thread unless that is cached. */
  readonly pageBytes: number;
}

const ZEROS = Buffer.alloc(1 * MiB);

export class HostDevice implements BlockDevice {
  readonly kind: "file" | "block";
  readonly readOnly: boolean;
  readonly capabilities: DeviceCapabilities;
  readonly direct: { readonly fd: number; readonly baseOffsetBytes: number };
  readonly path: string;
  readonly #fd: number;
  readonly #pageBytes: number;
  readonly #inlineRead: InlineMode;
  readonly #inlineWrite: boolean;
  readonly #gate: InlineGate;
  readonly #queue = new OperationQueue({ activeMax: DEVICE_OPERATIONS_MAX, waitingMax: DEVICE_QUEUE_MAX });
  readonly #sync = new SharedSync(() => this.#syncOnce());
  /** fallocate modes that this device has turned down. */
  readonly #refused = new Set<number>();
  readonly #probe = new Uint8Array(1);
  #sizeBytes: number;
  #failure: TidemarkError | undefined;
  #syncFailed = false;
  #closing: Promise<void> | undefined;

  constructor(fd: number, facts: HostDeviceFacts, clock: Clock) {
    this.#fd = fd;
    this.path = facts.path;
    this.kind = facts.kind;
    this.readOnly = facts.readOnly;
    this.capabilities = facts.capabilities;
    this.direct = { fd, baseOffsetBytes: 0 };
    this.#sizeBytes = facts.sizeBytes;
    this.#pageBytes = facts.pageBytes;
    this.#inlineRead = facts.inlineRead;
    this.#inlineWrite = !facts.readOnly && facts.inlineRead !== "never";
    this.#gate = new InlineGate(clock);
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  tryRead(offsetBytes: number, into: Uint8Array): boolean {
    assertRange(this.#sizeBytes, offsetBytes, into.length);
    if (this.#inlineRead === "never" || into.length > DEVICE_INLINE_BYTES_MAX || this.#failure !== undefined)
      return false;
    if (this.#inlineRead === "nowait") return native?.preadNowait(this.#fd, into, offsetBytes) === into.length;
    // Errors and short results are the asynchronous form's to report.
    try {
      return fs.readSync(this.#fd, into, 0, into.length, offsetBytes) === into.length;
    } catch {
      return false;
    }
  }

  tryWrite(offsetBytes: number, from: Uint8Array): boolean {
    assertRange(this.#sizeBytes, offsetBytes, from.length);
    if (!this.#inlineWrite || from.length > DEVICE_INLINE_BYTES_MAX || this.#failure !== undefined) return false;
    const beganMs = this.#gate.begin();
    if (beganMs < 0 || !this.#edgesCached(offsetBytes, from.length)) return false;
    let done = 0;
    try {
      while (done < from.length) {
        const count = fs.writeSync(this.#fd, from, done, from.length - done, offsetBytes + done);
        if (count === 0) throw ioError("EIO", this.#place("write", offsetBytes, from.length));
        done += count;
      }
    } catch (error) {
      throw ioErrorOf(error, this.#place("write", offsetBytes, from.length));
    } finally {
      this.#gate.ended(beganMs);
    }
    return true;
  }

  /** A write that covers only a part of its first or last page would read that page first. */
  #edgesCached(offsetBytes: number, lengthBytes: number): boolean {
    if (this.#inlineRead !== "nowait") return true;
    const page = this.#pageBytes;
    const endBytes = offsetBytes + lengthBytes;
    if (offsetBytes % page !== 0 && native?.preadNowait(this.#fd, this.#probe, offsetBytes) !== 1) return false;
    return endBytes % page === 0 || native?.preadNowait(this.#fd, this.#probe, endBytes - 1) === 1;
  }

  read(offsetBytes: number, into: Uint8Array): Promise<void> {
    assertRange(this.#sizeBytes, offsetBytes, into.length);
    return this.#run(() => this.#readFully(offsetBytes, into));
  }

  async #readFully(offsetBytes: number, into: Uint8Array): Promise<void> {
    const place = this.#place("read", offsetBytes, into.length);
    let done = 0;
    while (done < into.length) {
      const count = await transfer("read", this.#fd, into, done, offsetBytes + done, place);
      if (count === 0) throw await this.#shrunk(offsetBytes + done);
      done += count;
    }
  }

  write(offsetBytes: number, from: Uint8Array): Promise<void> {
    assertRange(this.#sizeBytes, offsetBytes, from.length);
    return this.#run(async () => {
      this.#assertWritable();
      await this.#writeFully(offsetBytes, from);
    }, "write");
  }

  async #writeFully(offsetBytes: number, from: Uint8Array): Promise<void> {
    const place = this.#place("write", offsetBytes, from.length);
    let done = 0;
    while (done < from.length) {
      done += await transfer("write", this.#fd, from, done, offsetBytes + done, place);
    }
  }

  async flush(): Promise<void> {
    this.#assertUsable();
    if (!this.readOnly) await this.#sync.request();
  }

  async #syncOnce(): Promise<void> {
    this.#assertUsable();
    const place = this.#place("flush");
    const token = this.#gate.asyncBegan();
    try {
      await new Promise<void>((resolve, reject) =>
        fs.fdatasync(this.#fd, (error) => (error ? reject(error) : resolve())),
      );
    } catch (error) {
      this.#syncFailed = true;
      throw this.#fail(ioErrorOf(error, place));
    } finally {
      this.#gate.asyncEnded(token, "other");
    }
    if (this.kind !== "file") return;
    const presentBytes = await this.#presentSize();
    if (presentBytes < this.#sizeBytes) throw this.#fail(this.#shrunkError(presentBytes));
  }

  async zero(offsetBytes: number, lengthBytes: number, options: { release: "allow" | "keep" }): Promise<void> {
    assertRange(this.#sizeBytes, offsetBytes, lengthBytes);
    this.#assertUsable();
    this.#assertWritable();
    const modes =
      options.release === "allow"
        ? [FALLOC_PUNCH_HOLE_KEEP_SIZE, FALLOC_ZERO_RANGE_KEEP_SIZE]
        : [FALLOC_ZERO_RANGE_KEEP_SIZE];
    for (let at = 0; at < lengthBytes; at += DEVICE_RANGE_PIECE_BYTES) {
      await this.#zeroPiece(offsetBytes + at, Math.min(DEVICE_RANGE_PIECE_BYTES, lengthBytes - at), modes);
    }
  }

  async #zeroPiece(offsetBytes: number, lengthBytes: number, modes: readonly number[]): Promise<void> {
    for (const mode of modes) {
      if (await this.#run(() => this.#fallocate(mode, "zero", offsetBytes, lengthBytes))) return;
    }
    for (let at = 0; at < lengthBytes; at += ZEROS.length) {
      const piece = ZEROS.subarray(0, Math.min(ZEROS.length, lengthBytes - at));
      await this.#run(() => this.#writeFully(offsetBytes + at, piece));
    }
  }

  /** False when the device cannot do it (this mode, or at this alignment). */
  async #fallocate(mode: number, action: string, offsetBytes: number, lengthBytes: number): Promise<boolean> {
    if (native === undefined || this.#refused.has(mode)) return false;
    for (;;) {
      const result = await native.fallocateAsync(this.#fd, mode, offsetBytes, lengthBytes);
      if (result >= 0) return true;
      if (result === -EINTR) continue;
      if (result === -EINVAL && this.kind === "block") return false;
      if (!isUnsupported(-result)) throw ioError(errnoName(-result), this.#place(action, offsetBytes, lengthBytes));
      this.#refused.add(mode);
      return false;
    }
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    assertRange(this.#sizeBytes, offsetBytes, lengthBytes);
    this.#assertUsable();
    this.#assertWritable();
    if (!this.capabilities.trim) return;
    for (let at = 0; at < lengthBytes; at += DEVICE_RANGE_PIECE_BYTES) {
      const pieceOffset = offsetBytes + at;
      const pieceLength = Math.min(DEVICE_RANGE_PIECE_BYTES, lengthBytes - at);
      await this.#run(async () => {
        const punched = await this.#fallocate(FALLOC_PUNCH_HOLE_KEEP_SIZE, "trim", pieceOffset, pieceLength);
        if (!punched && this.kind === "block") await this.#discard(pieceOffset, pieceLength);
      });
    }
  }

  async #discard(offsetBytes: number, lengthBytes: number): Promise<void> {
    const result = (await native?.blockDiscardAsync(this.#fd, offsetBytes, lengthBytes)) ?? 0;
    // A hint that this device or this alignment does not take is no error.
    if (result >= 0 || isUnsupported(-result) || result === -EINVAL) return;
    throw ioError(errnoName(-result), this.#place("trim", offsetBytes, lengthBytes));
  }

  allocation(offsetBytes: number, lengthBytes: number, extentsMax: number): Promise<AllocationExtent[]> {
    assertRange(this.#sizeBytes, offsetBytes, lengthBytes);
    if (lengthBytes === 0 || extentsMax <= 0) return Promise.resolve([]);
    if (!this.capabilities.holes) return this.#run(async () => [{ offsetBytes, lengthBytes, zero: false }]);
    return this.#run(() => this.#extents(offsetBytes, offsetBytes + lengthBytes, extentsMax));
  }

  async #extents(firstBytes: number, endBytes: number, extentsMax: number): Promise<AllocationExtent[]> {
    const extents: AllocationExtent[] = [];
    let at = firstBytes;
    while (at < endBytes && extents.length < extentsMax) {
      const data = Math.min(await this.#seek(at, SEEK_DATA), endBytes);
      if (data > at) extents.push({ offsetBytes: at, lengthBytes: data - at, zero: true });
      at = data;
      if (at >= endBytes || extents.length >= extentsMax) break;
      const hole = Math.min(await this.#seek(at, SEEK_HOLE), endBytes);
      if (hole > at) extents.push({ offsetBytes: at, lengthBytes: hole - at, zero: false });
      at = hole;
    }
    return extents;
  }

  /** Next data or hole; the device's end when there is none. */
  async #seek(offsetBytes: number, whence: number): Promise<number> {
    assert(native !== undefined, "a device with holes has native calls");
    const result = await native.seekAsync(this.#fd, offsetBytes, whence);
    if (result >= 0) return result;
    if (result === -ENXIO) return this.#sizeBytes;
    // A file system that cannot tell: everything is data.
    if (result === -EINVAL || isUnsupported(-result)) return whence === SEEK_DATA ? offsetBytes : this.#sizeBytes;
    throw ioError(errnoName(-result), this.#place("look for holes in", offsetBytes, 0));
  }

  async resize(sizeBytes: number): Promise<void> {
    this.#assertUsable();
    const problem = sizeProblem(this.path, sizeBytes);
    if (problem !== undefined) throw problem;
    if (this.kind === "block") {
      const presentBytes = native?.blockSize(this.#fd) ?? this.#sizeBytes;
      if (presentBytes !== sizeBytes) throw wrongBlockSize(this.path, presentBytes, sizeBytes);
    } else if (sizeBytes !== (await this.#presentSize())) {
      this.#assertWritable();
      await this.#run(() => this.#truncate(sizeBytes));
    }
    this.#sizeBytes = sizeBytes;
  }

  async #truncate(sizeBytes: number): Promise<void> {
    const call = (begin: (done: fs.NoParamCallback) => void) =>
      new Promise<void>((resolve, reject) => begin((error) => (error ? reject(error) : resolve())));
    try {
      await call((done) => fs.ftruncate(this.#fd, sizeBytes, done));
      await call((done) => fs.fsync(this.#fd, done));
    } catch (error) {
      throw ioErrorOf(error, this.#place("resize"));
    }
  }

  /** Keys of what the bytes live on (see identityOf). */
  identity(): Promise<string[]> {
    return identityOf(this.#fd);
  }

  /** Waits for what is under way; releases the lock with the descriptor. */
  close(): Promise<void> {
    this.#closing ??= (async () => {
      this.#failure ??= new TidemarkError("DEVICE_GONE", {
        message: `${this.path} is closed`,
        metadata: { path: this.path },
      });
      await this.#queue.idle();
      await this.#sync.idle();
      if (this.#syncFailed) await this.#forgetCache();
      await new Promise<void>((resolve, reject) => fs.close(this.#fd, (error) => (error ? reject(error) : resolve())));
    })();
    return this.#closing;
  }

  /** Only clean pages can be dropped; what a further sync says is not believed. */
  async #forgetCache(): Promise<void> {
    await new Promise<void>((resolve) => fs.fdatasync(this.#fd, () => resolve()));
    await native?.dropCacheAsync(this.#fd);
  }

  #run<T>(operation: () => Promise<T>, kind: "write" | "other" = "other"): Promise<T> {
    return this.#queue.run(async () => {
      this.#assertUsable();
      const token = this.#gate.asyncBegan();
      try {
        return await operation();
      } finally {
        this.#gate.asyncEnded(token, kind);
      }
    });
  }

  #assertUsable(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  #assertWritable(): void {
    if (this.readOnly) throw ioError("EROFS", this.#place("write to"));
  }

  #place(action: string, offsetBytes?: number, lengthBytes?: number): IoPlace {
    if (offsetBytes === undefined || lengthBytes === undefined) return { path: this.path, action };
    return { path: this.path, action, offsetBytes, lengthBytes };
  }

  /** Later calls get DEVICE_GONE; this one the cause itself. */
  #fail(cause: TidemarkError): TidemarkError {
    this.#failure ??= new TidemarkError(
      "DEVICE_GONE",
      {
        message: `${this.path} is not used any more because a flush failed: ${cause.message}`,
        hint: "check the device; what was written last may be lost",
        metadata: { path: this.path, cause: cause.code },
      },
      { cause },
    );
    return cause;
  }

  /** Inode, size and time of the last write of a file; a block device has nothing of the kind. */
  async stamp(): Promise<string> {
    if (this.kind !== "file") return "";
    // The time of the last write is durable after an fsync only; fdatasync may leave it behind.
    await new Promise<void>((resolve, reject) =>
      fs.fsync(this.#fd, (error) => (error ? reject(ioErrorOf(error, this.#place("flush"))) : resolve())),
    );
    return new Promise((resolve, reject) =>
      fs.fstat(this.#fd, { bigint: true }, (error, facts) =>
        error
          ? reject(ioErrorOf(error, this.#place("look at")))
          : resolve(`${facts.ino}:${facts.size}:${facts.mtimeNs}`),
      ),
    );
  }

  #presentSize(): Promise<number> {
    return new Promise((resolve, reject) =>
      fs.fstat(this.#fd, (error, facts) =>
        error ? reject(ioErrorOf(error, this.#place("look at"))) : resolve(facts.size),
      ),
    );
  }

  async #shrunk(atBytes: number): Promise<TidemarkError> {
    return this.#shrunkError(this.kind === "file" ? await this.#presentSize() : atBytes);
  }

  #shrunkError(presentBytes: number): TidemarkError {
    return new TidemarkError("DEVICE_GONE", {
      message: `${this.path} has shrunk from ${this.#sizeBytes} to ${presentBytes} bytes behind the box's back`,
      hint: "restore its size (truncate -s) and check its content",
      metadata: {
        path: this.path,
        reason: "VOLUME_SHRUNK",
        sizeBytes: String(this.#sizeBytes),
        presentBytes: String(presentBytes),
      },
    });
  }
}

function wrongBlockSize(path: string, presentBytes: number, sizeBytes: number): TidemarkError {
  return new TidemarkError("SIZE_INVALID", {
    message: `${path} is a block device of ${presentBytes} bytes; it cannot be made ${sizeBytes} bytes`,
    hint: "resize the block device itself first (lvextend, losetup -c), then repeat with its new size",
    metadata: { path, presentBytes: String(presentBytes) },
  });
}

/** One read or write in the thread pool; gives the bytes moved, which may be fewer than asked. */
function transfer(
  way: "read" | "write",
  fd: number,
  buffer: Uint8Array,
  from: number,
  position: number,
  place: IoPlace,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const done = (error: NodeJS.ErrnoException | null, count: number) => {
      if (error !== null) reject(ioErrorOf(error, place));
      else if (count === 0 && way === "write") reject(ioError("EIO", place));
      else resolve(count);
    };
    if (way === "read") fs.read(fd, buffer, from, buffer.length - from, position, done);
    else fs.write(fd, buffer, from, buffer.length - from, position, done);
  });
}
