/**
 * Counts what a move has done, and says where it may stop.
 *
 * Invariants: `doneBytes` counts along the runs in order and is the sum of the three kinds; a move stops only at the end
 * of a run or at a granule boundary counted from the run's start.
 */
import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import type { MoveResult } from "../../base/ports.ts";
import { GRANULE_SIZE_BYTES } from "../../base/units.ts";

export type MoveSide = "source" | "destination";

export class MoveTally {
  copiedBytes = 0;
  zeroedBytes = 0;
  clonedBytes = 0;
  readonly bounded: boolean;
  readonly #isStopped: () => boolean;
  #budgetBytes: number;

  /** `isStopped`: asked between pieces. */
  constructor(budgetBytes: number, isStopped: () => boolean) {
    this.#budgetBytes = budgetBytes;
    this.#isStopped = isStopped;
    this.bounded = budgetBytes < Number.MAX_SAFE_INTEGER;
  }

  get result(): MoveResult {
    const { copiedBytes, zeroedBytes, clonedBytes } = this;
    return { doneBytes: copiedBytes + zeroedBytes + clonedBytes, copiedBytes, zeroedBytes, clonedBytes };
  }

  /** True when the move is to end and byte `at` of the run is a place to do so. */
  mayStop(at: number): boolean {
    return at % GRANULE_SIZE_BYTES === 0 && (this.#budgetBytes <= 0 || this.#isStopped());
  }

  /**
   * Largest piece from byte `at` of the run, at most `pieceMax` (whole granules), that ends at `end` or where the budget
   * ends. `at` may lie inside a granule: data begins where its file system says.
   */
  pieceEnd(at: number, end: number, pieceMax: number): number {
    const wanted = at + Math.min(pieceMax, Math.max(this.#budgetBytes, 1));
    const granuleEnd = Math.ceil(wanted / GRANULE_SIZE_BYTES) * GRANULE_SIZE_BYTES;
    return Math.min(end, granuleEnd - at > pieceMax ? granuleEnd - GRANULE_SIZE_BYTES : granuleEnd);
  }

  copied(lengthBytes: number): void {
    this.copiedBytes += lengthBytes;
    this.#budgetBytes -= lengthBytes;
  }

  zeroed(lengthBytes: number): void {
    this.zeroedBytes += lengthBytes;
  }

  /** Zeros that had to be read to be found, or written: they cost as much as a copy. */
  zeroesMoved(lengthBytes: number): void {
    this.zeroedBytes += lengthBytes;
    this.#budgetBytes -= lengthBytes;
  }

  cloned(lengthBytes: number): void {
    this.clonedBytes += lengthBytes;
  }

  /** The error with the side it came from and what was finished before it. */
  failure(error: unknown, side: MoveSide): TidemarkError {
    const cause = asTidemarkError(error);
    const { doneBytes, copiedBytes, zeroedBytes, clonedBytes } = this.result;
    const metadata = {
      ...cause.detail.metadata,
      side,
      doneBytes: String(doneBytes),
      copiedBytes: String(copiedBytes),
      zeroedBytes: String(zeroedBytes),
      clonedBytes: String(clonedBytes),
    };
    return new TidemarkError(cause.code, { ...cause.detail, metadata }, { cause });
  }
}
