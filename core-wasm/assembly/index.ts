/**
 * Copy core: what the box does with many bits or bytes at once.
 *
 * Role: kernels over raw pointers into one imported memory. No managed objects, no policy, no knowledge of volumes.
 * Invariants:
 *   1. The host owns the layout: it gets memory only from the pool (pool.ts) and passes addresses it got there.
 *   2. An argument that breaks a rule is a mistake of the host and traps with a message; running out of memory never
 *      traps, it answers 0.
 *   3. Addresses stay below 2 GiB (pool.ts asserts it), so they are positive integers in JavaScript.
 */
export {
  pageAndNot,
  pageAnySet,
  pageClearRange,
  pageCount,
  pageCountRange,
  pageNextClear,
  pageNextSet,
  pageOr,
  pageOrShifted,
  pageSetRange,
  pageTest,
} from "./bitmap";
export { bytesCopy, bytesEqual, bytesFill, bytesZero, diffBlocks, firstDifference, zeroBlocks, zeroRun } from "./blocks";
export { crc32c, crc32cInit } from "./crc32c";
export { allocatePage, allocatePages, poolInit, poolPagesFree, poolPagesUsed, releasePage } from "./pool";
