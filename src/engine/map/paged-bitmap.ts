/**
 * Paged bitmap: a sparse row of bits, such as the granules a session still has to copy or the changes of an epoch.
 *
 * Role: change maps and pending maps. A page is 32,768 bits; it is empty, full or mixed, and only a mixed page has
 * memory (4 KiB in the copy core). Making one, and a clean map of the largest volume, costs next to nothing.
 * Invariants:
 *   1. A page is empty exactly when no bit of it is set, full exactly when each of its bits below `bitCount` is set.
 *   2. Bits past `bitCount` are 0.
 *   3. `count` is the number of set bits; it is kept from what the kernels report, never by scanning.
 *   4. When memory is exhausted, setting may set more than asked (the page becomes full, `widenedPages` counts it), which
 *      is safe for a map that says what must be copied; clearing throws MEMORY_EXHAUSTED and changes nothing.
 * Bit indexes are JavaScript numbers; a wrong range is a mistake of the caller and stops the program.
 */
import { assert } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";
import { VOLUME_SIZE_BYTES_MAX } from "../../base/limits.ts";
import { granuleCountOf } from "../../base/units.ts";
import { BITMAP_PAGE_BITS, BITMAP_PAGE_BYTES, BitmapPages } from "./bitmap-pages.ts";
import type { Core } from "./core.ts";
import { PAGE_EMPTY, PAGE_FULL } from "./page-directory.ts";

export const BITMAP_BITS_MAX = granuleCountOf(VOLUME_SIZE_BYTES_MAX);

/** Bits `[first, first + count)`. */
export interface BitRun {
  readonly first: number;
  readonly count: number;
}

export interface UnionRange {
  /** First bit of the other bitmap; 0. */
  readonly otherFirst?: number;
  /** First bit of this bitmap; 0. */
  readonly first?: number;
  /** Number of bits; all of the other bitmap from `otherFirst` on. */
  readonly count?: number;
}

export interface BitmapPage {
  readonly index: number;
  readonly state: "full" | "mixed";
  /** A copy of the 4096 bytes of a mixed page, bit `i` in bit `i & 7` of byte `i >>> 3`. */
  readonly bytes?: Uint8Array;
}

export class PagedBitmap {
  readonly bitCount: number;
  readonly #core: Core;
  readonly #pageCount: number;
  readonly #pages: BitmapPages;
  #disposed = false;

  /** `bitCount` bits (1..2^33), all clear or all set. Constant time, no memory of the core. */
  constructor(core: Core, bitCount: number, initial: "empty" | "full") {
    assert(Number.isSafeInteger(bitCount) && bitCount > 0 && bitCount <= BITMAP_BITS_MAX, "bit count out of range");
    this.#core = core;
    this.bitCount = bitCount;
    this.#pages = new BitmapPages(core, bitCount, initial === "full" ? PAGE_FULL : PAGE_EMPTY);
    this.#pageCount = this.#pages.pageCount;
  }

  /** Set bits; constant time. */
  get count(): number {
    return this.#pages.count;
  }

  /** Pages that were made full because memory was exhausted; such a map says more than is true, never less. */
  get widenedPages(): number {
    return this.#pages.widenedPages;
  }

  test(bit: number): boolean {
    this.#check(bit, 1);
    const page = Math.floor(bit / BITMAP_PAGE_BITS);
    const entry = this.#pages.directory.entry(page);
    if (entry <= PAGE_FULL) return entry === PAGE_FULL;
    return this.#core.kernels.pageTest(entry, bit - page * BITMAP_PAGE_BITS) !== 0;
  }

  /** Sets the range; returns how many bits that changed (more than asked when a page was widened). */
  setRange(first: number, count: number): number {
    this.#check(first, count);
    if (count === 0) return 0;
    const page = Math.floor(first / BITMAP_PAGE_BITS);
    const bit = first - page * BITMAP_PAGE_BITS;
    if (bit + count <= BITMAP_PAGE_BITS) return this.#pages.setInPage(page, bit, count);
    const end = first + count;
    const { wholeFirst, wholeEnd } = this.#wholePages(first, end);
    let changed = 0;
    if (bit !== 0) changed += this.#pages.setInPage(page, bit, BITMAP_PAGE_BITS - bit);
    if (wholeEnd > wholeFirst) changed += this.#pages.putPages(wholeFirst, wholeEnd - wholeFirst, PAGE_FULL);
    const rest = end - wholeEnd * BITMAP_PAGE_BITS;
    if (rest > 0) changed += this.#pages.setInPage(wholeEnd, 0, rest);
    return changed;
  }

