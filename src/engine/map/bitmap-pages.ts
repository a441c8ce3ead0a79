/**
 * Bitmap pages: the pages of one paged bitmap, their memory and their books.
 *
 * Role: changes within one page or over whole pages, and the passage of a page between empty, mixed and full.
 * PagedBitmap (paged-bitmap.ts) cuts ranges into these steps and checks its callers.
 * Invariants:
 *   1. After each public call a page is empty exactly when none of its bits is set, full exactly when all that exist are;
 *      `materialize` and `splitFull` alone leave a full page in memory, and the caller clears a bit of it at once.
 *   2. A mixed page owns exactly one page of the core, released when it becomes uniform; its bits past the end are 0.
 *   3. `count` is the sum of all populations.
 */
import { assert } from "../../base/assert.ts";
import { CORE_PAGE_BYTES, type Core } from "./core.ts";
import { PAGE_EMPTY, PAGE_FULL, PageDirectory, type UniformEntry } from "./page-directory.ts";

export const BITMAP_PAGE_BYTES = CORE_PAGE_BYTES;
export const BITMAP_PAGE_BITS = BITMAP_PAGE_BYTES * 8;

export class BitmapPages {
  readonly core: Core;
  readonly bitCount: number;
  readonly pageCount: number;
  readonly directory: PageDirectory;
  /** Set bits of all pages. */
  count: number;
  widenedPages = 0;

  constructor(core: Core, bitCount: number, entry: UniformEntry) {
    this.core = core;
    this.bitCount = bitCount;
    this.pageCount = Math.ceil(bitCount / BITMAP_PAGE_BITS);
    this.directory = new PageDirectory(this.pageCount, entry);
    this.count = entry === PAGE_FULL ? bitCount : 0;
  }

  /** Bits of the page that exist. */
  capacity(page: number): number {
    return page === this.pageCount - 1 ? this.bitCount - page * BITMAP_PAGE_BITS : BITMAP_PAGE_BITS;
  }

  /** Sets bits of one page; returns how many changed (all that were clear when memory is exhausted). */
  setInPage(page: number, bit: number, count: number): number {
    const entry = this.directory.entry(page);
    if (entry === PAGE_FULL) return 0;
    if (count === this.capacity(page)) return this.putPages(page, 1, PAGE_FULL);
    const address = entry === PAGE_EMPTY ? this.materializeEmpty(page) : entry;
    if (address === 0) return this.widen(page);
    return this.settle(page, address, this.core.kernels.pageSetRange(address, bit, count));
  }

  /** The page, if full, has been materialized by the caller. */
  clearInPage(page: number, bit: number, count: number): number {
    const entry = this.directory.entry(page);
    if (entry === PAGE_EMPTY) return 0;
    if (count === this.capacity(page)) return this.putPages(page, 1, PAGE_EMPTY);
    assert(entry !== PAGE_FULL, "a full page was not materialized before clearing");
    return this.settle(page, entry, -this.core.kernels.pageClearRange(entry, bit, count));
  }

  /** Set bits of a range within one page. */
  countInPage(page: number, bit: number, count: number): number {
    const entry = this.directory.entry(page);
    if (entry <= PAGE_FULL) return entry === PAGE_FULL ? count : 0;
    return this.core.kernels.pageCountRange(entry, bit, count);
  }

  /** ORs `count` bits from `otherBit` of a mixed page of another bitmap to `bit` of this one; returns how many changed. */
  orInPage(page: number, bit: number, otherAddress: number, otherBit: number, count: number): number {
    const { kernels } = this.core;
    let entry = this.directory.entry(page);
    if (entry === PAGE_FULL) return 0;
    if (entry === PAGE_EMPTY) {
      if (kernels.pageAnySet(otherAddress, otherBit, count) === 0) return 0;
      entry = this.materializeEmpty(page);
      if (entry === 0) return this.widen(page);
    }
    if (count === BITMAP_PAGE_BITS) return this.settle(page, entry, kernels.pageOr(entry, otherAddress));
    return this.settle(page, entry, kernels.pageOrShifted(entry, bit, otherAddress, otherBit, count));
  }

