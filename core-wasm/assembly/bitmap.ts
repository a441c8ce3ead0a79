/**
 * Kernels over one bitmap page: 32,768 bits in 4 KiB, bit `i` is bit `i & 63` of 64-bit word `i >>> 6`, little endian
 * (the same as bit `i & 7` of byte `i >>> 3`).
 *
 * Invariants:
 *   1. A page lies at an address that is a multiple of 8; ranges are `[first, first + count)` and lie inside the page.
 *   2. Whatever changes bits returns how many bits really changed, so that the host keeps counts without scanning.
 */
import { PAGE_BITS, PAGE_BYTES } from "./layout";

const PAGE_END: usize = <usize>PAGE_BYTES;

// @ts-ignore: decorator
@inline
function checkRange(first: u32, count: u32): void {
  assert(first <= PAGE_BITS && count <= PAGE_BITS - first, "bits lie outside the page");
}

/** Bits `first & 63` and above. */
// @ts-ignore: decorator
@inline
function maskFrom(first: u32): u64 {
  return u64.MAX_VALUE << (<u64>(first & 63));
}

/** Bits up to and with `last & 63`. */
// @ts-ignore: decorator
@inline
function maskThrough(last: u32): u64 {
  return u64.MAX_VALUE >>> (<u64>(63 - (last & 63)));
}

// @ts-ignore: decorator
@inline
function wordAt(page: usize, bit: u32): usize {
  return page + ((<usize>bit >>> 6) << 3);
}

// @ts-ignore: decorator
@inline
function bitCount(word: u64): u32 {
  return <u32>popcnt<u64>(word);
}

export function pageTest(page: usize, bit: u32): u32 {
  assert(bit < PAGE_BITS, "bit lies outside the page");
  return <u32>(load<u64>(wordAt(page, bit)) >>> (<u64>(bit & 63))) & 1;
}

/** Sets the range; returns how many bits were clear. */
export function pageSetRange(page: usize, first: u32, count: u32): u32 {
  checkRange(first, count);
  if (count == 0) return 0;
  const last = first + count - 1;
  let at = wordAt(page, first);
  const end = wordAt(page, last);
  let old = load<u64>(at);
  let mask = maskFrom(first);
  if (at == end) {
    mask &= maskThrough(last);
    store<u64>(at, old | mask);
    return bitCount(mask & ~old);
  }
  store<u64>(at, old | mask);
  let changed = bitCount(mask & ~old);
  for (at += 8; at < end; at += 8) {
    changed += bitCount(~load<u64>(at));
    store<u64>(at, u64.MAX_VALUE);
  }
  old = load<u64>(end);
  mask = maskThrough(last);
  store<u64>(end, old | mask);
  return changed + bitCount(mask & ~old);
}

/** Clears the range; returns how many bits were set. */
export function pageClearRange(page: usize, first: u32, count: u32): u32 {
  checkRange(first, count);
  if (count == 0) return 0;
  const last = first + count - 1;
  let at = wordAt(page, first);
  const end = wordAt(page, last);
  let old = load<u64>(at);
  let mask = maskFrom(first);
  if (at == end) {
    mask &= maskThrough(last);
    store<u64>(at, old & ~mask);
    return bitCount(mask & old);
  }
  store<u64>(at, old & ~mask);
  let changed = bitCount(mask & old);
  for (at += 8; at < end; at += 8) {
    changed += bitCount(load<u64>(at));
    store<u64>(at, 0);
  }
  old = load<u64>(end);
  mask = maskThrough(last);
  store<u64>(end, old & ~mask);
  return changed + bitCount(mask & old);
}

/** Set bits of the whole page. */
export function pageCount(page: usize): u32 {
  let a: u64 = 0;
  let b: u64 = 0;
  const end = page + PAGE_END;
  for (let at = page; at < end; at += 64) {
    a += popcnt<u64>(load<u64>(at)) + popcnt<u64>(load<u64>(at, 8));
    b += popcnt<u64>(load<u64>(at, 16)) + popcnt<u64>(load<u64>(at, 24));
    a += popcnt<u64>(load<u64>(at, 32)) + popcnt<u64>(load<u64>(at, 40));
    b += popcnt<u64>(load<u64>(at, 48)) + popcnt<u64>(load<u64>(at, 56));
  }
  return <u32>(a + b);
}

