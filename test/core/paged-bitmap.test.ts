/** PagedBitmap against a naive model: random sequences of every operation, over page borders and all page states. */
import test from "ava";
import fc from "fast-check";
import { BITMAP_PAGE_BITS, BITMAP_PAGE_BYTES } from "../../src/engine/map/bitmap-pages.ts";
import { instantiateCore } from "../../src/engine/map/core.ts";
import { type BitRun, PagedBitmap } from "../../src/engine/map/paged-bitmap.ts";
import * as naive from "./bits-model.ts";

const core = await instantiateCore();

/** The bitmap and its model, changed together; every change checks what it returned. */
class Twin {
  bitmap: PagedBitmap;
  bits: naive.Bits;

  constructor(bitCount: number, initial: "empty" | "full") {
    this.bitmap = new PagedBitmap(core, bitCount, initial);
    this.bits = new Uint8Array(bitCount).fill(initial === "full" ? 1 : 0);
  }

  /** Everything that can be asked agrees with the model. */
  verify(): void {
    const { bitmap, bits } = this;
    const runs: BitRun[] = [];
    for (let run = bitmap.nextRun(0, bits.length); run; ) {
      runs.push(run);
      run = bitmap.nextRun(run.first + run.count, bits.length);
    }
    const seen = new Uint8Array(bits.length);
    for (const { first, count } of runs) seen.fill(1, first, first + count);
    expect(naive.sameBytes(seen, bits), "runs cover the bits");
    expect(
      runs.every((run, i) => i === 0 || run.first > runs[i - 1]!.first + runs[i - 1]!.count),
      "runs are as long as they can be",
    );
    expect(bitmap.count === naive.countSet(bits, 0, bits.length), "count");
    expect(bitmap.countRange(0, bits.length) === bitmap.count, "countRange of all");
    expect(naive.sameBytes(bitsOfPages(bitmap), bits), "pages hold the bits");
  }
}

function expect(condition: boolean, what: string): void {
  if (!condition) throw new Error(`differs from the model: ${what}`);
}

/** The content as `pages` tells it, checking that it tells it in its one right form. */
function bitsOfPages(bitmap: PagedBitmap): naive.Bits {
  const pageCount = Math.ceil(bitmap.bitCount / BITMAP_PAGE_BITS);
  const all = new Uint8Array(pageCount * BITMAP_PAGE_BITS);
  let previous = -1;
  for (const page of bitmap.pages()) {
    expect(page.index > previous && page.index < pageCount, "pages ascend");
    previous = page.index;
    const at = page.index * BITMAP_PAGE_BITS;
    const capacity = Math.min(BITMAP_PAGE_BITS, bitmap.bitCount - at);
    if (page.state === "full") {
      expect(page.bytes === undefined, "a full page has no bytes");
      all.fill(1, at, at + capacity);
      continue;
    }
    const bits = naive.unpack(page.bytes!);
    const set = naive.countSet(bits, 0, BITMAP_PAGE_BITS);
    expect(set > 0 && set < capacity, "a mixed page is neither empty nor full");
    all.set(bits, at);
  }
  expect(
    all.subarray(bitmap.bitCount).every((bit) => bit === 0),
    "no bits past the end",
  );
  return all.slice(0, bitmap.bitCount);
}

const SIZES = [1, 100, BITMAP_PAGE_BITS - 1, BITMAP_PAGE_BITS, BITMAP_PAGE_BITS + 1, 3 * BITMAP_PAGE_BITS, 131_213];

type Operation =
  | { readonly kind: "set" | "clear" | "ask"; readonly first: number; readonly count: number }
  | { readonly kind: "union"; readonly otherFirst: number; readonly first: number; readonly count: number }
  | { readonly kind: "subtract" | "clone" | "reset" | "reload" | "exchange" };

function operationsOn(size: number): fc.Arbitrary<Operation[]> {
  const range = naive.rangeWithin(size);
  const shift = fc.oneof(fc.nat(size), fc.constantFrom(0, 1, 64, BITMAP_PAGE_BITS, BITMAP_PAGE_BITS - 1));
  const operation: fc.Arbitrary<Operation> = fc.oneof(
    { weight: 5, arbitrary: range.map((r): Operation => ({ kind: "set", ...r })) },
    { weight: 4, arbitrary: range.map((r): Operation => ({ kind: "clear", ...r })) },
    { weight: 2, arbitrary: range.map((r): Operation => ({ kind: "ask", ...r })) },
    {
      weight: 3,
      arbitrary: fc.tuple(range, shift).map(([{ first, count }, place]): Operation => {
        return { kind: "union", first, count, otherFirst: Math.min(place, size - count) };
      }),
    },
    {
      weight: 3,
      arbitrary: fc
        .constantFrom("subtract", "clone", "exchange", "reset", "reload")
        .map((kind): Operation => ({ kind })),
    },
  );
  return fc.array(operation, { minLength: 1, maxLength: 14 });
}

