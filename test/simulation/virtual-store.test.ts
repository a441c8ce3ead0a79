/** The virtual database: what a full disk, a failed commit and the end of a process leave of it. */
import test, { type ExecutionContext } from "ava";
import type { Store } from "../../src/store/store.ts";
import { fullDiskContract, volumeRow } from "../store-contract/contract.ts";
import { Chance } from "./chance.ts";
import { chooseMood, Scheduler } from "./scheduler.ts";
import { VirtualDatabase } from "./virtual-store.ts";

interface Lab {
  readonly database: VirtualDatabase;
  readonly scheduler: Scheduler;
}

function newLab(seed: number): Lab {
  const chance = new Chance(seed);
  const scheduler = new Scheduler(chance, chooseMood(chance));
  return { scheduler, database: new VirtualDatabase({ scheduler, chance, readTurnProbability: 0.5 }) };
}

/** Fires turns until the call is answered. */
async function answer<T>({ scheduler }: Lab, call: Promise<T>): Promise<T> {
  let over = false;
  const done = () => {
    over = true;
  };
  call.then(done, done);
  while (!over) {
    await new Promise((resolve) => setImmediate(resolve));
    scheduler.fire();
  }
  return call;
}

async function labels(store: Store): Promise<string[]> {
  const found: string[] = [];
  for await (const { label } of store.scan("volumes")) found.push(label);
  return found;
}

const both = (label: string) =>
  [1, 2].map((number) => ({ table: "volumes" as const, put: volumeRow(number, { label: `${label}${number}` }) }));

fullDiskContract("virtual", async (t: ExecutionContext) => {
  const lab = newLab(1);
  let running = true;
  const turns = (async () => {
    while (running) {
      await new Promise((resolve) => setImmediate(resolve));
      lab.scheduler.fire();
    }
  })();
  t.teardown(async () => {
    running = false;
    await turns;
  });
  return {
    open: () => lab.database.open(),
    fill: async () => {
      lab.database.faults.full = true;
    },
    makeRoom: async () => lab.database.repair(),
  };
});

test("a commit under way when the process ends has happened in whole, or not at all", async (t) => {
  const outcomes = new Set<string>();
  for (let seed = 0; seed < 40; seed++) {
    const lab = newLab(seed);
    const store = await answer(lab, lab.database.open());
    await answer(lab, store.commit(both("old")));
    void store.commit(both("new"));
    await new Promise((resolve) => setImmediate(resolve));
    lab.scheduler.drop();
    lab.database.processEnded();
    const again = await answer(lab, lab.database.open());
    outcomes.add((await answer(lab, labels(again))).join());
  }
  t.deepEqual([...outcomes].sort(), ["new1,new2", "old1,old2"]);
});

test("a commit that failed shows to the next process in whole or not at all, and never behind a later one", async (t) => {
  const outcomes = new Set<string>();
  for (let seed = 0; seed < 60; seed++) {
    const lab = newLab(seed);
    const store = await answer(lab, lab.database.open());
    await answer(lab, store.commit(both("old")));
    lab.database.faults.failing = { left: 0, how: "once" };
    const failed = answer(lab, store.commit(both("new")));
    await t.throwsAsync(failed, { message: /could not store/ });
    t.deepEqual(await answer(lab, labels(store)), ["old1", "old2"]);
    const more = seed % 2 === 1;
    if (more) await answer(lab, store.commit([{ table: "volumes", put: volumeRow(3, { label: "third" }) }]));
    lab.scheduler.drop();
    lab.database.processEnded();
    const again = await answer(lab, lab.database.open());
    outcomes.add((await answer(lab, labels(again))).join());
  }
  t.deepEqual([...outcomes].sort(), ["new1,new2", "old1,old2", "old1,old2,third"]);
});
