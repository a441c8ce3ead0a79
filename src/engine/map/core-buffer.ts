/**
 * Core buffer: contiguous bytes inside the copy core's memory, for data that is read, inspected and written again.
 *
 * Role: the copier's working space; inspecting it copies nothing.
 * Invariants: ranges lie inside the buffer; `bytes` is valid until the next call that may allocate in the same core, so
 * it is fetched again for each use; a released buffer is not used again.
 */
import { assert } from "../../base/assert.ts";
import type { Core } from "./core.ts";

/** Blocks of one kind in a row. */
export interface ZeroRun {
  readonly zero: boolean;
  readonly lengthBytes: number;
}

export class CoreBuffer {
  readonly lengthBytes: number;
  readonly #core: Core;
  readonly #release: () => void;
  #address: number;
  #bytes: Uint8Array;

  /** Use `Core.createBuffer`. */
  constructor(core: Core, address: number, lengthBytes: number, release: () => void) {
    this.#core = core;
    this.#address = address;
    this.lengthBytes = lengthBytes;
    this.#release = release;
    this.#bytes = core.view(address, lengthBytes);
  }

  get address(): number {
    assert(this.#address !== 0, "the buffer has been released");
    return this.#address;
  }

  /** The whole buffer, valid until memory grows. */
  get bytes(): Uint8Array {
    if (this.#bytes.length === 0) this.#bytes = this.#core.view(this.address, this.lengthBytes);
    return this.#bytes;
  }

  isZero(offsetBytes: number, lengthBytes: number): boolean {
    return this.#core.kernels.bytesZero(this.#at(offsetBytes, lengthBytes), lengthBytes);
  }

  /**
   * The run of blocks from `offsetBytes` on that are all zeros, or that each hold something, within `lengthBytes`.
   * `blockBytes` is a multiple of 16; a shorter last block counts as a block of its own.
   */
  zeroRun(offsetBytes: number, lengthBytes: number, blockBytes: number): ZeroRun {
    const at = this.#at(offsetBytes, lengthBytes);
    assert(lengthBytes > 0, "a run needs bytes");
    const whole = Math.floor(lengthBytes / blockBytes);
    const rest = lengthBytes - whole * blockBytes;
    if (whole === 0) return { zero: this.isZero(offsetBytes, rest), lengthBytes: rest };
    const run = this.#core.kernels.zeroRun(at, blockBytes, whole);
    const zero = run > 0;
    const runBytes = Math.abs(run) * blockBytes;
    const reachesRest = rest > 0 && runBytes === whole * blockBytes;
    if (!reachesRest || this.isZero(offsetBytes + runBytes, rest) !== zero) return { zero, lengthBytes: runBytes };
    return { zero, lengthBytes };
  }

  /** Whether `lengthBytes` bytes here equal those of `other`. */
  equals(offsetBytes: number, other: CoreBuffer, otherOffsetBytes: number, lengthBytes: number): boolean {
    assert(other.#core === this.#core, "buffers of different cores");
    const a = this.#at(offsetBytes, lengthBytes);
    return this.#core.kernels.bytesEqual(a, other.#at(otherOffsetBytes, lengthBytes), lengthBytes);
  }

  /** Offset, counted from `offsetBytes`, of the first byte that differs from `other`'s; `lengthBytes` when none does. */
  firstDifference(offsetBytes: number, other: CoreBuffer, otherOffsetBytes: number, lengthBytes: number): number {
    assert(other.#core === this.#core, "buffers of different cores");
    const a = this.#at(offsetBytes, lengthBytes);
    return this.#core.kernels.firstDifference(a, other.#at(otherOffsetBytes, lengthBytes), lengthBytes);
  }

  /** CRC-32C of a part, continuing `seed`. */
  crc32c(offsetBytes: number, lengthBytes: number, seed = 0): number {
    return this.#core.kernels.crc32c(this.#at(offsetBytes, lengthBytes), lengthBytes, seed);
  }

  /** Copies inside the core; the ranges may overlap. */
  copyTo(offsetBytes: number, other: CoreBuffer, otherOffsetBytes: number, lengthBytes: number): void {
    assert(other.#core === this.#core, "buffers of different cores");
    const from = this.#at(offsetBytes, lengthBytes);
    this.#core.kernels.bytesCopy(other.#at(otherOffsetBytes, lengthBytes), from, lengthBytes);
  }

  fill(value: number, offsetBytes: number, lengthBytes: number): void {
    this.#core.kernels.bytesFill(this.#at(offsetBytes, lengthBytes), value, lengthBytes);
  }

  /** Gives the memory back for another buffer of the same size. */
  release(): void {
    assert(this.#address !== 0, "the buffer has been released");
    this.#address = 0;
    this.#bytes = new Uint8Array(0);
    this.#release();
  }

  #at(offsetBytes: number, lengthBytes: number): number {
    assert(offsetBytes >= 0 && lengthBytes >= 0, "range before the buffer");
    assert(offsetBytes + lengthBytes <= this.lengthBytes, "range beyond the buffer");
    return this.address + offsetBytes;
  }
}