export function pageCountRange(page: usize, first: u32, count: u32): u32 {
  checkRange(first, count);
  if (count == 0) return 0;
  const last = first + count - 1;
  let at = wordAt(page, first);
  const end = wordAt(page, last);
  if (at == end) return bitCount(load<u64>(at) & maskFrom(first) & maskThrough(last));
  let sum = popcnt<u64>(load<u64>(at) & maskFrom(first));
  for (at += 8; at < end; at += 8) sum += popcnt<u64>(load<u64>(at));
  return <u32>sum + bitCount(load<u64>(end) & maskThrough(last));
}

/** 1 when any bit of the range is set. */
export function pageAnySet(page: usize, first: u32, count: u32): u32 {
  return count != 0 && pageNextSet(page, first, first + count) < first + count ? 1 : 0;
}

// @ts-ignore: decorator
@inline
function or4(at: usize): v128 {
  return v128.or(v128.or(v128.load(at), v128.load(at, 16)), v128.or(v128.load(at, 32), v128.load(at, 48)));
}

/** First set bit of `[from, limit)`, or `limit`. */
export function pageNextSet(page: usize, from: u32, limit: u32): u32 {
  assert(from <= limit && limit <= PAGE_BITS, "bits lie outside the page");
  if (from == limit) return limit;
  let at = wordAt(page, from);
  let word: u64 = 0;
  if ((from & 63) != 0) {
    word = load<u64>(at) & maskFrom(from);
    if (word != 0) return min<u32>((<u32>(at - page) << 3) + <u32>ctz<u64>(word), limit);
    at += 8;
  }
  const end = page + ((<usize>limit + 63) >>> 6 << 3);
  // Four 64-byte lines a step, then one; bits past the limit may stop the search early, never mislead it.
  const stop = end - 256;
  for (; at <= stop; at += 256) {
    if (v128.any_true(v128.or(v128.or(or4(at), or4(at + 64)), v128.or(or4(at + 128), or4(at + 192))))) break;
  }
  while (at + 64 <= end && !v128.any_true(or4(at))) at += 64;
  for (; at < end; at += 8) {
    word = load<u64>(at);
    if (word != 0) return min<u32>((<u32>(at - page) << 3) + <u32>ctz<u64>(word), limit);
  }
  return limit;
}

// @ts-ignore: decorator
@inline
function and4(at: usize): v128 {
  return v128.and(v128.and(v128.load(at), v128.load(at, 16)), v128.and(v128.load(at, 32), v128.load(at, 48)));
}

/** First clear bit of `[from, limit)`, or `limit`. */
export function pageNextClear(page: usize, from: u32, limit: u32): u32 {
  assert(from <= limit && limit <= PAGE_BITS, "bits lie outside the page");
  if (from == limit) return limit;
  let at = wordAt(page, from);
  let word: u64 = 0;
  if ((from & 63) != 0) {
    word = ~load<u64>(at) & maskFrom(from);
    if (word != 0) return min<u32>((<u32>(at - page) << 3) + <u32>ctz<u64>(word), limit);
    at += 8;
  }
  const end = page + ((<usize>limit + 63) >>> 6 << 3);
  while (at + 256 <= end) {
    const all = v128.and(v128.and(and4(at), and4(at + 64)), v128.and(and4(at + 128), and4(at + 192)));
    if (v128.any_true(v128.not(all))) break;
    at += 256;
  }
  while (at + 64 <= end && !v128.any_true(v128.not(and4(at)))) at += 64;
  for (; at < end; at += 8) {
    word = ~load<u64>(at);
    if (word != 0) return min<u32>((<u32>(at - page) << 3) + <u32>ctz<u64>(word), limit);
  }
  return limit;
}

// @ts-ignore: decorator
@inline
function orWord(at: usize, bits: u64): u64 {
  const old = load<u64>(at);
  store<u64>(at, old | bits);
  return popcnt<u64>(bits & ~old);
}

/** `orWord` for two words. */
// @ts-ignore: decorator
@inline
function orPair(at: usize, bits: v128): u64 {
  const old = v128.load(at);
  v128.store(at, v128.or(old, bits));
  return bitCount2(v128.andnot(bits, old));
}

/** `into & ~bits` of two words. */
// @ts-ignore: decorator
@inline
function clearPair(at: usize, bits: v128): u64 {
  const old = v128.load(at);
  v128.store(at, v128.andnot(old, bits));
  return bitCount2(v128.and(bits, old));
}

// @ts-ignore: decorator
@inline
function bitCount2(words: v128): u64 {
  return popcnt<u64>(i64x2.extract_lane(words, 0)) + popcnt<u64>(i64x2.extract_lane(words, 1));
}

