/**
 * What goes wrong around a point: other sessions that fail meanwhile, a state directory that is full, descriptors that run out,
 * damaged last frames; and what may follow it: resizing, removal (data-safety 1.4, 1.8, 3.2 invariant 9).
 */
import test, { type ExecutionContext } from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import { MiB } from "../../src/base/units.ts";
import { InjectedFailure } from "../../src/engine/durable/memory-state-files.ts";
import { loadCore } from "../../src/engine/map/core.ts";
import { CopyLab, FaultyDisk, G, refusal } from "../support/copy-lab.ts";

const SMALL = 32 * G;

interface Latch {
  readonly reached: Promise<void>;
  open(): void;
}

/** Holds the first operation that matches until it is opened. */
function hold(lab: CopyLab, type: string, path: RegExp): Latch {
  let open: () => void = () => undefined;
  let reach: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const reached = new Promise<void>((resolve) => {
    reach = resolve;
  });
  let first = true;
  lab.lab.stateFiles.intercept = (operation) => {
    if (!first || operation.type !== type || !path.test(operation.path)) return undefined;
    first = false;
    reach();
    return opened;
  };
  return { reached, open };
}

function fail(lab: CopyLab, type: string, path: RegExp, code: string): void {
  lab.lab.stateFiles.intercept = (operation) => {
    if (operation.type === type && path.test(operation.path)) throw new InjectedFailure(code);
  };
}

/** Flips a bit near the end of the newest file whose name matches. */
async function damageEnd(lab: CopyLab, directory: string, name: RegExp): Promise<void> {
  const { stateFiles } = lab.lab;
  const file = (await stateFiles.list(directory)).filter((found) => name.test(found)).at(-1);
  const path = `${directory}/${file}`;
  const bytes = stateFiles.contents(path);
  // The last frame that carries something: behind it is the mark, 40 bytes.
  const at = bytes.length - 42;
  bytes[at] = (bytes[at] ?? 0) ^ 1;
  stateFiles.damage(path, bytes);
}

async function tracking(t: ExecutionContext, volumes: readonly number[] = [SMALL, SMALL]): Promise<CopyLab> {
  const lab = await CopyLab.start(t, volumes, { jobBytes: MiB });
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.lab.settle();
  return lab;
}

