/** The snap store on real files: space is promised, everything comes back, and a full file system is an overflow. */
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { systemRandom } from "../../src/base/clock.ts";
import { asTidemarkError } from "../../src/base/errors.ts";
import { MiB } from "../../src/base/units.ts";
import { SnapStore } from "../../src/engine/snap/snap-store.ts";
import { openSystemSnapFile } from "../../src/engine/snap/system-snap-file.ts";
import { needRoot } from "../cli/need-root.ts";
import { memoryFileSystem, temporaryDirectory } from "../device/fixtures.ts";
import { granuleOf, OpenBudget, versionOf } from "./snap-lab.ts";

function pathIn(t: ExecutionContext): string {
  const directory = mkdtempSync(join(tmpdir(), "snap-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  return join(directory, "sdv");
}

const creation = () => ({ owner: "v", budget: new OpenBudget(), granuleCount: 4096, random: systemRandom });

test("a store on a real file: promised, stored, compacted, opened, emptied", async (t) => {
  const path = pathIn(t);
  const store = await SnapStore.create(await openSystemSnapFile(path, "new"), creation());
  t.is(statSync(path).mode & 0o777, 0o600);
  await store.append([{ granule: 0, data: granuleOf(0, 1) }], "copy");
  t.true(statSync(path).blocks * 512 >= MiB, "a segment is promised before it is used");
  for (let version = 2; version < 12; version++)
    await Promise.all(
      Array.from({ length: 60 }, (_, granule) =>
        store.append([{ granule, data: granuleOf(granule, version) }], "copy"),
      ),
    );
  t.true(store.figures.segmentsInUse <= 5);
  await store.close();
  const again = await SnapStore.open(await openSystemSnapFile(path, "there"), { owner: "v", budget: new OpenBudget() });
  for (let granule = 0; granule < 60; granule++) t.is(await versionOf(again, granule), 11);
  t.is(again.figures.copyGranules, 60);
  await again.reset({ host: "release" });
  t.true(statSync(path).size < 64 * 1024, "the space is given back");
  await again.close();
});

test("paths that are no snap store's", async (t) => {
  const path = pathIn(t);
  await t.throwsAsync(openSystemSnapFile(path, "there"), { code: "PATH_NOT_FOUND" });
  writeFileSync(path, "");
  await t.throwsAsync(openSystemSnapFile(path, "new"), { code: "PATH_EXISTS" });
  const file = await openSystemSnapFile(path, "there");
  await t.throwsAsync(SnapStore.open(file, { owner: "v", budget: new OpenBudget() }), { code: "METADATA_CORRUPT" });
  await file.close();
});

test("a file system that is full: an overflow, everything readable, and it goes on when there is room", async (t) => {
  if (!needRoot(t)) return;
  const directory = memoryFileSystem(t, temporaryDirectory(t), 3 * MiB);
  const path = join(directory, "sdv");
  const store = await SnapStore.create(await openSystemSnapFile(path, "new"), creation());
  const ballast = join(directory, "ballast");
  writeFileSync(ballast, new Uint8Array(1.5 * MiB));
  const stored: number[] = [];
  let refused = 0;
  for (let granule = 0; granule < 200; granule++) {
    const data = granuleOf(granule, 1);
    await store.append([{ granule, data }], "copy").then(
      () => stored.push(granule),
      (error: unknown) => {
        t.is(asTidemarkError(error).code, "SNAP_OVERFLOW");
        refused++;
      },
    );
  }
  t.is(stored.length, 85, "what one segment of 1 MiB holds");
  t.is(refused, 115);
  for (const granule of stored) t.is(await versionOf(store, granule), 1);
  rmSync(ballast);
  await store.append([{ granule: 199, data: granuleOf(199, 2) }], "copy");
  await store.close();
  const again = await SnapStore.open(await openSystemSnapFile(path, "there"), { owner: "v", budget: new OpenBudget() });
  t.is(again.figures.copyGranules, 86);
  t.is(await versionOf(again, 199), 2);
  await again.close();
});
