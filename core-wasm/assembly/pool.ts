/**
 * Page pool: 4 KiB pages of the linear memory above the module's own data.
 *
 * Method: released pages form a list through their first word; when it is empty, pages are cut from the end of the
 * memory in use, and the memory grows in steps of an eighth of its size (at least 1 MiB).
 * Invariants:
 *   1. A page is either on the free list, or in use, or above `cut`; the `USED` bit of a page tells the first two apart,
 *      so a page released twice, or one that is none, is caught.
 *   2. At the memory's maximum, or when the system gives no more, allocation answers 0; it never traps.
 */
import { MEMORY_BYTES_MAX, PAGE_BYTES, WASM_PAGE_BYTES } from "./layout";

/** One bit for each page below MEMORY_BYTES_MAX. */
const USED: usize = memory.data(65536, 16);
const GROW_WASM_PAGES_MIN: u32 = 16;

let start: usize = 0;
let cut: usize = 0;
let freeHead: usize = 0;
let pagesUsed: u32 = 0;
let pagesFree: u32 = 0;

/** Starts the pool; to be called once, before anything else. */
export function poolInit(): void {
  assert(start == 0, "the pool has been started before");
  start = (__heap_base + (PAGE_BYTES - 1)) & ~(<usize>PAGE_BYTES - 1);
  cut = start;
}

/** Makes room for `bytes` above `cut`; false when the memory cannot grow that far. */
function grow(bytes: usize): bool {
  const end = <u64>cut + <u64>bytes;
  if (end > <u64>MEMORY_BYTES_MAX) return false;
  const have = <u32>memory.size();
  const needed = <u32>((end + (WASM_PAGE_BYTES - 1)) / WASM_PAGE_BYTES);
  if (needed <= have) return true;
  const wanted = min<u32>(max<u32>(needed, have + max<u32>(GROW_WASM_PAGES_MIN, have >>> 3)), MEMORY_BYTES_MAX / WASM_PAGE_BYTES);
  if (memory.grow(<i32>(wanted - have)) >= 0) return true;
  return memory.grow(<i32>(needed - have)) >= 0;
}

/** A page whose bytes are all `fill`; 0 when there is no more memory. */
export function allocatePage(fill: u32): usize {
  const page = freeHead;
  if (page == 0) {
    const fresh = allocatePages(1);
    if (fresh != 0) memory.fill(fresh, <u8>fill, PAGE_BYTES);
    return fresh;
  }
  freeHead = load<u32>(page);
  pagesFree--;
  pagesUsed++;
  markUsed(page);
  memory.fill(page, <u8>fill, PAGE_BYTES);
  return page;
}

/** `count` pages in one piece, content undefined; 0 when there is no more memory. Each is released by itself. */
export function allocatePages(count: u32): usize {
  assert(start != 0, "the pool has not been started");
  assert(count > 0 && count <= MEMORY_BYTES_MAX / PAGE_BYTES, "page count out of range");
  const bytes = <usize>count * PAGE_BYTES;
  if (!grow(bytes)) return 0;
  const first = cut;
  cut += bytes;
  pagesUsed += count;
  for (let i: u32 = 0; i < count; i++) markUsed(first + <usize>i * PAGE_BYTES);
  return first;
}

export function releasePage(page: usize): void {
  assert(page >= start && page < cut && (page & (PAGE_BYTES - 1)) == 0, "no page of the pool");
  const at = USED + (page >>> 15);
  const bit = <u32>1 << (<u32>(page >>> 12) & 7);
  const bits = <u32>load<u8>(at);
  assert((bits & bit) != 0, "the page has been released before");
  store<u8>(at, <u8>(bits & ~bit));
  store<u32>(page, <u32>freeHead);
  freeHead = page;
  pagesFree++;
  pagesUsed--;
}

function markUsed(page: usize): void {
  const at = USED + (page >>> 15);
  const bit = <u32>1 << (<u32>(page >>> 12) & 7);
  const bits = <u32>load<u8>(at);
  assert((bits & bit) == 0, "the page is in use already");
  store<u8>(at, <u8>(bits | bit));
}

export function poolPagesUsed(): u32 {
  return pagesUsed;
}

/** Pages that were used and released; they are handed out before the memory grows. */
export function poolPagesFree(): u32 {
  return pagesFree;
}
