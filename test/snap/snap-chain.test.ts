/** Generations of SnapOPC+: every rule as a table, and any history against byte arrays. */
import test from "ava";
import fc from "fast-check";
import type { ErrorCode } from "../../src/base/errors.ts";
import { SNAP_GENERATIONS_MAX } from "../../src/base/limits.ts";
import {
  addGeneration,
  beforeGenerationWrite,
  beforeSourceWrite,
  cancelGeneration,
  failGeneration,
  generationActivity,
  generationNumber,
  locate,
  readOrder,
  restoreSources,
  type SnapChain,
  type SnapPlace,
} from "../../src/engine/snap/snap-chain.ts";

/** `d1 d2! d3`: oldest first, `!` has failed of an overflow. */
function chainOf(text: string): SnapChain {
  return text
    .split(" ")
    .filter((word) => word !== "")
    .map((word) =>
      word.endsWith("!") ? { destination: word.slice(0, -1), failure: "overflow" } : { destination: word },
    );
}

const textOf = (chain: SnapChain) =>
  chain.map(({ destination, failure }) => (failure ? `${destination}!` : destination)).join(" ");
const placeOf = (place: SnapPlace) => (place.from === "source" ? "source" : place.destination);
const throwing = (code: ErrorCode) => ({ code }) as object;

test("spec/11 engine part of #39 and #40: adding a generation", (t) => {
  const table: readonly (readonly [before: string, onto: string, after: string, dropped: string])[] = [
    ["", "d1", "d1", ""],
    ["d1", "d2", "d1 d2", ""],
    ["d1 d2 d3", "d4", "d1 d2 d3 d4", ""],
    ["d1 d2 d3", "d1", "d2 d3 d1", "d1"],
    ["d1 d2 d3", "d2", "COPY_STATE", ""],
    ["d1 d2 d3", "d3", "COPY_STATE", ""],
    ["d1", "d1", "d1", "d1"],
    ["d1! d2", "d1", "d2 d1", "d1"],
    ["d1! d2!", "d3", "d1! d2! d3", ""],
    ["d1! d2!", "d2", "COPY_STATE", ""],
    ["d1!", "d1", "d1", "d1"],
  ];
  for (const [before, onto, after, dropped] of table) {
    const what = `${before} + ${onto}`;
    if (after === "COPY_STATE") {
      t.throws(() => addGeneration(chainOf(before), onto), throwing("COPY_STATE"), what);
      continue;
    }
    const change = addGeneration(chainOf(before), onto);
    t.is(textOf(change.chain), after, what);
    t.is(change.dropped.join(" "), dropped, what);
  }
  const full = Array.from({ length: SNAP_GENERATIONS_MAX }, (_, index) => ({ destination: `d${index}` }));
  t.throws(() => addGeneration(full, "more"), throwing("LIMIT_EXCEEDED"));
  t.is(addGeneration(full, "d0").chain.length, SNAP_GENERATIONS_MAX, "replacing needs no place");
});

test("spec/11 engine part of #39: numbers and activity", (t) => {
  const chain = chainOf("d1! d2 d3");
  t.deepEqual(
    ["d1", "d2", "d3"].map((destination) => [
      generationNumber(chain, destination),
      generationActivity(chain, destination),
    ]),
    [
      [undefined, "failed"],
      [2, "inactive"],
      [3, "active"],
    ],
  );
  t.throws(() => generationNumber(chain, "d4"), throwing("SESSION_NOT_FOUND"));
});

test("spec/11 engine part of #41: cancelling, oldest first or by force", (t) => {
  const table: readonly (readonly [before: string, which: string, first: string, force: string])[] = [
    ["d1 d2 d3 d4", "d1", "d2 d3 d4", "d2 d3 d4"],
    ["d1 d2 d3 d4", "d2", "COPY_STATE", "d3 d4"],
    ["d1 d2 d3 d4", "d4", "COPY_STATE", ""],
    ["d1", "d1", "", ""],
    ["d1! d2! d3", "d2", "COPY_STATE", "d3"],
    ["d1! d2! d3", "d1", "d2! d3", "d2! d3"],
  ];
  for (const [before, which, first, force] of table) {
    const chain = chainOf(before);
    if (first === "COPY_STATE") t.throws(() => cancelGeneration(chain, which, "oldest-first"), throwing("COPY_STATE"));
    else t.is(textOf(cancelGeneration(chain, which, "oldest-first").chain), first);
    const change = cancelGeneration(chain, which, "force");
    t.is(textOf(change.chain), force);
    t.deepEqual(
      [...change.dropped, ...change.chain.map(({ destination }) => destination)],
      chain.map(({ destination }) => destination),
    );
  }
  const left = cancelGeneration(chainOf("d1 d2 d3 d4"), "d2", "force").chain;
  t.deepEqual([generationNumber(left, "d3"), generationNumber(left, "d4")], [1, 2], "the rest is renumbered");
  t.throws(() => cancelGeneration(left, "d1", "force"), throwing("SESSION_NOT_FOUND"));
});

