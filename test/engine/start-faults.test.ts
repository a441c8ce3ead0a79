/**
 * Starts that meet damage, or errors that pass: damage costs only what was damaged and never trust in wrong content; an error
 * that passes refuses the start and costs nothing (data-safety 1.1, 1.9, 1.10).
 */
import test, { type ExecutionContext } from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import { InjectedFailure, type MemoryOperation } from "../../src/engine/durable/memory-state-files.ts";
import { CopyLab, FaultyDisk, G, refusal } from "../support/copy-lab.ts";

const SMALL = 20 * G + 1536;

/** Fails the first operation of this type on this path. */
function failOnce(lab: CopyLab, type: MemoryOperation["type"], path: RegExp, code: string): void {
  let once = true;
  lab.lab.stateFiles.intercept = (operation) => {
    if (!once || operation.type !== type || !path.test(operation.path)) return;
    once = false;
    throw new InjectedFailure(code);
  };
}

function zeroFile(lab: CopyLab, path: string): void {
  const { stateFiles } = lab.lab;
  stateFiles.damage(path, new Uint8Array(stateFiles.contents(path).length));
}

function troubles(lab: CopyLab): string[] {
  return lab.lab.events.flatMap((event) => (event.type === "engine.trouble" ? [event.message] : []));
}

/** The start is refused with this error; the next one, without it, works. */
async function refusedStart(t: ExecutionContext, lab: CopyLab): Promise<void> {
  const error = await t.throwsAsync(() => lab.lab.kill(1), { instanceOf: TidemarkError });
  t.truthy(error?.detail.metadata?.["path"], "it names the file");
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.kill(2);
}

async function tracked(t: ExecutionContext): Promise<CopyLab> {
  const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.lab.settle();
  return lab;
}

test("a failed tracking copy does not keep the box from starting, and stays failed", async (t) => {
  const disk = new FaultyDisk(SMALL);
  const lab = await CopyLab.start(t, [SMALL, disk]);
  await lab.copy(t, "v1", "v2", "quickopc");
  disk.faults.inject({ operation: "write", effect: { kind: "error", code: "MEDIUM_ERROR" } });
  for (let step = 0; step < 5; step++) await lab.lab.step();
  t.like(await lab.session("c1"), { phase: "failed", tracking: false });
  disk.repair();
  await lab.lab.kill(1);
  t.like(await lab.session("c1"), { phase: "failed", tracking: false, sourceEpoch: 0 });
  t.like(await lab.restart("c1"), { reason: "AFTER_FAILURE" });
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

for (const kind of ["opc", "quickopc"] as const)
  test(`${kind}: a superblock that cannot be opened for want of descriptors refuses the start; the copy is whole after`, async (t) => {
    const lab = await CopyLab.start(t, [SMALL, SMALL]);
    await lab.copy(t, "v1", "v2", kind);
    failOnce(lab, "open", /^sessions\/c1\/super$/, "EMFILE");
    await refusedStart(t, lab);
    await lab.write("v1", 15 * G, G);
    await lab.reads(t, "v2");
    await lab.lab.finish();
    await lab.holds(t, "v2");
  });

test("a volume's superblock that cannot be opened for want of descriptors refuses the start; the difference is kept", async (t) => {
  const lab = await tracked(t);
  await lab.touch("v1", [3]);
  failOnce(lab, "open", /^volumes\/v1\/super$/, "EMFILE");
  await refusedStart(t, lab);
  const plan = await lab.restart("c1");
  t.is(plan.reason, "MAP_WIDENED");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

for (const [what, path, fresh] of [
  ["superblock", "sessions/c1/super", false],
  ["superblock, right after the point", "sessions/c1/super", true],
  ["map", /^pending-/, false],
  ["log", /^copied-/, false],
] as const)
  test(`a session whose ${what} is damaged has failed: its destination is not free, its source not held up`, async (t) => {
    const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL]);
    const { stateFiles } = lab.lab;
    if (fresh)
      stateFiles.intercept = ({ path: at }) => (/pending-/.test(at) ? new Promise(() => undefined) : undefined);
    await lab.copy(t, "v1", "v2", "quickopc");
    await lab.lab.settle();
    if (!fresh) await lab.engine.setPace("c1", 2); // the map is in its own file then
    const names = await stateFiles.list("sessions/c1");
    const file = typeof path === "string" ? path : `sessions/c1/${names.find((name) => path.test(name))}`;
    zeroFile(lab, file);
    stateFiles.intercept = undefined;
    await lab.lab.kill(1);
    t.like(await lab.session("c1"), { phase: "failed", tracking: false, failure: { cause: "OTHER" } });
    await refusal(t, () => lab.read("v2", 15 * G, G), "MEDIUM_ERROR");
    await refusal(t, () => lab.copy(t, "v3", "v2", "opc"), "DESTINATION_IN_USE");
    await lab.write("v1", 15 * G, G);
    await lab.lab.kill(2);
    t.like(await lab.session("c1"), { phase: "failed" });
    t.is((await lab.restart("c1")).reason, "AFTER_FAILURE");
    await lab.lab.finish();
    for (const volume of ["v1", "v2", "v3"]) await lab.holds(t, volume);
  });

test("a damaged points log does not keep the box from starting; what may have had a later point has failed", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL, SMALL]);
  const { stateFiles } = lab.lab;
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.lab.settle();
  stateFiles.intercept = ({ path }) => (/c2\/pending-/.test(path) ? new Promise(() => undefined) : undefined);
  await lab.copy(t, "v3", "v4", "quickopc");
  const [log] = (await stateFiles.list("")).filter((name) => name.startsWith("points-"));
  zeroFile(lab, String(log));
  stateFiles.intercept = undefined;
  await lab.lab.kill(1);
  t.is((await lab.session("c1")).phase, "tracking", "its own files say all of it");
  t.is((await lab.session("c2")).phase, "failed", "only the points log had its point");
  t.true((await stateFiles.list("")).includes(`${log}.damaged`), "the log is set aside");
  t.true(troubles(lab).some((message) => /points/.test(message)));
  const again = await lab.restart("c1");
  t.is(again.reason, "BASE_LOST");
  await lab.lab.finish();
  await lab.holds(t, "v2");
  await lab.lab.kill(2);
  t.is(lab.lab.events.filter(({ type }) => type === "engine.trouble").length, 0, "the damage is over");
});

