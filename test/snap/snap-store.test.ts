/** The snap store against a byte model: what is stored, rewritten, compacted, emptied and opened again. */
import test from "ava";
import fc from "fast-check";
import { GRANULE_SIZE_BYTES, KiB, MiB } from "../../src/base/units.ts";
import { memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import { getCore } from "../../src/engine/map/core.ts";
import { PagedBitmap } from "../../src/engine/map/paged-bitmap.ts";
import { boundsFor, geometryFor, segmentsFor } from "../../src/engine/snap/snap-geometry.ts";
import { createStore, GRANULES, granuleOf, OpenBudget, openStore, SMALL, versionOf, versionsOf } from "./snap-lab.ts";

const none = (count = GRANULES) => new Array<number | undefined>(count).fill(undefined);

type Step =
  | { readonly do: "append"; readonly appends: readonly (readonly number[])[]; readonly kind: "copy" | "host" }
  | { readonly do: "reset"; readonly host: "keep" | "release" }
  | { readonly do: "reopen" };

const granules = fc.uniqueArray(fc.nat(GRANULES - 1), { minLength: 1, maxLength: 10 });
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc.record({
      do: fc.constant("append" as const),
      appends: fc.array(granules, { minLength: 1, maxLength: 4 }),
      kind: fc.constantFrom("copy" as const, "host" as const),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("reset" as const),
      host: fc.constantFrom("keep" as const, "release" as const),
    }),
  },
  { weight: 1, arbitrary: fc.constant({ do: "reopen" as const }) },
);

test("any history of appends, rewrites, resets and openings reads back what was written last, within the bound", async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 40 }), async (steps) => {
      let budget = new OpenBudget();
      const { files, store: first } = await createStore({ budget });
      let store = first;
      let model = none();
      const classes = new Map<number, "copy" | "host">();
      let heldHost = 0;
      let version = 0;
      for (const now of steps) {
        if (now.do === "append") {
          const pending = now.appends.map((list) => {
            version++;
            for (const granule of list) {
              model[granule] = version;
              if (!classes.has(granule)) classes.set(granule, now.kind);
            }
            const writes = list.map((granule) => ({ granule, data: granuleOf(granule, version) }));
            return store.append(writes, now.kind);
          });
          await Promise.all(pending);
        } else if (now.do === "reset") {
          const hosts = [...classes.values()].filter((kind) => kind === "host").length;
          heldHost = now.host === "keep" ? heldHost + hosts : 0;
          await store.reset({ host: now.host });
          model = none();
          classes.clear();
        } else {
          await store.close();
          budget = new OpenBudget();
          store = await openStore(files, { budget });
        }
        t.deepEqual(await versionsOf(store), model);
        const hosts = [...classes.values()].filter((kind) => kind === "host").length;
        t.deepEqual(budget.used, { copy: classes.size - hosts, host: hosts + heldHost }, "a granule counts once");
        const { segmentsInUse } = store.figures;
        t.true(segmentsInUse <= segmentsFor(classes.size, 16) + 3, `${segmentsInUse} segments for ${classes.size}`);
      }
      await store.close();
      t.is(files.openFiles, 0);
    }),
    { numRuns: 60 },
  );
});

test("appends of one moment share a sync, and each is found only when it is durable", async (t) => {
  const { files, store } = await createStore({ bounds: { segmentBytes: MiB, groupGranulesMax: 480 } });
  let syncs = 0;
  files.intercept = ({ type }) => {
    if (type === "sync") syncs++;
  };
  const appends = Array.from({ length: 20 }, (_, granule) =>
    store.append([{ granule, data: granuleOf(granule, 1) }], "copy").then(() => t.true(store.holds(granule))),
  );
  t.false(store.holds(0));
  await Promise.all(appends);
  t.is(syncs, 1);
  t.is(store.figures.copyGranules, 20);
  await store.close();
});

test("a granule that is rewritten again and again takes a bounded file, and the space of others is left alone", async (t) => {
  const { store } = await createStore();
  const keep = Array.from({ length: 12 }, (_, granule) => ({ granule, data: granuleOf(granule, 1) }));
  await store.append(keep, "copy");
  let segmentsMax = 0;
  for (let version = 2; version < 400; version++) {
    await store.append([{ granule: 20, data: granuleOf(20, version) }], "copy");
    segmentsMax = Math.max(segmentsMax, store.figures.segmentsInUse);
  }
  t.true(segmentsMax <= segmentsFor(13, 16) + 2, `${segmentsMax} segments`);
  t.is(await versionOf(store, 20), 399);
  t.is(await versionOf(store, 5), 1);
  t.is(store.figures.copyGranules, 13);
  await store.close();
});

