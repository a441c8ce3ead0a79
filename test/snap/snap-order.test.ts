/** The rules of the log of a snap store that hardly any crash shows: stale continuations, healed slots, two slots a reset. */
import test from "ava";
import {
  InjectedFailure,
  type MemoryStateFiles,
  memoryStateFiles,
} from "../../src/engine/durable/memory-state-files.ts";
import { crc32c } from "../../src/engine/map/core.ts";
import { encodeFrameHeader, type SnapFrame } from "../../src/engine/snap/snap-format.ts";
import { geometryFor, MARK_PAGE, PAGE_BYTES, segmentPage, segmentsPage } from "../../src/engine/snap/snap-geometry.ts";
import { readCheckpoint } from "../../src/engine/snap/snap-recovery.ts";
import { createStore, GRANULES, granuleOf, OWNER, openStore, PATH, SMALL, snapFileIn, versionOf } from "./snap-lab.ts";

const GEOMETRY = geometryFor(GRANULES, SMALL);

async function checkpointIn(files: MemoryStateFiles) {
  const file = await snapFileIn(files, "there");
  const found = await readCheckpoint(file, OWNER);
  await file.close();
  return found;
}

/** Bytes of a store that was closed after one append, and what a frame that goes on from there would say. */
async function closedStore() {
  const { files, store } = await createStore();
  await store.append([{ granule: 0, data: granuleOf(0, 1) }], "copy");
  await store.close();
  const { identity, checkpoint } = await checkpointIn(files);
  const page = segmentPage(GEOMETRY, 0) + 3;
  const data = granuleOf(0, 99);
  const next: Omit<SnapFrame, "checksum"> = {
    sequence: checkpoint.nextFrame,
    durable: checkpoint.nextFrame - 1,
    chain: checkpoint.chain,
    page,
    checkpoint: checkpoint.sequence,
    entries: [{ granule: 0, checksum: crc32c(data), class: "copy" }],
  };
  const origin = { uuid: identity.uuid, incarnation: checkpoint.incarnation };
  const openedWith = async (frame: Omit<SnapFrame, "checksum">, incarnation = origin.incarnation) => {
    const bytes = files.contents(PATH);
    const at = frame.page < page ? frame.page : page;
    encodeFrameHeader(bytes.subarray(at * PAGE_BYTES), { ...origin, incarnation }, frame);
    bytes.set(data, (at + 1) * PAGE_BYTES);
    const copy = memoryStateFiles();
    copy.damage(PATH, bytes);
    const again = await openStore(copy);
    const version = await versionOf(again, 0);
    await again.close();
    return version;
  };
  return { next, openedWith, incarnation: origin.incarnation };
}

test("a frame goes on only from its predecessor, under the checkpoint in force, in the same incarnation", async (t) => {
  const { next, openedWith, incarnation } = await closedStore();
  t.is(await openedWith(next), 99, "it is taken when everything is right");
  t.is(await openedWith({ ...next, chain: next.chain ^ 1 }), 1, "another predecessor");
  t.is(await openedWith({ ...next, checkpoint: next.checkpoint - 1 }), 1, "left behind before the checkpoint");
  t.is(await openedWith({ ...next, page: next.page + 3 }), 1, "another place");
  t.is(await openedWith(next, incarnation + 1), 1, "another incarnation");
  t.is(await openedWith({ ...next, sequence: next.sequence + 1 }), 1, "another number");
  const covered = { ...next, page: next.page - 3, sequence: next.sequence - 1, durable: 0, checkpoint: 1 };
  await t.throwsAsync(openedWith(covered), { code: "METADATA_CORRUPT" }, "not the frame that the checkpoint has seen");
});

test("before anything is appended behind a cut there is a new checkpoint", async (t) => {
  const { files, store } = await createStore();
  await store.append([{ granule: 0, data: granuleOf(0, 1) }], "copy");
  files.kill(1);
  const before = (await checkpointIn(files)).checkpoint.sequence;
  const again = await openStore(files);
  t.is((await checkpointIn(files)).checkpoint.sequence, before);
  await again.append([{ granule: 0, data: granuleOf(0, 2) }], "copy");
  t.is((await checkpointIn(files)).checkpoint.sequence, before + 1);
  await again.append([{ granule: 0, data: granuleOf(0, 3) }], "copy");
  t.is((await checkpointIn(files)).checkpoint.sequence, before + 1);
  await again.close();
});

