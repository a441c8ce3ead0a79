/**
 * Moves data between two open descriptors with blocking calls. Runs in copier workers only.
 *
 * For each run, in order:
 *   1. both files in one clone domain, ends on file system blocks, run large enough: share the extents (FICLONERANGE);
 *   2. else source holes (SEEK_HOLE/SEEK_DATA) become holes at the destination, unless they are there already;
 *   3. else large stretches between files go through copy_file_range;
 *   4. else read and write, stretches of zeros skipped where the source cannot tell its holes (block devices).
 * A way that the file systems refuse is remembered for the pair and not tried again.
 * Invariants:
 *   1. The runs are locked by the engine: their content does not change while the move runs, so what was learnt about the
 *      source's holes holds to the end of the move.
 *   2. A failed large step is repeated in granules, so that an error names the side and the granule.
 */
import fs from "node:fs";
import { COPY_JOB_CLONE_MS_MAX, COPY_PIECE_BYTES, DEVICE_RANGE_PIECE_BYTES } from "../../base/limits.ts";
import type { Clock, MoveResult } from "../../base/ports.ts";
import { GRANULE_SIZE_BYTES, KiB, MiB } from "../../base/units.ts";
import { EINTR, EINVAL, ENXIO, EXDEV, ioError, ioErrorOf, isUnsupported } from "./errno.ts";
import { MoveTally } from "./move-tally.ts";
import { FALLOC_PUNCH_HOLE_KEEP_SIZE, native, SEEK_DATA } from "./native.ts";
import { SourceExtents } from "./source-extents.ts";
import { stretchEnd } from "./zero-test.ts";

/** One end of a move, as it crosses to the worker. */
export interface DirectEnd {
  readonly fd: number;
  readonly baseOffsetBytes: number;
  readonly name: string;
  readonly holes: boolean;
  readonly cloneDomain: string | undefined;
}

export interface DirectWork {
  readonly from: DirectEnd;
  readonly to: DirectEnd;
  /** Triples: from offset, to offset, length; in bytes. */
  readonly runs: Float64Array;
  readonly budgetBytes: number;
}

export interface DirectJob extends DirectWork {
  /** Shared memory: not 0 when the move is to end at the next piece. */
  readonly stopFlag: Int32Array;
}

const KERNEL_COPY_BYTES_MIN = 256 * KiB;
/** Sharing freshly written data waits for its writeback: smaller runs are copied 5-30 times faster (measured on xfs). */
const CLONE_BYTES_MIN = 256 * KiB;
const CLONE_PIECE_BYTES = 64 * MiB;
/** Giving back smaller stretches costs more than writing them. */
const PUNCH_BYTES_MIN = 64 * KiB;
/** Less, or scattered, is left to the kernel's own writeback. */
const WRITEBACK_BYTES_MIN = 1 * MiB;
const PAIRS_REMEMBERED = 1024;

/** What two files have refused before. */
interface PairMemory {
  clone: boolean;
  kernelCopy: boolean;
}

interface OpenEnd extends DirectEnd {
  readonly isFile: boolean;
  readonly inode: string;
  readonly blockBytes: number;
}

/** From the first to the last byte written, and how many they were. */
interface WrittenRange {
  readonly fd: number;
  first: number;
  end: number;
  bytes: number;
}

