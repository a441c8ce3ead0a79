/**
 * The simulator itself: histories hold, a seed is a history, the oracle notices what is wrong, mutants are found.
 * Data-safety 3.1 to 3.3; the long runs are `npm run simulate`.
 */
import { fileURLToPath } from "node:url";
import test from "ava";
import { Chance } from "./chance.ts";
import type { Extent, SessionFacts } from "./facts.ts";
import { historyOf, simulateSeed, tell } from "./history.ts";
import type { InvariantNumber } from "./invariants.ts";
import { minimise } from "./minimise.ts";
import { mutatedFiles, plantMutant } from "./mutant-tree.ts";
import { MUTANTS } from "./mutants.ts";
import { Oracle } from "./oracle.ts";
import { runPool } from "./pool.ts";
import { chooseMood, Scheduler } from "./scheduler.ts";
import { simulate } from "./simulation.ts";
import { VirtualDisk } from "./virtual-disk.ts";

const SEEDS = 150;

test.serial(`${SEEDS} histories hold`, async (t) => {
  let crashes = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { world, steps } = historyOf(seed);
    const outcome = await simulate(world, steps);
    crashes += outcome.crashes;
    if (outcome.violation) return t.fail(tell(seed, world, await minimise(world, steps, outcome)));
  }
  t.true(crashes > SEEDS, `${crashes} crashes`);
});

test.serial("a seed is a history: twice the same turns, the same data on the disks, the same outcome", async (t) => {
  const seeds = [3, 11, 19, 27, 35, 43, 51];
  for (const seed of seeds) t.deepEqual(await simulateSeed(seed), await simulateSeed(seed), `seed ${seed}`);
  const whole = seeds.filter((seed) => historyOf(seed).world.features.has("whole-box"));
  t.true(whole.length > 0 && whole.length < seeds.length, `whole boxes: ${whole.join()}`);
  t.not((await simulateSeed(3)).digest, (await simulateSeed(11)).digest);
});

test.serial("a wrong stamp on a disk is noticed, unless it is written over or the power fails first", async (t) => {
  const { store, losePower } = VirtualDisk.prototype;
  let noticed = 0;
  try {
    for (let seed = 1; seed <= 40; seed++) {
      let left = 30;
      let planted: { disk: VirtualDisk; standing: Set<number> } | undefined;
      VirtualDisk.prototype.store = function (this: VirtualDisk, sector: number, stamp: number): void {
        if (--left > 0 || planted || sector + 1 >= this.sectors) {
          if (planted?.disk === this) planted.standing.delete(sector);
          store.call(this, sector, stamp);
        } else {
          // It goes into the sector next to the one that is meant: both are wrong now, unless they held it already.
          const wrong = [sector, sector + 1].filter((at) => this.content[at] !== stamp);
          planted = { disk: this, standing: new Set(wrong) };
          store.call(this, sector + 1, stamp);
        }
      };
      // A write that was not flushed may be lost.
      VirtualDisk.prototype.losePower = function (this: VirtualDisk): void {
        if (planted?.disk === this) planted.standing.clear();
        losePower.call(this);
      };
      const { world, steps } = historyOf(seed);
      const { violation } = await simulate(world, steps);
      if (violation) noticed++;
      else t.is(planted?.standing.size ?? 0, 0, `seed ${seed}: wrong to the end, and nobody noticed`);
    }
  } finally {
    VirtualDisk.prototype.store = store;
    VirtualDisk.prototype.losePower = losePower;
  }
  t.true(noticed >= 15, `${noticed} of 40`);
});

test("every mutant's text is found exactly once", async (t) => {
  t.is(new Set(MUTANTS.map(({ name }) => name)).size, MUTANTS.length);
  for (const mutant of MUTANTS) await t.notThrowsAsync(() => mutatedFiles(mutant), mutant.name);
});

