/**
 * The disk under the state directory is full or broken: what cannot be made durable is refused with what to do, nothing
 * acknowledged is lost, and with room again everything goes on without a restart.
 */
import test from "ava";
import { KiB, MiB } from "../../src/base/units.ts";
import { InjectedFailure } from "../../src/engine/durable/memory-state-files.ts";
import { CopyLab, G, pattern, refusal, same } from "../support/copy-lab.ts";

/** Four regions of the activity log. */
const SIZE = 16 * MiB;
const SMALL = 20 * G + 1536;

function fill(lab: CopyLab): void {
  lab.lab.stateFiles.intercept = ({ type }) => {
    if (type === "write") throw new InjectedFailure("ENOSPC");
  };
}

function makeRoom(lab: CopyLab): void {
  lab.lab.stateFiles.intercept = undefined;
}

/** Refused for want of room, with what to do about it. */
async function noRoom(t: Parameters<typeof refusal>[0], call: () => Promise<unknown>): Promise<void> {
  const error = await refusal(t, call, "METADATA_WRITE_FAILED");
  t.regex(error?.detail.hint ?? "", /make room/);
}

test("tracking on a full state directory: a write that cannot be tracked is refused and not carried out", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE], { jobBytes: MiB });
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.write("v1", 0, G); // the first region is hot now
  fill(lab);
  await lab.write("v1", 64 * KiB, G);
  await noRoom(t, () => lab.write("v1", 9 * MiB, G));
  const disk = await lab.lab.physical("v1");
  same(t, disk.subarray(9 * MiB, 9 * MiB + G), pattern(G, 1, 9 * MiB), "the refused write is not on the disk");
  await lab.reads(t, "v1", "reading goes on");
  makeRoom(lab);
  await lab.write("v1", 9 * MiB, G);
  const { changedGranules } = await lab.session("c1");
  t.true(changedGranules >= 3);
  t.is((await lab.restart("c1")).plannedGranules, changedGranules);
  await lab.lab.finish();
  await lab.holds(t, "v2");
  t.is(lab.lab.events.filter(({ type }) => type === "volume.failed").length, 0);
});

test("a start on a full state directory is refused, nothing is started, later it works", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL]);
  const request = { source: lab.extent("v1"), destination: lab.extent("v2"), kind: "quickopc" as const, pace: 1 };
  fill(lab);
  await noRoom(t, () => lab.engine.startSessions([{ id: "c90", ...request }]));
  t.deepEqual(await lab.engine.sessions(), []);
  await lab.write("v1", 0, SMALL); // nothing is tracked: nothing is needed
  makeRoom(lab);
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.lab.finish();
  await lab.holds(t, "v2");
  await lab.lab.reboot();
  t.deepEqual(
    (await lab.engine.sessions()).map(({ id }) => id),
    ["c1"],
    "nothing is left of what was refused",
  );
});

test("a restart on a full state directory is refused, the earlier point stays whole", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL]);
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.write("v1", 7 * G, G);
  const before = await lab.session("c1");
  fill(lab);
  await noRoom(t, () => lab.engine.restartSessions(["c1"]));
  t.like(await lab.session("c1"), { generation: before.generation, changedGranules: 1, phase: "copying" });
  await lab.reads(t, "v2", "the earlier point");
  makeRoom(lab);
  t.is((await lab.restart("c1")).generation, 2);
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

for (const kind of ["opc", "quickopc"] as const) {
  test(`${kind}: copying onto a full state directory waits; hosts that need it are refused, others go on`, async (t) => {
    const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL]);
    await lab.copy(t, "v1", "v2", kind);
    fill(lab);
    await lab.lab.step();
    await noRoom(t, () => lab.write("v1", 12 * G, 512));
    same(t, await lab.granuleOnDisk("v1", 12), pattern(G, 1, 12 * G), "refused and not written");
    await noRoom(t, () => lab.write("v2", 13 * G, 512));
    await lab.reads(t, "v2", "what is copied needs no record to be read");
    await lab.write("v3", 0, SMALL);
    for (let step = 0; step < 10; step++) await lab.lab.step();
    t.is((await lab.session("c1")).phase, "copying", "not failed: nothing is wrong with the devices");
    makeRoom(lab);
    await lab.write("v1", 12 * G, 512);
    for (let step = 0; step < 10; step++) await lab.lab.step();
    await lab.lab.finish();
    for (const volume of ["v1", "v2", "v3"]) await lab.holds(t, volume);
    if (kind === "quickopc") t.is((await lab.session("c1")).phase, "tracking");
    else t.deepEqual(await lab.engine.sessions(), []);
  });

  test(`${kind}: a cancel on a full state directory is refused, the copy goes on`, async (t) => {
    const lab = await CopyLab.start(t, [SMALL, SMALL]);
    await lab.copy(t, "v1", "v2", kind);
    fill(lab);
    await noRoom(t, () => lab.engine.cancelSession("c1"));
    same(t, await lab.read("v2", 12 * G, G), pattern(G, 1, 12 * G), "still a copy");
    makeRoom(lab);
    for (let step = 0; step < 12; step++) await lab.lab.step();
    await lab.lab.finish();
    await lab.holds(t, "v2");
  });
}

