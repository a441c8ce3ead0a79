/** Faults of the disk below a snap store: no space, failed reads, writes and syncs, at every operation in turn. */
import test, { type ExecutionContext } from "ava";
import { asTidemarkError, type ErrorCode, type TidemarkError } from "../../src/base/errors.ts";
import {
  InjectedFailure,
  type MemoryOperation,
  type MemoryStateFiles,
} from "../../src/engine/durable/memory-state-files.ts";
import type { SnapStore } from "../../src/engine/snap/snap-store.ts";
import { createStore, GRANULES, granuleOf, OpenBudget, openStore, versionOf, versionsOf } from "./snap-lab.ts";

type Fault = { readonly types: readonly MemoryOperation["type"][]; readonly code: string; readonly lasts: number };

/** From operation `at` of these types on, `lasts` of them fail; a write has stored its first part. */
function inject(files: MemoryStateFiles, at: number, fault: Fault): { hits: number } {
  const state = { hits: 0 };
  let seen = 0;
  files.intercept = ({ type, lengthBytes }) => {
    if (!fault.types.includes(type)) return;
    const number = seen++;
    if (number < at || number >= at + fault.lasts) return;
    state.hits++;
    throw new InjectedFailure(fault.code, type === "write" ? Math.floor(lengthBytes / 2) : 0);
  };
  return state;
}

interface Told {
  /** The last acknowledged version of each granule. */
  readonly acknowledged: Map<number, number>;
  /** Every version that was asked for. */
  readonly asked: Map<number, Set<number>>;
  readonly errors: TidemarkError[];
}

/** Appends with rewrites, so that segments are opened and compacted. */
async function work(store: SnapStore, told: Told, from: number): Promise<void> {
  for (let version = from; version < from + 26; version++) {
    const list = [version % 5, 5 + (version % 13), (version * 7) % GRANULES].filter(
      (granule, index, all) => all.indexOf(granule) === index,
    );
    const writes = list.map((granule) => ({ granule, data: granuleOf(granule, version) }));
    for (const granule of list) told.asked.set(granule, (told.asked.get(granule) ?? new Set()).add(version));
    try {
      await store.append(writes, "copy");
      for (const granule of list) told.acknowledged.set(granule, version);
    } catch (error) {
      told.errors.push(asTidemarkError(error));
    }
  }
}

/** What was acknowledged is there, or a later version that was asked for and not acknowledged. */
async function compare(t: ExecutionContext, store: SnapStore, told: Told, what: string): Promise<void> {
  for (const [granule, version] of (await versionsOf(store)).entries()) {
    const least = told.acknowledged.get(granule);
    const known = version === undefined ? least === undefined : (told.asked.get(granule)?.has(version) ?? false);
    t.true(known && (version ?? 0) >= (least ?? 0), `${what}: granule ${granule} is ${version}, at least ${least}`);
  }
}

async function eachOperation(t: ExecutionContext, fault: Fault, wanted: ErrorCode, after: "goes on" | "is final") {
  for (let at = 0; ; at++) {
    const what = `${fault.code} at ${fault.types.join("/")} ${at}`;
    const budget = new OpenBudget();
    const { files, store } = await createStore({ budget });
    const told: Told = { acknowledged: new Map(), asked: new Map(), errors: [] };
    const { hits } = await (async () => {
      const state = inject(files, at, fault);
      await work(store, told, 1);
      files.intercept = undefined;
      return state;
    })();
    for (const { code, message } of told.errors) t.is(code, wanted, `${what}: ${message}`);
    if (after === "goes on") {
      t.is(store.failure, undefined, what);
      await compare(t, store, told, what);
      const before = told.errors.length;
      await work(store, told, 100);
      t.is(told.errors.length, before, `${what}: later appends succeed`);
      t.is(budget.used.copy, store.figures.copyGranules, `${what}: what was refused is not counted`);
    }
    await store
      .close()
      .catch((error: unknown) => t.is(after, "is final", `${what}: ${asTidemarkError(error).message}`));
    const again = await openStore(files);
    await compare(t, again, told, what);
    await again.close();
    t.is(files.openFiles, 0);
    if (hits === 0) {
      t.true(at > 3, "there were operations");
      return;
    }
  }
}

test("ENOSPC at every write: an overflow that leaves everything readable, and goes on when there is room", async (t) => {
  await eachOperation(t, { types: ["write"], code: "ENOSPC", lasts: 1 }, "SNAP_OVERFLOW", "goes on");
});

test("ENOSPC at every promise of space", async (t) => {
  await eachOperation(t, { types: ["truncate"], code: "ENOSPC", lasts: 3 }, "SNAP_OVERFLOW", "goes on");
});