test.serial("a mutant is found: data is not synced before the record that it is there", async (t) => {
  const mutant = MUTANTS.find(({ name }) => name === "record-before-data");
  if (!mutant) return t.fail("there is no such mutant");
  const tree = await plantMutant(mutant);
  t.teardown(() => tree.remove());
  const run = {
    from: 1,
    seeds: 100,
    jobs: 1,
    enough: ({ failures }: { failures: readonly unknown[] }) => failures.length > 0,
  };
  const report = await runPool({ ...run, tree: tree.directory, minimise: "first-failure" });
  t.true(report.failures.length > 0);
  t.regex(report.failures[0]?.history ?? "", /violates invariant \d+/);
  const itself = await runPool({ ...run, tree: fileURLToPath(new URL("../../", import.meta.url)), minimise: "no" });
  t.deepEqual(itself.failures, []);
});

// --- the oracle ----------------------------------------------------------------------------------------------------------

const ONE: Extent = { volume: 0, first: 16, count: 1 };
const OTHER: Extent = { volume: 1, first: 16, count: 1 };

function newOracle(): { oracle: Oracle; reported: InvariantNumber[] } {
  const reported: InvariantNumber[] = [];
  return { oracle: new Oracle([64, 64], (invariant) => reported.push(invariant)), reported };
}

function read(oracle: Oracle, extent: Extent, ...values: number[]): void {
  oracle.endRead(oracle.beginRead(extent), Int32Array.from(values));
}

function write(oracle: Oracle, extent: Extent, value: number): void {
  oracle.endWrite(
    oracle.beginWrite(extent, () => value),
    "done",
  );
}

function session(source: Extent, destination: Extent): SessionFacts {
  const facts = { id: "c1", kind: "quickopc", phase: "copying", tracking: true, pace: 1, reason: "FIRST_COPY" };
  return { ...facts, source, destination, generation: 1, plannedGranules: 1 };
}

test("oracle: what was written shows, and nothing else", (t) => {
  const { oracle, reported } = newOracle();
  read(oracle, ONE, 0);
  write(oracle, ONE, 7);
  read(oracle, ONE, 7);
  t.deepEqual(reported, []);
  read(oracle, ONE, 0);
  read(oracle, { ...ONE, first: 17 }, 7);
  read(oracle, ONE, -2);
  t.deepEqual(reported, [4, 4, 3]);
});

test("oracle: a write under way may show or not, but not first show and then not", (t) => {
  const { oracle, reported } = newOracle();
  const under = oracle.beginWrite(ONE, () => 7);
  read(oracle, ONE, 0);
  read(oracle, ONE, 7);
  oracle.endWrite(under, "done");
  read(oracle, ONE, 7);
  t.deepEqual(reported, []);
  read(oracle, ONE, 0);
  t.deepEqual(reported, [4]);
});

test("oracle: a kill keeps what was acknowledged; what was in flight is one or the other, once and for all", (t) => {
  for (const [shown, then] of [
    [8, 7],
    [7, 8],
  ] as const) {
    const { oracle, reported } = newOracle();
    write(oracle, ONE, 7);
    oracle.beginWrite(ONE, () => 8);
    oracle.crash("kill", undefined);
    read(oracle, ONE, shown);
    t.deepEqual(reported, []);
    read(oracle, ONE, then);
    t.deepEqual(reported, [2]);
    read(oracle, ONE, 0);
    t.deepEqual(reported, [2, 2]);
  }
});

test("oracle: a power loss may bring back what was before the last flush, and nothing older", (t) => {
  for (const [value, wrong] of [
    [1, []],
    [2, []],
    [3, []],
    [0, [1]],
  ] as const) {
    const { oracle, reported } = newOracle();
    write(oracle, ONE, 1);
    oracle.endFlush(0, oracle.moment());
    write(oracle, ONE, 2);
    write(oracle, ONE, 3);
    oracle.crash("power", undefined);
    read(oracle, ONE, value);
    t.deepEqual(reported, [...wrong]);
  }
});

test("oracle: a flush covers only what had ended when it began", (t) => {
  const { oracle, reported } = newOracle();
  const under = oracle.beginWrite(ONE, () => 7);
  const flush = oracle.moment();
  oracle.endWrite(under, "done");
  oracle.endFlush(0, flush);
  oracle.crash("power", undefined);
  read(oracle, ONE, 0);
  t.deepEqual(reported, []);
});

