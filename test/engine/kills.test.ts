/**
 * `kill -9` at every step of what changes sessions: each operation on the state files in turn is the last one. Afterwards
 * the box starts, the change has happened as a whole or not at all, and every volume reads as it must.
 */
import test, { type ExecutionContext } from "ava";
import { CopyLab, G, same } from "../support/copy-lab.ts";

const SIZE = 20 * G + 1536;
const STEPS_MAX = 400;
/** What becomes of the write under way: nothing, a part of it, or all (seeds of MemoryStateFiles.kill). */
const SEEDS = [1, 2, 5];

interface Change {
  /** Brings the lab into the state before. */
  prepare(t: ExecutionContext, lab: CopyLab): Promise<void>;
  run(lab: CopyLab): Promise<unknown>;
  /** After the kill and the new start. `done`: the caller had been told that it was carried out. */
  check(t: ExecutionContext, lab: CopyLab, done: boolean): Promise<void>;
}

/** Runs the change; the step of this number, and all after it, never come to an end. False when it has fewer steps. */
async function killedAt(t: ExecutionContext, change: Change, step: number, seed: number): Promise<boolean> {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE]);
  await change.prepare(t, lab);
  await lab.lab.settle();
  let steps = 0;
  lab.lab.stateFiles.intercept = () => {
    if (++steps < step) return undefined;
    return new Promise(() => undefined);
  };
  let done = false;
  const running = change.run(lab).then(
    () => {
      done = true;
    },
    () => undefined, // its process is killed
  );
  await Promise.race([running, settled(lab)]);
  await settled(lab);
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.kill(seed);
  await change.check(t, lab, done);
  const troubles = lab.lab.events.filter(({ type }) => type === "engine.trouble" || type === "volume.failed");
  t.deepEqual(troubles, [], `step ${step}`);
  await lab.lab.finish();
  await lab.lab.reboot();
  await lab.engine.stop();
  return steps >= step;
}

async function settled(lab: CopyLab): Promise<void> {
  for (let turn = 0; turn < 3; turn++) await lab.lab.settle();
}

const start = (lab: CopyLab, kind: "opc" | "quickopc", pace: number) =>
  lab.engine.startSessions([{ id: "c1", source: lab.extent("v1"), destination: lab.extent("v2"), kind, pace }]);

/** The destination reads as the source did at the point, or as before when there was none. */
async function pointOrNothing(t: ExecutionContext, lab: CopyLab, done: boolean): Promise<void> {
  const sessions = await lab.engine.sessions();
  t.true(sessions.length === 1 || !done, "what was told is there");
  if (sessions.length === 1) lab.expectPoint({ source: lab.extent("v1"), destination: lab.extent("v2") });
  for (const volume of ["v1", "v2"]) await lab.reads(t, volume, "after the kill");
}

async function tracked(t: ExecutionContext, lab: CopyLab): Promise<void> {
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [3, 4]);
  await lab.touch("v2", [9]);
}