test("invariant 23: an overflow of k fails exactly k and all older", (t) => {
  const table: readonly (readonly [before: string, which: string, after: string, failed: string])[] = [
    ["d1 d2 d3", "d3", "d1! d2! d3!", "d1 d2 d3"],
    ["d1 d2 d3", "d2", "d1! d2! d3", "d1 d2"],
    ["d1 d2 d3", "d1", "d1! d2 d3", "d1"],
    ["d1! d2 d3", "d2", "d1! d2! d3", "d2"],
    ["d1! d2", "d1", "d1! d2", ""],
  ];
  for (const [before, which, after, failed] of table) {
    const change = failGeneration(chainOf(before), which, "overflow");
    t.is(textOf(change.chain), after);
    t.is(change.failed.join(" "), failed);
  }
  const [first] = failGeneration(chainOf("d1! d2"), "d2", "badsector").chain;
  t.is(first?.failure, "overflow", "the first reason stays");
});

test("spec/11 engine part of #42: where a read of generation k looks", (t) => {
  const chain = chainOf("d1 d2 d3 d4");
  t.deepEqual(readOrder(chain, "d2").map(placeOf), ["d2", "d3", "d4", "source"]);
  const table: readonly (readonly [which: string, held: string, found: string])[] = [
    ["d1", "", "source"],
    ["d1", "d1 d2", "d1"],
    ["d1", "d3 d4", "d3"],
    ["d2", "d1", "source"],
    ["d3", "d1 d2 d4", "d4"],
    ["d4", "d1 d2 d3", "source"],
    ["d4", "d4", "d4"],
  ];
  for (const [which, held, found] of table)
    t.is(
      placeOf(locate(chain, which, (destination) => held.split(" ").includes(destination))),
      found,
      `${which}: ${held}`,
    );
  t.throws(() => readOrder(chainOf("d1! d2"), "d1"), throwing("COPY_STATE"));
  t.deepEqual(readOrder(chainOf("d1! d2"), "d2").map(placeOf), ["d2", "source"]);
  t.deepEqual(restoreSources(chain, "d3"), ["d3", "d4"]);
});

test("what is preserved before a write to the source", (t) => {
  const table: readonly (readonly [chain: string, held: string, into: string])[] = [
    ["", "", "nothing"],
    ["d1", "", "d1"],
    ["d1", "d1", "nothing"],
    ["d1 d2", "", "d2"],
    ["d1 d2", "d1", "d2"],
    ["d1 d2", "d2", "nothing"],
    ["d1! d2", "", "d2"],
    ["d1! d2!", "", "nothing"],
  ];
  for (const [chain, held, into] of table) {
    const owed = beforeSourceWrite(chainOf(chain), (destination) => held.split(" ").includes(destination));
    t.is(owed?.into ?? "nothing", into, `${chain}: ${held}`);
    if (owed) t.deepEqual(owed.from, { from: "source" });
  }
});

test("what is preserved, and completed, before a write to generation k: k-1 first", (t) => {
  const table: readonly (readonly [chain: string, which: string, held: string, preserve: string, complete: string])[] =
    [
      ["d1 d2 d3", "d1", "", "nothing", "source"],
      ["d1 d2 d3", "d1", "d1", "nothing", "nothing"],
      ["d1 d2 d3", "d1", "d3", "nothing", "d3"],
      ["d1 d2 d3", "d2", "", "d1 <- source", "source"],
      ["d1 d2 d3", "d2", "d2", "d1 <- d2", "nothing"],
      ["d1 d2 d3", "d2", "d1", "nothing", "source"],
      ["d1 d2 d3", "d2", "d1 d2", "nothing", "nothing"],
      ["d1 d2 d3", "d2", "d3", "d1 <- d3", "d3"],
      ["d1 d2 d3", "d3", "", "d2 <- source", "source"],
      ["d1 d2 d3", "d3", "d3", "d2 <- d3", "nothing"],
      ["d1! d2 d3", "d2", "", "nothing", "source"],
    ];
  for (const [chain, which, held, preserve, complete] of table) {
    const plan = beforeGenerationWrite(chainOf(chain), which, (destination) => held.split(" ").includes(destination));
    const owed = plan.preserve ? `${plan.preserve.into} <- ${placeOf(plan.preserve.from)}` : "nothing";
    t.is(owed, preserve, `${chain}, ${which}: ${held}`);
    t.is(plan.complete ? placeOf(plan.complete) : "nothing", complete, `${chain}, ${which}: ${held}`);
  }
  t.throws(() => beforeGenerationWrite(chainOf("d1! d2"), "d1", () => false), throwing("COPY_STATE"));
});

