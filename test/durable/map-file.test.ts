import test from "ava";
import fc from "fast-check";
import { STATE_LOG_FRAME_BYTES_MAX } from "../../src/base/limits.ts";
import { decodeMap, encodeMap, type MapHeader, readMap, writeMap } from "../../src/engine/durable/map-file.ts";
import { countBits, decodePage, encodePage, PAGE_BITS, PAGE_BYTES } from "../../src/engine/durable/map-pages.ts";
import { InjectedFailure, memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import type { StateFiles } from "../../src/engine/durable/state-files.ts";
import { crc32c, instantiateCore, loadCore } from "../../src/engine/map/core.ts";
import { PagedBitmap } from "../../src/engine/map/paged-bitmap.ts";
import { chanceFrom } from "./_chance.ts";

const core = await loadCore();
const headerOf = (bitmap: PagedBitmap, change: Partial<MapHeader> = {}): MapHeader => ({
  kind: "pending",
  ownerId: "c1",
  generation: 3,
  bitCount: bitmap.bitCount,
  ...change,
});
const read = (files: StateFiles, header: MapHeader) => readMap(files, "m.map", header, core);

/** Maps of up to 5 pages with full, empty, scattered and dense pages, and a partial last page. */
const maps = fc
  .record({
    bitCount: fc.integer({ min: 1, max: 5 * PAGE_BITS }),
    runs: fc.array(
      fc.record({
        from: fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        length: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 3 * PAGE_BITS })),
      }),
      { maxLength: 20 },
    ),
    dense: fc.option(fc.integer({ min: 0, max: 4 })),
    all: fc.boolean(),
  })
  .map(({ bitCount, runs, dense, all }) => {
    const bitmap = new PagedBitmap(core, bitCount, all && runs.length < 3 ? "full" : "empty");
    for (const { from, length } of runs) {
      const first = Math.floor(from * bitCount);
      bitmap.setRange(first, Math.min(length, bitCount - first));
    }
    if (dense !== null) {
      const begin = Math.min(dense * PAGE_BITS, bitCount);
      for (let bit = begin; bit < Math.min(begin + PAGE_BITS, bitCount); bit += 3) bitmap.setRange(bit, 1);
    }
    return bitmap;
  });

function encode(bitmap: PagedBitmap): Uint8Array {
  const bytes = encodeMap(bitmap, STATE_LOG_FRAME_BYTES_MAX);
  if (!bytes) throw new Error("does not fit into a frame");
  return bytes;
}

test("any page comes back, in the shorter form", (t) => {
  const pages = fc.oneof(
    fc.uint8Array({ minLength: PAGE_BYTES, maxLength: PAGE_BYTES }),
    fc
      .array(fc.tuple(fc.integer({ min: 0, max: PAGE_BITS - 1 }), fc.integer({ min: 1, max: 300 })), {
        maxLength: 1100,
      })
      .map((runs) => {
        const bits = new Uint8Array(PAGE_BYTES);
        for (const [first, length] of runs)
          for (let bit = first; bit < Math.min(first + length, PAGE_BITS); bit++)
            bits[bit >> 3] = (bits[bit >> 3] as number) | (1 << (bit & 7));
        return bits;
      }),
  );
  fc.assert(
    fc.property(pages, (bits) => {
      const { form, payload } = encodePage(bits);
      const runs = naiveRuns(bits);
      t.is(form, runs * 4 < PAGE_BYTES ? "runs" : "bits");
      t.is(payload.length, Math.min(runs * 4, PAGE_BYTES));
      t.deepEqual(decodePage(form, payload), bits);
      t.is(countBits(bits), naiveCount(bits));
    }),
    { numRuns: 150 },
  );
});

const bitAt = (bits: Uint8Array, bit: number) => ((bits[bit >> 3] as number) >> (bit & 7)) & 1;

function naiveRuns(bits: Uint8Array): number {
  let runs = 0;
  for (let bit = 0; bit < PAGE_BITS; bit++)
    if (bitAt(bits, bit) === 1 && (bit === 0 || bitAt(bits, bit - 1) === 0)) runs++;
  return runs;
}

