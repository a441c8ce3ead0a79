/** A clean stop while a device stalls: it ends in time, names the volume, and the next start finds everything. */
import test, { type ExecutionContext } from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import { STOP_MS_MAX } from "../../src/base/limits.ts";
import { CopyLab, FaultyDisk, G } from "../support/copy-lab.ts";

const SIZE = 20 * G + 1536;
const stall = { kind: "stall" } as const;

/** Stops the engine although devices stall: the lab's time passes in small steps, and not more than a stop may take. */
async function stopsLate(t: ExecutionContext, lab: CopyLab, named: RegExp): Promise<void> {
  let ended = false;
  const stopping = t
    .throwsAsync(() => lab.engine.stop(), { instanceOf: TidemarkError })
    .then((error) => {
      ended = true;
      return error;
    });
  let passedMs = 0;
  for (; !ended && passedMs < STOP_MS_MAX; passedMs += 500) {
    await lab.lab.settle();
    lab.lab.clock.advance(500);
  }
  await lab.lab.settle();
  t.true(ended, `it has stopped within ${STOP_MS_MAX} ms`);
  const error = await stopping;
  t.is((error as TidemarkError).code, "DEVICE_TIMEOUT");
  t.regex(error?.message ?? "", named);
}

for (const operation of ["write", "flush", "read"] as const)
  test(`a stop while a ${operation} of a copy stalls: the others stop in order, the copy goes on at the next start`, async (t) => {
    const stalled = new FaultyDisk(SIZE);
    const volumes = operation === "read" ? [stalled, SIZE, SIZE, SIZE] : [SIZE, stalled, SIZE, SIZE];
    const lab = await CopyLab.start(t, volumes);
    await lab.copy(t, "v3", "v4", "quickopc", { pace: 15 });
    for (let turn = 0; (await lab.session("c1")).phase === "copying" && turn < 100; turn++) await lab.lab.settle();
    await lab.touch("v3", [2, 5]);
    const fault = stalled.faults.inject({ operation, effect: stall });
    await lab.copy(t, "v1", "v2", "quickopc");
    if (operation !== "flush") await fault.reached(1);
    await stopsLate(t, lab, operation === "read" ? /v1/ : /v2/);
    stalled.repair();
    await lab.lab.bootAfterStop();
    fault.remove(); // what the process that stopped had asked for is answered now
    await lab.lab.settle();
    t.like(await lab.session("c1"), { phase: "tracking", changedGranules: 2 }, "exact: it was stopped in order");
    t.is((await lab.session("c2")).phase, "copying");
    await lab.lab.finish();
    for (const volume of ["v1", "v2", "v3", "v4"]) await lab.holds(t, volume);
    t.is((await lab.restart("c1")).reason, "DIFFERENCE");
    await lab.lab.finish();
    await lab.holds(t, "v4");
  });

test("a stop while a host's write stalls: its volume is widened at the next start, the other is exact", async (t) => {
  const stalled = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [stalled, SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.copy(t, "v3", "v4", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v3", [4]);
  const fault = stalled.faults.inject({ operation: "write", effect: stall });
  const writing = lab.engine.write(lab.extent("v1"), 5 * G, new Uint8Array(G).fill(7));
  await fault.reached(1);
  await stopsLate(t, lab, /^v1 did not answer/);
  stalled.repair();
  await lab.lab.bootAfterStop();
  t.is((await lab.session("c1")).changedGranules, 21, "the region that was hot");
  t.is((await lab.session("c2")).changedGranules, 1);
  fault.remove(); // the disk stores what the process that stopped had asked for
  await writing;
  lab.image("v1").fill(7, 5 * G, 6 * G);
  const restarted = await lab.restart("c1");
  t.is(restarted.reason, "MAP_WIDENED");
  await lab.lab.finish();
  for (const volume of ["v1", "v2", "v3"]) await lab.holds(t, volume);
});

test("a stop while a point waits for its barrier: the point is not fired, the stop does not wait for it", async (t) => {
  const stalled = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [stalled, SIZE, SIZE]);
  const fault = stalled.faults.inject({ operation: "flush", effect: stall });
  const request = { source: lab.extent("v1"), destination: lab.extent("v2"), kind: "opc" as const, pace: 1 };
  const starting = t.throwsAsync(() => lab.engine.startSessions([{ id: "c90", ...request }]), { code: "STOPPING" });
  await fault.reached(1);
  await stopsLate(t, lab, /^v1 did not answer/);
  await starting;
  stalled.repair();
  await lab.lab.bootAfterStop();
  t.deepEqual(await lab.engine.sessions(), []);
});

test("a stop while a device does not close names it", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  lab.lab.disk("v2").closing = new Promise(() => undefined);
  await stopsLate(t, lab, /^v2 did not answer/);
  lab.lab.disk("v2").closing = undefined;
  await lab.lab.bootAfterStop();
  t.like(await lab.session("c1"), { phase: "tracking", changedGranules: 0 });
});

test("a checkpoint in the background that is late meets no closed files: the stop waits for it", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.copy(t, "v3", "v4", "quickopc", { pace: 15 });
  await lab.lab.finish();
  // Nothing is to be copied; the checkpoints after the point, one session after the other: that of c1 is held up, then that of c2.
  const held = { c1: door(), c2: door() };
  let isC2Held = false;
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    const id = /^sessions\/(c[12])\/pending-/.exec(path)?.[1] as keyof typeof held | undefined;
    if (type !== "write" || id === undefined || (id === "c2" && !isC2Held)) return undefined;
    return held[id].passed;
  };
  await lab.engine.restartSessions(["c1", "c2"]);
  await lab.lab.settle();
  let ended = false;
  const stopping = lab.engine.stop().then(() => {
    ended = true;
  });
  for (let passedMs = 0; passedMs < 5000; passedMs += 500) {
    await lab.lab.settle();
    lab.lab.clock.advance(500);
  }
  isC2Held = true;
  held.c1.open();
  for (let turn = 0; turn < 5; turn++) await lab.lab.settle();
  const early = ended;
  held.c2.open();
  await stopping;
  t.false(early, "it has waited");
  await lab.lab.settle();
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.bootAfterStop();
  for (const volume of ["v2", "v4"]) await lab.reads(t, volume);
});

function door(): { readonly passed: Promise<void>; readonly open: () => void } {
  let open: () => void = () => undefined;
  const passed = new Promise<void>((resolve) => {
    open = resolve;
  });
  return { passed, open: () => open() };
}
