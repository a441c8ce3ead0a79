/**
 * LevelDB's log, looked at before LevelDB reads it: damage is told from a tail that a crash has torn off (data-safety 1.9).
 * Real logs, written by LevelDB.
 */
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import fc from "fast-check";
import { TidemarkError } from "../../src/base/errors.ts";
import { openLevelStore } from "../../src/store/leveldb/leveldb.ts";
import { checkLog, checkLogs } from "../../src/store/leveldb/log-check.ts";
import { eventRow } from "./contract.ts";

const BLOCK_BYTES = 32_768;

/** Path and content of a log with these batches; `ends`: how long it was after each. */
async function logOf(t: ExecutionContext, sizes: readonly number[]) {
  const directory = await mkdtemp(join(tmpdir(), "tidemark-log-"));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const store = await openLevelStore(directory);
  const path = join(directory, (await readdir(directory)).find((name) => name.endsWith(".log")) ?? "none");
  const ends: number[] = [];
  for (const [id, size] of sizes.entries()) {
    await store.commit([{ table: "events", put: eventRow(id + 1, { message: "m".repeat(size) }) }]);
    ends.push((await readFile(path)).length);
  }
  await store.close();
  return { directory, path, content: await readFile(path), ends };
}

const SMALL = Array.from({ length: 150 }, (_, n) => 100 + ((n * 37) % 900));

test("a log as it was written is whole, over several blocks and with records in pieces", async (t) => {
  const { path, content, ends, directory } = await logOf(t, [...SMALL, 100_000, 20]);
  t.true(content.length > 5 * BLOCK_BYTES);
  t.is(checkLog(path, content), "whole");
  t.is(await checkLogs(directory), "whole");
  for (const end of ends) t.is(checkLog(path, content.subarray(0, end)), "whole", String(end));
});

test("any flipped bit before the last batch is damage, with its place; in the last one it may be torn off", async (t) => {
  const { path, content, ends } = await logOf(t, SMALL);
  const lastStart = ends.at(-2) ?? 0;
  const property = fc.property(fc.nat(content.length * 8 - 1), (bit) => {
    const log = Buffer.from(content);
    log[bit >> 3]! ^= 1 << (bit & 7);
    if (bit >> 3 >= lastStart) {
      t.is(checkLog(path, log), "torn");
      return;
    }
    const error = t.throws(() => checkLog(path, log), { instanceOf: TidemarkError });
    t.is(error?.code, "METADATA_CORRUPT");
    const offset = Number(error?.detail.metadata?.["offset"]);
    t.true(offset <= bit >> 3 && bit >> 3 < offset + 2 * 1200, `${offset} for ${bit >> 3}`);
    t.regex(error?.detail.hint ?? "", /backup/);
  });
  fc.assert(property, { numRuns: 150 });
});

test("what a crash may leave at the end is no damage: cut anywhere, zeros behind, a large batch of which pieces are missing", async (t) => {
  const { path, content, ends } = await logOf(t, [...SMALL.slice(0, 40), 100_000]);
  const property = fc.property(fc.nat(content.length), fc.boolean(), (length, isPadded) => {
    const cut = content.subarray(0, length);
    const log = isPadded ? Buffer.concat([cut, Buffer.alloc(content.length - length)]) : cut;
    const end = checkLog(path, log);
    if (!isPadded) t.is(end === "whole", length === 0 || ends.includes(length) || isBoundary(content, length));
  });
  fc.assert(property, { numRuns: 100 });
  const start = ends.at(-2) ?? 0;
  for (let at = start; at < content.length; at += 8192) {
    const log = Buffer.from(content);
    log.fill(0, at, Math.min(at + 512, content.length));
    t.is(checkLog(path, log), "torn", String(at));
  }
});

/** The end of a record in the middle of a batch, or of the first one, which is the schema's. */
function isBoundary(log: Buffer, length: number): boolean {
  let at = 0;
  while (at < length) {
    const left = BLOCK_BYTES - (at % BLOCK_BYTES);
    at += left < 7 ? left : 7 + log.readUInt16LE(at + 4);
  }
  return at === length;
}

test("a database with a damaged log is not opened, and stays as it is", async (t) => {
  const { directory, path, content } = await logOf(t, SMALL);
  content[40]! ^= 1;
  await writeFile(path, content);
  const before = await readdir(directory);
  const error = await t.throwsAsync(() => openLevelStore(directory), { instanceOf: TidemarkError });
  t.is(error?.code, "METADATA_CORRUPT");
  t.true(error?.message.startsWith(`${path} is damaged at byte 0`), error?.message);
  t.deepEqual(await readdir(directory), before);
  t.deepEqual(await readFile(path), content);
});