test("a reader whose slot is compacted away still gets the granule", async (t) => {
  const { files, store } = await createStore();
  await store.append([{ granule: 0, data: granuleOf(0, 1) }], "copy");
  let release: () => void = () => undefined;
  let held = true;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  files.intercept = async ({ type, lengthBytes }) => {
    if (type !== "read" || lengthBytes !== GRANULE_SIZE_BYTES || !held) return;
    held = false;
    await gate;
  };
  const reading = versionOf(store, 0);
  for (let version = 1; version < 200; version++)
    await store.append([{ granule: 1 + (version % 3), data: granuleOf(1 + (version % 3), version) }], "copy");
  release();
  t.is(await reading, 1);
  await store.close();
});

test("what waits when the store is emptied is refused, what is being read is not there", async (t) => {
  const { files, store } = await createStore();
  await store.append([{ granule: 3, data: granuleOf(3, 1) }], "host");
  let release: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => {
    release = resolve;
  });
  files.intercept = async ({ type, lengthBytes }) => {
    if (type === "read" && lengthBytes === GRANULE_SIZE_BYTES) await gate;
  };
  const reading = versionOf(store, 3);
  const waiting = store.append([{ granule: 4, data: granuleOf(4, 1) }], "copy");
  const reset = store.reset({ host: "keep" });
  await t.throwsAsync(waiting, { code: "COPY_STATE" });
  await reset;
  release();
  t.is(await reading, undefined);
  files.intercept = undefined;
  t.is(store.figures.heldHostGranules, 1);
  t.is(files.contents("sdv").length, store.figures.fileBytes, "the space is given back");
  t.deepEqual(await versionsOf(store), none());
  await store.close();
});

test("the map of what is held is a union away", async (t) => {
  const { store } = await createStore();
  await store.append(
    [2, 3, 4, 9].map((granule) => ({ granule, data: granuleOf(granule, 1) })),
    "copy",
  );
  const map = new PagedBitmap(getCore(), GRANULES, "empty");
  store.unionHeld(map);
  t.deepEqual(map.nextRun(0, GRANULES), { first: 2, count: 3 });
  t.deepEqual(store.nextHeld(5, GRANULES), { first: 9, count: 1 });
  t.is(store.nextHeld(10, GRANULES), undefined);
  map.dispose();
  await store.close();
});

test("geometry: the table stays small, segments hold what the bound says", (t) => {
  for (const [granuleCount, segmentBytes] of [
    [1, MiB],
    [131_072, MiB],
    [16 * 1024 * 1024, 16 * MiB],
    [2 ** 33, 16 * MiB],
  ] as const) {
    const bounds = boundsFor(granuleCount);
    t.is(bounds.segmentBytes, segmentBytes, `${granuleCount}`);
    t.true(geometryFor(granuleCount, bounds).segmentsMax <= 16_384);
  }
  t.is(segmentsFor(79, 256), 5, "79 granules a segment of 1 MiB, and four to spare");
});

test("a store in a file that is not empty, and of another owner, is refused", async (t) => {
  const files = memoryStateFiles();
  const { store } = await createStore({}, files);
  await store.close();
  const before = files.contents("sdv");
  const again = await files.open("sdv", { create: "must-exist" });
  const { SnapStore } = await import("../../src/engine/snap/snap-store.ts");
  const options = { owner: "volume-8", budget: new OpenBudget() };
  const file = { ...again, allocate: () => Promise.resolve() };
  const creation = { ...options, granuleCount: 8, random: { bytes: (n: number) => new Uint8Array(n) }, bounds: SMALL };
  await t.throwsAsync(SnapStore.create(file, creation), { code: "PATH_EXISTS" });
  await t.throwsAsync(SnapStore.open(file, options), { code: "METADATA_CORRUPT", message: /belongs to volume-7/ });
  await again.close();
  t.deepEqual(files.contents("sdv"), before);
  t.is(64 * KiB, SMALL.segmentBytes);
});
