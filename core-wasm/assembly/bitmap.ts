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

/** First set bit of `[from, limit)`, or `limit`. */
export function pageNextSet(page: usize, from: u32, limit: u32): u32 {
  assert(from <= limit && limit <= PAGE_BITS, "bits lie outside the page");
  if (from == limit) return limit;
  let at = wordAt(page, from);
  let word = load<u64>(at) & maskFrom(from);
  if (word == 0) {
    const end = wordAt(page, limit - 1);
    at += 8;
    // Two 64-byte lines a step while whole steps lie before the last word.
    while (at + 128 <= end) {
      let any = v128.or(v128.or(v128.load(at), v128.load(at, 16)), v128.or(v128.load(at, 32), v128.load(at, 48)));
      any = v128.or(any, v128.or(v128.load(at, 64), v128.load(at, 80)));
      any = v128.or(any, v128.or(v128.load(at, 96), v128.load(at, 112)));
      if (v128.any_true(any)) break;
      at += 128;
    }
    while (at <= end) {
      word = load<u64>(at);
      if (word != 0) break;
      at += 8;
    }
    if (word == 0) return limit;
  }
  return min<u32>((<u32>(at - page) << 3) + <u32>ctz<u64>(word), limit);
}

/** First clear bit of `[from, limit)`, or `limit`. */
export function pageNextClear(page: usize, from: u32, limit: u32): u32 {
  assert(from <= limit && limit <= PAGE_BITS, "bits lie outside the page");
  if (from == limit) return limit;
  let at = wordAt(page, from);
  let word = ~load<u64>(at) & maskFrom(from);
  if (word == 0) {
    const end = wordAt(page, limit - 1);
    at += 8;
    while (at + 64 <= end) {
      const all = v128.and(
        v128.and(v128.load(at), v128.load(at, 16)),
        v128.and(v128.load(at, 32), v128.load(at, 48)),
      );
      if (v128.any_true(v128.not(all))) break;
      at += 64;
    }
    while (at <= end) {
      word = ~load<u64>(at);
      if (word != 0) break;
      at += 8;
    }
    if (word == 0) return limit;
  }
  return min<u32>((<u32>(at - page) << 3) + <u32>ctz<u64>(word), limit);
}

/** `into |= from`; returns how many bits were set newly. */
export function pageOr(into: usize, from: usize): u32 {
  let changed: u64 = 0;
  for (let at: usize = 0; at < PAGE_END; at += 32) {
    const a = load<u64>(into + at);
    const b = load<u64>(into + at, 8);
    const c = load<u64>(into + at, 16);
    const d = load<u64>(into + at, 24);
    const newA = load<u64>(from + at) & ~a;
    const newB = load<u64>(from + at, 8) & ~b;
    const newC = load<u64>(from + at, 16) & ~c;
    const newD = load<u64>(from + at, 24) & ~d;
    changed += popcnt<u64>(newA) + popcnt<u64>(newB) + popcnt<u64>(newC) + popcnt<u64>(newD);
    store<u64>(into + at, a | newA);
    store<u64>(into + at, b | newB, 8);
    store<u64>(into + at, c | newC, 16);
    store<u64>(into + at, d | newD, 24);
  }
  return <u32>changed;
}

/** `into &= ~from`; returns how many bits were cleared. */
export function pageAndNot(into: usize, from: usize): u32 {
  let changed: u64 = 0;
  for (let at: usize = 0; at < PAGE_END; at += 32) {
    const a = load<u64>(into + at);
    const b = load<u64>(into + at, 8);
    const c = load<u64>(into + at, 16);
    const d = load<u64>(into + at, 24);
    const goneA = load<u64>(from + at) & a;
    const goneB = load<u64>(from + at, 8) & b;
    const goneC = load<u64>(from + at, 16) & c;
    const goneD = load<u64>(from + at, 24) & d;
    changed += popcnt<u64>(goneA) + popcnt<u64>(goneB) + popcnt<u64>(goneC) + popcnt<u64>(goneD);
    store<u64>(into + at, a ^ goneA);
    store<u64>(into + at, b ^ goneB, 8);
    store<u64>(into + at, c ^ goneC, 16);
    store<u64>(into + at, d ^ goneD, 24);
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

// @ts-ignore: decorator
@inline
function orWord(at: usize, bits: u64): u32 {
  const old = load<u64>(at);
  store<u64>(at, old | bits);
  return bitCount(bits & ~old);
}

/** `into[intoFirst + i] |= from[fromFirst + i]` for `i < count`; returns how many bits were set newly. Different pages. */
export function pageOrShifted(into: usize, intoFirst: u32, from: usize, fromFirst: u32, count: u32): u32 {
  checkRange(intoFirst, count);
  checkRange(fromFirst, count);
  assert(into != from, "a page cannot be shifted into itself");
  let left = count;
  let changed: u32 = 0;
  const head = min<u32>((64 - (intoFirst & 63)) & 63, left);
  if (head != 0) {
    changed = orWord(wordAt(into, intoFirst), bitsAt(from, fromFirst, head) << <u64>(intoFirst & 63));
    intoFirst += head;
    fromFirst += head;
    left -= head;
  }
  let to = wordAt(into, intoFirst);
  let at = wordAt(from, fromFirst);
  const shift = <u64>(fromFirst & 63);
  if (shift == 0) {
    for (; left >= 64; left -= 64) {
      changed += orWord(to, load<u64>(at));
      to += 8;
      at += 8;
    }
  } else if (left >= 64) {
    let low = load<u64>(at);
    for (; left >= 64; left -= 64) {
      const high = load<u64>(at, 8);
      changed += orWord(to, (low >>> shift) | (high << (64 - shift)));
      low = high;
      to += 8;
      at += 8;
    }
  }
  if (left != 0) changed += orWord(to, bitsAt(from, (<u32>(at - from) << 3) + <u32>shift, left));
  return changed;
}