test("EIO at every write: nothing more is taken, and what was acknowledged is there after an opening", async (t) => {
  await eachOperation(t, { types: ["write"], code: "EIO", lasts: 1 }, "MEDIUM_ERROR", "is final");
});

test("EIO at every sync", async (t) => {
  await eachOperation(t, { types: ["sync"], code: "EIO", lasts: 1 }, "MEDIUM_ERROR", "is final");
});

test("a sync that fails for want of space is an overflow, and final", async (t) => {
  await eachOperation(t, { types: ["sync"], code: "ENOSPC", lasts: 1 }, "SNAP_OVERFLOW", "is final");
});

test("a file system that stays full: every new granule is refused, everything stored is read", async (t) => {
  const { files, store } = await createStore();
  let refused = 0;
  files.intercept = ({ type }) => {
    if (type === "truncate") throw new InjectedFailure("ENOSPC");
  };
  for (let version = 1; version < 60; version++) {
    const granule = version % GRANULES;
    await store.append([{ granule, data: granuleOf(granule, version) }], "copy").catch((error: unknown) => {
      t.is(asTidemarkError(error).code, "SNAP_OVERFLOW");
      refused++;
    });
  }
  t.is(refused, 59, "not one segment had been promised");
  files.intercept = undefined;
  await store.append([{ granule: 1, data: granuleOf(1, 99) }], "copy");
  t.is(await versionOf(store, 1), 99);
  await store.close();
});

test("a read that fails is a typed error of that granule alone", async (t) => {
  const { files, store } = await createStore();
  for (const granule of [0, 1]) await store.append([{ granule, data: granuleOf(granule, 1) }], "copy");
  const { offsetBytes = 0 } = store.lookup(0) ?? {};
  t.is(store.lookup(5), undefined);
  files.intercept = ({ type }) => {
    if (type === "read") throw new InjectedFailure("EIO");
  };
  await t.throwsAsync(versionOf(store, 0), { code: "MEDIUM_ERROR" });
  files.intercept = undefined;
  t.is(await versionOf(store, 0), 1);
  const bytes = files.contents("sdv");
  bytes[offsetBytes + 100] = (bytes[offsetBytes + 100] as number) ^ 1;
  files.damage("sdv", bytes);
  const error = (await t.throwsAsync(versionOf(store, 0), { code: "MEDIUM_ERROR" })) as unknown as TidemarkError;
  t.is(error.detail.metadata?.["offsetBytes"], String(offsetBytes));
  t.is(await versionOf(store, 1), 1);
  await store.close();
});

test("a damaged granule is never moved: it is reported for ever, and the others survive compaction", async (t) => {
  const { files, store } = await createStore();
  await store.append(
    [0, 1, 2].map((granule) => ({ granule, data: granuleOf(granule, 1) })),
    "copy",
  );
  const { offsetBytes = 0 } = store.lookup(1) ?? {};
  const bytes = files.contents("sdv");
  bytes[offsetBytes] = (bytes[offsetBytes] as number) ^ 1;
  files.damage("sdv", bytes);
  for (let version = 2; version < 120; version++)
    await store.append([{ granule: 9, data: granuleOf(9, version) }], "copy");
  t.is(store.failure, undefined);
  await t.throwsAsync(versionOf(store, 1), { code: "MEDIUM_ERROR" });
  for (const granule of [0, 2]) t.is(await versionOf(store, granule), 1);
  await store.close();
  const again = await openStore(files);
  await t.throwsAsync(versionOf(again, 1), { code: "MEDIUM_ERROR" });
  t.is(await versionOf(again, 9), 119);
  await again.close();
});

test("an emptying that fails says nothing about what holds; an opening does", async (t) => {
  for (const code of ["EIO", "ENOSPC"]) {
    for (let at = 0; at < 6; at++) {
      const { files, store } = await createStore();
      await store.append([{ granule: 2, data: granuleOf(2, 1) }], "host");
      inject(files, at, { types: ["write", "sync", "truncate"], code, lasts: 1 });
      const failed = await store.reset({ host: "release" }).then(
        () => undefined,
        (error: unknown) => asTidemarkError(error),
      );
      files.intercept = undefined;
      if (failed) {
        t.true(["MEDIUM_ERROR", "SNAP_OVERFLOW"].includes(failed.code), failed.message);
        await t.throwsAsync(store.append([{ granule: 0, data: granuleOf(0, 1) }], "copy"), { code: failed.code });
      }
      await store.close();
      const again = await openStore(files);
      const found = await versionOf(again, 2);
      t.true(found === undefined || (failed !== undefined && found === 1), `${code} at ${at}`);
      await again.append([{ granule: 0, data: granuleOf(0, 5) }], "copy");
      await again.close();
      const third = await openStore(files);
      t.is(await versionOf(third, 0), 5);
      await third.close();
    }
  }
});