test("a full state directory at start: the box serves, and empties its points log when there is room", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL]);
  const { stateFiles } = lab.lab;
  stateFiles.intercept = ({ type, path }) => {
    if (type === "write" && /pending|epoch-/.test(path)) throw new InjectedFailure("ENOSPC");
  };
  await lab.copy(t, "v1", "v2", "quickopc");
  stateFiles.intercept = ({ type, path }) => {
    if (type === "write" && path.endsWith(".new")) throw new InjectedFailure("ENOSPC");
  };
  await lab.lab.kill(1);
  await lab.lab.settle();
  t.like(await lab.session("c1"), { phase: "copying", generation: 1 });
  t.true(troubles(lab).length > 0, "and says so");
  await lab.reads(t, "v2");
  await lab.lab.kill(2);
  stateFiles.intercept = undefined;
  await lab.lab.finish();
  for (let step = 0; step < 20; step++) await lab.lab.step();
  t.deepEqual(
    (await stateFiles.list("")).filter((name) => name.startsWith("points-")),
    ["points-2.log"],
    "the points are in the files of their sessions and volumes",
  );
  await lab.holds(t, "v2");
});

test("epoch ids are not given again after a volume's superblock was damaged", async (t) => {
  const lab = await tracked(t);
  for (let run = 0; run < 3; run++) await lab.restart("c1");
  const used = (await lab.engine.volumeStatus("v1")).epochs.map(({ id }) => id);
  await lab.engine.cancelSession("c1");
  zeroFile(lab, "volumes/v1/super");
  await lab.lab.kill(1);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  const now = (await lab.engine.volumeStatus("v1")).epochs.map(({ id }) => id);
  t.true(Math.min(...now) > Math.max(...used), `${now} come after ${used}`);
});