/** `into |= from`; returns how many bits were set newly. */
export function pageOr(into: usize, from: usize): u32 {
  let changed: u64 = 0;
  for (const end = into + PAGE_END; into < end; into += 64) {
    changed += orPair(into, v128.load(from)) + orPair(into + 16, v128.load(from, 16));
    changed += orPair(into + 32, v128.load(from, 32)) + orPair(into + 48, v128.load(from, 48));
    from += 64;
  }
  return <u32>changed;
}

/** `into &= ~from`; returns how many bits were cleared. */
export function pageAndNot(into: usize, from: usize): u32 {
  let changed: u64 = 0;
  for (const end = into + PAGE_END; into < end; into += 64) {
    changed += clearPair(into, v128.load(from)) + clearPair(into + 16, v128.load(from, 16));
    changed += clearPair(into + 32, v128.load(from, 32)) + clearPair(into + 48, v128.load(from, 48));
    from += 64;
  }
  return <u32>changed;
}

/** `count` (1..64) bits of the page from `first` on, in the low end of a word; reads no word that holds none of them. */
// @ts-ignore: decorator
@inline
function bitsAt(page: usize, first: u32, count: u32): u64 {
  const at = wordAt(page, first);
  const shift = first & 63;
  let bits = load<u64>(at) >>> <u64>shift;
  if (shift + count > 64) bits |= load<u64>(at, 8) << (<u64>(64 - shift));
  return bits & (u64.MAX_VALUE >>> <u64>(64 - count));
}

/** Two words that begin `shift` (0..7) bits into the byte at `at`; reads 24 bytes. */
// @ts-ignore: decorator
@inline
function shiftedPair(at: usize, shift: i32): v128 {
  if (shift == 0) return v128.load(at);
  return v128.or(i64x2.shr_u(v128.load(at), shift), i64x2.shl(v128.load(at, 8), 64 - shift));
}

// @ts-ignore: decorator
@inline
function orShiftedBy(to: usize, at: usize, shift: i32, length: usize): u64 {
  let changed: u64 = 0;
  for (const end = to + length; to < end; to += 32) {
    changed += orPair(to, shiftedPair(at, shift)) + orPair(to + 16, shiftedPair(at + 16, shift));
    at += 32;
  }
  return changed;
}

/**
 * ORs `length` bytes (a multiple of 32) that begin `shift` (0..7) bits into the byte at `at`. A loop for each shift: a
 * vector shift by a constant costs a third of one by a variable.
 */
function orShifted(to: usize, at: usize, shift: u32, length: usize): u64 {
  switch (shift) {
    case 0:
      return orShiftedBy(to, at, 0, length);
    case 1:
      return orShiftedBy(to, at, 1, length);
    case 2:
      return orShiftedBy(to, at, 2, length);
    case 3:
      return orShiftedBy(to, at, 3, length);
    case 4:
      return orShiftedBy(to, at, 4, length);
    case 5:
      return orShiftedBy(to, at, 5, length);
    case 6:
      return orShiftedBy(to, at, 6, length);
    default:
      return orShiftedBy(to, at, 7, length);
  }
}

/** `into[intoFirst + i] |= from[fromFirst + i]` for `i < count`; returns how many bits were set newly. Different pages. */
export function pageOrShifted(into: usize, intoFirst: u32, from: usize, fromFirst: u32, count: u32): u32 {
  checkRange(intoFirst, count);
  checkRange(fromFirst, count);
  assert(into != from, "a page cannot be shifted into itself");
  let left = count;
  let changed: u64 = 0;
  const head = min<u32>((64 - (intoFirst & 63)) & 63, left);
  if (head != 0) {
    changed = orWord(wordAt(into, intoFirst), bitsAt(from, fromFirst, head) << <u64>(intoFirst & 63));
    intoFirst += head;
    fromFirst += head;
    left -= head;
  }
  // Lines of 32 bytes, up to one line before the end: a pair reads up to 7 bytes more than it needs.
  if (left >= 512) {
    const length = ((<usize>left >>> 8) - 1) << 5;
    const bits = <u32>length << 3;
    changed += orShifted(wordAt(into, intoFirst), from + (<usize>fromFirst >>> 3), fromFirst & 7, length);
    intoFirst += bits;
    fromFirst += bits;
    left -= bits;
  }
  while (left != 0) {
    const count = min<u32>(left, 64);
    changed += orWord(wordAt(into, intoFirst), bitsAt(from, fromFirst, count));
    intoFirst += count;
    fromFirst += count;
    left -= count;
  }
  return <u32>changed;
}
