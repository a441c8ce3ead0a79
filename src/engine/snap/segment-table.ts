/**
 * The segments of a snap store: which are in use, how much of each is live, which are free.
 *
 * Role: bookkeeping in memory; the checkpoint has what of it must survive. No I/O.
 * Invariants:
 *   1. A segment is in use from its first frame on until it is given back; one that is in use is never handed out.
 *   2. A segment that somebody reads is not handed out: what is being read is not overwritten.
 *   3. `live` of a segment is the number of granules whose slot lies in it.
 * Memory: 16 bytes a segment.
 */
import { assert } from "../../base/assert.ts";
import { type SnapGeometry, segmentOf, segmentsFor } from "./snap-geometry.ts";

export interface Head {
  readonly segment: number;
  /** Pages of it that are used. */
  readonly page: number;
}

export class SegmentTable {
  readonly #geometry: SnapGeometry;
  /** Number of the first frame; 0: not in use. */
  readonly #firstFrames: Float64Array;
  readonly #live: Uint32Array;
  readonly #pins: Uint32Array;
  /** Holds something that can no longer be read, and so can never be moved. */
  readonly #stuck = new Set<number>();
  #waiting: (() => void)[] = [];
  #inUse = 0;
  /** Segments whose space is promised: the first so many. */
  allocated = 0;
  head: Head | undefined;

  constructor(geometry: SnapGeometry) {
    this.#geometry = geometry;
    this.#firstFrames = new Float64Array(geometry.segmentsMax);
    this.#live = new Uint32Array(geometry.segmentsMax);
    this.#pins = new Uint32Array(geometry.segmentsMax);
  }

  get inUse(): number {
    return this.#inUse;
  }

  get firstFrames(): readonly number[] {
    return Array.from(this.#firstFrames);
  }

  firstFrame(segment: number): number {
    return this.#firstFrames[segment] as number;
  }

  liveIn(segment: number): number {
    return this.#live[segment] as number;
  }

  /** Pages left behind the head; 0 without one. */
  get pagesLeft(): number {
    return this.head === undefined ? 0 : this.#geometry.segmentPages - this.head.page;
  }

  use(segment: number, firstFrame: number): void {
    assert(this.firstFrame(segment) === 0 && firstFrame > 0, "a segment in use is not used again");
    this.#firstFrames[segment] = firstFrame;
    this.#inUse++;
  }

  giveBack(segment: number): void {
    assert(this.firstFrame(segment) > 0 && this.#live[segment] === 0, "only what holds nothing is given back");
    assert(segment !== this.head?.segment, "the head is not given back");
    this.#firstFrames[segment] = 0;
    this.#inUse--;
  }

  /** A granule has left `from` (0: it was nowhere) and lies at `to` now. */
  moved(from: number, to: number): void {
    if (from !== 0) this.#live[segmentOf(this.#geometry, from)]!--;
    this.#live[segmentOf(this.#geometry, to)]!++;
  }

  /** Nothing is in use any more. */
  clear(): void {
    this.#firstFrames.fill(0);
    this.#live.fill(0);
    this.#stuck.clear();
    this.#inUse = 0;
    this.head = undefined;
  }

  /** Segments that may be used next: those whose space is promised first. At most `count`. */
  free(count: number): number[] {
    const found: number[] = [];
    for (let segment = 0; segment < this.#geometry.segmentsMax && found.length < count; segment++)
      if (this.#firstFrames[segment] === 0 && this.#pins[segment] === 0) found.push(segment);
    return found;
  }

  /** The reader calls what it gets when it is done. */
  pin(segment: number): () => void {
    this.#pins[segment]!++;
    return () => {
      this.#pins[segment]!--;
      if (this.#pins[segment] !== 0) return;
      for (const resolve of this.#waiting.splice(0)) resolve();
    };
  }

  /** Resolves when a reader has left a free segment; undefined: there is none that somebody reads. */
  unpinned(): Promise<void> | undefined {
    const some = this.#firstFrames.some((first, segment) => first === 0 && this.#pins[segment] !== 0);
    return some ? new Promise((resolve) => this.#waiting.push(resolve)) : undefined;
  }

  /** It is never chosen again. */
  setStuck(segment: number): void {
    this.#stuck.add(segment);
  }

  /** More segments are in use than `live` granules may take. */
  exceeds(live: number): boolean {
    return this.#inUse - this.#stuck.size > segmentsFor(live, this.#geometry.segmentPages);
  }

  /** The emptiest segments, emptiest first, as long as together they hold at most `granulesMax` granules. */
  emptiest(granulesMax: number): number[] {
    const candidates: number[] = [];
    for (let segment = 0; segment < this.#geometry.segmentsMax; segment++) {
      const taken = this.#firstFrames[segment] !== 0 && !this.#stuck.has(segment);
      if (taken && segment !== this.head?.segment) candidates.push(segment);
    }
    candidates.sort((a, b) => (this.#live[a] as number) - (this.#live[b] as number));
    let sum = 0;
    const chosen: number[] = [];
    for (const segment of candidates) {
      sum += this.#live[segment] as number;
      if (chosen.length > 0 && sum > granulesMax) break;
      chosen.push(segment);
    }
    return chosen;
  }
}