  /** Clears the range; returns how many bits that changed. Throws MEMORY_EXHAUSTED and changes nothing. */
  clearRange(first: number, count: number): number {
    this.#check(first, count);
    if (count === 0) return 0;
    const page = Math.floor(first / BITMAP_PAGE_BITS);
    const bit = first - page * BITMAP_PAGE_BITS;
    if (bit + count <= BITMAP_PAGE_BITS) {
      const whole = count === this.#pages.capacity(page);
      if (!whole && this.#pages.directory.entry(page) === PAGE_FULL) this.#pages.materialize(page, page);
      return this.#pages.clearInPage(page, bit, count);
    }
    const end = first + count;
    const { wholeFirst, wholeEnd } = this.#wholePages(first, end);
    const rest = end - wholeEnd * BITMAP_PAGE_BITS;
    // What clearing needs is allocated before anything is cleared.
    if (bit !== 0 || rest > 0) this.#pages.materialize(bit !== 0 ? page : wholeEnd, rest > 0 ? wholeEnd : page);
    let changed = 0;
    if (bit !== 0) changed += this.#pages.clearInPage(page, bit, BITMAP_PAGE_BITS - bit);
    if (wholeEnd > wholeFirst) changed += this.#pages.putPages(wholeFirst, wholeEnd - wholeFirst, PAGE_EMPTY);
    if (rest > 0) changed += this.#pages.clearInPage(wholeEnd, 0, rest);
    return changed;
  }

  anySet(first: number, count: number): boolean {
    this.#check(first, count);
    return count > 0 && this.#nextSet(first, first + count) < first + count;
  }

  countRange(first: number, count: number): number {
    this.#check(first, count);
    if (count === 0) return 0;
    const page = Math.floor(first / BITMAP_PAGE_BITS);
    const bit = first - page * BITMAP_PAGE_BITS;
    if (bit + count <= BITMAP_PAGE_BITS) return this.#pages.countInPage(page, bit, count);
    const end = first + count;
    const { wholeFirst, wholeEnd } = this.#wholePages(first, end);
    let sum = bit === 0 ? 0 : this.#pages.countInPage(page, bit, BITMAP_PAGE_BITS - bit);
    if (wholeEnd > wholeFirst) sum += this.#pages.sumPages(wholeFirst, wholeEnd - wholeFirst);
    const rest = end - wholeEnd * BITMAP_PAGE_BITS;
    return rest > 0 ? sum + this.#pages.countInPage(wholeEnd, 0, rest) : sum;
  }

  /**
   * The next run of set bits at or after `from` and below `limit`, clipped to `limit`; it starts at `from` when `from`
   * lies inside a run. Stretches of empty and of full pages are passed without looking at bits.
   */
  nextRun(from: number, limit: number): BitRun | undefined {
    this.#check(from, limit - from);
    if (this.#pages.count === 0 || from === limit) return undefined;
    const first = this.#nextSet(from, limit);
    if (first === limit) return undefined;
    return { first, count: this.#nextClear(first, limit) - first };
  }

  /**
   * `this[first + i] |= other[otherFirst + i]` for `i < count`; returns how many bits changed here. Both ranges must lie
   * inside their bitmaps (by default all of `other` is taken). Costs in proportion to the pages of `other` that are not
   * empty; starts that are equal within a page need no shifting.
   */
  union(other: PagedBitmap, range: UnionRange = {}): number {
    const otherFirst = range.otherFirst ?? 0;
    const first = range.first ?? 0;
    const count = range.count ?? other.bitCount - otherFirst;
    this.#check(first, count);
    other.#check(otherFirst, count);
    assert(other.#core === this.#core, "bitmaps of different cores");
    if (other === this) {
      assert(first === otherFirst, "a bitmap cannot be shifted into itself");
      return 0;
    }
    if (count === 0) return 0;
    const shift = first - otherFirst;
    const otherEnd = otherFirst + count;
    const pageEnd = Math.ceil(otherEnd / BITMAP_PAGE_BITS);
    let changed = 0;
    let page = Math.floor(otherFirst / BITMAP_PAGE_BITS);
    for (;;) {
      page = other.#pages.directory.nextOther(page, pageEnd, PAGE_EMPTY);
      if (page >= pageEnd) return changed;
      const entry = other.#pages.directory.entry(page);
      const stop = entry === PAGE_FULL ? other.#pages.directory.nextOther(page, pageEnd, PAGE_FULL) : page + 1;
      const from = Math.max(otherFirst, page * BITMAP_PAGE_BITS);
      const to = Math.min(otherEnd, stop * BITMAP_PAGE_BITS);
      if (entry === PAGE_FULL) changed += this.setRange(from + shift, to - from);
      else changed += this.#orFromPage(from + shift, entry, from - page * BITMAP_PAGE_BITS, to - from);
      page = stop;
    }
  }

  /** `this &= ~other`, same size; returns how many bits changed. Throws MEMORY_EXHAUSTED and changes nothing. */
  subtract(other: PagedBitmap): number {
    this.#check(0, 0);
    other.#check(0, 0);
    assert(other.#core === this.#core && other.bitCount === this.bitCount, "bitmaps of different shape");
    if (other === this) {
      const cleared = this.#pages.count;
      this.clear();
      return cleared;
    }
    const spare = this.#pagesForSubtract(other);
    let changed = 0;
    let page = 0;
    for (;;) {
      page = other.#pages.directory.nextOther(page, this.#pageCount, PAGE_EMPTY);
      if (page >= this.#pageCount) break;
      const entry = other.#pages.directory.entry(page);
      if (entry === PAGE_FULL) {
        const stop = other.#pages.directory.nextOther(page, this.#pageCount, PAGE_FULL);
        changed += this.#pages.putPages(page, stop - page, PAGE_EMPTY);
        page = stop;
        continue;
      }
      if (this.#pages.directory.entry(page) === PAGE_FULL) this.#pages.splitFull(page, spare.pop()!);
      const mine = this.#pages.directory.entry(page);
      if (mine !== PAGE_EMPTY) changed += this.#pages.settle(page, mine, -this.#core.kernels.pageAndNot(mine, entry));
      page++;
    }
    assert(spare.length === 0, "a page set aside for subtracting was not used");
    return changed;
  }

  /** An independent copy. Throws MEMORY_EXHAUSTED. */
  clone(): PagedBitmap {
    this.#check(0, 0);
    const copy = new PagedBitmap(this.#core, this.bitCount, "empty");
    let page = 0;
    for (;;) {
      page = this.#pages.directory.nextOther(page, this.#pageCount, PAGE_EMPTY);
      if (page >= this.#pageCount) break;
      const entry = this.#pages.directory.entry(page);
      if (entry === PAGE_FULL) {
        const stop = this.#pages.directory.nextOther(page, this.#pageCount, PAGE_FULL);
        copy.#pages.directory.putUniform(page, stop - page, PAGE_FULL);
        page = stop;
        continue;
      }
      const address = this.#core.allocatePage(0x00);
      if (address === 0) {
        copy.dispose();
        throw this.#core.exhausted("a copy of a change map");
      }
      this.#core.kernels.bytesCopy(address, entry, BITMAP_PAGE_BYTES);
      copy.#pages.directory.put(page, address, this.#pages.directory.population(page));
      page++;
    }
    copy.#pages.count = this.#pages.count;
    return copy;
  }

  equals(other: PagedBitmap): boolean {
    this.#check(0, 0);
    other.#check(0, 0);
    assert(other.#core === this.#core, "bitmaps of different cores");
    if (other.bitCount !== this.bitCount || other.#pages.count !== this.#pages.count) return false;
    const end = this.#pageCount;
    let page = 0;
    for (;;) {
      page = this.#pages.directory.nextOther(page, end, PAGE_EMPTY);
      if (page >= end) return true; // equal counts: the other has nothing more either
      const mine = this.#pages.directory.entry(page);
      const others = other.#pages.directory.entry(page);
      if (mine === PAGE_FULL) {
        const stop = this.#pages.directory.nextOther(page, end, PAGE_FULL);
        if (other.#pages.directory.nextOther(page, stop, PAGE_FULL) !== stop) return false;
        page = stop;
        continue;
      }
      if (others <= PAGE_FULL || !this.#core.kernels.bytesEqual(mine, others, BITMAP_PAGE_BYTES)) return false;
      page++;
    }
  }

  /** Clears every bit and gives the memory back. */
  clear(): void {
    this.#check(0, 0);
    this.#pages.putPages(0, this.#pageCount, PAGE_EMPTY);
  }

  /** The pages that are not empty, in ascending order; the bitmap must not change while they are walked. */
  *pages(): IterableIterator<BitmapPage> {
    this.#check(0, 0);
    let index = 0;
    for (;;) {
      index = this.#pages.directory.nextOther(index, this.#pageCount, PAGE_EMPTY);
      if (index >= this.#pageCount) return;
      const entry = this.#pages.directory.entry(index);
      if (entry === PAGE_FULL) yield { index, state: "full" };
      else yield { index, state: "mixed", bytes: this.#core.view(entry, BITMAP_PAGE_BYTES).slice() };
      index++;
    }
  }

  /**
   * Replaces a page by what `pages` gave. Throws MEMORY_EXHAUSTED (load it as "full" to widen it instead) and, for bits
   * past `bitCount`, METADATA_CORRUPT; both change nothing.
   */
  loadPage(index: number, content: "full" | "empty" | Uint8Array): void {
    this.#check(0, 0);
    assert(Number.isSafeInteger(index) && index >= 0 && index < this.#pageCount, "page lies outside the bitmap");
    if (content === "full" || content === "empty") {
      this.#pages.putPages(index, 1, content === "full" ? PAGE_FULL : PAGE_EMPTY);
      return;
    }
    assert(content.length === BITMAP_PAGE_BYTES, "a page has 4096 bytes");
    const address = this.#core.allocatePage(0x00);
    if (address === 0) throw this.#core.exhausted("a page of a change map");
    this.#core.view(address, BITMAP_PAGE_BYTES).set(content);
    const capacity = this.#pages.capacity(index);
    if (this.#core.kernels.pageAnySet(address, capacity, BITMAP_PAGE_BITS - capacity) !== 0) {
      this.#core.releasePage(address);
      throw new TidemarkError("METADATA_CORRUPT", {
        message: `page ${index} of a change map has bits past its end (${this.bitCount} bits)`,
        hint: "treat the map as lost: widen it, or start the copy anew",
      });
    }
    this.#pages.putPages(index, 1, PAGE_EMPTY);
    this.#pages.directory.put(index, address, 0);
    this.#pages.settle(index, address, this.#core.kernels.pageCount(address));
  }

  /** Gives the memory back; the bitmap must not be used afterwards. */
  dispose(): void {
    this.clear();
    this.#disposed = true;
  }

  #check(first: number, count: number): void {
    assert(!this.#disposed, "the bitmap has been disposed of");
    assert(Number.isSafeInteger(first) && Number.isSafeInteger(count), "bit indexes are integers");
    assert(first >= 0 && count >= 0 && first + count <= this.bitCount, "bits lie outside the bitmap");
  }

  /** The pages that `[first, end)` covers wholly; a partial last page counts when all its bits are covered. */
  #wholePages(first: number, end: number): { wholeFirst: number; wholeEnd: number } {
    const wholeFirst = Math.ceil(first / BITMAP_PAGE_BITS);
    const wholeEnd = end === this.bitCount ? this.#pageCount : Math.floor(end / BITMAP_PAGE_BITS);
    return { wholeFirst, wholeEnd };
  }

  #nextSet(from: number, limit: number): number {
    const pageEnd = Math.ceil(limit / BITMAP_PAGE_BITS);
    let page = Math.floor(from / BITMAP_PAGE_BITS);
    let bit = from - page * BITMAP_PAGE_BITS;
    for (;;) {
      const entry = this.#pages.directory.entry(page);
      const base = page * BITMAP_PAGE_BITS;
      if (entry === PAGE_FULL) return base + bit;
      if (entry !== PAGE_EMPTY) {
        const pageLimit = Math.min(BITMAP_PAGE_BITS, limit - base);
        const found = this.#core.kernels.pageNextSet(entry, bit, pageLimit);
        if (found < pageLimit) return base + found;
      }
      page = this.#pages.directory.nextOther(page + 1, pageEnd, PAGE_EMPTY);
      if (page >= pageEnd) return limit;
      bit = 0;
    }
  }

  #nextClear(from: number, limit: number): number {
    const pageEnd = Math.ceil(limit / BITMAP_PAGE_BITS);
    let page = Math.floor(from / BITMAP_PAGE_BITS);
    let bit = from - page * BITMAP_PAGE_BITS;
    for (;;) {
      const entry = this.#pages.directory.entry(page);
      const base = page * BITMAP_PAGE_BITS;
      if (entry === PAGE_EMPTY) return base + bit;
      if (entry !== PAGE_FULL) {
        const pageLimit = Math.min(BITMAP_PAGE_BITS, limit - base);
        const found = this.#core.kernels.pageNextClear(entry, bit, pageLimit);
        if (found < pageLimit) return base + found;
      }
      page = this.#pages.directory.nextOther(page + 1, pageEnd, PAGE_FULL);
      if (page >= pageEnd) return limit;
      bit = 0;
    }
  }

  /** ORs bits of one mixed page of another bitmap to `first` here, where they may touch two pages. */
  #orFromPage(first: number, otherAddress: number, otherBit: number, count: number): number {
    const page = Math.floor(first / BITMAP_PAGE_BITS);
    const bit = first - page * BITMAP_PAGE_BITS;
    const here = Math.min(count, BITMAP_PAGE_BITS - bit);
    const changed = this.#pages.orInPage(page, bit, otherAddress, otherBit, here);
    if (here === count) return changed;
    return changed + this.#pages.orInPage(page + 1, 0, otherAddress, otherBit + here, count - here);
  }

  #pagesForSubtract(other: PagedBitmap): number[] {
    let needed = 0;
    let page = other.#pages.directory.nextMixed(0, this.#pageCount);
    while (page < this.#pageCount) {
      if (this.#pages.directory.entry(page) === PAGE_FULL) needed++;
      page = other.#pages.directory.nextMixed(page + 1, this.#pageCount);
    }
    return this.#pages.allocateAll(needed);
  }
}