const CHANGES: Record<string, Change> = {
  "a first QuickOPC": {
    prepare: async () => undefined,
    run: (lab) => start(lab, "quickopc", 1),
    check: pointOrNothing,
  },
  "a plain OPC, to its end": {
    prepare: async () => undefined,
    run: (lab) => start(lab, "opc", 15),
    check: async (t, lab, done) => {
      const fired = (await lab.engine.sessions()).length === 1 || done;
      if (!fired && !sameContent(await lab.read("v2", 0, SIZE), lab.image("v2")))
        lab.expectPoint({ source: lab.extent("v1"), destination: lab.extent("v2") }); // fired, copied and over
      else if (fired) lab.expectPoint({ source: lab.extent("v1"), destination: lab.extent("v2") });
      await lab.reads(t, "v2", "after the kill");
    },
  },
  "a restart": {
    prepare: tracked,
    run: (lab) => lab.engine.restartSessions(["c1"]),
    check: async (t, lab, done) => {
      const { generation, phase } = await lab.session("c1");
      t.true(generation === 2 || (generation === 1 && !done));
      t.not(phase, "failed");
      if (generation === 2) lab.expectPoint({ source: lab.extent("v1"), destination: lab.extent("v2") });
      for (const volume of ["v1", "v2"]) await lab.reads(t, volume, "after the kill");
      await lab.lab.finish();
      const again = await lab.restart("c1");
      t.true(again.reason === "DIFFERENCE" || again.reason === "MAP_WIDENED", again.reason);
      await lab.lab.finish();
      await lab.holds(t, "v2");
    },
  },
  "a restart while copying": {
    prepare: async (t, lab) => {
      await lab.copy(t, "v1", "v2", "quickopc");
      await lab.touch("v1", [1, 15]);
    },
    run: (lab) => lab.engine.restartSessions(["c1"]),
    check: async (t, lab, done) => {
      const { generation } = await lab.session("c1");
      t.true(generation === 2 || (generation === 1 && !done));
      if (generation === 2) lab.expectPoint({ source: lab.extent("v1"), destination: lab.extent("v2") });
      for (const volume of ["v1", "v2"]) await lab.reads(t, volume, "after the kill");
    },
  },
  "a cancel while tracking": {
    prepare: tracked,
    run: (lab) => lab.engine.cancelSession("c1"),
    check: async (t, lab, done) => {
      const sessions = await lab.engine.sessions();
      t.true(sessions.length === 0 || !done);
      for (const volume of ["v1", "v2"]) await lab.reads(t, volume, "after the kill");
    },
  },
  "a cancel right after the start": {
    prepare: async (_, lab) => {
      await start(lab, "quickopc", 1);
      lab.expectPoint({ source: lab.extent("v1"), destination: lab.extent("v2") });
    },
    run: (lab) => lab.engine.cancelSession("c1"),
    check: async (t, lab, done) => {
      const sessions = await lab.engine.sessions();
      t.true(sessions.length === 0 || !done);
      if (sessions.length === 1) await lab.reads(t, "v2", "still a copy");
      else same(t, await lab.read("v1", 0, SIZE), lab.image("v1"), "the source");
    },
  },
  "a start that is cancelled at once": {
    prepare: async () => undefined,
    run: async (lab) => {
      await start(lab, "quickopc", 1);
      await lab.engine.cancelSession("c1");
    },
    check: async (t, lab, done) => {
      const sessions = await lab.engine.sessions();
      t.true(sessions.length === 0 || !done);
      if (sessions.length === 0) return;
      lab.expectPoint({ source: lab.extent("v1"), destination: lab.extent("v2") });
      await lab.reads(t, "v2", "still a copy");
    },
  },
  "a stop of tracking while copying": {
    prepare: async (t, lab) => {
      await lab.copy(t, "v1", "v2", "quickopc");
      await lab.touch("v1", [1, 15]);
    },
    run: (lab) => lab.engine.stopTracking("c1"),
    check: async (t, lab, done) => {
      const { tracking } = await lab.session("c1");
      t.true(!tracking || !done);
      for (const volume of ["v1", "v2"]) await lab.reads(t, volume, "after the kill");
    },
  },
  "a restore": {
    prepare: tracked,
    run: (lab) =>
      lab.engine.startSessions([
        { id: "c2", source: lab.extent("v2"), destination: lab.extent("v1"), kind: "opc", pace: 15 },
      ]),
    check: async (t, lab, done) => {
      const sessions = await lab.engine.sessions();
      t.true(sessions.some(({ id }) => id === "c1"));
      const read = await lab.read("v1", 0, SIZE);
      if (done || sessions.length === 2 || sameContent(read, lab.image("v2")))
        lab.expectPoint({ source: lab.extent("v2"), destination: lab.extent("v1") });
      for (const volume of ["v1", "v2"]) await lab.reads(t, volume, "after the kill");
    },
  },
  "copying, with writes on both sides": {
    prepare: (t, lab) => lab.copy(t, "v1", "v2", "quickopc").then(() => undefined),
    run: async (lab) => {
      for (const granule of [5, 12, 19]) {
        await writeAndSay(lab, "v1", granule * G - 300, 1000);
        await writeAndSay(lab, "v2", (granule + 1) * G + 100, 600);
        await lab.lab.step();
      }
      await lab.engine.setPace("c1", 15);
      await lab.lab.finish();
    },
    check: async (t, lab) => {
      t.not((await lab.session("c1")).phase, "failed");
      await takeAsItIs(lab);
      for (const volume of ["v1", "v2"]) await lab.reads(t, volume, "after the kill");
      await lab.lab.finish();
      for (const volume of ["v1", "v2"]) await lab.holds(t, volume, "when it is copied");
      await lab.restart("c1");
      await lab.lab.finish();
      await lab.holds(t, "v2", "after the next run");
    },
  },
  "a write that is tracked": {
    prepare: async (t, lab) => {
      await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
      await lab.lab.finish();
    },
    run: (lab) => lab.write("v1", 5 * G, G),
    check: async (t, lab, done) => {
      const { changedGranules } = await lab.session("c1");
      t.true(changedGranules >= (done ? 1 : 0));
      const read = await lab.read("v1", 5 * G, G);
      if (!done) lab.image("v1").set(read, 5 * G);
      for (const volume of ["v1", "v2"]) await lab.reads(t, volume, "after the kill");
      await lab.restart("c1");
      await lab.lab.finish();
      await lab.holds(t, "v2");
    },
  },
};

/** The write that may have been under way: what it has become is taken as it is. */
const underWay = new WeakMap<CopyLab, { volume: string; at: number; length: number }>();

async function writeAndSay(lab: CopyLab, volume: string, at: number, length: number): Promise<void> {
  underWay.set(lab, { volume, at, length });
  await lab.write(volume, at, length);
  underWay.delete(lab);
}

async function takeAsItIs(lab: CopyLab): Promise<void> {
  const write = underWay.get(lab);
  if (write) lab.image(write.volume).set(await lab.read(write.volume, write.at, write.length), write.at);
}

function sameContent(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

for (const [title, change] of Object.entries(CHANGES))
  test(`killed at every step of ${title}`, async (t) => {
    let step = 1;
    while (await killedAt(t, change, step, SEEDS[step % SEEDS.length] ?? 1)) {
      if (++step > STEPS_MAX) throw new Error("it does not end");
    }
    t.log(`${step} steps`);
    t.true(step > 2, "there were steps to be killed at");
  });
