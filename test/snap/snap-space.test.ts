/** Figures of snap data volumes and pools against those of the manuals. */
import test from "ava";
import fc from "fast-check";
import type { SnapClass } from "../../src/engine/snap/snap-format.ts";
import {
  controlSectors,
  POOL_THRESHOLDS,
  poolTypeOf,
  predictRestore,
  ratePercent,
  SnapPool,
  SnapSpace,
  splitUsage,
} from "../../src/engine/snap/snap-space.ts";
import type { SnapStore } from "../../src/engine/snap/snap-store.ts";
import { createStore, GRANULES, granuleOf, openStore, PATH, versionOf } from "./snap-lab.ts";

const SDV = { owner: "g1d110", logicalSectors: 8_388_608, physicalSectors: 1_048_576 };
const row = ({ figures: f }: SnapSpace) =>
  `${f.ratePercent}% ${f.logicalSectors} ${f.physicalSectors} ${f.usedSectors} ${f.copySectors} ${f.hostSectors} ${f.poolSectors}`;
const poolRow = ({ figures: f }: SnapPool) =>
  `${f.ratePercent}% ${f.totalSectors} ${f.usedSectors} ${f.copySectors} ${f.hostSectors} ${f.freeSectors}`;

test("spec/41 engine part of #6: an empty snap data volume", (t) => {
  t.is(row(new SnapSpace(SDV)), "0% 8388608 1048576 0 0 0 0");
});

test("spec/11 engine part of #45: rows of the manual, with and without use of the pool", (t) => {
  const pool = new SnapPool("normal", 20_971_520);
  const full = new SnapSpace({ ...SDV, pool });
  full.take(192 / 16, "host");
  full.take((1_048_384 + 640) / 16, "copy");
  t.is(row(full), "100% 8388608 1048576 1048576 1048384 192 640");
  t.is(poolRow(pool), "0% 20971520 640 640 0 20970880");
  const few = new SnapSpace(SDV);
  few.take(46_912 / 16, "host");
  few.take(1, "copy");
  t.is(row(few), "4% 8388608 1048576 46928 16 46912 0");
});

test("spec/41 engine part of #7: a pool that hosts have used", (t) => {
  const pool = new SnapPool("normal", 20_971_520);
  new SnapSpace({ ...SDV, pool }).take((1_048_576 + 2_097_152) / 16, "host");
  t.is(poolRow(pool), "10% 20971520 2097152 0 2097152 18874368");
  t.is(poolRow(new SnapPool("encrypted", 20_971_520)), "0% 20971520 0 0 0 20971520");
});

test("rates are cut off, not rounded", (t) => {
  t.is(ratePercent(46_928, 1_048_576), 4);
  t.is(ratePercent(2_097_152, 20_971_520), 10);
  t.is(ratePercent(1_048_575, 1_048_576), 99);
  t.is(ratePercent(0, 0), 0);
});

test("spec/11 engine part of #44: restoring generation 2 of 4 costs 1049040 sectors and takes the pool to 15 %", (t) => {
  const generations = [
    { copySectors: 32, poolSectors: 0 },
    { copySectors: 1_048_384, poolSectors: 640 },
    { copySectors: 16, poolSectors: 0 },
    { copySectors: 4_800, poolSectors: 0 },
  ];
  const pool = { usedSectors: 2_097_152, totalSectors: 20_971_520 };
  t.deepEqual(predictRestore(generations, 2, pool), {
    updateSectors: 1_049_040,
    poolUsedAfterSectors: 3_146_192,
    poolRatePercent: 15,
    possible: true,
    advice: "none",
  });
  t.is(predictRestore(generations, 4, pool).updateSectors, 0, "the newest holds all that it needs");
  t.is(predictRestore(generations, 1, pool).updateSectors, 1_049_072);
  const at = (usedSectors: number) => predictRestore(generations, 2, { usedSectors, totalSectors: 10_000_000 });
  t.is(at(3_950_960).advice, "none", "exactly 50 % is not above");
  t.is(at(3_950_961).advice, "enlarge-afterwards");
  t.is(at(5_950_961).advice, "enlarge-first");
  t.true(at(8_950_959).possible);
  t.false(at(8_950_960).possible, "used + amount < total");
  for (const number of [0, 5, 1.5])
    t.throws(() => predictRestore(generations, number, pool), { code: "INVALID_ARGUMENT" } as object);
});

