import test from "ava";
import fc from "fast-check";
import { InjectedFailure, memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import type { StateFiles } from "../../src/engine/durable/state-files.ts";
import {
  SUPERBLOCK_PAYLOAD_BYTES_MAX,
  SUPERBLOCK_SLOT_BYTES,
  Superblock,
} from "../../src/engine/durable/superblock.ts";
import { crc32c, loadCore } from "../../src/engine/map/core.ts";

interface Value {
  readonly text: string;
  readonly count: number;
}

function decode(value: unknown): Value {
  const { text, count } = value as Value;
  if (typeof text !== "string" || typeof count !== "number") throw new Error("not a value");
  return { text, count };
}

const create = (files: StateFiles, first: Value = { text: "first", count: 0 }) =>
  Superblock.create(files, "super", "volume", "owner-1", first, decode);
const open = (files: StateFiles, owner = "owner-1", kind: "volume" | "session" = "volume") =>
  Superblock.open(files, "super", kind, owner, decode);

test("any value comes back, whatever came before", async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ text: fc.string({ unit: "binary", maxLength: 200 }), count: fc.integer() }), {
        maxLength: 5,
      }),
      async (values) => {
        const files = memoryStateFiles();
        const superblock = await create(files);
        for (const value of values) await superblock.store(value);
        const expected = values.at(-1) ?? { text: "first", count: 0 };
        t.deepEqual(superblock.value, expected);
        await superblock.close();
        const again = await open(files);
        t.deepEqual(again.value, expected);
        t.is(again.damagedSlot, undefined);
      },
    ),
    { numRuns: 50 },
  );
});

test("a value that does not fit is refused and changes nothing", async (t) => {
  const files = memoryStateFiles();
  const superblock = await create(files);
  const room = SUPERBLOCK_PAYLOAD_BYTES_MAX - JSON.stringify({ text: "", count: 1 }).length;
  await superblock.store({ text: "x".repeat(room), count: 1 });
  await t.throwsAsync(superblock.store({ text: "x".repeat(room + 1), count: 2 }), { code: "LIMIT_EXCEEDED" });
  t.is(superblock.value.count, 1);
  await superblock.store({ text: "after", count: 3 });
  t.is((await open(files)).value.count, 3);
});

test("concurrent stores are done in order; what is shown is durable", async (t) => {
  const files = memoryStateFiles();
  const superblock = await create(files);
  const stores = [1, 2, 3, 4, 5].map((count) => superblock.store({ text: "n", count }));
  t.is(superblock.value.count, 0);
  await stores[2];
  t.is(superblock.value.count, 3);
  await Promise.all(stores);
  files.crash(1);
  t.is((await open(files)).value.count, 5);
});

test("a flip of any bit is survived and reported; damage to both slots is refused", async (t) => {
  const files = memoryStateFiles();
  const superblock = await create(files);
  await superblock.store({ text: "second", count: 1 });
  await superblock.close();
  const whole = files.contents("super");
  t.is(whole.length, 2 * SUPERBLOCK_SLOT_BYTES);
  // "second" has sequence number 3 and lies in slot 1; slot 0 holds "first" (2).
  for (let at = 0; at < whole.length; at++) {
    const damaged = whole.slice();
    damaged[at] = (damaged[at] as number) ^ (1 << (at % 8));
    files.damage("super", damaged);
    const found = await open(files);
    const slot = Math.floor(at / SUPERBLOCK_SLOT_BYTES);
    t.is(found.damagedSlot, slot, `byte ${at}`);
    t.is(found.value.text, slot === 0 ? "second" : "first");
    await found.close();
  }
  for (const length of [0, 1, SUPERBLOCK_SLOT_BYTES - 1]) {
    files.damage("super", whole.slice(0, length));
    await t.throwsAsync(open(files), { code: "METADATA_CORRUPT", message: /^super: / });
  }
  const both = whole.slice();
  both[100] = 0xff;
  both[SUPERBLOCK_SLOT_BYTES + 100] = 0xff;
  files.damage("super", both);
  await t.throwsAsync(open(files), { code: "METADATA_CORRUPT", message: /^super: both superblock slots are damaged/ });
});

test("a slot that the disk failed to replace is reported as stale", async (t) => {
  const files = memoryStateFiles();
  const superblock = await create(files);
  await superblock.store({ text: "a", count: 3 });
  const old = files.contents("super").slice(SUPERBLOCK_SLOT_BYTES);
  await superblock.store({ text: "b", count: 4 });
  await superblock.store({ text: "c", count: 5 });
  await superblock.store({ text: "d", count: 6 });
  const image = files.contents("super");
  image.set(old, SUPERBLOCK_SLOT_BYTES);
  files.damage("super", image);
  const found = await open(files);
  t.is(found.value.count, 6);
  t.is(found.damagedSlot, 1);
});

