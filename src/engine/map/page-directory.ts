/**
 * Page directory: for each page of a bitmap whether it is empty, full or mixed, and where the bits of a mixed one lie.
 *
 * Method: two levels. A chunk tells of 512 pages, two numbers a page: its entry and, for a mixed page, its population.
 * Chunks that are all empty or all full are two shared arrays; a chunk of its own is made on the first change.
 * Invariants:
 *   1. The shared chunks are never written.
 *   2. An entry is PAGE_EMPTY, PAGE_FULL, or the address of a page in the core's memory (a multiple of 4096).
 *   3. The directory owns no memory of the core: whoever replaces an address releases it.
 */

export const PAGE_EMPTY = 0;
export const PAGE_FULL = 1;
export type UniformEntry = typeof PAGE_EMPTY | typeof PAGE_FULL;

const CHUNK_SHIFT = 9;
const CHUNK_PAGES = 1 << CHUNK_SHIFT;
const CHUNK_MASK = CHUNK_PAGES - 1;
const CHUNK_LENGTH = CHUNK_PAGES * 2;

const EMPTY_CHUNK = new Int32Array(CHUNK_LENGTH);
const FULL_CHUNK = new Int32Array(CHUNK_LENGTH).map((_, i) => (i % 2 === 0 ? PAGE_FULL : 0));

function uniformChunk(entry: UniformEntry): Int32Array {
  return entry === PAGE_EMPTY ? EMPTY_CHUNK : FULL_CHUNK;
}

export class PageDirectory {
  readonly pageCount: number;
  readonly #chunks: Int32Array[];

  constructor(pageCount: number, entry: UniformEntry) {
    this.pageCount = pageCount;
    this.#chunks = new Array<Int32Array>(Math.ceil(pageCount / CHUNK_PAGES)).fill(uniformChunk(entry));
  }

  entry(page: number): number {
    return this.#chunks[page >>> CHUNK_SHIFT]![(page & CHUNK_MASK) << 1]!;
  }

  /** Set bits of a mixed page; 0 for the others. */
  population(page: number): number {
    return this.#chunks[page >>> CHUNK_SHIFT]![((page & CHUNK_MASK) << 1) + 1]!;
  }

  put(page: number, entry: number, population: number): void {
    const chunk = this.#ownChunk(page >>> CHUNK_SHIFT);
    const at = (page & CHUNK_MASK) << 1;
    chunk[at] = entry;
    chunk[at + 1] = population;
  }

  putUniform(firstPage: number, pageCount: number, entry: UniformEntry): void {
    const end = firstPage + pageCount;
    let page = firstPage;
    while (page < end) {
      const chunkIndex = page >>> CHUNK_SHIFT;
      const chunkFirst = chunkIndex << CHUNK_SHIFT;
      const stop = Math.min(end, chunkFirst + CHUNK_PAGES);
      if (page === chunkFirst && (stop === chunkFirst + CHUNK_PAGES || stop === this.pageCount)) {
        this.#chunks[chunkIndex] = uniformChunk(entry);
      } else if (this.#chunks[chunkIndex] !== uniformChunk(entry)) {
        const chunk = this.#ownChunk(chunkIndex);
        for (let at = (page - chunkFirst) << 1; at < (stop - chunkFirst) << 1; at += 2) {
          chunk[at] = entry;
          chunk[at + 1] = 0;
        }
      }
      page = stop;
    }
  }

  /** First page of `[from, limit)` whose entry is not `entry`, or `limit`. */
  nextOther(from: number, limit: number, entry: UniformEntry): number {
    const uniform = uniformChunk(entry);
    let page = from;
    while (page < limit) {
      const chunkIndex = page >>> CHUNK_SHIFT;
      const chunk = this.#chunks[chunkIndex]!;
      const stop = Math.min(limit, (chunkIndex + 1) << CHUNK_SHIFT);
      if (chunk !== uniform) {
        for (; page < stop; page++) if (chunk[(page & CHUNK_MASK) << 1] !== entry) return page;
      }
      page = stop;
    }
    return limit;
  }

  /** First mixed page of `[from, limit)`, or `limit`. */
  nextMixed(from: number, limit: number): number {
    let page = from;
    while (page < limit) {
      const chunkIndex = page >>> CHUNK_SHIFT;
      const chunk = this.#chunks[chunkIndex]!;
      const stop = Math.min(limit, (chunkIndex + 1) << CHUNK_SHIFT);
      if (chunk !== EMPTY_CHUNK && chunk !== FULL_CHUNK) {
        for (; page < stop; page++) if (chunk[(page & CHUNK_MASK) << 1]! > PAGE_FULL) return page;
      }
      page = stop;
    }
    return limit;
  }

  /** Set bits of pages `[firstPage, firstPage + pageCount)`, a full page counting `fullPageBits`. */
  sum(firstPage: number, pageCount: number, fullPageBits: number): number {
    const end = firstPage + pageCount;
    let bits = 0;
    let page = firstPage;
    while (page < end) {
      const chunkIndex = page >>> CHUNK_SHIFT;
      const chunk = this.#chunks[chunkIndex]!;
      const stop = Math.min(end, (chunkIndex + 1) << CHUNK_SHIFT);
      if (chunk === FULL_CHUNK) bits += (stop - page) * fullPageBits;
      else if (chunk !== EMPTY_CHUNK) {
        for (; page < stop; page++) {
          const at = (page & CHUNK_MASK) << 1;
          bits += chunk[at] === PAGE_FULL ? fullPageBits : chunk[at + 1]!;
        }
      }
      page = stop;
    }
    return bits;
  }

  #ownChunk(chunkIndex: number): Int32Array {
    const chunk = this.#chunks[chunkIndex]!;
    if (chunk !== EMPTY_CHUNK && chunk !== FULL_CHUNK) return chunk;
    const pagesHere = Math.min(CHUNK_PAGES, this.pageCount - (chunkIndex << CHUNK_SHIFT));
    const own = chunk.slice(0, pagesHere * 2);
    this.#chunks[chunkIndex] = own;
    return own;
  }
}
