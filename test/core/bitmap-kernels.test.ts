/** Each bitmap page kernel against its naive twin. */
import test from "ava";
import fc from "fast-check";
import { BITMAP_PAGE_BITS, BITMAP_PAGE_BYTES } from "../../src/engine/map/bitmap-pages.ts";
import { instantiateCore } from "../../src/engine/map/core.ts";
import * as naive from "./bits-model.ts";

const core = await instantiateCore();
const k = core.kernels;
// Three pages in a row; the outer ones hold a pattern that must survive: a kernel writes only to its own page.
const guarded = core.createBuffer(BITMAP_PAGE_BYTES * 3);
const second = core.createBuffer(BITMAP_PAGE_BYTES);
const page = guarded.address + BITMAP_PAGE_BYTES;
const range = naive.rangeWithin(BITMAP_PAGE_BITS);

function load(bytes: Uint8Array): naive.Bits {
  guarded.bytes.fill(0xa5);
  guarded.bytes.set(bytes, BITMAP_PAGE_BYTES);
  return naive.unpack(bytes);
}

function holds(bits: naive.Bits): boolean {
  const all = guarded.bytes;
  const border = (at: number) => all.subarray(at, at + BITMAP_PAGE_BYTES).every((byte) => byte === 0xa5);
  const content = all.subarray(BITMAP_PAGE_BYTES, 2 * BITMAP_PAGE_BYTES);
  return border(0) && border(2 * BITMAP_PAGE_BYTES) && naive.sameBytes(content, naive.pack(bits));
}

function property<T extends unknown[]>(
  title: string,
  arbitraries: { [I in keyof T]: fc.Arbitrary<T[I]> },
  body: (...values: T) => boolean,
) {
  test(title, (t) => {
    fc.assert(
      fc.property(fc.tuple(...arbitraries) as fc.Arbitrary<T>, (values) => body(...values)),
      { numRuns: 150 },
    );
    t.pass();
  });
}

property("pageSetRange sets and counts like the naive loop", [naive.pageBytes, range], (bytes, { first, count }) => {
  const bits = load(bytes);
  return k.pageSetRange(page, first, count) === naive.assign(bits, first, count, 1) && holds(bits);
});

property(
  "pageClearRange clears and counts like the naive loop",
  [naive.pageBytes, range],
  (bytes, { first, count }) => {
    const bits = load(bytes);
    return k.pageClearRange(page, first, count) === naive.assign(bits, first, count, 0) && holds(bits);
  },
);

property("pageTest reads single bits", [naive.pageBytes, fc.nat(BITMAP_PAGE_BITS - 1)], (bytes, bit) => {
  const bits = load(bytes);
  return k.pageTest(page, bit) === bits[bit];
});

property("pageCount and pageCountRange count", [naive.pageBytes, range], (bytes, { first, count }) => {
  const bits = load(bytes);
  const whole = k.pageCount(page) === naive.countSet(bits, 0, BITMAP_PAGE_BITS);
  return whole && k.pageCountRange(page, first, count) === naive.countSet(bits, first, count) && holds(bits);
});

property("pageAnySet sees bits of the range only", [naive.pageBytes, range], (bytes, { first, count }) => {
  const bits = load(bytes);
  return k.pageAnySet(page, first, count) === (naive.countSet(bits, first, count) > 0 ? 1 : 0);
});

property("pageNextSet and pageNextClear search", [naive.pageBytes, range], (bytes, { first, count }) => {
  const bits = load(bytes);
  const limit = first + count;
  return (
    k.pageNextSet(page, first, limit) === naive.find(bits, first, limit, 1) &&
    k.pageNextClear(page, first, limit) === naive.find(bits, first, limit, 0)
  );
});

property("pageOr and pageAndNot combine pages", [naive.pageBytes, naive.pageBytes], (bytes, others) => {
  second.bytes.set(others);
  const other = naive.unpack(others);
  const bits = load(bytes);
  const added = k.pageOr(page, second.address) === naive.orShifted(bits, 0, other, 0, BITMAP_PAGE_BITS) && holds(bits);
  const removing = load(bytes);
  const removed = k.pageAndNot(page, second.address) === naive.andNot(removing, other) && holds(removing);
  return added && removed && naive.sameBytes(second.bytes, others);
});

property(
  "pageOrShifted ORs any range to any place",
  [naive.pageBytes, naive.pageBytes, range, fc.nat(BITMAP_PAGE_BITS)],
  (bytes, others, { first, count }, place) => {
    second.bytes.set(others);
    const bits = load(bytes);
    const fromFirst = Math.min(place, BITMAP_PAGE_BITS - count);
    const expected = naive.orShifted(bits, first, naive.unpack(others), fromFirst, count);
    return k.pageOrShifted(page, first, second.address, fromFirst, count) === expected && holds(bits);
  },
);

test("ranges outside the page are refused by the kernels", (t) => {
  load(new Uint8Array(BITMAP_PAGE_BYTES));
  const outside = { message: /outside the page/ };
  t.throws(() => k.pageSetRange(page, BITMAP_PAGE_BITS, 1), outside);
  t.throws(() => k.pageSetRange(page, 1, BITMAP_PAGE_BITS), outside);
  t.throws(() => k.pageSetRange(page, 2, 0xffff_ffff), outside);
  t.throws(() => k.pageClearRange(page, 1, BITMAP_PAGE_BITS), outside);
  t.throws(() => k.pageTest(page, BITMAP_PAGE_BITS), outside);
  t.throws(() => k.pageNextSet(page, 5, 4), outside);
  t.throws(() => k.pageNextClear(page, 0, BITMAP_PAGE_BITS + 1), outside);
  t.throws(() => k.pageOrShifted(page, 0, second.address, 1, BITMAP_PAGE_BITS), outside);
  t.throws(() => k.pageOrShifted(page, 0, page, 1, 5), { message: /into itself/ });
  t.true(holds(new Uint8Array(BITMAP_PAGE_BITS)));
});
