/** Devices that do not answer: a point does not happen, who does not need the device goes on, and later all is well. */
import test from "ava";
import { BARRIER_TIMEOUT_MS } from "../../src/base/limits.ts";
import { CopyLab, FaultyDisk, G, pattern, refusal, same } from "../support/copy-lab.ts";

const SIZE = 20 * G + 1536;
const stall = { kind: "stall" } as const;

async function timeOut(lab: CopyLab): Promise<void> {
  await lab.lab.settle();
  lab.lab.clock.advance(BARRIER_TIMEOUT_MS);
  await lab.lab.settle();
}

/** Until this session is over; others may never end. */
async function finishOf(lab: CopyLab, id: string): Promise<void> {
  for (let turn = 0; (await lab.lab.session(id)) !== undefined; turn++) {
    if (turn === 500) throw new Error(`${id} does not end`);
    await lab.lab.step();
  }
}

test("barrier: a write that does not end: nothing is fired, I/O goes on, later the point can be fired", async (t) => {
  const source = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [source, SIZE, SIZE]);
  const range = { offsetBytes: 5 * G, lengthBytes: G };
  const fault = source.faults.inject({ operation: "write", range, effect: stall });
  const writing = lab.write("v1", 5 * G, G);
  await fault.reached(1);
  const request = { source: lab.extent("v1"), destination: lab.extent("v2"), kind: "quickopc" as const, pace: 1 };
  const starting = refusal(t, () => lab.engine.startSessions([{ id: "c90", ...request }]), "BARRIER_TIMEOUT");
  await lab.lab.settle();
  const waiting = lab.write("v1", 9 * G, 512); // behind the barrier
  await timeOut(lab);
  await starting;
  await waiting;
  t.deepEqual(await lab.engine.sessions(), []);
  for (const uid of ["v1", "v2"]) t.deepEqual((await lab.engine.volumeStatus(uid)).epochs, []);
  same(t, await lab.read("v2", 0, G), pattern(G, 2), "the destination is untouched");
  fault.remove();
  await writing;
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.lab.finish();
  for (const volume of ["v1", "v2"]) await lab.holds(t, volume);
});

test("barrier: a restart that times out leaves the session at its earlier point, tracking as before", async (t) => {
  const source = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [source, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [3]);
  const fault = source.faults.inject({ operation: "write", calls: 1, effect: stall });
  const writing = lab.write("v1", 5 * G, G);
  await fault.reached(1);
  const restarting = refusal(t, () => lab.engine.restartSessions(["c1"]), "BARRIER_TIMEOUT");
  await timeOut(lab);
  await restarting;
  fault.remove();
  await writing;
  t.like(await lab.session("c1"), { generation: 1, phase: "tracking", changedGranules: 2 });
  t.is((await lab.restart("c1")).plannedGranules, 2);
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("barrier: a flush of the source that does not end is no endless wait", async (t) => {
  const source = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [source, SIZE, SIZE, SIZE]);
  const fault = source.faults.inject({ operation: "flush", effect: stall });
  const request = { source: lab.extent("v1"), destination: lab.extent("v2"), kind: "opc" as const, pace: 1 };
  const starting = refusal(t, () => lab.engine.startSessions([{ id: "c90", ...request }]), "BARRIER_TIMEOUT");
  await fault.reached(1);
  await lab.write("v1", 0, G);
  await timeOut(lab);
  await starting;
  await lab.copy(t, "v3", "v4", "opc"); // others are managed as ever
  await lab.lab.finish();
  fault.remove();
  await lab.copy(t, "v1", "v2", "opc");
  await lab.lab.finish();
  for (const volume of ["v2", "v4"]) await lab.holds(t, volume);
});

test("one member of a point that cannot drain: none of the members is fired", async (t) => {
  const stalled = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [SIZE, SIZE, stalled, SIZE]);
  const fault = stalled.faults.inject({ operation: "write", effect: stall });
  const writing = lab.write("v3", 0, G);
  await fault.reached(1);
  const pair = (id: string, from: string, to: string) => ({
    ...{ id, source: lab.extent(from), destination: lab.extent(to), kind: "opc" as const, pace: 1 },
  });
  const starting = refusal(
    t,
    () => lab.engine.startSessions([pair("c90", "v1", "v2"), pair("c91", "v3", "v4")]),
    "BARRIER_TIMEOUT",
  );
  await timeOut(lab);
  await starting;
  t.deepEqual(await lab.engine.sessions(), []);
  await lab.write("v1", 0, G);
  fault.remove();
  await writing;
  for (const volume of ["v1", "v2", "v3", "v4"]) await lab.holds(t, volume);
});

test("a stalled destination stops neither other volumes nor other copies of its source", async (t) => {
  const stalled = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [SIZE, stalled, SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v3", "quickopc");
  await lab.copy(t, "v1", "v2", "quickopc");
  const fault = stalled.faults.inject({ operation: "write", effect: stall });
  const held = lab.write("v1", 10 * G, G); // has to preserve at v2 first
  await fault.reached(1);
  await lab.write("v4", 0, SIZE);
  await lab.copy(t, "v4", "v5", "opc", { pace: 15 });
  await finishOf(lab, "c3");
  await lab.reads(t, "v3");
  same(t, await lab.read("v1", 12 * G, G), pattern(G, 1, 12 * G), "the source is read");
  await lab.write("v1", 0, G); // copied to both already: needs nothing of v2
  for (const volume of ["v4", "v5"]) await lab.holds(t, volume);
  fault.remove();
  await held;
  await lab.lab.finish();
  for (const volume of ["v1", "v2", "v3"]) await lab.holds(t, volume);
});

test("a cancel while the destination is stalled ends with what to do; the copy goes on when the device does", async (t) => {
  const stalled = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [SIZE, stalled, SIZE, SIZE]);
  const fault = stalled.faults.inject({ operation: "write", effect: stall });
  await lab.copy(t, "v1", "v2", "quickopc");
  await fault.reached(1);
  const cancelling = refusal(t, () => lab.engine.cancelSession("c1"), "BARRIER_TIMEOUT");
  await timeOut(lab);
  await cancelling;
  await lab.copy(t, "v3", "v4", "opc");
  await finishOf(lab, "c2");
  fault.remove();
  await lab.lab.finish();
  t.is((await lab.session("c1")).phase, "tracking");
  await lab.holds(t, "v2");
  t.true((await lab.engine.cancelSession("c1")).destinationUsable);
});

test("a flush of the destination that stalls does not hold up who manages sessions", async (t) => {
  const stalled = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [SIZE, stalled, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  const fault = stalled.faults.inject({ operation: "flush", effect: stall });
  const held = lab.write("v1", 10 * G, G);
  await fault.reached(1);
  t.is((await lab.engine.setPace("c1", 3)).pace, 3);
  await lab.copy(t, "v3", "v4", "opc");
  await finishOf(lab, "c2");
  const cancelling = refusal(t, () => lab.engine.cancelSession("c1"), "BARRIER_TIMEOUT");
  await timeOut(lab);
  await cancelling;
  fault.remove();
  await held;
  await lab.lab.finish();
  await lab.holds(t, "v2");
});