test("opc: a completed copy whose end cannot be made durable ends when it can", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL]);
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (type === "write" && path.endsWith("/super")) throw new InjectedFailure("ENOSPC");
  };
  // The superblock of a session is made under another name first.
  await lab.copy(t, "v1", "v2", "opc", { pace: 15 });
  await lab.lab.settle();
  t.like(await lab.session("c1"), { phase: "copying", pendingGranules: 0 });
  t.true(
    lab.lab.events.some(({ type }) => type === "engine.trouble"),
    "and it is said",
  );
  makeRoom(lab);
  await lab.lab.finish();
  for (let step = 0; step < 20; step++) await lab.lab.step();
  t.deepEqual(await lab.engine.sessions(), []);
  t.is(lab.phases("c1").at(-1), "completed, usable");
});

test("a stop of tracking on a full state directory is refused and can be repeated", async (t) => {
  const lab = await CopyLab.start(t, [SMALL, SMALL]);
  await lab.copy(t, "v1", "v2", "quickopc");
  fill(lab);
  await noRoom(t, () => lab.engine.stopTracking("c1"));
  t.like(await lab.session("c1"), { tracking: true, kind: "quickopc" });
  makeRoom(lab);
  t.like(await lab.engine.stopTracking("c1"), { tracking: false, kind: "opc" });
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("a box stopped while its state directory is full finds everything again", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE], { jobBytes: MiB });
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.write("v1", 5 * MiB, G);
  fill(lab);
  await lab.engine.stop().catch(() => undefined);
  makeRoom(lab);
  await lab.lab.boot();
  const status = await lab.restart("c1");
  t.true(status.plannedGranules >= 1);
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("a broken activity log ends the engine before the write it could not record; the next difference has everything", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE], { jobBytes: MiB });
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.write("v1", 1 * MiB, G);
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (type === "sync" && path.startsWith("volumes/v1/al-")) throw new InjectedFailure("EIO");
  };
  let answered = false;
  const settled = () => {
    answered = true;
  };
  lab.engine.write(lab.extent("v1"), 9 * MiB, new Uint8Array(G)).then(settled, settled);
  await lab.lab.settle();
  t.truthy(lab.lab.lost);
  t.false(answered);
  await lab.holds(t, "v1");
  makeRoom(lab);
  await lab.lab.kill(1);
  await lab.write("v1", 13 * MiB, G);
  await lab.restart("c1");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

for (const trouble of ["cannot be written", "takes long"] as const)
  test(`a point whose own files ${trouble} is remembered until they are, whatever points follow`, async (t) => {
    const lab = await CopyLab.start(t, [SMALL, SMALL, SMALL, SMALL]);
    let goOn: () => void = () => undefined;
    const slow = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    lab.lab.stateFiles.intercept = ({ type, path }) => {
      if (type !== "write" || !path.startsWith("sessions/c1/pending")) return undefined;
      if (trouble === "takes long") return slow;
      throw new InjectedFailure("ENOSPC");
    };
    await lab.copy(t, "v1", "v2", "quickopc");
    if (trouble === "cannot be written") makeRoom(lab);
    await lab.copy(t, "v3", "v4", "quickopc");
    await lab.lab.settle();
    makeRoom(lab);
    await lab.lab.kill(7);
    goOn();
    t.deepEqual(
      (await lab.engine.sessions()).map(({ id, phase }) => [id, phase]),
      [
        ["c1", "copying"],
        ["c2", "copying"],
      ],
    );
    for (const volume of ["v2", "v4"]) await lab.reads(t, volume, "after the kill");
    await lab.lab.finish();
    for (const volume of ["v2", "v4"]) await lab.holds(t, volume);
  });