function naiveCount(bits: Uint8Array): number {
  let count = 0;
  for (let bit = 0; bit < PAGE_BITS; bit++) count += bitAt(bits, bit);
  return count;
}

test("impossible page encodings are refused", (t) => {
  const words = (...values: number[]) => new Uint8Array(Uint16Array.from(values).buffer);
  for (const payload of [
    words(5, 4),
    words(0, PAGE_BITS),
    words(0, 3, 4, 5),
    words(8, 9, 1, 2),
    words(1),
    new Uint8Array(PAGE_BYTES),
  ])
    t.is(decodePage("runs", payload), undefined);
  t.is(decodePage("bits", new Uint8Array(PAGE_BYTES - 1)), undefined);
  t.deepEqual(decodePage("runs", words(0, 0, 2, 2))?.[0], 0b101);
});

test("any map comes back from a file and from memory", async (t) => {
  await fc.assert(
    fc.asyncProperty(maps, async (bitmap) => {
      const files = memoryStateFiles();
      const { bytes } = await writeMap(files, "m.map", headerOf(bitmap), bitmap);
      t.is(files.contents("m.map").length, bytes);
      const back = await read(files, headerOf(bitmap));
      t.true(back.equals(bitmap));
      const embedded = decodeMap(encode(bitmap), bitmap.bitCount, core);
      t.true(embedded.equals(bitmap));
      for (const map of [bitmap, back, embedded]) map.dispose();
    }),
    { numRuns: 150 },
  );
});

test("full and sparse maps are small: 64 TiB full takes one record, 1,000 single granules some 30 KiB", async (t) => {
  const files = memoryStateFiles();
  const bitmap = new PagedBitmap(core, 2 ** 33, "full");
  t.true((await writeMap(files, "m.map", headerOf(bitmap), bitmap)).bytes < 600);
  t.true(encode(bitmap).length < 40);
  const back = await read(files, headerOf(bitmap));
  t.is(back.count, 2 ** 33);
  back.dispose();
  bitmap.clear();
  for (let index = 0; index < 1000; index++) bitmap.setRange(index * 8_388_593, 1);
  t.true(encode(bitmap).length < 20_000);
  t.true((await writeMap(files, "m.map", headerOf(bitmap), bitmap)).bytes < 30_000);
  bitmap.dispose();
});

test("a map of many mixed pages is written and read in pieces", async (t) => {
  const files = memoryStateFiles();
  const bitmap = new PagedBitmap(core, 700 * PAGE_BITS, "empty");
  const chance = chanceFrom(1);
  for (let page = 0; page < 700; page++) {
    const bits = new Uint8Array(PAGE_BYTES).map(() => Math.floor(chance() * 256));
    bitmap.loadPage(page, bits);
  }
  const writes: number[] = [];
  files.intercept = ({ type, lengthBytes }) => {
    if (type === "write" || type === "read") writes.push(lengthBytes);
  };
  const { bytes } = await writeMap(files, "m.map", headerOf(bitmap), bitmap);
  t.true(bytes > 700 * PAGE_BYTES);
  const back = await read(files, headerOf(bitmap));
  t.true(back.equals(bitmap));
  t.true(Math.max(...writes) <= 1024 * 1024);
  t.true(writes.length < 20);
  t.throws(() => decodeMap(encode(bitmap).subarray(0, -1), bitmap.bitCount, core), { code: "METADATA_CORRUPT" });
  bitmap.dispose();
  back.dispose();
});

test("a map that does not fit into a log frame is not made into one", (t) => {
  const bitmap = new PagedBitmap(core, 16_400 * PAGE_BITS, "empty");
  const bits = new Uint8Array(PAGE_BYTES).fill(0x55);
  for (let page = 0; page < 16_400; page++) bitmap.loadPage(page, bits);
  t.is(encodeMap(bitmap, STATE_LOG_FRAME_BYTES_MAX), undefined);
  bitmap.dispose();
});