test("the old tracking files stay until the new ones are durable", async (t) => {
  const lab = await tracked(t);
  const before = await lab.lab.stateFiles.list("volumes/v1");
  zeroFile(lab, "volumes/v1/super");
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (type === "write" && /^volumes\/v1\/super/.test(path)) throw new InjectedFailure("EIO");
  };
  await t.throwsAsync(() => lab.lab.kill(1), { instanceOf: TidemarkError });
  const after = await lab.lab.stateFiles.list("volumes/v1");
  for (const name of before) t.true(after.includes(name), `${name} is still there`);
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.kill(2);
  t.is((await lab.restart("c1")).reason, "BASE_LOST");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("files of a volume that is not registered are kept and reported", async (t) => {
  const lab = await tracked(t);
  const { disks, stateFiles } = lab.lab;
  const gone = disks.get("v1");
  disks.delete("v1");
  await lab.lab.kill(1);
  t.true((await stateFiles.list("volumes")).includes("v1"));
  t.true(troubles(lab).some((message) => /volumes\/v1/.test(message)));
  t.deepEqual(await lab.engine.sessions(), []);
  if (gone) disks.set("v1", gone);
  await lab.lab.kill(2);
  t.like(await lab.session("c1"), { phase: "failed" }, "nobody watched its source meanwhile");
  t.is((await lab.restart("c1")).reason, "AFTER_FAILURE");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

for (const kind of ["opc", "quickopc"] as const)
  test(`${kind}: a source written to by another program while the box was stopped: a copy that still needed it has failed`, async (t) => {
    const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL]);
    await lab.copy(t, "v1", "v2", kind);
    await lab.lab.engine.stop();
    await lab.lab.disk("v1").memory.write(15 * G, new Uint8Array(G).fill(7));
    lab.image("v1").fill(7, 15 * G, 16 * G);
    await lab.lab.boot();
    t.like(await lab.session("c1"), { phase: "failed", failure: { cause: "OTHER" } });
    t.regex((await lab.session("c1")).failure?.message ?? "", /another program/);
    t.is((await lab.restart("c1")).plannedGranules, 21);
    await lab.lab.finish();
    await lab.holds(t, "v2");
  });

for (const volume of ["v1", "v2"])
  test(`${volume} of a tracking pair written to by another program while the box was stopped: the next copy is full`, async (t) => {
    const lab = await tracked(t);
    await lab.lab.engine.stop();
    await lab.lab.disk(volume).memory.write(15 * G, new Uint8Array(G).fill(7));
    if (volume === "v1") lab.image("v1").fill(7, 15 * G, 16 * G);
    await lab.lab.boot();
    t.true(troubles(lab).some((message) => /another program/.test(message)));
    await lab.lab.kill(1); // what was noticed is durable
    const { phase, changedGranules } = await lab.session("c1");
    t.deepEqual([phase, changedGranules], ["tracking", 21]);
    t.is((await lab.restart("c1")).reason, "BASE_LOST");
    await lab.lab.finish();
    await lab.holds(t, "v2");
  });

test("a clean stop and start without a foreign write costs nothing, and a kill is not taken for one", async (t) => {
  const lab = await tracked(t);
  await lab.touch("v1", [2]);
  await lab.lab.reboot();
  t.like(await lab.session("c1"), { phase: "tracking", changedGranules: 1 });
  await lab.touch("v1", [9]);
  await lab.lab.kill(1);
  t.deepEqual(troubles(lab), []);
  t.is((await lab.restart("c1")).reason, "MAP_WIDENED");
});

test("a crash while the consequences of a foreign write are made durable leads to them again", async (t) => {
  const lab = await tracked(t);
  await lab.lab.engine.stop();
  await lab.lab.disk("v1").memory.write(15 * G, new Uint8Array(G).fill(7));
  lab.image("v1").fill(7, 15 * G, 16 * G);
  failOnce(lab, "write", /^volumes\/v1\/epoch-/, "EIO");
  await t.throwsAsync(() => lab.lab.boot(), { instanceOf: TidemarkError });
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.kill(1);
  t.is((await lab.restart("c1")).reason, "BASE_LOST");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("a backing that has grown outside costs no difference", async (t) => {
  const lab = await tracked(t);
  await lab.touch("v1", [3]);
  const disk = lab.lab.disk("v1");
  disk.registeredBytes = disk.memory.sizeBytes;
  const extent = lab.extent("v1");
  await lab.lab.reboot();
  await disk.memory.resize(2 * SMALL);
  await lab.lab.reboot();
  t.like(await lab.session("c1"), { changedGranules: 1 });
  await lab.engine.write(extent, 17 * G, new Uint8Array(G));
  t.like(await lab.restart("c1"), { reason: "DIFFERENCE", plannedGranules: 2 });
});

test("a kill while a start deals with a damaged points log: the next start still knows that points may be lost", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL, SMALL]);
  const { stateFiles } = lab.lab;
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.lab.settle();
  stateFiles.intercept = ({ path }) => (/c2\/pending-/.test(path) ? new Promise(() => undefined) : undefined);
  await lab.copy(t, "v3", "v4", "quickopc");
  const [log] = (await stateFiles.list("")).filter((name) => name.startsWith("points-"));
  zeroFile(lab, String(log));
  // Everything of the start after the points logs fails: as if it was killed there.
  failOnce(lab, "open", /^sessions\/c1\/super$/, "EMFILE");
  await t.throwsAsync(() => lab.lab.kill(1), { instanceOf: TidemarkError });
  stateFiles.intercept = undefined;
  await lab.lab.kill(2);
  t.is((await lab.session("c2")).phase, "failed", "only the points log had its point");
  t.is((await lab.restart("c1")).reason, "BASE_LOST");
  await lab.lab.kill(3);
  t.is((await lab.session("c2")).phase, "failed");
});
