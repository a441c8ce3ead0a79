/**
 * Where the source of a move has data and where holes, learnt as far as the move looks ahead; and what is asked for from
 * the medium ahead of being read.
 *
 * Role: asks the file system once for each extent (SEEK_HOLE, SEEK_DATA), in ascending order.
 * Invariants:
 *   1. The source does not change while the move runs (its granules are locked), so what was learnt stays true.
 *   2. Known extents adjoin and ascend; those before the place asked for are forgotten. At most READ_AHEAD_STRETCHES data
 *      extents, and the holes between them, are known.
 * A file that cannot tell (no native calls, a block device, a file system without holes) is one extent of data.
 */
import { GRANULE_SIZE_BYTES, MiB } from "../../base/units.ts";
import { ENXIO } from "./errno.ts";
import { native, SEEK_DATA, SEEK_HOLE } from "./native.ts";

export interface SourceExtent {
  readonly first: number;
  readonly end: number;
  readonly hole: boolean;
}

/** What is asked for beyond the data that is being copied. */
const READ_AHEAD_BYTES = 8 * MiB;
const READ_AHEAD_STRETCHES = 16;
const END = Number.MAX_SAFE_INTEGER;

export class SourceExtents {
  readonly #fd: number;
  readonly #tells: boolean;
  readonly #isFile: boolean;
  readonly #probe = Buffer.alloc(1);
  #known: SourceExtent[] = [];
  /** Source bytes before it have been asked for. */
  #askedEnd = 0;

  constructor(source: { readonly fd: number; readonly isFile: boolean; readonly holes: boolean }) {
    this.#fd = source.fd;
    this.#isFile = source.isFile;
    this.#tells = source.holes && source.isFile && native !== undefined;
  }

  /** The extent that holds this byte, from this byte on or from before it. */
  at(offset: number): SourceExtent {
    while (this.#known[0] !== undefined && this.#known[0].end <= offset) this.#known.shift();
    const known = this.#known[0];
    if (known !== undefined && known.first <= offset) return known;
    const found = this.#look(offset, undefined);
    this.#known = [found];
    return found;
  }

  /**
   * Asks the medium for the data from `offset` on and for the next stretches beyond holes, as far as `limit`, so that a cold,
   * scattered source is read while the stretch before is written. Inside one stretch the kernel reads ahead by itself.
   */
  readAhead(offset: number, limit: number): void {
    if (native === undefined || !this.#isFile) return;
    let extent = this.at(offset);
    let aheadBytes = 0;
    for (let index = 0, stretches = 0; stretches < READ_AHEAD_STRETCHES && aheadBytes < READ_AHEAD_BYTES; index++) {
      if (index > 0) extent = this.#known[index] ?? this.#learnNext();
      const first = Math.max(offset, extent.first);
      if (first >= limit) return;
      if (extent.hole) continue;
      const end = Math.min(extent.end, limit, first + READ_AHEAD_BYTES - aheadBytes);
      aheadBytes += end - first;
      stretches++;
      if (end > this.#askedEnd) this.#ask(Math.max(first, this.#askedEnd), end);
      if (end < extent.end) return;
    }
  }

  #ask(first: number, end: number): void {
    this.#askedEnd = end;
    // What is cached to its last byte has been read already.
    if (native?.preadNowait(this.#fd, this.#probe, end - 1) === 1) return;
    native?.willNeed(this.#fd, first, end - first);
  }

  #learnNext(): SourceExtent {
    const last = this.#known.at(-1);
    const next = this.#look(last?.end ?? 0, last);
    this.#known.push(next);
    return next;
  }

  /** `before`: the extent that ends at `offset`, if it is known. */
  #look(offset: number, before: SourceExtent | undefined): SourceExtent {
    if (!this.#tells || native === undefined || offset >= END) return { first: offset, end: END, hole: false };
    if (before === undefined || before.hole) {
      const hole = native.seek(this.#fd, offset, SEEK_HOLE);
      if (hole > offset) return { first: offset, end: hole, hole: false };
      // Errors: reading reports them with their place, or the file system cannot tell.
      if (hole < 0) return { first: offset, end: END, hole: false };
    }
    const data = native.seek(this.#fd, offset, SEEK_DATA);
    if (data === -ENXIO) return { first: offset, end: END, hole: true };
    if (data <= offset) return { first: offset, end: offset + GRANULE_SIZE_BYTES, hole: false };
    return { first: offset, end: data, hole: true };
  }
}
