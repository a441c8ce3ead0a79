/**
 * Crashes of the snap store: kill and power loss at any operation, several in a row, against a byte model.
 *
 * The model of a granule is the set of versions that it may have: the last acknowledged one and every later one that was asked
 * for (data-safety 1.5, 3.2 invariants 25 and 26).
 */
import test, { type ExecutionContext } from "ava";
import { asTidemarkError } from "../../src/base/errors.ts";
import { type MemoryStateFiles, memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import { SnapKey } from "../../src/engine/snap/snap-cipher.ts";
import type { SnapStore } from "../../src/engine/snap/snap-store.ts";
import { chanceFrom } from "../durable/_chance.ts";
import { createStore, GRANULES, granuleOf, type LabOptions, openStore, versionsOf } from "./snap-lab.ts";

/** What may be read of each granule; `undefined` is "not stored". */
class Possible {
  readonly versions: Set<number | undefined>[] = Array.from({ length: GRANULES }, () => new Set([undefined]));
  /** A reset was asked for and not acknowledged. */
  emptied = false;

  asked(granule: number, version: number): void {
    this.versions[granule]?.add(version);
  }

  acknowledged(granule: number, version: number): void {
    const set = this.versions[granule] as Set<number | undefined>;
    for (const other of [...set]) if (other === undefined || other < version) set.delete(other);
  }

  empty(): void {
    for (const set of this.versions) {
      set.clear();
      set.add(undefined);
    }
    this.emptied = false;
  }

  /** What was found is what counts from now on. */
  settle(found: readonly (number | undefined)[]): void {
    found.forEach((version, granule) => {
      this.versions[granule] = new Set([version]);
    });
    this.emptied = false;
  }
}

interface World {
  readonly files: MemoryStateFiles;
  readonly possible: Possible;
  readonly chance: () => number;
  readonly options: LabOptions;
  version: number;
}

/** Appends and resets until the crash; whatever the crash makes fail is not acknowledged. */
async function live(world: World, store: SnapStore, steps: number): Promise<void> {
  const { possible, chance } = world;
  for (let step = 0; step < steps; step++) {
    if (chance() < 0.04) {
      possible.emptied = true;
      await store.reset({ host: "keep" });
      possible.empty();
      continue;
    }
    const hot = chance() < 0.5;
    const appends = Array.from({ length: 1 + Math.floor(chance() * 3) }, async () => {
      const version = ++world.version;
      const first = Math.floor(chance() * (hot ? 3 : GRANULES - 4));
      const list = Array.from({ length: 1 + Math.floor(chance() * 4) }, (_, index) => first + index);
      for (const granule of list) possible.asked(granule, version);
      await store.append(
        list.map((granule) => ({ granule, data: granuleOf(granule, version) })),
        chance() < 0.5 ? "copy" : "host",
      );
      for (const granule of list) possible.acknowledged(granule, version);
    });
    const results = await Promise.allSettled(appends);
    const failed = results.find((result) => result.status === "rejected");
    if (failed) throw failed.reason;
  }
}

/** Opens and lives until operation number `at`, which may be one of the opening; crashes there, opens again, compares. */
async function crashOnce(
  t: ExecutionContext,
  world: World,
  seed: number,
  { at, power }: { readonly at: number; readonly power: boolean },
): Promise<"crashed" | "survived"> {
  const { files, possible, chance, options } = world;
  let left = at;
  files.intercept = () => {
    if (left-- !== 0) return;
    if (power) files.crash(seed);
    else files.kill(seed);
  };
  try {
    const store = await openStore(files, options);
    await live(world, store, 30);
    await store.close();
  } catch (error) {
    t.is(asTidemarkError(error).code, "DEVICE_GONE", asTidemarkError(error).message);
  }
  files.intercept = undefined;
  if (power && left < 0) files.crash(seed + 1);
  const store = await openStore(files, options);
  const found = await versionsOf(store);
  const gone = possible.emptied && found.every((version) => version === undefined);
  found.forEach((version, granule) => {
    const allowed = possible.versions[granule] as Set<number | undefined>;
    t.true(gone || allowed.has(version), `seed ${seed}: granule ${granule} is ${version}, not of ${[...allowed]}`);
  });
  possible.settle(found);
  const { copyGranules, hostGranules } = store.figures;
  t.is(copyGranules + hostGranules, found.filter((version) => version !== undefined).length, `seed ${seed}`);
  if (chance() < 0.5) await store.close();
  else files.crash(seed + 2); // what was found, and acted on, stays (data-safety 1.10 rule 3)
  return left < 0 ? "crashed" : "survived";
}

async function lives(t: ExecutionContext, seed: number, options: LabOptions): Promise<void> {
  const { files, store } = await createStore(options);
  await store.close();
  const world = { files, possible: new Possible(), chance: chanceFrom(seed), options, version: 0 };
  for (let crash = 0; crash < 6; crash++) {
    const at = Math.floor(world.chance() * 100);
    await crashOnce(t, world, seed * 100 + crash, { at, power: world.chance() < 0.6 });
  }
}

test("a crash at every operation of a history with rewrites, compaction and a reset", async (t) => {
  let crashes = 0;
  for (const power of [false, true])
    for (let at = 0; ; at++) {
      const { files, store } = await createStore();
      await store.close();
      const world = { files, possible: new Possible(), chance: chanceFrom(17), options: {}, version: 0 };
      if ((await crashOnce(t, world, 7 * at + 1, { at, power })) === "survived") break;
      crashes++;
    }
  t.true(crashes > 150, `${crashes} crashes`);
});

test("after any crash what was acknowledged is there, and nothing that was never written", async (t) => {
  for (let seed = 0; seed < 30; seed++) await lives(t, seed, {});
});

test("the same encrypted", async (t) => {
  const key = new SnapKey(Uint8Array.from({ length: 64 }, (_, index) => index * 3));
  for (let seed = 1000; seed < 1005; seed++) await lives(t, seed, { key });
});

test("a crash while a store is made leaves nothing, something damaged, or a whole store", async (t) => {
  for (let at = 0; at < 12; at++) {
    for (const seed of [1, 2, 3]) {
      const files = memoryStateFiles();
      let left = at;
      files.intercept = () => {
        if (left-- === 0) files.crash(seed);
      };
      const made = await createStore({}, files).then(
        async ({ store }) => {
          await Promise.allSettled([store.close()]);
          return "made";
        },
        (error: unknown) => asTidemarkError(error).code,
      );
      files.intercept = undefined;
      if (made === "made") {
        const store = await openStore(files);
        t.is(store.figures.copyGranules, 0);
        await store.close();
        continue;
      }
      t.is(made, "DEVICE_GONE");
      if (!(await files.exists("sdv"))) continue;
      await openStore(files).then(
        (store) => store.close(),
        (error: unknown) => t.is(asTidemarkError(error).code, "METADATA_CORRUPT"),
      );
    }
  }
});