test("the same after an append that found no room", async (t) => {
  const { files, store } = await createStore();
  await store.append([{ granule: 0, data: granuleOf(0, 1) }], "copy");
  const before = (await checkpointIn(files)).checkpoint.sequence;
  files.intercept = ({ type, lengthBytes }) => {
    if (type === "write" && lengthBytes > PAGE_BYTES) throw new InjectedFailure("ENOSPC", lengthBytes);
  };
  await t.throwsAsync(store.append([{ granule: 1, data: granuleOf(1, 2) }], "copy"), { code: "SNAP_OVERFLOW" });
  files.intercept = undefined;
  t.is((await checkpointIn(files)).checkpoint.sequence, before);
  await store.append([{ granule: 2, data: granuleOf(2, 3) }], "copy");
  t.is((await checkpointIn(files)).checkpoint.sequence, before + 1);
  files.kill(1);
  const again = await openStore(files);
  t.is(await versionOf(again, 1), undefined, "what was refused is not there, though all of it had been written");
  t.is(await versionOf(again, 2), 3);
  await again.close();
});

test("a damaged checkpoint slot is written anew by the next opening", async (t) => {
  for (const slot of [0, 1]) {
    const { files, store } = await createStore();
    await store.append([{ granule: 0, data: granuleOf(0, 1) }], "copy");
    await store.close();
    const damage = (index: number) => {
      const bytes = files.contents(PATH);
      bytes.fill(0xee, index * PAGE_BYTES + 100, index * PAGE_BYTES + 200);
      files.damage(PATH, bytes);
    };
    damage(slot);
    await openStore(files);
    files.kill(1);
    damage(1 - slot);
    const again = await openStore(files);
    t.is(await versionOf(again, 0), 1);
    await again.close();
  }
});

test("after the newest slot was lost, no number of a checkpoint is used twice, and the slot in force is not written to", async (t) => {
  const { files, store } = await createStore();
  await store.append([{ granule: 0, data: granuleOf(0, 1) }], "copy");
  await store.close();
  const second = await openStore(files);
  await second.append([{ granule: 0, data: granuleOf(0, 2) }], "copy");
  files.kill(1);
  const newest = (await checkpointIn(files)).checkpoint.sequence;
  const bytes = files.contents(PATH);
  bytes.fill(0xee, (newest % 2) * PAGE_BYTES + 100, (newest % 2) * PAGE_BYTES + 200);
  files.damage(PATH, bytes);
  const third = await openStore(files);
  t.is(await versionOf(third, 0), 2);
  const after = (await checkpointIn(files)).checkpoint.sequence;
  t.true(after > newest && after % 2 === newest % 2, `${after} after ${newest}`);
  await third.close();
});

test("invariant 26: after a reset not even a damaged slot brings the old content back", async (t) => {
  const { files, store } = await createStore();
  for (const granule of [0, 1, 2]) await store.append([{ granule, data: granuleOf(granule, 1) }], "copy");
  const old = files.contents(PATH);
  t.is(store.figures.incarnation, 1);
  await store.reset({ host: "release" });
  t.is(store.figures.incarnation, 2);
  files.kill(1);
  const empty = files.contents(PATH);
  // The truncation of a reset need not be durable: the old frames may all be there.
  const segmentsAt = segmentsPage(GEOMETRY) * PAGE_BYTES;
  for (const slot of [undefined, 0, 1]) {
    const bytes = old.slice();
    bytes.set(empty.subarray(0, segmentsAt));
    bytes.set(old.subarray(MARK_PAGE * PAGE_BYTES, (MARK_PAGE + 1) * PAGE_BYTES), MARK_PAGE * PAGE_BYTES);
    if (slot !== undefined) bytes.fill(0xee, slot * PAGE_BYTES + 100, slot * PAGE_BYTES + 200);
    files.damage(PATH, bytes);
    const again = await openStore(files);
    for (const granule of [0, 1, 2]) t.is(await versionOf(again, granule), undefined, `slot ${slot}`);
    t.is(again.figures.incarnation, 2);
    await again.close();
  }
});

test("a reset is durable before a slot is used again, whatever the power leaves", async (t) => {
  for (let seed = 0; seed < 40; seed++) {
    const { files, store } = await createStore();
    for (const granule of [0, 1, 2, 3, 4, 5]) await store.append([{ granule, data: granuleOf(granule, 1) }], "copy");
    await store.reset({ host: "release" });
    const writing = Promise.allSettled([store.append([{ granule: 9, data: granuleOf(9, 2) }], "copy")]);
    for (let turns = 0; turns < seed; turns++) await Promise.resolve();
    files.crash(seed);
    await writing;
    const again = await openStore(files);
    for (const granule of [0, 1, 2, 3, 4, 5]) t.is(await versionOf(again, granule), undefined, `seed ${seed}`);
    t.true([undefined, 2].includes(await versionOf(again, 9)));
    await again.close();
  }
});