test("control information is 0.1 % of the logical capacity, beside the physical one", (t) => {
  t.is(controlSectors(8_388_608), 8_400);
  t.is(controlSectors(16_000), 16);
  t.is(controlSectors(16_001), 32);
  const space = new SnapSpace(SDV);
  space.take(1_048_576 / 16, "copy");
  t.is(space.figures.usedSectors, 1_048_576, "all of the physical capacity can be used");
});

test("without a pool the volume is full; with one the pool is; nothing is taken by what is refused", (t) => {
  const alone = new SnapSpace({ owner: "a", logicalSectors: 1600, physicalSectors: 160 });
  alone.take(9, "copy");
  t.throws(() => alone.take(2, "copy"), { code: "SNAP_OVERFLOW", message: /physical capacity/ } as object);
  t.is(alone.figures.usedSectors, 144);
  alone.take(1, "host");
  const pool = new SnapPool("normal", 48);
  const first = new SnapSpace({ owner: "b", logicalSectors: 1600, physicalSectors: 160, pool });
  const second = new SnapSpace({ owner: "c", logicalSectors: 1600, physicalSectors: 16, pool });
  first.take(12, "copy");
  t.throws(() => second.take(3, "copy"), { code: "SNAP_OVERFLOW", message: /normal pool/ } as object);
  second.take(2, "copy");
  t.is(pool.figures.freeSectors, 0);
  first.giveBack(2, "copy");
  t.is(pool.figures.freeSectors, 32);
});

test("capacities that make no sense are refused", (t) => {
  for (const change of [
    { physicalSectors: 17 },
    { physicalSectors: 0 },
    { physicalSectors: 8_388_624 },
    { logicalSectors: 0 },
  ])
    t.throws(() => new SnapSpace({ ...SDV, ...change }), { code: "SIZE_INVALID" } as object);
  t.throws(() => new SnapPool("normal", 15), { code: "SIZE_INVALID" } as object);
  const pool = new SnapPool("normal", 160);
  new SnapSpace({ owner: "a", logicalSectors: 1600, physicalSectors: 16, pool }).take(5, "copy");
  t.throws(() => pool.resize(48), { code: "SIZE_INVALID" } as object);
  pool.resize(64);
  t.is(pool.figures.ratePercent, 100);
});

test("thresholds: 50 % and 70 %, told once when the rate rises above, and again after it was not", (t) => {
  const told: number[] = [];
  const pool = new SnapPool("normal", 1600, (_pool, { percent }) => told.push(percent));
  const space = new SnapSpace({ owner: "a", logicalSectors: 16_000, physicalSectors: 16, pool });
  space.take(51, "copy");
  t.deepEqual(told, [], "exactly 50 %");
  space.take(1, "copy");
  t.deepEqual(told, [50]);
  space.take(10, "copy");
  t.deepEqual(told, [50]);
  space.take(10, "copy");
  t.deepEqual(told, [50, 70]);
  space.giveBack(20, "copy");
  space.take(30, "copy");
  t.deepEqual(told, [50, 70, 70], "it had not fallen below 50 %");
  space.giveBack(40, "copy");
  space.take(40, "copy");
  t.deepEqual(told, [50, 70, 70, 50, 70]);
  pool.resize(16_000);
  pool.resize(1600);
  t.deepEqual(told, [50, 70, 70, 50, 70, 50, 70], "a pool that is made smaller as well");
  const quiet = new SnapPool("normal", 160, () => t.fail("what an opening finds is no news"));
  const found = new SnapSpace({ owner: "b", logicalSectors: 16_000, physicalSectors: 16, pool: quiet });
  found.adopt({ copy: 9, host: 2 });
  t.deepEqual(
    POOL_THRESHOLDS.map(({ percent, advice }) => [percent, advice]),
    [
      [50, "consider-enlarging"],
      [70, "enlarge-immediately"],
    ],
  );
});

test("an encrypted volume grows from the encrypted pool", (t) => {
  t.is(poolTypeOf("none"), "normal");
  t.is(poolTypeOf("aes-256-xts"), "encrypted");
});