test("oracle: at a point the destination becomes the source, durably, and goes its own way", (t) => {
  const { oracle, reported } = newOracle();
  write(oracle, ONE, 1);
  write(oracle, OTHER, 2);
  const point = oracle.askPoint([{ source: ONE, destination: OTHER }]);
  oracle.pointFired(point, [session(ONE, OTHER)]);
  write(oracle, ONE, 3);
  read(oracle, OTHER, 1);
  write(oracle, OTHER, 4);
  oracle.crash("power", undefined);
  read(oracle, OTHER, 1); // the write was not flushed
  read(oracle, ONE, 3);
  t.deepEqual(reported, []);
  read(oracle, OTHER, 3);
  t.deepEqual(reported, [1]);
});

test("oracle: the sectors of a point are of one instant", (t) => {
  for (const [first, second, wrong] of [
    [0, 0, []],
    [5, 0, []],
    [5, 6, []],
    [0, 6, [42]],
  ] as const) {
    const { oracle, reported } = newOracle();
    const [source, destination] = [
      { ...ONE, count: 2 },
      { ...OTHER, count: 2 },
    ];
    const point = oracle.askPoint([{ source, destination }]);
    write(oracle, ONE, 5);
    write(oracle, { ...ONE, first: 17 }, 6); // after the other was answered
    oracle.pointFired(point, [session(source, destination)]);
    read(oracle, destination, first, second);
    t.deepEqual(reported, [...wrong]);
  }
});

test("oracle: a point in flight at a crash has happened or not; whoever looks decides", (t) => {
  for (const happened of [true, false]) {
    const { oracle, reported } = newOracle();
    write(oracle, ONE, 1);
    write(oracle, OTHER, 2);
    oracle.endFlush(1, oracle.moment());
    const point = oracle.askPoint([{ source: ONE, destination: OTHER }]);
    oracle.crash("kill", point);
    oracle.crash("power", point);
    if (happened) oracle.pointFired(point, [session(ONE, OTHER)]);
    read(oracle, OTHER, happened ? 1 : 2);
    t.deepEqual(reported, []);
    read(oracle, OTHER, happened ? 2 : 1);
    t.is(reported.length, 1);
  }
});

test("oracle: maps have what differs, and nothing that nobody touched", (t) => {
  const { oracle, reported } = newOracle();
  const [source, destination] = [
    { volume: 0, first: 0, count: 64 },
    { volume: 1, first: 0, count: 64 },
  ];
  oracle.pointFired(oracle.askPoint([{ source, destination }]), [session(source, destination)]);
  write(oracle, ONE, 5);
  const check = (...granules: number[]) =>
    oracle.checkMaps("c1", { source: new Set(granules), destination: new Set() }, 1);
  check(1);
  t.deepEqual(reported, []);
  check();
  check(1, 2);
  t.deepEqual(reported, [7, 8]);
  oracle.crash("kill", undefined);
  check(1, 2); // its region was hot
  t.deepEqual(reported, [7, 8]);
});

test("oracle: sessions take legal steps", (t) => {
  const { oracle, reported } = newOracle();
  const facts = session(ONE, OTHER);
  oracle.pointFired(oracle.askPoint([facts]), [facts]);
  oracle.told({ ...facts, phase: "tracking" });
  t.deepEqual(reported, []);
  oracle.told(facts);
  t.deepEqual(reported, [10]);
});

// --- the virtual disk ------------------------------------------------------------------------------------------------------

test("virtual disk: a power loss keeps any sectors of what was not flushed, and all of what was", async (t) => {
  const outcomes = new Set<string>();
  for (let seed = 0; seed < 200; seed++) {
    const chance = new Chance(seed);
    const scheduler = new Scheduler(chance, chooseMood(chance));
    const habits = { holes: true, inlineProbability: 1 };
    const disk = new VirtualDisk({ name: "v1", sectors: 4, habits, scheduler, chance });
    const device = disk.open();
    device.tryWrite(0, new Uint8Array(1024).fill(1));
    const flushed = device.flush();
    scheduler.fire();
    await flushed;
    device.tryWrite(512, new Uint8Array(1024).fill(2));
    disk.losePower();
    outcomes.add(disk.content.map((stamp) => stamp & 3).join(""));
  }
  t.deepEqual([...outcomes].sort(), ["1100", "1120", "1200", "1220"]);
});
