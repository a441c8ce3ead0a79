/**
 * Naive twins: bits as one byte each, every operation a plain loop. Slow and obvious, shared by the property tests of
 * the kernels and of the paged bitmap.
 */
import fc from "fast-check";
import { BITMAP_PAGE_BITS } from "../../src/engine/map/bitmap-pages.ts";

export type Bits = Uint8Array;

export function unpack(bytes: Uint8Array): Bits {
  const bits = new Uint8Array(bytes.length * 8);
  for (let i = 0; i < bits.length; i++) bits[i] = (bytes[i >>> 3]! >>> (i & 7)) & 1;
  return bits;
}

export function pack(bits: Bits): Uint8Array {
  const bytes = new Uint8Array(Math.ceil(bits.length / 8));
  for (let i = 0; i < bits.length; i++) bytes[i >>> 3]! |= bits[i]! << (i & 7);
  return bytes;
}

/** Gives every bit of the range this value; returns how many had the other. */
export function assign(bits: Bits, first: number, count: number, value: 0 | 1): number {
  let changed = 0;
  for (let i = first; i < first + count; i++) {
    if (bits[i] !== value) changed++;
    bits[i] = value;
  }
  return changed;
}

export function countSet(bits: Bits, first: number, count: number): number {
  let sum = 0;
  for (let i = first; i < first + count; i++) sum += bits[i]!;
  return sum;
}

/** First index of `[from, limit)` with this value, or `limit`. */
export function find(bits: Bits, from: number, limit: number, value: 0 | 1): number {
  for (let i = from; i < limit; i++) if (bits[i] === value) return i;
  return limit;
}

/** `into[first + i] |= from[fromFirst + i]`; returns how many changed. */
export function orShifted(into: Bits, first: number, from: Bits, fromFirst: number, count: number): number {
  let changed = 0;
  for (let i = 0; i < count; i++) {
    if (from[fromFirst + i] === 1 && into[first + i] === 0) {
      into[first + i] = 1;
      changed++;
    }
  }
  return changed;
}

export function andNot(into: Bits, from: Bits): number {
  let changed = 0;
  for (let i = 0; i < into.length; i++) {
    if (from[i] === 1 && into[i] === 1) {
      into[i] = 0;
      changed++;
    }
  }
  return changed;
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

/** A range inside `[0, size]`, often beginning or ending on a border of words, lines or pages. */
export function rangeWithin(size: number): fc.Arbitrary<{ first: number; count: number }> {
  const index = fc.oneof(
    fc.nat(size),
    fc
      .tuple(fc.constantFrom(64, 512, 1024, BITMAP_PAGE_BITS), fc.nat(size), fc.integer({ min: -1, max: 1 }))
      .map(([unit, n, d]) => Math.min(size, Math.max(0, Math.round(n / unit) * unit + d))),
    fc.constantFrom(0, size),
  );
  const pair = fc.tuple(index, index).map(([a, b]) => ({ first: Math.min(a, b), count: Math.abs(a - b) }));
  const short = fc.tuple(fc.nat(size), fc.nat(3)).map(([a, n]) => ({ first: a, count: Math.min(n, size - a) }));
  return fc.oneof(pair, short);
}

/** Content of a page: uniform, a few runs, or noise of some density. */
export const pageBytes: fc.Arbitrary<Uint8Array> = fc.oneof(
  fc.constantFrom(0, 255).map((value) => new Uint8Array(BITMAP_PAGE_BITS / 8).fill(value)),
  fc.array(rangeWithin(BITMAP_PAGE_BITS), { minLength: 1, maxLength: 6 }).map((runs) => {
    const bits = new Uint8Array(BITMAP_PAGE_BITS);
    for (const [i, { first, count }] of runs.entries()) assign(bits, first, count, i % 3 === 2 ? 0 : 1);
    return pack(bits);
  }),
  fc.tuple(fc.integer(), fc.constantFrom(1, 2, 30, 3000)).map(([seed, sparsity]) => {
    const bits = new Uint8Array(BITMAP_PAGE_BITS);
    let x = seed | 1;
    for (let i = 0; i < bits.length; i++) {
      x = Math.imul(x, 1664525) + 1013904223;
      bits[i] = (x >>> 8) % (sparsity + 1) === 0 ? 1 : 0;
    }
    return pack(bits);
  }),
);
