/** Devices that stall when they are opened or closed: only what needs them is refused, in time, and nothing stays open. */
import test, { type ExecutionContext } from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import { DEVICE_STEP_TIMEOUT_MS, DEVICE_STEPS_LATE_MAX, DEVICE_STEPS_MAX } from "../../src/base/limits.ts";
import { DeviceSteps } from "../../src/engine/volume/device-steps.ts";
import { CopyLab, FaultyDisk, G, refusal } from "../support/copy-lab.ts";
import { EngineLab, LabClock } from "../support/engine-lab.ts";

const SIZE = 20 * G + 1536;
const LIMITS = { inTimeMax: DEVICE_STEPS_MAX, lateMax: DEVICE_STEPS_LATE_MAX };

interface Stall {
  readonly promise: Promise<void>;
  readonly end: () => void;
}

function stall(): Stall {
  let end: () => void = () => undefined;
  const promise = new Promise<void>((resolve) => {
    end = resolve;
  });
  return { promise, end };
}

async function timeOut(lab: EngineLab): Promise<void> {
  await lab.settle();
  lab.clock.advance(DEVICE_STEP_TIMEOUT_MS);
  await lab.settle();
}

const specOf = (name: string) => ({ uid: name, name, path: name, sizeBytes: SIZE });

test("a volume whose device does not close holds up nobody else's administration", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE, SIZE]);
  const closing = stall();
  lab.lab.disk("v3").closing = closing.promise;
  await lab.copy(t, "v1", "v2", "opc");
  const removing = refusal(t, () => lab.engine.removeVolume("v3"), "DEVICE_TIMEOUT");
  await lab.lab.settle();
  await refusal(t, () => lab.engine.read(lab.extent("v3"), 0, 512), "VOLUME_BUSY");
  await refusal(t, () => lab.engine.removeVolume("v3"), "VOLUME_BUSY");
  const request = { source: lab.extent("v3"), destination: lab.extent("v4"), kind: "opc" as const, pace: 1 };
  await refusal(t, () => lab.engine.startSessions([{ id: "c90", ...request }]), "VOLUME_BUSY");
  t.false((await lab.engine.cancelSession("c1")).destinationUsable);
  await lab.engine.removeVolume("v4");
  await timeOut(lab.lab);
  await removing;
  t.like(await lab.engine.volumeStatus("v3"), { online: false, failure: { code: "DEVICE_TIMEOUT" } });
  await refusal(t, () => lab.engine.removeVolume("v3"), "DEVICE_TIMEOUT"); // at once: the first has not ended
  closing.end();
  await lab.lab.settle();
  await lab.engine.removeVolume("v3");
  await refusal(t, () => lab.engine.volumeStatus("v3"), "VOLUME_NOT_FOUND");
});

test("a device that opens too late is closed again; meanwhile its path is taken, others are added", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.engine.removeVolume("v1");
  await lab.engine.removeVolume("v2");
  const opening = stall();
  lab.lab.disk("v1").opening = opening.promise;
  const adding = refusal(t, () => lab.engine.addVolume(specOf("v1")), "DEVICE_TIMEOUT");
  await lab.engine.addVolume(specOf("v2"));
  await timeOut(lab.lab);
  await adding;
  await refusal(t, () => lab.engine.addVolume({ ...specOf("v1"), uid: "again" }), "DEVICE_TIMEOUT");
  await refusal(t, () => lab.engine.volumeStatus("v1"), "VOLUME_NOT_FOUND");
  opening.end();
  await lab.lab.settle();
  t.is(lab.lab.disk("v1").handles, 0, "closed again");
  await lab.engine.addVolume(specOf("v1"));
  t.is(lab.lab.disk("v1").handles, 1);
});

test("at the start one stalled device gives one unavailable volume; the others serve after the limit", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.engine.stop();
  const opening = stall();
  lab.lab.disk("v2").opening = opening.promise;
  const booting = lab.lab.boot();
  await timeOut(lab.lab);
  await booting;
  t.like(await lab.engine.volumeStatus("v2"), { online: false, failure: { code: "DEVICE_TIMEOUT" } });
  for (const volume of ["v1", "v3"]) await lab.reads(t, volume);
  await refusal(t, () => lab.engine.reopenVolume("v2"), "DEVICE_TIMEOUT"); // at once: it is still being opened
  opening.end();
  await lab.lab.settle();
  t.is(lab.lab.disk("v2").handles, 0, "closed again");
  await lab.engine.reopenVolume("v2");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("stalled devices do not keep healthy ones from opening, whatever their order", async (t) => {
  const lab = await EngineLab.start(
    Array.from({ length: 30 }, () => SIZE),
    { jobBytes: G },
  );
  t.teardown(() => lab.engine.stop());
  await lab.engine.stop();
  const opening = stall();
  for (let index = 1; index <= 10; index++) lab.disk(`v${index}`).opening = opening.promise;
  const booting = lab.boot();
  await timeOut(lab);
  await timeOut(lab);
  await booting;
  for (let index = 1; index <= 30; index++) {
    const { online } = await lab.engine.volumeStatus(`v${index}`);
    t.is(online, index > 10, `v${index}`);
  }
  opening.end();
  await lab.settle();
});

test("a resize that does not end leaves the volume unavailable, not busy", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  const resizing = stall();
  const disk = lab.lab.disk("v1");
  const resize = disk.memory.resize.bind(disk.memory);
  disk.memory.resize = async (sizeBytes) => {
    await resizing.promise;
    await resize(sizeBytes);
  };
  const asked = refusal(t, () => lab.engine.resizeVolume("v1", 4 * G), "DEVICE_TIMEOUT");
  await timeOut(lab.lab);
  await asked;
  await refusal(t, () => lab.engine.read(lab.extent("v1"), 0, 512), "VOLUME_UNAVAILABLE");
  await lab.reads(t, "v2");
  resizing.end();
  await lab.lab.settle();
  t.is((await lab.engine.reopenVolume("v1")).sizeBytes, 4 * G);
});