test("a superblock of another owner or kind, swapped slots, a newer format", async (t) => {
  const files = memoryStateFiles();
  await (await create(files)).close();
  await t.throwsAsync(open(files, "owner-2"), { code: "METADATA_CORRUPT", message: /belongs to volume owner-1/ });
  await t.throwsAsync(open(files, "owner-1", "session"), {
    code: "METADATA_CORRUPT",
    message: /belongs to volume owner-1/,
  });
  const whole = files.contents("super");
  const swapped = new Uint8Array(whole.length);
  swapped.set(whole.subarray(SUPERBLOCK_SLOT_BYTES));
  swapped.set(whole.subarray(0, SUPERBLOCK_SLOT_BYTES), SUPERBLOCK_SLOT_BYTES);
  files.damage("super", swapped);
  await t.throwsAsync(open(files), { code: "METADATA_CORRUPT" });
  await loadCore();
  const newer = whole.slice();
  newer[8] = 2;
  new DataView(newer.buffer).setUint32(4092, crc32c(newer.subarray(0, 4092)), true);
  files.damage("super", newer);
  await t.throwsAsync(open(files), { code: "SCHEMA_TOO_NEW", message: /super has format 2/ });
});

test("a value that the caller's decoder refuses is corruption, and is never written", async (t) => {
  const files = memoryStateFiles();
  const superblock = await create(files);
  await t.throwsAsync(superblock.store({ text: 1 } as unknown as Value), { message: "not a value" });
  await superblock.store({ text: "fine", count: 1 });
  await superblock.close();
  const refuse = () => {
    throw new Error("the field is missing");
  };
  await t.throwsAsync(Superblock.open(files, "super", "volume", "owner-1", refuse), {
    code: "METADATA_CORRUPT",
    message: /^super: .*the field is missing/,
  });
});

test("creating never replaces; a missing file says so", async (t) => {
  const files = memoryStateFiles();
  await t.throwsAsync(open(files), { code: "PATH_NOT_FOUND" });
  await create(files);
  await t.throwsAsync(create(files), { code: "PATH_EXISTS" });
});

test("after a failed write or sync nothing more is taken, and the last durable value is shown", async (t) => {
  for (const type of ["write", "sync"]) {
    const files = memoryStateFiles();
    const superblock = await create(files);
    files.intercept = (operation) => {
      if (operation.type === type) throw new InjectedFailure("EIO");
    };
    await t.throwsAsync(superblock.store({ text: "x", count: 1 }), { code: "METADATA_WRITE_FAILED" });
    files.intercept = undefined;
    await t.throwsAsync(superblock.store({ text: "y", count: 2 }), { code: "METADATA_WRITE_FAILED" });
    t.is(superblock.value.count, 0);
    await superblock.close();
  }
});

test("600 power losses at random instants: the value is the last acknowledged one, or the one being stored", async (t) => {
  for (let seed = 0; seed < 600; seed++) {
    const files = memoryStateFiles();
    let left = 4 + (seed % 23);
    let acknowledged = -1;
    let asked = -1;
    const stopped = new Promise<void>((resolve) => {
      files.intercept = () => {
        if (--left > 0) return;
        resolve();
        return new Promise(() => undefined);
      };
    });
    const work = (async () => {
      const superblock = await create(files);
      acknowledged = 0;
      for (let count = 1; ; count++) {
        asked = count;
        await superblock.store({ text: "n".repeat(count * 300), count });
        acknowledged = count;
      }
    })();
    await Promise.race([work, stopped]);
    if (seed % 3 === 0) files.kill(seed);
    else files.crash(seed);
    files.intercept = undefined;
    await files.syncDirectory(""); // as recovery does
    if (acknowledged < 0 && !(await files.exists("super"))) continue;
    const found = await open(files);
    t.true(found.value.count === acknowledged || found.value.count === asked || acknowledged < 0, `seed ${seed}`);
    // What was read is durable: it is still there after another loss of power.
    const { count } = found.value;
    files.crash(seed + 1);
    t.is((await open(files)).value.count, count);
  }
});

test("400 pairs of power losses, each in a store: a torn value that did not count after the first never counts after the second", async (t) => {
  // The value fills several sectors, and what differs between values lies in one of them: the others are the same again.
  const torn = (count: number): Value => ({ text: `${"h".repeat(700)}${count}${"t".repeat(900)}`, count: 0 });
  for (let seed = 0; seed < 400; seed++) {
    const files = memoryStateFiles();
    const superblock = await create(files, torn(1));
    await superblock.store(torn(2));
    const tornStore = async (of: Superblock<Value>, count: number) => {
      files.intercept = ({ type }) => (type === "sync" ? new Promise(() => undefined) : undefined);
      void of.store(torn(count));
      for (let turn = 0; turn < 10; turn++) await Promise.resolve();
      files.intercept = undefined;
      files.crash(seed * 2 + count);
    };
    await tornStore(superblock, 3);
    const first = await open(files);
    const counts = first.value.text;
    await first.heal();
    t.is((await open(files)).damagedSlot, undefined, "it is whole again");
    await tornStore(first, 4);
    t.true([counts, torn(4).text].includes((await open(files)).value.text), `seed ${seed}`);
  }
});
