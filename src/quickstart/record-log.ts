/**
 * What the writer has written, in order: enough to say what the source held after any of its writes.
 *
 * Role: the independent witness. It shares nothing with the engine but the size of a granule: from the original image and
 * this log the expected content of a volume "after write k" is computed, and compared byte by byte.
 * Invariants:
 *   1. Records are numbered 1, 2, 3 ... in the order in which they were sent; one is sent only after the one before was
 *      acknowledged, so the numbers are the order in which a host may rely on them.
 *   2. The content of every record is unique: it is made from its number.
 */
import { assert } from "../base/assert.ts";
import { granulesTouched, MiB } from "../base/units.ts";
import { QuickstartFailure } from "./failure.ts";
import { bytesOfSeed } from "./random-bytes.ts";

/** Content is replayed and compared in pieces of this size. */
export const PIECE_BYTES = 1 * MiB;
/** Half an hour of the writer's pace. */
const RECORDS_MAX = 500_000;

export class RecordLog {
  readonly #seed: Uint8Array;
  readonly #offsets: number[] = [];
  readonly #lengths: number[] = [];
  /** Numbers of the records that touch a piece, ascending. */
  readonly #byPiece = new Map<number, number[]>();
  #bytes = 0;

  constructor(seed: Uint8Array) {
    this.#seed = seed;
  }

  /** Number of the last record that was sent. */
  get last(): number {
    return this.#offsets.length;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Notes a record before it is sent; returns its number. */
  add(offsetBytes: number, lengthBytes: number): number {
    if (this.last >= RECORDS_MAX)
      throw new QuickstartFailure(`the writer has reached ${RECORDS_MAX} records`, "use a smaller image");
    this.#offsets.push(offsetBytes);
    this.#lengths.push(lengthBytes);
    this.#bytes += lengthBytes;
    const number = this.last;
    const lastPiece = Math.floor((offsetBytes + lengthBytes - 1) / PIECE_BYTES);
    for (let piece = Math.floor(offsetBytes / PIECE_BYTES); piece <= lastPiece; piece++) {
      const numbers = this.#byPiece.get(piece);
      if (numbers === undefined) this.#byPiece.set(piece, [number]);
      else numbers.push(number);
    }
    return number;
  }

  offsetOf(number: number): number {
    return this.#offsets[number - 1] ?? 0;
  }

  contentOf(number: number): Buffer {
    return bytesOfSeed(this.#seed, number, this.#lengths[number - 1] ?? 0);
  }

  /** Puts the records 1 to `upTo` over a piece of the original image that begins at `offsetBytes`. */
  replay(piece: Buffer, offsetBytes: number, upTo: number): void {
    assert(offsetBytes % PIECE_BYTES === 0 && piece.length <= PIECE_BYTES, "pieces are aligned");
    for (const number of this.#byPiece.get(offsetBytes / PIECE_BYTES) ?? []) {
      if (number > upTo) break;
      const at = this.offsetOf(number) - offsetBytes;
      const content = this.contentOf(number);
      if (at >= 0) content.copy(piece, at);
      else content.copy(piece, 0, -at);
    }
  }

  /** Granules that the records after `after` up to `upTo` touch. */
  granulesBetween(after: number, upTo: number): number {
    const touched = new Set<number>();
    for (let number = after + 1; number <= upTo; number++) {
      const { first, count } = granulesTouched(this.offsetOf(number), this.#lengths[number - 1] ?? 0);
      for (let granule = first; granule < first + count; granule++) touched.add(granule);
    }
    return touched.size;
  }

  /**
   * The last record that a copy has, when all up to `from` were acknowledged before its point and none after `to` was sent:
   * looks from the end for one that is there in full. No later one can have overwritten it, and its content is unique.
   */
  async lastPresent(
    read: (offsetBytes: number, lengthBytes: number) => Promise<Buffer>,
    { from, to }: { from: number; to: number },
  ): Promise<number> {
    for (let number = to; number > from; number--) {
      const content = this.contentOf(number);
      if (content.equals(await read(this.offsetOf(number), content.length))) return number;
    }
    return from;
  }
}
