/**
 * Damage to the file of a snap store (data-safety 3.2 invariant 9): whatever is flipped, zeroed, stale, misplaced or cut off is
 * noticed. An opening either refuses, or every granule reads as it was or says that it is damaged.
 */
import test, { type ExecutionContext } from "ava";
import { asTidemarkError, TidemarkError } from "../../src/base/errors.ts";
import { type MemoryStateFiles, memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import { crc32c } from "../../src/engine/map/core.ts";
import { geometryFor, MARK_PAGE, PAGE_BYTES, segmentsPage, tablePage } from "../../src/engine/snap/snap-geometry.ts";
import type { SnapStore } from "../../src/engine/snap/snap-store.ts";
import { createStore, GRANULES, granuleOf, openStore, PATH, SMALL, versionOf } from "./snap-lab.ts";

const GEOMETRY = geometryFor(GRANULES, SMALL);
const FRAME_MAGIC = "TMSNAPF\n";

interface Specimen {
  readonly bytes: Uint8Array;
  readonly versions: readonly (number | undefined)[];
  /** Offsets of the headers whose frames hold live granules, in the order of the file. */
  readonly liveHeaders: readonly number[];
}

/** A store with rewrites and compaction behind it, closed or killed. */
async function specimen(end: "closed" | "killed"): Promise<Specimen> {
  const { files, store } = await createStore();
  const versions = new Array<number | undefined>(GRANULES).fill(undefined);
  for (let version = 1; version < 30; version++) {
    const list = [version % 4, 4 + (version % 11), 4 + ((version * 5) % 11)];
    for (const granule of list) versions[granule] = version;
    await store.append(
      list.map((granule) => ({ granule, data: granuleOf(granule, version) })),
      "copy",
    );
  }
  const slots = versions.flatMap((version, granule) =>
    version === undefined ? [] : [store.lookup(granule)?.offsetBytes ?? 0],
  );
  if (end === "closed") await store.close();
  else await killWhenIdle(files);
  const bytes = files.contents(PATH);
  const headers = headersOf(bytes);
  const liveHeaders = headers.filter((at) => {
    const entries = new DataView(bytes.buffer).getUint16(at + 10, true);
    return slots.some((slot) => slot > at && slot <= at + PAGE_BYTES * (1 + 2 * (entries - 1)));
  });
  return { bytes, versions, liveHeaders };
}

/** In memory everything goes on in microtasks: after them the mark of the last sync is stored. */
async function killWhenIdle(files: MemoryStateFiles): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
  files.kill(1);
}

function headersOf(bytes: Uint8Array): number[] {
  const found: number[] = [];
  for (let at = segmentsPage(GEOMETRY) * PAGE_BYTES; at < bytes.length; at += PAGE_BYTES)
    if (Buffer.from(bytes.subarray(at, at + 8)).toString("latin1") === FRAME_MAGIC) found.push(at);
  return found;
}

type Outcome = "refused" | "same" | "one granule damaged";

/** Opens what `change` made of the specimen; anything that reads differently without an error fails the test. */
async function outcomeOf(
  t: ExecutionContext,
  { bytes, versions }: Specimen,
  what: string,
  change: (bytes: Uint8Array) => Uint8Array,
): Promise<Outcome> {
  const files: MemoryStateFiles = memoryStateFiles();
  files.damage(PATH, change(bytes.slice()));
  let store: SnapStore;
  try {
    store = await openStore(files);
  } catch (error) {
    const { code, message } = asTidemarkError(error);
    t.is(code, "METADATA_CORRUPT", `${what}: ${message}`);
    t.true(message.startsWith(`${PATH}: `), message);
    return "refused";
  }
  const damaged: number[] = [];
  for (const [granule, version] of versions.entries()) {
    try {
      t.is(await versionOf(store, granule), version, `${what}: granule ${granule}`);
    } catch (error) {
      if (!(error instanceof TidemarkError)) throw error;
      t.is(error.code, "MEDIUM_ERROR", what);
      damaged.push(granule);
    }
  }
  await store.close();
  t.true(damaged.length <= 1, what);
  return damaged.length === 1 ? "one granule damaged" : "same";
}

const flip = (at: number) => (bytes: Uint8Array) => {
  bytes[at] = (bytes[at] as number) ^ (1 << (at % 8));
  return bytes;
};