/** Pages: full, full, runs, empty, bits (partial). */
function smallMap(owner = core): PagedBitmap {
  const bitmap = new PagedBitmap(owner, 4 * PAGE_BITS + 2100, "empty");
  bitmap.setRange(0, 2 * PAGE_BITS);
  for (const bit of [5, 900, 901, 31_000]) bitmap.setRange(2 * PAGE_BITS + bit, 1);
  for (let bit = 0; bit < 2100; bit += 2) bitmap.setRange(4 * PAGE_BITS + bit, 1);
  return bitmap;
}

test("a flip of any byte, any truncation and anything appended is found, and named", async (t) => {
  const files = memoryStateFiles();
  const own = await instantiateCore();
  const bitmap = smallMap(own);
  await writeMap(files, "m.map", headerOf(bitmap), bitmap);
  const whole = files.contents("m.map");
  const refused = async (content: Uint8Array, what: string) => {
    files.damage("m.map", content);
    const error = await t.throwsAsync(
      readMap(files, "m.map", headerOf(bitmap), own),
      { code: "METADATA_CORRUPT" },
      what,
    );
    t.regex(error.message, /^m\.map: /);
    return error.message;
  };
  const used = own.memory().usedPages;
  const pages = new Set<string>();
  for (let at = 0; at < whole.length; at++) {
    const damaged = whole.slice();
    damaged[at] = (damaged[at] as number) ^ (1 << (at % 8));
    const message = await refused(damaged, `byte ${at}`);
    const page = /page (\d+)/.exec(message)?.[1];
    if (page) pages.add(page);
  }
  t.true(["0", "2", "4"].every((page) => pages.has(page)));
  for (let length = 0; length < whole.length; length += length < 800 ? 1 : 61)
    await refused(whole.slice(0, length), `length ${length}`);
  await refused(Buffer.concat([whole, new Uint8Array(1)]), "one byte more");
  t.is(own.memory().usedPages, used, "a map that is refused leaves no memory behind");
  bitmap.dispose();
});

test("a map of another owner, kind, generation or size is refused by name", async (t) => {
  const files = memoryStateFiles();
  const bitmap = smallMap();
  await writeMap(files, "m.map", headerOf(bitmap), bitmap);
  for (const [change, message] of [
    [{ ownerId: "c2" }, /^m\.map: belongs to another map: ownerId is c1, not c2/],
    [{ kind: "changed" }, /kind is pending, not changed/],
    [{ generation: 4 }, /generation is 3, not 4/],
    [{ bitCount: 9 }, /bitCount is \d+, not 9/],
  ] as const)
    await t.throwsAsync(read(files, headerOf(bitmap, change)), { code: "METADATA_CORRUPT", message });
  const newer = files.contents("m.map");
  newer[8] = 9;
  new DataView(newer.buffer).setUint32(508, crc32c(newer.subarray(0, 508)), true);
  files.damage("m.map", newer);
  await t.throwsAsync(read(files, headerOf(bitmap)), { code: "SCHEMA_TOO_NEW" });
  await t.throwsAsync(readMap(files, "none", headerOf(bitmap), core), { code: "PATH_NOT_FOUND" });
  bitmap.dispose();
});

test("stale and misdirected sectors of other maps are found", async (t) => {
  const files = memoryStateFiles();
  const bitmap = smallMap();
  await writeMap(files, "m.map", headerOf(bitmap), bitmap);
  const ours = files.contents("m.map");
  // The same map of the generation before, of another session, and this map before one bit was set.
  const others: Uint8Array[] = [];
  for (const change of [{ generation: 2 }, { ownerId: "c2" }]) {
    await writeMap(files, "o.map", headerOf(bitmap, change), bitmap);
    others.push(files.contents("o.map"));
  }
  bitmap.clearRange(4 * PAGE_BITS + 8, 1);
  await writeMap(files, "o.map", headerOf(bitmap), bitmap);
  others.push(files.contents("o.map"));
  for (const other of others) {
    for (let begin = 0; begin < ours.length; begin += 512) {
      const mixed = ours.slice();
      mixed.set(other.subarray(begin, begin + 512), begin);
      if (Buffer.compare(mixed, ours) === 0) continue;
      files.damage("m.map", mixed);
      await t.throwsAsync(read(files, headerOf(bitmap)), { code: "METADATA_CORRUPT" }, `sector at ${begin}`);
    }
  }
  // A sector of this map at another place.
  for (let begin = 512; begin + 1024 <= ours.length; begin += 512) {
    const moved = ours.slice();
    moved.copyWithin(begin, begin + 512, begin + 1024);
    if (Buffer.compare(moved, ours) === 0) continue;
    files.damage("m.map", moved);
    await t.throwsAsync(read(files, headerOf(bitmap)), { code: "METADATA_CORRUPT" });
  }
  bitmap.dispose();
});

