/** All formats on a real file system, opened again by a second set of files. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { ActivityLog } from "../../src/engine/durable/activity-log.ts";
import { FrameLog } from "../../src/engine/durable/frame-log.ts";
import { readMap, writeMap } from "../../src/engine/durable/map-file.ts";
import { Superblock } from "../../src/engine/durable/superblock.ts";
import { systemStateFiles } from "../../src/engine/durable/system-state-files.ts";
import { loadCore } from "../../src/engine/map/core.ts";
import { PagedBitmap } from "../../src/engine/map/paged-bitmap.ts";

test("superblock, frame log, map and activity log are found again as they were left", async (t) => {
  const core = await loadCore();
  const root = await mkdtemp(join(tmpdir(), "tidemark-durable-"));
  t.teardown(() => rm(root, { recursive: true, force: true }));
  const options = (files = systemStateFiles(root)) => ({
    files,
    ownerId: "v1",
    path: (number: number) => `v/al-${number}.log`,
    readRegionBits: (region: number) => new Uint8Array(64).fill(region),
    slots: 4,
  });
  const { files } = options();
  await files.makeDirectory("v");
  const decode = (value: unknown) => value as { state: string };

  const superblock = await Superblock.create(files, "v/super", "volume", "v1", { state: "new" }, decode);
  await superblock.store({ state: "used" });
  const log = await FrameLog.create(files, "v/copied-1.log", "session", "c1", 1);
  await Promise.all(Array.from({ length: 100 }, (_, index) => log.appendDurable(new Uint8Array(index))));
  const bitmap = new PagedBitmap(core, 200_000, "full");
  bitmap.clearRange(40_000, 3);
  const header = { kind: "epoch", ownerId: "v1", generation: 4, bitCount: 200_000 };
  await writeMap(files, "v/epoch-4-1.map", header, bitmap);
  const activity = await ActivityLog.create(options(), 1, 1);
  for (const region of [1, 2, 3, 4, 5]) await activity.activate(region, region);
  await activity.checkpoint(2);
  await activity.activate(6, 6);
  // As after a kill: nothing is closed.
  const again = systemStateFiles(root);
  t.deepEqual(await again.list("v"), ["al-1.log", "al-2.log", "copied-1.log", "epoch-4-1.map", "super"]);
  t.deepEqual((await Superblock.open(again, "v/super", "volume", "v1", decode)).value, { state: "used" });
  const lengths: number[] = [];
  const found = await FrameLog.open(again, "v/copied-1.log", "session", "c1", ({ length }) => lengths.push(length));
  t.deepEqual(
    lengths,
    Array.from({ length: 100 }, (_, index) => index),
  );
  t.true((await readMap(again, "v/epoch-4-1.map", header, core)).equals(bitmap));
  const { log: reopened, replay } = await ActivityLog.open(options(again), [1, 2]);
  t.deepEqual([...replay.hotRegions], [3, 4, 5, 6]);
  t.deepEqual(replay.regionBits.get(2), new Uint8Array(64).fill(2));
  for (const open of [superblock, log, activity, found, reopened]) await open.close();
});