/** Keeps the buffer and what was learnt between jobs. */
export class DirectMover {
  readonly #buffer = Buffer.allocUnsafeSlow(COPY_PIECE_BYTES);
  readonly #pairs = new Map<string, PairMemory>();
  readonly #clock: Clock;
  #written: WrittenRange | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** See Mover.move; throws TidemarkError with `side` and `doneBytes` in its metadata. */
  move(job: DirectJob): MoveResult {
    this.#written = undefined;
    const from = openEnd(job.from);
    const to = openEnd(job.to);
    const tally = new MoveTally(job.budgetBytes, () => Atomics.load(job.stopFlag, 0) !== 0);
    const move = new DirectMove(from, to, this.#memory(from, to), this.#buffer, tally, this.#clock);
    for (let index = 0; index + 2 < job.runs.length; index += 3) {
      const [fromOffset = 0, toOffset = 0, length = 0] = job.runs.subarray(index, index + 3);
      if (!move.run(from.baseOffsetBytes + fromOffset, to.baseOffsetBytes + toOffset, length)) break;
    }
    this.#written = move.written;
    return move.tally.result;
  }

  /** True when the last move wrote enough, and densely enough, to be worth `startWriteback`. */
  get hasWritten(): boolean {
    if (this.#written === undefined || this.#written.bytes < WRITEBACK_BYTES_MIN) return false;
    return this.#written.bytes * 2 >= this.#written.end - this.#written.first;
  }

  /**
   * Lets the medium begin with what the last move wrote, so that the flush at the end is short (1 GiB: copy and fdatasync
   * together a quarter faster). May wait for a busy medium; the move's locks are released by then. A hint: errors come
   * back with the flush.
   */
  startWriteback(): void {
    const written = this.#written;
    this.#written = undefined;
    if (written !== undefined) native?.startWriteback(written.fd, written.first, written.end - written.first);
  }

  #memory(from: OpenEnd, to: OpenEnd): PairMemory {
    const key = `${from.inode}>${to.inode}`;
    let memory = this.#pairs.get(key);
    if (memory === undefined) {
      if (this.#pairs.size >= PAIRS_REMEMBERED) this.#pairs.clear();
      const files = from.isFile && to.isFile && native !== undefined;
      memory = {
        clone: files && from.cloneDomain !== undefined && from.cloneDomain === to.cloneDomain,
        kernelCopy: files,
      };
      this.#pairs.set(key, memory);
    }
    return memory;
  }
}

function openEnd(end: DirectEnd): OpenEnd {
  const facts = fs.fstatSync(end.fd);
  const inode = `${facts.dev}:${facts.ino}:${facts.rdev}:${facts.birthtimeMs}`;
  return { ...end, isFile: facts.isFile(), inode, blockBytes: Math.max(4096, facts.blksize) };
}

class DirectMove {
  readonly tally: MoveTally;
  readonly written: WrittenRange;
  readonly #from: OpenEnd;
  readonly #to: OpenEnd;
  readonly #memory: PairMemory;
  readonly #buffer: Buffer;
  readonly #clock: Clock;
  readonly #source: SourceExtents;
  readonly #beganMs: number;
  #canPunch = native !== undefined;
  /** The destination is a hole in between. */
  #emptyFrom = 0;
  #emptyEnd = 0;

  constructor(from: OpenEnd, to: OpenEnd, memory: PairMemory, buffer: Buffer, tally: MoveTally, clock: Clock) {
    this.#from = from;
    this.#to = to;
    this.#memory = memory;
    this.#buffer = buffer;
    this.tally = tally;
    this.written = { fd: to.fd, first: Number.MAX_SAFE_INTEGER, end: 0, bytes: 0 };
    this.#clock = clock;
    this.#source = new SourceExtents(from);
    this.#beganMs = clock.monotonicMs();
  }

  /** Offsets are absolute in the descriptors. False when the budget ended inside the run. */
  run(fromOffset: number, toOffset: number, length: number): boolean {
    let at = 0;
    while (at < length) {
      if (this.tally.mayStop(at)) return false;
      const cloned = length < CLONE_BYTES_MIN ? 0 : this.#clone(fromOffset + at, toOffset + at, length - at);
      if (cloned > 0) {
        at += cloned;
        if (at < length && this.#cloningTooLong()) return false;
        continue;
      }
      const known = this.#source.at(fromOffset + at);
      const end = Math.min(length, known.end - fromOffset);
      if (!known.hole) this.#source.readAhead(fromOffset + at, fromOffset + length);
      at = known.hole ? this.#zero(toOffset, at, end) : this.#copy(fromOffset, toOffset, at, end);
    }
    return !this.#cloningTooLong();
  }

  /** Sharing waits for the source's writeback, which nothing else bounds. */
  #cloningTooLong(): boolean {
    if (!this.tally.bounded || this.tally.clonedBytes === 0) return false;
    return this.#clock.monotonicMs() - this.#beganMs > COPY_JOB_CLONE_MS_MAX;
  }

  /** Bytes shared, a whole number of granules unless the run ends there; 0: not possible here. */
  #clone(fromOffset: number, toOffset: number, length: number): number {
    if (!this.#memory.clone || native === undefined) return 0;
    const block = Math.max(this.#from.blockBytes, this.#to.blockBytes, GRANULE_SIZE_BYTES);
    if (fromOffset % this.#from.blockBytes !== 0 || toOffset % this.#to.blockBytes !== 0) return 0;
    const piece = Math.min(CLONE_PIECE_BYTES, Math.floor(length / block) * block);
    if (piece === 0) return 0;
    const result = native.cloneRange(this.#from.fd, fromOffset, this.#to.fd, toOffset, piece);
    if (result >= 0) {
      this.tally.cloned(piece);
      return piece;
    }
    if (result === -EINTR) return 0;
    // Not after all (EINVAL, EXDEV, ...), or an error whose side only plain reading and writing tells.
    this.#memory.clone = false;
    return 0;
  }

  /** Makes bytes `[at, end)` of the run zero at the destination; returns where it stopped. */
  #zero(toOffset: number, at: number, end: number): number {
    if (this.#isHole(toOffset + at, end - at) || this.#punch(toOffset + at, end - at)) {
      this.tally.zeroed(end - at);
      return end;
    }
    this.#buffer.fill(0);
    let done = at;
    while (done < end && !this.tally.mayStop(done)) {
      const pieceEnd = this.tally.pieceEnd(done, end, COPY_PIECE_BYTES);
      this.#write(toOffset + done, 0, pieceEnd - done);
      this.tally.zeroesMoved(pieceEnd - done);
      done = pieceEnd;
    }
    return done;
  }

  #isHole(offset: number, length: number): boolean {
    if (!this.#to.holes || !this.#to.isFile || native === undefined) return false;
    if (offset < this.#emptyFrom || offset + length > this.#emptyEnd) {
      const data = native.seek(this.#to.fd, offset, SEEK_DATA);
      this.#emptyFrom = offset;
      this.#emptyEnd = data === -ENXIO ? Number.MAX_SAFE_INTEGER : data;
    }
    return offset + length <= this.#emptyEnd;
  }

  #punch(offset: number, length: number): boolean {
    if (!this.#canPunch || native === undefined || length < PUNCH_BYTES_MIN) return false;
    for (let at = 0; at < length; at += DEVICE_RANGE_PIECE_BYTES) {
      const piece = Math.min(DEVICE_RANGE_PIECE_BYTES, length - at);
      let result: number;
      do result = native.fallocate(this.#to.fd, FALLOC_PUNCH_HOLE_KEEP_SIZE, offset + at, piece);
      while (result === -EINTR);
      if (result >= 0) continue;
      // Refused, or failed: writing zeros does it instead, or reports the error with its place.
      if (isUnsupported(-result) || result === -EINVAL) this.#canPunch = false;
      return false;
    }
    return true;
  }

  /** Copies bytes `[begin, end)` of the run; returns where it stopped. */
  #copy(fromOffset: number, toOffset: number, begin: number, end: number): number {
    let at = begin;
    while (at < end && !this.tally.mayStop(at)) {
      const kernelEnd = this.tally.pieceEnd(at, end, COPY_PIECE_BYTES);
      const done = this.#kernelCopy(fromOffset + at, toOffset + at, kernelEnd - at);
      if (done > 0) {
        this.tally.copied(done);
        at += done;
        continue;
      }
      const pieceEnd = Math.min(kernelEnd, this.tally.pieceEnd(at, end, COPY_PIECE_BYTES));
      this.#copyPiece(fromOffset + at, toOffset + at, pieceEnd - at);
      at = pieceEnd;
    }
    return at;
  }

  /** Bytes copied by copy_file_range, maybe fewer than asked; 0: use plain reading and writing. */
  #kernelCopy(fromOffset: number, toOffset: number, length: number): number {
    if (!this.#memory.kernelCopy || native === undefined || length < KERNEL_COPY_BYTES_MIN) return 0;
    const result = native.copyFileRange(this.#from.fd, fromOffset, this.#to.fd, toOffset, length);
    if (result >= 0) {
      this.#wrote(toOffset, result);
      return result;
    }
    if (isUnsupported(-result) || result === -EINVAL || result === -EXDEV) this.#memory.kernelCopy = false;
    return 0;
  }

  #copyPiece(fromOffset: number, toOffset: number, length: number): void {
    let known = 0;
    try {
      this.#read(fromOffset, length);
      known = length;
    } catch (error) {
      // Granule by granule, so that everything before the bad one is saved and the error names it.
      if (length <= GRANULE_SIZE_BYTES) throw this.tally.failure(error, "source");
    }
    if (known === 0) {
      for (let at = 0; at < length; at += GRANULE_SIZE_BYTES) {
        this.#copyPiece(fromOffset + at, toOffset + at, Math.min(GRANULE_SIZE_BYTES, length - at));
      }
    } else if (this.#from.holes) {
      this.#write(toOffset, 0, length);
      this.tally.copied(length);
    } else {
      this.#store(toOffset, length);
    }
  }

  /** Writes what the buffer holds; long stretches of zeros are left out or given back. */
  #store(toOffset: number, length: number): void {
    let done = 0;
    while (done < length) {
      const zeroEnd = stretchEnd(this.#buffer, done, length, true);
      if (zeroEnd > done) this.#storeZeros(toOffset + done, done, zeroEnd - done);
      const dataEnd = stretchEnd(this.#buffer, zeroEnd, length, false);
      if (dataEnd > zeroEnd) {
        this.#write(toOffset + zeroEnd, zeroEnd, dataEnd - zeroEnd);
        this.tally.copied(dataEnd - zeroEnd);
      }
      done = dataEnd;
    }
  }

  /** Zeros that were read: finding them has cost as much as copying them. */
  #storeZeros(offset: number, from: number, length: number): void {
    if (!this.#isHole(offset, length) && !this.#punch(offset, length)) this.#write(offset, from, length);
    this.tally.zeroesMoved(length);
  }

  #wrote(offset: number, length: number): void {
    const { written } = this;
    written.first = Math.min(written.first, offset);
    written.end = Math.max(written.end, offset + length);
    written.bytes += length;
  }

  #read(offset: number, length: number): void {
    const { fd, name, baseOffsetBytes } = this.#from;
    const place = { path: name, action: "read", offsetBytes: offset - baseOffsetBytes, lengthBytes: length };
    let done = 0;
    while (done < length) {
      let count: number;
      try {
        count = fs.readSync(fd, this.#buffer, done, length - done, offset + done);
      } catch (error) {
        throw ioErrorOf(error, place);
      }
      if (count === 0) throw ioError("ENXIO", { ...place, action: "read beyond the end of" });
      done += count;
    }
  }

  #write(offset: number, from: number, length: number): void {
    const { fd, name, baseOffsetBytes } = this.#to;
    let done = 0;
    try {
      while (done < length) {
        const count = fs.writeSync(fd, this.#buffer, from + done, length - done, offset + done);
        if (count === 0) throw Object.assign(new Error("nothing was written"), { code: "EIO" });
        done += count;
      }
    } catch (error) {
      const place = { path: name, action: "write", offsetBytes: offset - baseOffsetBytes, lengthBytes: length };
      throw this.tally.failure(ioErrorOf(error, place), "destination");
    }
    this.#wrote(offset, length);
  }
}