function ask({ bitmap, bits }: Twin, first: number, count: number): void {
  const set = naive.countSet(bits, first, count);
  expect(bitmap.countRange(first, count) === set, "countRange");
  expect(bitmap.anySet(first, count) === set > 0, "anySet");
  for (const bit of [first, first + count - 1]) {
    if (count > 0) expect(bitmap.test(bit) === (bits[bit] === 1), "test");
  }
  const limit = first + count;
  const run = bitmap.nextRun(first, limit);
  const begin = naive.find(bits, first, limit, 1);
  if (begin === limit) expect(run === undefined, "no run");
  else expect(run?.first === begin && run.count === naive.find(bits, begin, limit, 0) - begin, "nextRun");
}

function apply(mine: Twin, other: Twin, operation: Operation): void {
  const { bitmap, bits } = mine;
  switch (operation.kind) {
    case "set":
    case "clear": {
      const { kind, first, count } = operation;
      const changed = kind === "set" ? bitmap.setRange(first, count) : bitmap.clearRange(first, count);
      expect(changed === naive.assign(bits, first, count, kind === "set" ? 1 : 0), `${kind}Range`);
      return;
    }
    case "ask":
      ask(mine, operation.first, operation.count);
      return;
    case "union": {
      const { first, otherFirst, count } = operation;
      const changed = bitmap.union(other.bitmap, { first, otherFirst, count });
      expect(changed === naive.orShifted(bits, first, other.bits, otherFirst, count), "union");
      return;
    }
    case "subtract":
      expect(bitmap.subtract(other.bitmap) === naive.andNot(bits, other.bits), "subtract");
      return;
    case "clone": {
      const copy = bitmap.clone();
      expect(copy.equals(bitmap) && bitmap.equals(copy), "a clone is equal");
      const changed = bits[0] === 1 ? copy.clearRange(0, 1) : copy.setRange(0, 1);
      expect(changed === 1 && !copy.equals(bitmap), "a clone is independent");
      copy.dispose();
      return;
    }
    case "exchange": {
      const [b, c] = [other.bitmap, other.bits];
      other.bitmap = mine.bitmap;
      other.bits = mine.bits;
      mine.bitmap = b;
      mine.bits = c;
      return;
    }
    case "reset":
      bitmap.clear();
      bits.fill(0);
      return;
    case "reload": {
      const fresh = new PagedBitmap(core, bitmap.bitCount, "full");
      const pages = new Map([...bitmap.pages()].map((page) => [page.index, page]));
      for (let index = 0; index * BITMAP_PAGE_BITS < bitmap.bitCount; index++) {
        const page = pages.get(index);
        fresh.loadPage(index, page === undefined ? "empty" : (page.bytes ?? "full"));
      }
      expect(fresh.equals(bitmap) && fresh.count === bitmap.count, "a reloaded bitmap is equal");
      bitmap.dispose();
      mine.bitmap = fresh;
    }
  }
}

for (const size of SIZES) {
  test(`random operations on ${size} bits agree with the model`, (t) => {
    const before = core.memory().usedPages;
    const initial = fc.constantFrom<("empty" | "full")[]>("empty", "full");
    fc.assert(
      fc.property(initial, initial, operationsOn(size), (one, two, operations) => {
        const mine = new Twin(size, one);
        const other = new Twin(size, two);
        for (const operation of operations) {
          apply(mine, other, operation);
          mine.verify();
          expect(mine.bitmap.equals(other.bitmap) === naive.sameBytes(mine.bits, other.bits), "equals");
        }
        other.verify();
        mine.bitmap.dispose();
        other.bitmap.dispose();
      }),
      { numRuns: 120 },
    );
    t.is(core.memory().usedPages, before, "disposed bitmaps keep no page");
  });
}

test("a union between bitmaps of different sizes takes the range asked for", (t) => {
  const sizes = fc.constantFrom(1000, 40_000, 70_000, 131_213);
  fc.assert(
    fc.property(
      sizes,
      sizes,
      fc.array(fc.nat(999_999), { minLength: 1, maxLength: 9 }),
      fc.nat(),
      fc.nat(),
      (mine, others, marks, a, b) => {
        const target = new Twin(mine, "empty");
        const source = new Twin(others, "empty");
        for (const [i, mark] of marks.entries()) {
          const first = mark % others;
          const count = Math.min(others - first, i % 3 === 0 ? 40_000 : 1 + (mark % 90));
          source.bitmap.setRange(first, count);
          naive.assign(source.bits, first, count, 1);
        }
        const count = a % (Math.min(mine, others) + 1);
        const range = { first: b % (mine - count + 1), otherFirst: a % (others - count + 1), count };
        const changed = target.bitmap.union(source.bitmap, range);
        expect(changed === naive.orShifted(target.bits, range.first, source.bits, range.otherFirst, count), "union");
        target.verify();
        source.verify();
        target.bitmap.dispose();
        source.bitmap.dispose();
        return true;
      },
    ),
    { numRuns: 200 },
  );
  t.pass();
});

