/**
 * What fails while the engine makes its own state durable: nothing that was refused happens later, nothing that was
 * acknowledged is forgotten, and after a failure that is final nothing goes on (data-safety 1.1, 1.2).
 */
import test from "ava";
import { FaultDevice } from "../../src/engine/device/fault-device.ts";
import { InjectedFailure } from "../../src/engine/durable/memory-state-files.ts";
import { CopyLab, FaultyDisk, G, refusal } from "../support/copy-lab.ts";

const SMALL = 20 * G + 1536;

test("marks that are only in the points log outlast a checkpoint that failed", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL, SMALL, SMALL]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.copy(t, "v2", "v3", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [5]);
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (type === "write" && /^volumes\/v2\/epoch-.*map/.test(path)) throw new InjectedFailure("ENOSPC");
  };
  await lab.restart("c1"); // changes v2, of which c2 copies
  await lab.lab.finish();
  lab.lab.stateFiles.intercept = undefined;
  await lab.copy(t, "v4", "v5", "opc", { pace: 15 }); // settles what is left
  await lab.lab.finish();
  for (let step = 0; step < 12; step++) await lab.lab.step();
  await lab.lab.kill(1);
  const { plannedGranules } = await lab.restart("c2");
  t.true(plannedGranules >= 1);
  await lab.lab.finish();
  await lab.holds(t, "v3");
});

test("a point is remembered although the making of the next points log failed in its last step", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL]);
  let failing = true;
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (!failing || type !== "open" || path !== "points-2.log") return;
    failing = false;
    throw new InjectedFailure("EMFILE");
  };
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  t.false(failing);
  lab.lab.stateFiles.intercept = ({ path }) =>
    /^sessions\/c1\/pending/.test(path) ? new Promise(() => undefined) : undefined;
  await lab.touch("v1", [3, 4, 5, 6]);
  t.is((await lab.restart("c1")).generation, 2);
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.kill(1);
  t.is((await lab.session("c1")).generation, 2);
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

for (const [operation, path] of [
  ["sync", /^points-/],
  ["write", /^points-/],
  ["sync", /^volumes\/v1\/al-/],
  ["sync", /^sessions\/c1\/copied-/],
  ["write", /^sessions\/c1\/super$/],
] as const)
  test(`a failed ${operation} of ${path.source} ends the engine: nothing is answered, written or copied any more`, async (t) => {
    const lab = await CopyLab.start(t, [SMALL, SMALL]);
    await lab.copy(t, "v1", "v2", "quickopc");
    await lab.lab.settle();
    let failing = true;
    lab.lab.stateFiles.intercept = (done) => {
      if (!failing || done.type !== operation || !path.test(done.path)) return;
      failing = false;
      throw new InjectedFailure("EIO");
    };
    let answered = "";
    const answer = (what: string) => () => {
      answered += `${what} `;
    };
    // One that preserves for the copy and becomes hot, one that changes the session, one that fires a point.
    if (!/points/.test(path.source)) {
      lab.engine.write(lab.extent("v1"), 12 * G, new Uint8Array(G)).then(answer("write"), answer("no write"));
      await lab.lab.settle();
      if (!lab.lab.lost) lab.engine.setPace("c1", 3).then(answer("pace"), answer("no pace"));
      await lab.lab.settle();
    } else lab.engine.restartSessions(["c1"]).then(answer("restart"), answer("no restart"));
    await lab.lab.settle();
    t.truthy(lab.lab.lost, "the engine has ended");
    lab.engine.write(lab.extent("v1"), 16 * G, new Uint8Array(G)).then(answer("late write"), answer("no late write"));
    await lab.lab.settle();
    t.notRegex(answered, /restart|late|pace/, "only a write that was done before is answered");
    const { sourceAtLoss } = { sourceAtLoss: await lab.lab.physical("v1") };
    await lab.lab.kill(1);
    const session = await lab.session("c1");
    t.true(["copying", "tracking"].includes(session.phase));
    if (session.generation === 2) lab.image("v2").set(sourceAtLoss);
    lab.image("v1").set(sourceAtLoss);
    await lab.lab.finish();
    await lab.holds(t, "v2", `of generation ${session.generation}`);
    await lab.reads(t, "v1");
  });

