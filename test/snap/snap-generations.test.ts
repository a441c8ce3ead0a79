/** Generations over stores: concurrent writes and reads on every volume of a chain, failures, against byte arrays. */
import test, { type ExecutionContext } from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import { GRANULE_SIZE_BYTES } from "../../src/base/units.ts";
import { memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import { addGeneration, cancelGeneration, failGeneration, type SnapChain } from "../../src/engine/snap/snap-chain.ts";
import { SnapGenerations } from "../../src/engine/snap/snap-generations.ts";
import { SnapPool, SnapSpace } from "../../src/engine/snap/snap-space.ts";
import type { SnapBudget, SnapStore } from "../../src/engine/snap/snap-store.ts";
import { chanceFrom } from "../durable/_chance.ts";
import { createStore, GRANULES, OpenBudget } from "./snap-lab.ts";

const SECTORS = GRANULES * 16;

/** A source in memory whose reads and writes take a few turns, and generations of it. */
class ChainLab {
  readonly source = Array.from({ length: GRANULES }, (_, granule) => filled(granule));
  readonly views = new Map<string, Uint8Array[]>();
  readonly stores = new Map<string, SnapStore>();
  readonly failures: string[] = [];
  readonly chance: () => number;
  chain: SnapChain = [];
  badGranule: number | undefined;
  /** Taken by the next read, of the source or of a store, which waits for it. */
  hold: Promise<void> | undefined;
  readonly generations: SnapGenerations;

  constructor(seed: number) {
    this.chance = chanceFrom(seed);
    this.generations = new SnapGenerations({
      chain: () => this.chain,
      storeOf: (destination) => this.storeOf(destination),
      readSource: async (granule, into) => {
        await this.turns();
        await this.held();
        if (granule === this.badGranule) throw new TidemarkError("MEDIUM_ERROR", { message: "bad sector" });
        into.set(this.source[granule] as Uint8Array);
        await this.turns();
      },
      fail: async (destination, reason) => {
        await this.turns();
        const { chain, failed } = failGeneration(this.chain, destination, reason);
        this.chain = chain;
        this.failures.push(...failed.map((name) => `${name} ${reason}`));
      },
    });
  }

  storeOf(destination: string): SnapStore {
    return this.stores.get(destination) as SnapStore;
  }

  async held(): Promise<void> {
    const { hold } = this;
    this.hold = undefined;
    await hold;
  }

  async turns(): Promise<void> {
    for (let left = Math.floor(this.chance() * 4); left > 0; left--) await Promise.resolve();
  }

  async makeStore(name: string, budget: SnapBudget = new SnapSpace(wide(name))): Promise<void> {
    const { store, files } = await createStore({ budget, path: "sdv" }, memoryStateFiles());
    files.intercept = async ({ type }) => {
      await this.turns();
      if (type === "read") await this.held();
    };
    this.stores.set(name, store);
  }

  async add(name: string): Promise<void> {
    const { chain, dropped } = addGeneration(this.chain, name);
    for (const destination of dropped) await this.storeOf(destination).reset({ host: "keep" });
    this.chain = chain;
    this.views.set(
      name,
      this.source.map((granule) => granule.slice()),
    );
  }

  async writeSource(granule: number, value: number): Promise<void> {
    if (this.generations.owesSourceWrite(granule, 1)) await this.generations.preserveForSourceWrite(granule, 1);
    await this.turns();
    this.source[granule] = filled(value);
  }

  async seen(name: string, granule: number): Promise<Uint8Array> {
    const into = new Uint8Array(GRANULE_SIZE_BYTES);
    await this.generations.read(name, granule, into);
    return into;
  }

  async close(): Promise<void> {
    for (const store of this.stores.values()) await store.close();
  }
}

const filled = (value: number) => new Uint8Array(GRANULE_SIZE_BYTES).fill(value & 0xff);
const wide = (owner: string) => ({ owner, logicalSectors: SECTORS, physicalSectors: SECTORS });
const same = (one: Uint8Array, other: Uint8Array | undefined) =>
  other !== undefined && Buffer.compare(one, other) === 0;

async function compareAll(t: ExecutionContext, lab: ChainLab, what: string): Promise<void> {
  for (const { destination, failure } of lab.chain) {
    if (failure) continue;
    for (let granule = 0; granule < GRANULES; granule++) {
      const seen = await lab.seen(destination, granule);
      t.true(same(seen, lab.views.get(destination)?.[granule]), `${what}: ${destination} ${granule} is ${seen[0]}`);
    }
  }
}

/** Writes and reads at the same time: a view sees another's write never, its own before or after. */
async function oneRound(t: ExecutionContext, lab: ChainLab, what: string): Promise<void> {
  const tasks: Promise<void>[] = [];
  const written = new Map<string, Uint8Array>();
  const hot = () => Math.floor(lab.chance() * 4);
  for (let count = 3 + Math.floor(lab.chance() * 6); count > 0; count--) {
    const granule = hot();
    const target = Math.floor(lab.chance() * (lab.chain.length + 1));
    const name = lab.chain[target]?.destination ?? "source";
    if (written.has(`${name} ${granule}`)) continue;
    const value = Math.floor(lab.chance() * 256);
    if (name === "source") {
      written.set(`source ${granule}`, filled(value));
      tasks.push(lab.writeSource(granule, value));
      continue;
    }
    const offsetBytes = lab.chance() < 0.5 ? 512 * Math.floor(lab.chance() * 15) : 0;
    const bytes = new Uint8Array(offsetBytes === 0 ? GRANULE_SIZE_BYTES : 512).fill(value);
    const before = lab.views.get(name) as Uint8Array[];
    const after = (before[granule] as Uint8Array).slice();
    after.set(bytes, offsetBytes);
    written.set(`${name} ${granule}`, after);
    tasks.push(lab.generations.write(name, granule, offsetBytes, bytes));
  }
  for (const { destination } of lab.chain) {
    const granule = hot();
    const before = lab.views.get(destination)?.[granule];
    const check = async () => {
      await lab.turns();
      const seen = await lab.seen(destination, granule);
      const ok = same(seen, before) || same(seen, written.get(`${destination} ${granule}`));
      t.true(ok, `${what}: while written, ${destination} ${granule} is ${seen[0]}`);
    };
    tasks.push(check());
  }
  await Promise.all(tasks);
  for (const [key, bytes] of written) {
    const [name = "", granule] = key.split(" ");
    const view = lab.views.get(name);
    if (view) view[Number(granule)] = bytes;
  }
}

test("invariants 21, 22, 24: every generation shows its instant and its own writes, whatever happens at the same time", async (t) => {
  for (let seed = 0; seed < 30; seed++) {
    const lab = new ChainLab(seed);
    const names = ["d1", "d2", "d3"];
    for (const name of names) await lab.makeStore(name);
    for (let round = 0; round < 14; round++) {
      const what = `seed ${seed}, round ${round}`;
      const next = names.find((name) => !lab.chain.some(({ destination }) => destination === name));
      if (round % 3 === 0) await lab.add(next ?? (lab.chain[0]?.destination as string));
      if (round === 10) {
        const { chain, dropped } = cancelGeneration(lab.chain, lab.chain[0]?.destination as string, "oldest-first");
        lab.chain = chain;
        for (const destination of dropped) await lab.storeOf(destination).reset({ host: "keep" });
      }
      await oneRound(t, lab, what);
      await compareAll(t, lab, what);
    }
    t.deepEqual(lab.failures, []);
    await lab.close();
  }
});

test("a read that is overtaken by the write that moves its granule looks again", async (t) => {
  const lab = new ChainLab(4);
  for (const name of ["d1", "d2"]) {
    await lab.makeStore(name);
    await lab.add(name);
  }
  const overtaken = async (write: () => Promise<void>) => {
    let release: () => void = () => undefined;
    lab.hold = new Promise((resolve) => {
      release = resolve;
    });
    const reading = lab.seen("d1", 2);
    while (lab.hold !== undefined) await Promise.resolve();
    await write();
    release();
    return (await reading)[0];
  };
  t.is(await overtaken(() => lab.writeSource(2, 50)), 2, "found in the source, preserved in d2");
  t.is(await overtaken(() => lab.generations.write("d2", 2, 0, filled(60))), 2, "found in d2, preserved in d1");
  t.is((await lab.seen("d2", 2))[0], 60);
  const own = await overtaken(() => lab.generations.write("d1", 2, 0, filled(70)));
  t.true(own === 2 || own === 70, `its own granule, before or after: ${own}`);
  t.is((await lab.seen("d1", 2))[0], 70);
  await lab.close();
});

test("spec/11 engine part of #36 and #39: a small write completes the granule and takes 16 sectors; the source writes into the newest", async (t) => {
  const lab = new ChainLab(1);
  const spaces = new Map(["d1", "d2"].map((name) => [name, new SnapSpace(wide(name))]));
  for (const [name, space] of spaces) await lab.makeStore(name, space);
  const copied = (name: string) => spaces.get(name)?.figures.copySectors;
  await lab.add("d1");
  await lab.generations.write("d1", 3, 1024, new Uint8Array(512).fill(9));
  t.is(copied("d1"), 16);
  const seen = await lab.seen("d1", 3);
  t.deepEqual([seen[1023], seen[1024], seen[1535], seen[1536]], [3, 9, 9, 3]);
  await lab.add("d2");
  await lab.writeSource(5, 77);
  t.deepEqual([copied("d1"), copied("d2")], [16, 16]);
  await lab.writeSource(5, 78);
  t.deepEqual([copied("d1"), copied("d2")], [16, 16], "each old block is stored once");
  t.is((await lab.seen("d1", 5))[0], 5);
  t.is((await lab.seen("d2", 5))[0], 5);
  await lab.generations.write("d2", 5, 0, filled(100));
  t.is((await lab.seen("d1", 5))[0], 5);
  t.is((await lab.seen("d2", 5))[0], 100);
  t.deepEqual([copied("d1"), copied("d2")], [32, 16], "preserved for the older one first");
  await lab.close();
});

test("invariant 23: an overflow fails exactly that generation and all older; writes to the source succeed", async (t) => {
  const lab = new ChainLab(2);
  const pool = new SnapPool("normal", 16);
  for (const name of ["d1", "d2", "d3"]) {
    const room = { owner: name, logicalSectors: SECTORS, physicalSectors: 32 };
    await lab.makeStore(name, new SnapSpace(name === "d1" ? room : { ...room, pool }));
    await lab.add(name);
  }
  // Each has room for two granules; the pool, from which d1 does not grow, has room for one more.
  for (const granule of [0, 1, 2]) await lab.generations.write("d2", granule, 0, filled(200));
  t.deepEqual(lab.failures, ["d1 overflow"], "what was to be preserved in d1 did not fit: d2 goes on");
  t.is((await lab.seen("d2", 2))[0], 200);
  await t.throwsAsync(lab.generations.write("d2", 3, 0, filled(200)), { code: "SNAP_OVERFLOW" });
  t.deepEqual(lab.failures, ["d1 overflow", "d2 overflow"]);
  await t.throwsAsync(lab.seen("d2", 0), { code: "COPY_STATE" });
  for (const granule of [4, 5, 6]) await lab.writeSource(granule, 150);
  t.deepEqual(lab.failures, ["d1 overflow", "d2 overflow", "d3 overflow"]);
  t.is(lab.source[6]?.[0], 150, "the source was written all the same");
  t.false(lab.generations.owesSourceWrite(0, GRANULES));
  await lab.close();
});

test("spec/40 0xBA: a bad sector of the source fails the generations, and the write goes on", async (t) => {
  const lab = new ChainLab(3);
  for (const name of ["d1", "d2"]) {
    await lab.makeStore(name, new OpenBudget());
    await lab.add(name);
  }
  lab.badGranule = 7;
  await lab.generations.preserveForSourceWrite(6, 2);
  t.deepEqual(lab.failures, ["d1 badsector", "d2 badsector"]);
  t.false(lab.storeOf("d2").holds(6));
  await lab.close();
});
