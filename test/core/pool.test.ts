/** The page pool and the core's memory: reuse, growth, the bound, and mistakes that are caught. */
import test from "ava";
import { asTidemarkError } from "../../src/base/errors.ts";
import { CORE_PAGE_BYTES, compileCore, instantiateCore } from "../../src/engine/map/core.ts";
import { sameBytes } from "./bits-model.ts";

const WASM_PAGE_BYTES = 65_536;

test("pages are aligned, filled, apart from each other and used again", async (t) => {
  const core = await instantiateCore();
  const before = core.memory();
  const pages = Array.from({ length: 40 }, (_, i) => core.allocatePage(i % 2 === 0 ? 0x00 : 0xff));
  t.is(new Set(pages).size, 40);
  t.true(pages.every((page) => page > 0 && page % CORE_PAGE_BYTES === 0));
  for (const [i, page] of pages.entries())
    t.true(core.view(page, CORE_PAGE_BYTES).every((byte) => byte === (i % 2 ? 0xff : 0)));
  t.is(core.memory().usedPages, before.usedPages + 40);
  t.is(core.memory().usedBytes, (before.usedPages + 40) * CORE_PAGE_BYTES);
  for (const page of pages) core.releasePage(page);
  t.is(core.memory().usedPages, before.usedPages);
  t.is(core.memory().freePages, before.freePages + 40);
  const committed = core.memory().committedBytes;
  const again = Array.from({ length: 40 }, () => core.allocatePage(0xff));
  t.deepEqual([...again].sort(), [...pages].sort());
  t.true(again.every((page) => core.view(page, CORE_PAGE_BYTES).every((byte) => byte === 0xff)));
  t.is(core.memory().committedBytes, committed);
});

test("memory grows beyond its first size, content and buffers stay right", async (t) => {
  const core = await instantiateCore();
  const first = core.memory().committedBytes;
  const buffer = core.createBuffer(10_000);
  buffer.bytes.fill(0x77);
  const stale = buffer.bytes;
  const pages: number[] = [];
  while (core.memory().committedBytes < first + 5 * 1024 * 1024) {
    const page = core.allocatePage(0x00);
    core.view(page, CORE_PAGE_BYTES).fill(1 + (pages.length % 250));
    pages.push(page);
  }
  t.is(stale.length, 0, "growth ends old views");
  t.is(buffer.bytes.length, 10_000);
  t.true(buffer.bytes.every((byte) => byte === 0x77));
  t.true(pages.every((page, i) => core.view(page, CORE_PAGE_BYTES).every((byte) => byte === 1 + (i % 250))));
  t.is(core.crc32c(buffer.bytes), core.crc32c(Buffer.alloc(10_000, 0x77)));
  t.true(core.memory().usedBytes <= core.memory().committedBytes);
});

test("the maximum is kept: 0 instead of a page, an error instead of a buffer, and life goes on", async (t) => {
  const core = await instantiateCore({ memoryPagesMax: 8 });
  const pages: number[] = [];
  for (let page = core.allocatePage(0); page !== 0; page = core.allocatePage(0)) pages.push(page);
  t.true(pages.length > 50, "most of 512 KiB could be used");
  t.is(core.memory().committedBytes, 8 * WASM_PAGE_BYTES);
  t.is(core.memory().maximumBytes, 8 * WASM_PAGE_BYTES);
  t.is(core.allocatePage(0), 0);
  const error = asTidemarkError(t.throws(() => core.createBuffer(1)));
  t.is(error.code, "MEMORY_EXHAUSTED");
  t.truthy(error.detail.hint);
  t.is(t.throws(() => core.createBuffer(2 ** 40)).name, "TidemarkError");
  core.releasePage(pages.pop()!);
  t.not(core.allocatePage(0), 0);
});

test("a buffer that fits no more takes nothing; what is left is still handed out", async (t) => {
  const core = await instantiateCore({ memoryPagesMax: 8 });
  const before = core.memory().usedPages;
  t.throws(() => core.createBuffer(8 * WASM_PAGE_BYTES));
  t.is(core.memory().usedPages, before);
  t.not(core.allocatePage(0), 0);
});

test("released buffers are used again, with their size", async (t) => {
  const core = await instantiateCore({ memoryPagesMax: 40 });
  const before = core.memory().usedPages;
  for (let i = 0; i < 100; i++) {
    const buffer = core.createBuffer(1024 * 1024);
    t.is(core.memory().usedPages, before + 256);
    buffer.bytes.fill(i);
    buffer.release();
    t.throws(() => buffer.bytes, { message: /released/ });
    t.throws(() => buffer.release(), { message: /released/ });
  }
  t.is(core.memory().usedPages, before);
});

test("releasing twice, or what is no page, is caught", async (t) => {
  const core = await instantiateCore();
  const page = core.allocatePage(0);
  core.releasePage(page);
  t.throws(() => core.releasePage(page), { message: /released before.*pool\.ts/ });
  t.throws(() => core.releasePage(0), { message: /no page of the pool/ });
  t.throws(() => core.releasePage(page + 8), { message: /no page of the pool/ });
  t.throws(() => core.releasePage(page + 4096 * 5000), { message: /no page of the pool/ });
});

test("instances share a compiled module, not memory", async (t) => {
  const module = await compileCore();
  t.is(await compileCore(), module);
  const [one, two] = await Promise.all([instantiateCore({ module }), instantiateCore({ module })]);
  const page = one.allocatePage(0xff);
  t.is(two.allocatePage(0x00), page, "the same layout");
  t.true(one.view(page, CORE_PAGE_BYTES).every((byte) => byte === 0xff));
  t.false(sameBytes(one.view(page, CORE_PAGE_BYTES), two.view(page, CORE_PAGE_BYTES)));
});