for (const end of ["closed", "killed"] as const) {
  test(`every byte of a frame's header that is in use: refused (${end})`, async (t) => {
    const found = await specimen(end);
    t.true(found.liveHeaders.length > 4);
    const [first = 0] = found.liveHeaders;
    const last = found.liveHeaders.at(-1) ?? 0;
    // Every field of the first header; some bytes of each class of all the others: the last one is proved by mark or checkpoint.
    for (let at = 0; at < 72 + 4 * 16; at++) t.is(await outcomeOf(t, found, `+${at}`, flip(first + at)), "refused");
    for (const header of [...found.liveHeaders, last])
      for (const at of [
        0,
        9,
        10,
        12,
        20,
        36,
        45,
        50,
        57,
        64,
        72,
        80,
        84,
        85,
        500,
        2000,
        PAGE_BYTES - 5,
        PAGE_BYTES - 1,
      ])
        t.is(await outcomeOf(t, found, `${header}+${at}`, flip(header + at)), "refused");
  });
}

test("without the mark later frames prove what was durable: only what was stored last can be a torn tail", async (t) => {
  const found = await specimen("killed");
  found.bytes.fill(0, MARK_PAGE * PAGE_BYTES, (MARK_PAGE + 1) * PAGE_BYTES);
  const view = new DataView(found.bytes.buffer);
  const durable = Math.max(...headersOf(found.bytes).map((header) => view.getUint32(header + 48, true)));
  const proved = found.liveHeaders.filter((header) => view.getUint32(header + 40, true) <= durable);
  t.true(proved.length > 4);
  for (const header of proved)
    for (const at of [0, 12, 41, 80]) t.is(await outcomeOf(t, found, `${header}+${at}`, flip(header + at)), "refused");
});

test("every byte class of a payload: that granule says so, and no other", async (t) => {
  const found = await specimen("closed");
  const store = await reopened(found);
  for (const granule of [0, 7, 12]) {
    const slot = store.lookup(granule)?.offsetBytes ?? 0;
    for (const at of [0, 1, 511, 512, 4095, 4096, 8191])
      t.is(await outcomeOf(t, found, `granule ${granule}+${at}`, flip(slot + at)), "one granule damaged");
  }
  await store.close();
});

async function reopened({ bytes }: Specimen): Promise<SnapStore> {
  const files = memoryStateFiles();
  files.damage(PATH, bytes);
  return openStore(files);
}

test("checkpoint slots, tables and the mark: one damaged slot is survived or noticed, two are refused", async (t) => {
  const found = await specimen("closed");
  const fields = [0, 8, 10, 12, 16, 24, 32, 47, 48, 79, 80, 88, 144, 152, 160, 168, 176, 180, 184, 192, 200, 300, 4092];
  const inSlots = [0, 1].map((slot) => fields.map((at) => slot * PAGE_BYTES + at));
  const inTables = [0, 1].map((slot) => [0, 8, 64, 80].map((at) => tablePage(GEOMETRY, slot) * PAGE_BYTES + at));
  for (const at of [...inSlots, ...inTables].flat()) {
    const outcome = await outcomeOf(t, found, `slot byte ${at}`, flip(at));
    t.not(outcome, "one granule damaged");
    const other = at < PAGE_BYTES || inTables[0]?.includes(at) ? PAGE_BYTES : 0;
    t.is(await outcomeOf(t, found, `both slots ${at}`, (bytes) => flip(other + 20)(flip(at)(bytes))), "refused");
  }
  for (const at of [0, 8, 24, 32, 100, 508])
    t.is(await outcomeOf(t, found, `mark byte ${at}`, flip(MARK_PAGE * PAGE_BYTES + at)), "same");
});

test("a page that is zeroed, stale, misplaced or of another store is refused", async (t) => {
  const found = await specimen("closed");
  const other = await specimenOfAnotherStore();
  const headers = headersOf(found.bytes);
  for (const at of found.liveHeaders) {
    const zeroed = (bytes: Uint8Array) => bytes.fill(0, at, at + PAGE_BYTES);
    t.is(await outcomeOf(t, found, `zeroed ${at}`, zeroed), "refused");
    const elsewhere = headers.find((header) => header !== at) ?? 0;
    const misplaced = (bytes: Uint8Array) => {
      bytes.copyWithin(at, elsewhere, elsewhere + PAGE_BYTES);
      return bytes;
    };
    t.is(await outcomeOf(t, found, `misplaced ${at}`, misplaced), "refused");
    const foreign = (bytes: Uint8Array) => {
      bytes.set(other.subarray(at, at + PAGE_BYTES), at);
      return bytes;
    };
    t.is(await outcomeOf(t, found, `foreign ${at}`, foreign), "refused");
  }
  for (const at of found.liveHeaders)
    t.is(await outcomeOf(t, found, `cut at ${at}`, (bytes) => bytes.slice(0, at + 100)), "refused");
});