// --- any history -----------------------------------------------------------------------------------------------------

const GRANULES = 4;
const NAMES = ["d1", "d2", "d3", "d4", "d5"];

/** A world that does what the rules say: bytes are numbers. */
class ChainWorld {
  chain: SnapChain = [];
  readonly source = new Array<number>(GRANULES).fill(0);
  readonly stores = new Map<string, Map<number, number>>(NAMES.map((name) => [name, new Map()]));
  /** What each generation must show. */
  readonly views = new Map<string, number[]>();

  storeOf(name: string): Map<number, number> {
    return this.stores.get(name) as Map<number, number>;
  }

  at(place: SnapPlace, granule: number): number {
    const value = place.from === "source" ? this.source[granule] : this.storeOf(place.destination).get(granule);
    return value as number;
  }

  holds(granule: number) {
    return (name: string) => this.storeOf(name).has(granule);
  }

  writeSource(granule: number, value: number): void {
    const owed = beforeSourceWrite(this.chain, this.holds(granule));
    if (owed) this.storeOf(owed.into).set(granule, this.at(owed.from, granule));
    this.source[granule] = value;
  }

  writeGeneration(name: string, granule: number, value: number): void {
    const { preserve } = beforeGenerationWrite(this.chain, name, this.holds(granule));
    if (preserve) this.storeOf(preserve.into).set(granule, this.at(preserve.from, granule));
    this.storeOf(name).set(granule, value);
    (this.views.get(name) as number[])[granule] = value;
  }

  drop({ chain, dropped }: { chain: SnapChain; dropped: readonly string[] }): void {
    this.chain = chain;
    for (const name of dropped) {
      this.storeOf(name).clear();
      this.views.delete(name);
    }
  }

  add(name: string): void {
    this.drop(addGeneration(this.chain, name));
    this.views.set(name, [...this.source]);
  }

  /** Copies what may differ, as a restore does. */
  restore(name: string): void {
    const view = this.views.get(name) as number[];
    const stores = restoreSources(this.chain, name);
    for (let granule = 0; granule < GRANULES; granule++)
      if (stores.some((store) => this.storeOf(store).has(granule)))
        this.writeSource(granule, this.at(locate(this.chain, name, this.holds(granule)), granule));
    if (this.source.some((value, granule) => value !== view[granule])) throw new Error(`restore of ${name}`);
  }
}

test("invariants 21, 22, 24, 25, 27: any history of generations, writes, restores, failures and cancels", (t) => {
  const step = fc.record({
    action: fc.constantFrom("add", "source", "source", "generation", "generation", "cancel", "fail", "restore"),
    which: fc.nat(NAMES.length - 1),
    granule: fc.nat(GRANULES - 1),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
      const world = new ChainWorld();
      let value = 0;
      for (const { action, which, granule } of steps) {
        value++;
        const name = NAMES[which] as string;
        const inChain = world.chain.some(({ destination }) => destination === name);
        const live = world.chain.some(({ destination, failure }) => destination === name && failure === undefined);
        if (action === "source") world.writeSource(granule, value);
        else if (action === "add" && (!inChain || world.chain[0]?.destination === name)) world.add(name);
        else if (action === "generation" && live) world.writeGeneration(name, granule, value);
        else if (action === "restore" && live) world.restore(name);
        else if (action === "cancel" && inChain) world.drop(cancelGeneration(world.chain, name, "force"));
        else if (action === "fail" && live) world.chain = failGeneration(world.chain, name, "overflow").chain;
        for (const { destination, failure } of world.chain) {
          if (failure) continue;
          const seen = Array.from({ length: GRANULES }, (_, index) =>
            world.at(locate(world.chain, destination, world.holds(index)), index),
          );
          t.deepEqual(seen, world.views.get(destination), `${action} ${name}: ${destination}`);
        }
        const firstLive = world.chain.findIndex(({ failure }) => failure === undefined);
        t.true(world.chain.slice(firstLive < 0 ? world.chain.length : firstLive).every(({ failure }) => !failure));
      }
    }),
    { numRuns: 300 },
  );
});
