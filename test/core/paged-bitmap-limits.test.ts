/** PagedBitmap at its limits: the largest maps, growth of the memory, and the end of the memory. */
import test from "ava";
import { asTidemarkError } from "../../src/base/errors.ts";
import { BITMAP_PAGE_BITS, BITMAP_PAGE_BYTES } from "../../src/engine/map/bitmap-pages.ts";
import { type Core, instantiateCore } from "../../src/engine/map/core.ts";
import { PagedBitmap } from "../../src/engine/map/paged-bitmap.ts";

const LARGEST = 2 ** 33;
const PAGE = BITMAP_PAGE_BITS;

/** Takes pages until `left` are left; returns them. */
function exhaust(core: Core, left: number): number[] {
  const taken: number[] = [];
  for (let page = core.allocatePage(0); page !== 0; page = core.allocatePage(0)) taken.push(page);
  for (let i = 0; i < left; i++) core.releasePage(taken.pop()!);
  return taken;
}

function exhausted(t: { throws(fn: () => void): unknown; is(a: unknown, b: unknown): void }, call: () => void): void {
  t.is(asTidemarkError(t.throws(call)).code, "MEMORY_EXHAUSTED");
}

test("a map of 64 TiB: indexes above 2^32 are exact, clean stretches cost no memory", async (t) => {
  const core = await instantiateCore();
  const before = core.memory();
  const bitmap = new PagedBitmap(core, LARGEST, "empty");
  t.is(bitmap.nextRun(0, LARGEST), undefined);
  const marks = [0, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 2, 2 ** 32 + 5, LARGEST - 1];
  for (const mark of marks) t.is(bitmap.setRange(mark, 1), 1);
  t.is(bitmap.count, marks.length);
  const found: number[] = [];
  for (let run = bitmap.nextRun(0, LARGEST); run; run = bitmap.nextRun(run.first + run.count, LARGEST)) {
    for (let i = 0; i < run.count; i++) found.push(run.first + i);
  }
  t.deepEqual(found, marks);
  t.true(bitmap.test(LARGEST - 1));
  t.false(bitmap.test(LARGEST - 2));
  t.is(bitmap.countRange(2 ** 31, LARGEST - 2 ** 31), 4);
  t.true(core.memory().usedPages - before.usedPages <= marks.length);
  t.is(bitmap.setRange(100, LARGEST - 200), LARGEST - 200 - 4);
  t.deepEqual(bitmap.nextRun(1, LARGEST), { first: 100, count: LARGEST - 200 });
  t.is(bitmap.clearRange(2 ** 32, 2 ** 32), 2 ** 32 - 100 + 1);
  t.is(bitmap.count, 1 + 2 ** 32 - 100);
  const copy = bitmap.clone();
  t.true(copy.equals(bitmap));
  t.is(copy.subtract(bitmap), bitmap.count);
  t.is(copy.count, 0);
  t.is(copy.union(bitmap, { first: 2 ** 32, count: 2 ** 32 }), 2 ** 32 - 99);
  t.deepEqual(copy.nextRun(2 ** 32 + 1, LARGEST), { first: 2 ** 32 + 100, count: 2 ** 32 - 100 });
  bitmap.dispose();
  copy.dispose();
  t.is(core.memory().usedPages, before.usedPages);
});

test("a full map of 64 TiB is cleared piece by piece", async (t) => {
  const core = await instantiateCore();
  const bitmap = new PagedBitmap(core, LARGEST, "full");
  t.is(bitmap.count, LARGEST);
  t.is(bitmap.clearRange(1, LARGEST - 2), LARGEST - 2);
  t.deepEqual(bitmap.nextRun(0, LARGEST), { first: 0, count: 1 });
  t.deepEqual(bitmap.nextRun(1, LARGEST), { first: LARGEST - 1, count: 1 });
  t.is(bitmap.count, 2);
});

test("maps stay right while the memory grows under them", async (t) => {
  const core = await instantiateCore();
  const first = core.memory().committedBytes;
  const bitmap = new PagedBitmap(core, 3000 * PAGE, "empty");
  for (let page = 0; page < 3000; page++) t.is(bitmap.setRange(page * PAGE + page, 1 + (page % 70)), 1 + (page % 70));
  t.true(core.memory().committedBytes > first + 8 * 1024 * 1024);
  let wrong = 0;
  for (let page = 0; page < 3000; page++) {
    const run = bitmap.nextRun(page * PAGE, (page + 1) * PAGE);
    if (run?.first !== page * PAGE + page || run.count !== 1 + (page % 70)) wrong++;
  }
  t.is(wrong, 0);
  t.is(bitmap.countRange(0, bitmap.bitCount), bitmap.count);
});