/** The same history under another uuid. */
async function specimenOfAnotherStore(): Promise<Uint8Array> {
  const { files, store } = await createStore({ seed: 2 });
  for (let version = 1; version < 30; version++) {
    const list = [version % 4, 4 + (version % 11), 4 + ((version * 5) % 11)];
    await store.append(
      list.map((granule) => ({ granule, data: granuleOf(granule, version) })),
      "copy",
    );
  }
  await store.close();
  return files.contents(PATH);
}

test("a header that is stale (the disk lost the write) is refused", async (t) => {
  const { files, store } = await createStore();
  const images: Uint8Array[] = [];
  for (let version = 1; version < 60; version++) {
    await store.append([{ granule: version % 3, data: granuleOf(version % 3, version) }], "copy");
    images.push(files.contents(PATH));
  }
  const live = [0, 1, 2].map((granule) => (store.lookup(granule)?.offsetBytes ?? 0) - PAGE_BYTES);
  const versions = [57, 58, 59, ...new Array<undefined>(GRANULES - 3).fill(undefined)];
  await store.close();
  const bytes = files.contents(PATH);
  let stale = 0;
  for (const header of live)
    for (const image of images) {
      const old = image.subarray(header, header + 3 * PAGE_BYTES);
      if (old.length < 3 * PAGE_BYTES || Buffer.compare(old, bytes.subarray(header, header + 3 * PAGE_BYTES)) === 0)
        continue;
      const change = (now: Uint8Array) => {
        now.set(old, header);
        return now;
      };
      t.is(await outcomeOf(t, { bytes, versions, liveHeaders: live }, `stale ${header}`, change), "refused");
      stale++;
    }
  t.true(stale > 20, "slots were used more than once");
});

test("the last frame damaged: a torn tail only as long as nothing says that it was durable", async (t) => {
  const { files, store } = await createStore();
  for (const version of [1, 2]) await store.append([{ granule: 0, data: granuleOf(0, version) }], "copy");
  const header = (store.lookup(0)?.offsetBytes ?? 0) - PAGE_BYTES;
  await killWhenIdle(files);
  const bytes = files.contents(PATH);
  files.damage(PATH, flip(header + 5)(bytes.slice()));
  await t.throwsAsync(openStore(files), { code: "METADATA_CORRUPT", message: /frame 2 at offset/ });
  const unmarked = bytes.slice().fill(0, MARK_PAGE * PAGE_BYTES, (MARK_PAGE + 1) * PAGE_BYTES);
  files.damage(PATH, flip(header + 5)(unmarked.slice()));
  const cut = await openStore(files);
  t.is(await versionOf(cut, 0), 1);
  await cut.append([{ granule: 0, data: granuleOf(0, 7) }], "copy");
  await cut.close();
  const again = await openStore(files);
  t.is(await versionOf(again, 0), 7);
  await again.close();
  // The payload of a frame that nothing proves is looked at as well.
  files.damage(PATH, flip(header + PAGE_BYTES + 77)(unmarked.slice()));
  const torn = await openStore(files);
  t.is(await versionOf(torn, 0), 1);
  await torn.close();
});

test("a newer format is told apart from damage", async (t) => {
  const { bytes } = await specimen("closed");
  for (const slot of [0, 1]) {
    const page = bytes.subarray(slot * PAGE_BYTES, (slot + 1) * PAGE_BYTES);
    page[8] = 2;
    new DataView(page.buffer, page.byteOffset).setUint32(
      PAGE_BYTES - 4,
      crc32c(page.subarray(0, PAGE_BYTES - 4)),
      true,
    );
  }
  const files = memoryStateFiles();
  files.damage(PATH, bytes);
  await t.throwsAsync(openStore(files), { code: "SCHEMA_TOO_NEW" });
});