test("a partition table on a device that does not answer is refused in time", async (t) => {
  const disk = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [disk]);
  const fault = disk.faults.inject({ operation: "read", effect: { kind: "stall" } });
  const asked = refusal(t, () => lab.engine.partitions("v1"), "DEVICE_TIMEOUT");
  await fault.reached(1);
  await timeOut(lab.lab);
  await asked;
  fault.remove();
  t.deepEqual(await lab.engine.partitions("v1"), []);
});

test("a volume that is taken back and cannot be opened is there all the same, with its reason", async (t) => {
  const lab = await CopyLab.start(t, [SIZE]);
  await lab.engine.removeVolume("v1");
  lab.lab.disk("v1").away = new TidemarkError("PATH_NOT_FOUND", { message: "the disk is pulled", hint: "plug it in" });
  t.like(await lab.engine.takeBackVolume(specOf("v1")), { online: false, failure: { code: "PATH_NOT_FOUND" } });
  lab.lab.disk("v1").away = undefined;
  await lab.engine.reopenVolume("v1");
  await lab.reads(t, "v1");
});

async function until(t: ExecutionContext, condition: () => boolean): Promise<void> {
  for (let turn = 0; turn < 100 && !condition(); turn++) await new Promise((resolve) => setImmediate(resolve));
  t.true(condition());
}

test("steps: a bounded number is under way, and a bounded number is late; what comes late is undone", async (t) => {
  const clock = new LabClock();
  const steps = new DeviceSteps(clock, LIMITS);
  const stalled = stall();
  let begun = 0;
  let undone = 0;
  const refused: string[] = [];
  const all = Array.from({ length: 40 }, (_, index) =>
    steps
      .run({
        path: `/p${index}`,
        action: "open",
        run: async () => {
          begun++;
          await stalled.promise;
        },
        undo: async () => void undone++,
      })
      .catch((error: TidemarkError) => refused.push(error.code)),
  );
  await until(t, () => begun === DEVICE_STEPS_MAX);
  clock.advance(DEVICE_STEP_TIMEOUT_MS);
  await until(t, () => begun === 2 * DEVICE_STEPS_MAX);
  clock.advance(DEVICE_STEP_TIMEOUT_MS);
  await Promise.all(all);
  t.true(begun <= DEVICE_STEPS_MAX + DEVICE_STEPS_LATE_MAX, "no more threads are given away");
  t.deepEqual(new Set(refused), new Set(["DEVICE_TIMEOUT"]));
  t.is(refused.length, 40);
  stalled.end();
  await until(t, () => undone === begun);
  t.is(await steps.run({ path: "/p0", action: "open", run: async () => 7 }), 7, "and all is as before");
});

test("steps: one that is in time is waited for, one that is late is not", async (t) => {
  const clock = new LabClock();
  const steps = new DeviceSteps(clock, LIMITS);
  const stalled = stall();
  const first = steps.run({ path: "/p", action: "open", run: () => stalled.promise.then(() => 1) });
  const second = steps.run({ path: "/p", action: "look at", run: async () => 2 });
  stalled.end();
  t.deepEqual(await Promise.all([first, second]), [1, 2]);
  const never = steps.run({ path: "/p", action: "open", run: () => new Promise(() => undefined) });
  const behind = steps.run({ path: "/p", action: "look at", run: async () => 2 });
  await Promise.resolve();
  clock.advance(DEVICE_STEP_TIMEOUT_MS);
  await t.throwsAsync(never, { code: "DEVICE_TIMEOUT" });
  await t.throwsAsync(behind, { code: "DEVICE_TIMEOUT" });
});

test("steps: an error is the step's own, and the path is free again", async (t) => {
  const steps = new DeviceSteps(new LabClock(), LIMITS);
  const run = () => Promise.reject(new TidemarkError("PATH_HELD", { message: "held" }));
  await t.throwsAsync(() => steps.run({ path: "/p", action: "open", run }), { code: "PATH_HELD" });
  t.is(await steps.run({ path: "/p", action: "open", run: async () => 1 }), 1);
});