test("a session that fails inside another one's barrier does not take the epochs of the point with it", async (t) => {
  const second = new FaultyDisk(SMALL);
  const third = new FaultyDisk(SMALL);
  const lab = await CopyLab.start(t, [SMALL, second, third]);
  await lab.copy(t, "v1", "v2", "quickopc");
  second.faults.inject({ operation: "write", effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await lab.lab.step();
  second.repair();
  await lab.copy(t, "v1", "v3", "quickopc");
  const record = hold(lab, "write", /^points-/);
  const again = lab.engine.restartSessions(["c1"]);
  await record.reached;
  third.faults.inject({ operation: "write", effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await t.throwsAsync(() => lab.engine.write(lab.extent("v3"), 20 * G, new Uint8Array(512)));
  record.open();
  const [status] = await again;
  if (status) lab.expectPoint(status);
  await lab.lab.settle();
  lab.lab.stateFiles.intercept = undefined;
  t.is((await lab.session("c2")).phase, "failed");
  await lab.write("v1", 5 * G, G);
  third.repair();
  await lab.lab.kill(1);
  await lab.lab.finish();
  await lab.holds(t, "v2", "of the point");
  await lab.restart("c1");
  await lab.lab.finish();
  await lab.holds(t, "v2", "of the next point");
});

test("a tracked destination that became smaller while its point was in the points log does not keep the box from starting", async (t) => {
  const lab = await tracking(t);
  await lab.touch("v1", [0]);
  fail(lab, "write", /volumes.v2.(al-[2-9]|epoch)/, "ENOSPC");
  await lab.restart("c1");
  await lab.lab.finish();
  await lab.engine.cancelSession("c1");
  lab.lab.stateFiles.intercept = undefined;
  await lab.engine.resizeVolume("v2", 8 * G);
  await t.notThrowsAsync(() => lab.lab.kill(3));
  await t.notThrowsAsync(() => lab.lab.kill(4));
});

test("damage to the last frame of the activity log is not taken for a torn tail", async (t) => {
  const lab = await tracking(t, [2048 * G, 2048 * G]);
  await lab.lab.reboot();
  await lab.touch("v1", [10]);
  await lab.touch("v1", [1200]); // another region: its activation is the last frame
  await lab.lab.settle();
  await damageEnd(lab, "volumes/v1", /^al-/);
  await lab.lab.kill(1);
  t.is((await lab.restart("c1")).reason, "BASE_LOST");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("damage to the last frame of the log of copied granules is not taken for a torn tail", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL]);
  await lab.copy(t, "v1", "v2", "opc");
  await lab.write("v1", 20 * G, G); // preserved first, durably
  await lab.lab.settle();
  await damageEnd(lab, "sessions/c1", /^copied-/);
  await lab.lab.kill(1);
  t.is((await lab.session("c1")).phase, "failed");
});

test("a volume is removed after what still settles of it, and the engine lives", async (t) => {
  const lab = await tracking(t);
  await lab.touch("v2", [9]);
  const settling = hold(lab, "write", /^volumes\/v2\/(epoch|al-2)/);
  await lab.touch("v1", [0]);
  await lab.restart("c1");
  await settling.reached;
  await lab.lab.step();
  await lab.engine.cancelSession("c1");
  const removing = lab.engine.removeVolume("v2");
  await lab.lab.settle();
  settling.open();
  await removing;
  await lab.lab.settle();
  t.false(await lab.lab.stateFiles.exists("volumes/v2"));
  t.is(lab.lab.lost, undefined);
  lab.lab.disks.delete("v2");
  await lab.lab.kill(1);
});

test("a volume whose files could not be removed can be tracked again", async (t) => {
  const lab = await tracking(t);
  await lab.engine.cancelSession("c1");
  fail(lab, "remove", /^volumes\/v1\/al-/, "EBUSY");
  await t.throwsAsync(() => lab.engine.removeVolume("v1"), { instanceOf: TidemarkError });
  lab.lab.stateFiles.intercept = undefined;
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [4]);
  await lab.lab.kill(1);
  await lab.restart("c2");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("a sync of the points log that fails for want of permission ends the engine like any other", async (t) => {
  const lab = await tracking(t);
  fail(lab, "sync", /^points-/, "EACCES");
  let answered = false;
  const settled = () => {
    answered = true;
  };
  lab.engine.restartSessions(["c1"]).then(settled, settled);
  await lab.lab.settle();
  t.truthy(lab.lab.lost);
  t.false(answered);
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.kill(1);
});

test("descriptors that run out while a volume is prepared for tracking do not keep it from being tracked later", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL]);
  fail(lab, "open", /^volumes\/v1\/super$/, "EMFILE");
  const request = { source: lab.extent("v1"), destination: lab.extent("v2"), kind: "quickopc" as const, pace: 15 };
  await t.throwsAsync(() => lab.engine.startSessions([{ id: "c90", ...request }]), { instanceOf: TidemarkError });
  lab.lab.stateFiles.intercept = undefined;
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.lab.kill(1);
  await lab.touch("v1", [7]);
  await lab.restart("c1");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

for (const [what, kind, path] of [
  ["session", "opc", /^sessions\/c\d+\/super/],
  ["volume", "quickopc", /^volumes\/v1\/super/],
] as const)
  test(`starts refused for want of room leave nothing of a ${what} behind`, async (t) => {
    const lab = await CopyLab.start(t, [SMALL, SMALL]);
    const { stateFiles } = lab.lab;
    fail(lab, "write", path, "ENOSPC");
    const request = { source: lab.extent("v1"), destination: lab.extent("v2"), kind, pace: 15 };
    const start = () => lab.engine.startSessions([{ id: lab.lab.newId(), ...request }]);
    await refusal(t, start, "METADATA_WRITE_FAILED");
    const openFiles = stateFiles.openFiles;
    for (let attempt = 0; attempt < 20; attempt++) await refusal(t, start, "METADATA_WRITE_FAILED");
    t.is(stateFiles.openFiles, openFiles);
    t.deepEqual(await stateFiles.list("sessions"), []);
  });

test("points refused for want of room leave no maps behind", async (t) => {
  const lab = await tracking(t);
  const core = await loadCore();
  await lab.touch("v1", [0]);
  fail(lab, "write", /^points-/, "ENOSPC");
  await refusal(t, () => lab.engine.restartSessions(["c1"]), "METADATA_WRITE_FAILED");
  const { usedPages } = core.memory();
  for (let attempt = 0; attempt < 20; attempt++)
    await refusal(t, () => lab.engine.restartSessions(["c1"]), "METADATA_WRITE_FAILED");
  t.true(core.memory().usedPages <= usedPages + 1);
  lab.lab.stateFiles.intercept = undefined;
  await lab.restart("c1");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("a resize between two trackings costs no difference", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, 2 * SMALL]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.lab.reboot();
  await lab.engine.cancelSession("c1");
  await lab.engine.resizeVolume("v1", 48 * G);
  lab.expected.set("v1", Uint8Array.from([...lab.image("v1"), ...new Uint8Array(16 * G)]));
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [0]);
  await lab.lab.kill(1);
  t.is((await lab.restart("c2")).reason, "MAP_WIDENED");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("maps that do not fit into the record of a point go into files, and every kill finds them", async (t) => {
  const lab = await CopyLab.start(t, [4 * SMALL, 4 * SMALL, 4 * SMALL]);
  lab.lab.pointMapsBytesMax = 30;
  await lab.lab.reboot();
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.copy(t, "v2", "v3", "quickopc", { pace: 15 }); // tracks the destination: the point changes v2
  await lab.lab.finish();
  for (let round = 0; round < 3; round++) {
    await lab.touch("v1", [3 + round, 20, 77, 101]);
    await lab.touch("v2", [50 + round]);
    lab.lab.stateFiles.intercept = ({ type, path }) =>
      round === 1 && type === "write" && /c1\/super|volumes.v2.epoch/.test(path)
        ? new Promise(() => undefined)
        : undefined;
    await lab.restart("c1");
    t.is((await lab.session("c1")).generation, 2 + round);
    await lab.lab.kill(round);
    lab.lab.stateFiles.intercept = undefined;
    await lab.reads(t, "v2");
    await lab.lab.finish();
    await lab.holds(t, "v2");
    await lab.restart("c2");
    await lab.lab.finish();
    await lab.holds(t, "v3");
  }
});

test("a point whose map is in a file is whole when only the points log knows of it", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL]);
  lab.lab.pointMapsBytesMax = 30;
  await lab.lab.reboot();
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.lab.reboot(); // everything is in the files of session and volumes, and nothing is hot
  await lab.touch("v1", [1, 3, 7, 11, 13]);
  lab.lab.stateFiles.intercept = ({ type, path }) =>
    type === "write" && /c1\/super/.test(path) ? new Promise(() => undefined) : undefined;
  const { generation } = await lab.restart("c1");
  t.true((await lab.lab.stateFiles.list("sessions/c1")).some((name) => /^pending-/.test(name)));
  await lab.lab.halt(1);
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.boot();
  t.like(await lab.session("c1"), { generation, failure: undefined, reason: "DIFFERENCE" });
  t.deepEqual(
    lab.lab.events.filter(({ type }) => type === "engine.trouble"),
    [],
  );
  await lab.lab.finish();
  await lab.holds(t, "v2");
});