test("embedded maps: any cut, wrong sizes and impossible records are refused, and leave no memory behind", (t) => {
  const bitmap = smallMap();
  const whole = encode(bitmap);
  const used = core.memory().usedPages;
  for (let length = 0; length < whole.length; length++)
    t.throws(() => decodeMap(whole.subarray(0, length), bitmap.bitCount, core), { code: "METADATA_CORRUPT" });
  t.throws(() => decodeMap(Buffer.concat([whole, new Uint8Array(2)]), bitmap.bitCount, core), {
    code: "METADATA_CORRUPT",
  });
  t.throws(() => decodeMap(whole, bitmap.bitCount + 1, core), { code: "METADATA_CORRUPT" });
  fc.assert(
    fc.property(fc.nat(whole.length - 1), fc.nat(255), (at, value) => {
      const damaged = whole.slice();
      damaged[at] = value;
      try {
        decodeMap(damaged, bitmap.bitCount, core).dispose();
      } catch (error) {
        t.true(["METADATA_CORRUPT", "SCHEMA_TOO_NEW"].includes((error as { code: string }).code));
      }
    }),
    { numRuns: 2000 },
  );
  t.is(core.memory().usedPages, used);
  bitmap.dispose();
});

test("a failure while writing leaves the older file and no temporary one", async (t) => {
  const bitmap = smallMap();
  for (const type of ["write", "sync", "rename", "truncate"]) {
    const files = memoryStateFiles();
    await writeMap(files, "m.map", headerOf(bitmap), bitmap);
    const other = new PagedBitmap(core, bitmap.bitCount, "full");
    files.intercept = (operation) => {
      if (operation.type === type) throw new InjectedFailure("ENOSPC", 100);
    };
    await t.throwsAsync(writeMap(files, "m.map", headerOf(other), other), { code: "METADATA_WRITE_FAILED" });
    files.intercept = undefined;
    t.deepEqual(await files.list(""), ["m.map"]);
    const back = await read(files, headerOf(bitmap));
    t.true(back.equals(bitmap));
    for (const map of [other, back]) map.dispose();
  }
  bitmap.dispose();
});

test("500 power losses while a map is replaced: the old or the new one, whole; the new one once acknowledged", async (t) => {
  const before = smallMap();
  const after = new PagedBitmap(core, before.bitCount, "empty");
  after.setRange(70_000, 9);
  const seen = { before: 0, after: 0 };
  for (let seed = 0; seed < 500; seed++) {
    const files = memoryStateFiles();
    await writeMap(files, "m.map", headerOf(before), before);
    let left = 1 + (seed % 12);
    const stopped = new Promise<void>((resolve) => {
      files.intercept = () => {
        if (--left > 0) return;
        resolve();
        return new Promise(() => undefined);
      };
    });
    let acknowledged = false;
    const writing = writeMap(files, "m.map", headerOf(after), after).then(() => {
      acknowledged = true;
    });
    await Promise.race([writing, stopped]);
    files.crash(seed);
    files.intercept = undefined;
    const back = await read(files, headerOf(before));
    const isNew = back.equals(after);
    t.true(isNew || (!acknowledged && back.equals(before)), `seed ${seed}`);
    seen[isNew ? "after" : "before"]++;
    back.dispose();
  }
  t.true(seen.before > 50 && seen.after > 50);
  before.dispose();
  after.dispose();
});