test("any order of taking and giving back: sums are exact, and depend on nothing but the totals", (t) => {
  const taking = fc.record({
    volume: fc.nat(2),
    count: fc.integer({ min: 1, max: 30 }),
    kind: fc.constantFrom<SnapClass>("copy", "host"),
    back: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(taking, { maxLength: 60 }), (all) => {
      const pool = new SnapPool("normal", 100 * 16);
      const spaces = [40, 10, 70].map(
        (physical, index) =>
          new SnapSpace({ owner: `v${index}`, logicalSectors: 16_000, physicalSectors: physical * 16, pool }),
      );
      const used = spaces.map(() => ({ copy: 0, host: 0 }));
      for (const { volume, count, kind, back } of all) {
        const space = spaces[volume] as SnapSpace;
        const mine = used[volume] as { copy: number; host: number };
        if (back) {
          const some = Math.min(count, mine[kind]);
          space.giveBack(some, kind);
          mine[kind] -= some;
          continue;
        }
        const physical = [40, 10, 70];
        const over = used.map(({ copy, host }, index) => Math.max(0, copy + host - (physical[index] ?? 0)));
        const own = (physical[volume] ?? 0) - mine.copy - mine.host;
        const fits = count <= Math.max(0, own) + 100 - over.reduce((sum, value) => sum + value, 0);
        if (fits) {
          space.take(count, kind);
          mine[kind] += count;
        } else t.throws(() => space.take(count, kind), { code: "SNAP_OVERFLOW" } as object);
      }
      spaces.forEach((space, index) => {
        const { copy, host } = used[index] as { copy: number; host: number };
        const { figures } = space;
        t.is(figures.usedSectors, figures.copySectors + figures.hostSectors);
        t.is((figures.usedSectors + figures.poolSectors) / 16, copy + host);
        const fresh = new SnapSpace({ owner: "x", logicalSectors: 16_000, physicalSectors: figures.physicalSectors });
        fresh.adopt({ copy, host });
        t.deepEqual(fresh.figures, figures);
      });
      const { figures } = pool;
      t.is(figures.usedSectors, figures.copySectors + figures.hostSectors);
      t.is(
        figures.usedSectors,
        spaces.reduce((sum, space) => sum + space.figures.poolSectors, 0),
      );
      t.is(figures.freeSectors, figures.totalSectors - figures.usedSectors);
    }),
    { numRuns: 200 },
  );
  t.deepEqual(splitUsage({ copy: 5, host: 3 }, 4), { own: { copy: 1, host: 3 }, pool: { copy: 4, host: 0 } });
});

test("spec/41 engine part of #8 and #9: a store takes its space by class, grows from the pool, and overflows", async (t) => {
  const pool = new SnapPool("normal", 3 * 16);
  const options = { owner: "v", logicalSectors: GRANULES * 16, physicalSectors: 4 * 16 };
  const budget = new SnapSpace({ ...options, pool });
  const { files, store } = await createStore({ budget });
  const put = (granule: number, version: number, kind: SnapClass) =>
    store.append([{ granule, data: granuleOf(granule, version) }], kind);
  await put(0, 1, "host");
  await put(1, 1, "copy");
  await put(0, 2, "copy");
  t.is(row(budget), "50% 384 64 32 16 16 0", "rewriting takes nothing and changes no class");
  for (const granule of [2, 3, 4, 5, 6]) await put(granule, 1, "copy");
  t.is(row(budget), "100% 384 64 64 48 16 48");
  const several = [6, 7].map((granule) => ({ granule, data: granuleOf(granule, 2) }));
  await t.throwsAsync(store.append(several, "copy"), { code: "SNAP_OVERFLOW" });
  t.false(store.holds(7));
  t.is(await versionOf(store, 6), 1, "nothing of a refused append counts");
  await put(6, 3, "copy");
  t.is(await versionOf(store, 6), 3, "what is held may be rewritten in a full volume");
  await store.reset({ host: "keep" });
  t.is(row(budget), "25% 384 64 16 0 16 0", "host usage stays when a session starts");
  t.is(pool.figures.usedSectors, 0);
  await put(9, 1, "copy");
  await store.close();
  const again = new SnapSpace({ ...options, pool: new SnapPool("normal", 48) });
  const reopened: SnapStore = await openStore(files, { budget: again });
  t.is(row(again), "50% 384 64 32 16 16 0", "and is known after an opening");
  await reopened.reset({ host: "release" });
  t.is(row(again), "0% 384 64 0 0 0 0", "initialised");
  await reopened.close();
  t.true(files.contents(PATH).length > 0);
});