  /** Keeps the books after `delta` bits of a mixed page were set (or, negative, cleared); returns how many changed. */
  settle(page: number, address: number, delta: number): number {
    const population = this.directory.population(page) + delta;
    this.count += delta;
    const capacity = this.capacity(page);
    assert(population >= 0 && population <= capacity, "population of a page out of range");
    if (population === 0 || population === capacity) {
      this.core.releasePage(address);
      this.directory.put(page, population === 0 ? PAGE_EMPTY : PAGE_FULL, 0);
    } else if (delta !== 0) {
      this.directory.put(page, address, population);
    }
    return Math.abs(delta);
  }

  /** Makes whole pages uniform; returns how many bits changed. */
  putPages(firstPage: number, pageCount: number, entry: UniformEntry): number {
    const end = firstPage + pageCount;
    const before = this.sumPages(firstPage, pageCount);
    let page = this.directory.nextMixed(firstPage, end);
    while (page < end) {
      this.core.releasePage(this.directory.entry(page));
      page = this.directory.nextMixed(page + 1, end);
    }
    this.directory.putUniform(firstPage, pageCount, entry);
    const after =
      entry === PAGE_EMPTY ? 0 : Math.min(this.bitCount, end * BITMAP_PAGE_BITS) - firstPage * BITMAP_PAGE_BITS;
    this.count += after - before;
    return Math.abs(after - before);
  }

  /** Set bits of whole pages. */
  sumPages(firstPage: number, pageCount: number): number {
    const last = this.pageCount - 1;
    const sum = this.directory.sum(firstPage, pageCount, BITMAP_PAGE_BITS);
    const holdsFullLast = firstPage + pageCount > last && this.directory.entry(last) === PAGE_FULL;
    return holdsFullLast ? sum - (BITMAP_PAGE_BITS - this.capacity(last)) : sum;
  }

  /** An empty page gets memory; its first bit must be set before anything else happens. 0 when memory is exhausted. */
  materializeEmpty(page: number): number {
    const address = this.core.allocatePage(0x00);
    if (address !== 0) this.directory.put(page, address, 0);
    return address;
  }

  /** The safe way out when a bit of an empty page must be set and memory is exhausted. */
  widen(page: number): number {
    this.widenedPages++;
    return this.putPages(page, 1, PAGE_FULL);
  }

  /** Gives two pages (or one) memory where they are full, or neither: MEMORY_EXHAUSTED. */
  materialize(page: number, otherPage: number): void {
    const needsFirst = this.directory.entry(page) === PAGE_FULL;
    const needsSecond = otherPage !== page && this.directory.entry(otherPage) === PAGE_FULL;
    const pages = this.allocateAll((needsFirst ? 1 : 0) + (needsSecond ? 1 : 0));
    if (needsFirst) this.splitFull(page, pages.pop()!);
    if (needsSecond) this.splitFull(otherPage, pages.pop()!);
  }

  /** A full page gets the memory at `address`, all its bits set there. Cleared bits must follow at once. */
  splitFull(page: number, address: number): void {
    const capacity = this.capacity(page);
    this.core.kernels.bytesFill(address, 0xff, BITMAP_PAGE_BYTES);
    this.core.kernels.pageClearRange(address, capacity, BITMAP_PAGE_BITS - capacity);
    this.directory.put(page, address, capacity);
  }

  /** So many pages, or MEMORY_EXHAUSTED and none. */
  allocateAll(needed: number): number[] {
    const pages: number[] = [];
    while (pages.length < needed) {
      const address = this.core.allocatePage(0x00);
      if (address === 0) {
        for (const page of pages) this.core.releasePage(page);
        throw this.core.exhausted("clearing part of a full page of a change map");
      }
      pages.push(address);
    }
    return pages;
  }
}