test("without memory, setting widens the page, and says so", async (t) => {
  const core = await instantiateCore({ memoryPagesMax: 8 });
  const bitmap = new PagedBitmap(core, 4 * PAGE + 77, "empty");
  bitmap.setRange(10, 2);
  exhaust(core, 0);
  t.is(bitmap.setRange(20, 3), 3, "a page that has memory goes on exactly");
  t.is(bitmap.widenedPages, 0);
  t.is(bitmap.setRange(PAGE + 5, 1), PAGE);
  t.is(bitmap.widenedPages, 1);
  t.is(bitmap.setRange(4 * PAGE + 3, 1), 77, "the last page only as far as it goes");
  t.is(bitmap.setRange(PAGE + 9, 1), 0);
  t.is(bitmap.widenedPages, 2);
  t.is(bitmap.count, 5 + PAGE + 77);
  t.is(bitmap.countRange(0, bitmap.bitCount), bitmap.count);
  t.is(bitmap.setRange(2 * PAGE - 1, 2), PAGE, "a range over two pages widens the one without memory");
  t.deepEqual(bitmap.nextRun(PAGE, bitmap.bitCount), { first: PAGE, count: 2 * PAGE });
});

test("without memory, a union widens and contains what it should", async (t) => {
  const core = await instantiateCore({ memoryPagesMax: 8 });
  const source = new PagedBitmap(core, 3 * PAGE, "empty");
  source.setRange(PAGE - 10, 20);
  const target = new PagedBitmap(core, 3 * PAGE, "empty");
  exhaust(core, 0);
  t.is(target.union(source, { first: 5, count: 3 * PAGE - 5 }), 2 * PAGE);
  t.is(target.widenedPages, 2);
  t.is(target.countRange(PAGE - 5, 20), 20);
});

test("without memory, clearing part of a full page throws and changes nothing", async (t) => {
  const core = await instantiateCore({ memoryPagesMax: 8 });
  const bitmap = new PagedBitmap(core, 3 * PAGE, "full");
  const snapshot = () => [...bitmap.pages()].map((page) => `${page.index} ${page.state}`).join();
  const taken = exhaust(core, 0);
  const whole = snapshot();
  exhausted(t, () => bitmap.clearRange(5, 1));
  exhausted(t, () => bitmap.clearRange(PAGE - 5, PAGE + 10));
  t.is(snapshot(), whole);
  t.is(bitmap.count, 3 * PAGE);
  core.releasePage(taken.pop()!);
  const used = core.memory().usedPages;
  exhausted(t, () => bitmap.clearRange(PAGE - 5, PAGE + 10)); // needs two pages, there is one
  t.is(snapshot(), whole);
  t.is(bitmap.count, 3 * PAGE);
  t.is(core.memory().usedPages, used, "the one page is given back");
  t.is(bitmap.clearRange(PAGE, PAGE), PAGE, "whole pages need none");
  t.is(bitmap.clearRange(7, 2), 2, "and one page suffices for one border");
  t.is(bitmap.count, 2 * PAGE - 2);
});

test("without memory, subtract and clone throw and change nothing", async (t) => {
  const core = await instantiateCore({ memoryPagesMax: 8 });
  const bitmap = new PagedBitmap(core, 3 * PAGE, "full");
  const other = new PagedBitmap(core, 3 * PAGE, "empty");
  other.setRange(0, 10);
  other.setRange(PAGE, PAGE);
  other.setRange(2 * PAGE, 10);
  exhaust(core, 1);
  const used = core.memory().usedPages;
  exhausted(t, () => bitmap.subtract(other));
  exhausted(t, () => other.clone());
  t.is(bitmap.count, 3 * PAGE);
  t.is(core.memory().usedPages, used);
  bitmap.clearRange(2 * PAGE, PAGE);
  t.is(bitmap.subtract(other), PAGE + 10, "with enough memory it goes through");
});

test("without memory, a mixed page cannot be loaded, a uniform one can", async (t) => {
  const core = await instantiateCore({ memoryPagesMax: 8 });
  const bitmap = new PagedBitmap(core, 2 * PAGE, "empty");
  exhaust(core, 0);
  exhausted(t, () => bitmap.loadPage(0, new Uint8Array(BITMAP_PAGE_BYTES).fill(1)));
  t.is(bitmap.count, 0);
  bitmap.loadPage(0, "full");
  t.is(bitmap.count, PAGE);
});