test("a page passes through empty, mixed and full and has memory only while mixed", (t) => {
  const before = core.memory().usedPages;
  const used = () => core.memory().usedPages - before;
  const bitmap = new PagedBitmap(core, 2 * BITMAP_PAGE_BITS + 10, "empty");
  t.is(used(), 0);
  t.is(bitmap.setRange(5, 1), 1);
  t.is(used(), 1);
  t.is(bitmap.setRange(0, BITMAP_PAGE_BITS), BITMAP_PAGE_BITS - 1);
  t.is(used(), 0, "full: no memory");
  t.is(bitmap.clearRange(7, 2), 2);
  t.is(used(), 1);
  t.is(bitmap.setRange(7, 1), 1);
  t.is(bitmap.setRange(8, 1), 1);
  t.is(used(), 0, "full bit by bit");
  t.is(bitmap.setRange(2 * BITMAP_PAGE_BITS, 9), 9);
  t.is(used(), 1);
  t.is(bitmap.setRange(2 * BITMAP_PAGE_BITS + 9, 1), 1);
  t.is(used(), 0, "the short last page is full with its 10 bits");
  t.deepEqual(
    [...bitmap.pages()],
    [
      { index: 0, state: "full" },
      { index: 2, state: "full" },
    ],
  );
  t.is(bitmap.clearRange(0, bitmap.bitCount), BITMAP_PAGE_BITS + 10);
  t.deepEqual([...bitmap.pages()], []);
  bitmap.dispose();
});

test("clearing whole pages needs no memory, whatever lies beside them", (t) => {
  const before = core.memory().usedPages;
  const bitmap = new PagedBitmap(core, 4 * BITMAP_PAGE_BITS, "full");
  bitmap.clearRange(BITMAP_PAGE_BITS, 2 * BITMAP_PAGE_BITS);
  t.is(core.memory().usedPages, before);
  t.deepEqual(
    [...bitmap.pages()].map((page) => page.index),
    [0, 3],
  );
  bitmap.dispose();
});

test("pages gives copies", (t) => {
  const bitmap = new PagedBitmap(core, 1000, "empty");
  bitmap.setRange(3, 1);
  const [page] = bitmap.pages();
  page!.bytes!.fill(0xff);
  t.is(bitmap.countRange(0, 1000), 1);
  bitmap.dispose();
});

test("a loaded page with bits past the end is refused and changes nothing", (t) => {
  const bitmap = new PagedBitmap(core, BITMAP_PAGE_BITS + 9, "empty");
  bitmap.setRange(BITMAP_PAGE_BITS, 2);
  const used = core.memory().usedPages;
  const bytes = new Uint8Array(BITMAP_PAGE_BYTES);
  bytes[1] = 0b10;
  t.is(t.throws(() => bitmap.loadPage(1, bytes)).message, "page 1 of a change map has bits past its end (32777 bits)");
  t.is(bitmap.count, 2);
  t.is(core.memory().usedPages, used);
  bytes[1] = 0b1;
  bitmap.loadPage(1, bytes);
  t.deepEqual(bitmap.nextRun(0, bitmap.bitCount), { first: BITMAP_PAGE_BITS + 8, count: 1 });
  bitmap.dispose();
});

test("mistakes stop the program: ranges, shapes, use after dispose", async (t) => {
  const mistake = { name: "AssertionError" };
  const bitmap = new PagedBitmap(core, 1000, "empty");
  const other = new PagedBitmap(core, 1001, "full");
  t.throws(() => new PagedBitmap(core, 0, "empty"), mistake);
  t.throws(() => new PagedBitmap(core, 2 ** 33 + 1, "empty"), mistake);
  t.throws(() => new PagedBitmap(core, 1.5, "empty"), mistake);
  t.throws(() => bitmap.test(1000), mistake);
  t.throws(() => bitmap.test(-1), mistake);
  t.throws(() => bitmap.setRange(0.5, 1), mistake);
  t.throws(() => bitmap.setRange(999, 2), mistake);
  t.throws(() => bitmap.setRange(5, -1), mistake);
  t.throws(() => bitmap.clearRange(Number.NaN, 1), mistake);
  t.throws(() => bitmap.nextRun(10, 9), mistake);
  t.throws(() => bitmap.union(other), mistake);
  t.throws(() => bitmap.union(bitmap, { first: 1, count: 5 }), mistake);
  t.throws(() => bitmap.subtract(other), mistake);
  t.throws(() => bitmap.loadPage(1, "full"), mistake);
  t.throws(() => bitmap.loadPage(0, new Uint8Array(8)), mistake);
  const elsewhere = new PagedBitmap(await instantiateCore(), 1000, "full");
  t.throws(() => bitmap.union(elsewhere), mistake);
  t.is(bitmap.count, 0);
  bitmap.dispose();
  t.throws(() => bitmap.test(0), mistake);
  t.throws(() => bitmap.setRange(0, 1), mistake);
  t.throws(() => bitmap.dispose(), mistake);
  t.throws(() => other.union(bitmap), mistake);
  t.is(other.union(other), 0);
  t.is(other.subtract(other), 1001);
  other.dispose();
});
