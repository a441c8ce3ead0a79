/**
 * Views of one buffer, remembered by their turn in a batch.
 *
 * A steady load puts its payloads at the same places batch after batch; then no view is made twice and the hot path
 * leaves no garbage. Invariant: `take` returns exactly `bytes[start, start + length)`.
 */
import { VIEWS_KEPT_MAX } from "./tuning.ts";

export class ViewCache {
  readonly #bytes: Uint8Array;
  readonly #baseOffset: number;
  readonly #views: Uint8Array[] = [];
  #turn = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#baseOffset = bytes.byteOffset;
  }

  /** A new batch begins. */
  restart(): void {
    this.#turn = 0;
  }

  take(start: number, length: number): Uint8Array {
    const turn = this.#turn;
    if (turn >= VIEWS_KEPT_MAX) return this.#bytes.subarray(start, start + length);
    this.#turn = turn + 1;
    const kept = this.#views[turn];
    if (kept !== undefined && kept.byteOffset === this.#baseOffset + start && kept.length === length) return kept;
    const view = this.#bytes.subarray(start, start + length);
    this.#views[turn] = view;
    return view;
  }
}