test("a point that cannot be synced while the box stops does not let writes go on either", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  let failNow: () => void = () => undefined;
  const failing = new Promise<void>((_, reject) => {
    failNow = () => reject(new InjectedFailure("EIO"));
  });
  let reached = false;
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (type !== "sync" || !path.startsWith("points-")) return undefined;
    reached = true;
    return failing;
  };
  const nobody = () => undefined;
  lab.engine.restartSessions(["c1"]).then(nobody, nobody);
  for (let turn = 0; turn < 50 && !reached; turn++) await lab.lab.settle();
  let written = false;
  lab.engine.write(lab.extent("v1"), 5 * G, new Uint8Array(G)).then(() => {
    written = true;
  }, nobody);
  lab.engine.stop().then(nobody, nobody);
  await lab.lab.settle();
  failNow();
  await lab.lab.settle();
  t.truthy(lab.lab.lost);
  t.false(written);
  await lab.holds(t, "v1");
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.kill(1);
});

test("a restart in the middle of copying does not wait for what is copied meanwhile", async (t) => {
  const disk = new FaultyDisk(4096 * G);
  const lab = await CopyLab.start(t, [4096 * G, disk], { jobBytes: 8 * G });
  disk.faults = new FaultDevice(disk.memory, lab.lab.clock);
  disk.faults.inject({ operation: "write", effect: { kind: "delay", ms: 100 } });
  disk.faults.inject({ operation: "zero", effect: { kind: "delay", ms: 100 } });
  disk.faults.inject({ operation: "flush", effect: { kind: "delay", ms: 200 } });
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  const pass = async (ms: number) => {
    lab.lab.clock.advance(ms);
    for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
  };
  for (let time = 0; time < 3000; time += 50) await pass(50);
  let done = "";
  lab.engine.restartSessions(["c1"]).then(
    ([status]) => {
      done = `generation ${status?.generation}`;
    },
    (error: Error) => {
      done = error.message;
    },
  );
  for (let time = 0; time < 60_000 && done === ""; time += 50) await pass(50);
  t.is(done, "generation 2");
  t.true((await lab.session("c1")).pendingGranules > 0, "it was still copying");
  disk.repair();
  await lab.lab.kill(1);
});

test("a failed copy that another one reads through cannot be cancelled before it", async (t) => {
  const disk = new FaultyDisk(2048 * G);
  const lab = await CopyLab.start(t, [2048 * G, disk, 2048 * G]);
  await lab.copy(t, "v1", "v2", "opc");
  await lab.copy(t, "v2", "v3", "opc");
  const bad = { offsetBytes: 2040 * G, lengthBytes: G };
  const fault = disk.faults.inject({
    operation: "write",
    range: bad,
    effect: { kind: "error", code: "MEDIUM_ERROR" },
  });
  await t.throwsAsync(() => lab.read("v2", bad.offsetBytes, G));
  t.is((await lab.session("c1")).phase, "failed");
  fault.remove();
  await refusal(t, () => lab.engine.cancelSession("c1"), "COPY_STATE");
  await lab.engine.cancelSession("c2");
  t.false((await lab.engine.cancelSession("c1")).destinationUsable);
});

test("a pace that could not be made durable does not show", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL]);
  await lab.copy(t, "v1", "v2", "quickopc");
  lab.lab.stateFiles.intercept = ({ type }) => {
    if (type === "write") throw new InjectedFailure("ENOSPC");
  };
  await refusal(t, () => lab.engine.setPace("c1", 9), "METADATA_WRITE_FAILED");
  t.is((await lab.session("c1")).pace, 1);
  lab.lab.stateFiles.intercept = undefined;
  await lab.engine.setPace("c1", 9);
  await lab.lab.kill(1);
  t.is((await lab.session("c1")).pace, 9);
});
