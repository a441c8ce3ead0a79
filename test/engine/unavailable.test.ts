/**
 * Volumes that are not there for a while: what needs them is refused, nothing else is, no copy fails because of it where
 * nothing was lost, and everything goes on when they are back.
 */
import test from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import { BARRIER_TIMEOUT_MS } from "../../src/base/limits.ts";
import { CopyLab, FaultyDisk, G, pattern, refusal } from "../support/copy-lab.ts";

const SIZE = 20 * G + 1536;
const GONE = new TidemarkError("PATH_NOT_FOUND", { message: "the disk is pulled", hint: "plug it in" });

test("a read of what the destination lacks is refused while the source is away; the copy waits for it", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  lab.lab.disk("v1").away = GONE;
  await lab.lab.kill(1);
  const error = await refusal(t, () => lab.read("v2", 18 * G, 512), "VOLUME_UNAVAILABLE");
  t.regex(error?.message ?? "", /v1/, "it names the source");
  await refusal(t, () => lab.write("v2", 18 * G + 512, 512), "VOLUME_UNAVAILABLE");
  await refusal(t, () => lab.engine.write(lab.extent("v2"), 18 * G, new Uint8Array(G)), "VOLUME_UNAVAILABLE");
  await lab.lab.step();
  t.like(await lab.session("c1"), { phase: "copying", failure: undefined });
  lab.lab.disk("v1").away = undefined;
  await lab.lab.reboot();
  await lab.lab.finish();
  for (const volume of ["v1", "v2"]) await lab.holds(t, volume);
});

test("a source is written although its copy cannot be preserved: the copy fails, durably, and only then", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  lab.lab.disk("v2").away = GONE;
  await lab.lab.kill(1);
  t.is((await lab.session("c1")).phase, "copying");
  await lab.write("v1", 18 * G, G);
  t.like(await lab.session("c1"), { phase: "failed" });
  await lab.reads(t, "v1");
});

test("a step whose upstream source is away waits too", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.copy(t, "v2", "v3", "quickopc");
  lab.lab.disk("v1").away = GONE;
  await lab.lab.kill(1);
  await lab.lab.step();
  await refusal(t, () => lab.read("v3", 18 * G, 512), "VOLUME_UNAVAILABLE");
  for (const id of ["c1", "c2"]) t.like(await lab.session(id), { phase: "copying", failure: undefined });
  lab.lab.disk("v1").away = undefined;
  await lab.lab.reboot();
  await lab.lab.finish();
  for (const volume of ["v1", "v2", "v3"]) await lab.holds(t, volume);
});

test("a device that goes away under the background copy of its source pauses it", async (t) => {
  const source = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [source, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  source.faults.inject({ operation: "flush", effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await t.throwsAsync(() => lab.engine.flush("v1"), { code: "MEDIUM_ERROR" });
  t.false((await lab.engine.volumeStatus("v1")).online);
  for (let turn = 0; turn < 5; turn++) await lab.lab.step();
  t.like(await lab.session("c1"), { phase: "copying", failure: undefined });
  source.repair();
  await lab.lab.reboot();
  await lab.lab.finish();
  for (const volume of ["v1", "v2"]) await lab.holds(t, volume);
});

test("data-safety 1.2: a failed sync of a destination fails at once the copy that had not made its granules durable", async (t) => {
  const destination = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [SIZE, destination, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  t.true((await lab.session("c1")).pendingGranules < 21, "something is copied and not yet durable");
  destination.faults.inject({ operation: "flush", calls: 1, effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await t.throwsAsync(() => lab.engine.flush("v2"), { code: "MEDIUM_ERROR" });
  await lab.lab.settle();
  t.like(await lab.session("c1"), { phase: "failed", pendingGranules: 21 }, "what was not durable is lacking again");
  destination.repair();
  await lab.lab.kill(1);
  t.like(await lab.session("c1"), { phase: "failed", pendingGranules: 21 }, "durably");
  await lab.restart("c1");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("data-safety 1.2: a failed sync makes what was hot count as changed", async (t) => {
  const source = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [source, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [3]);
  t.is((await lab.session("c1")).changedGranules, 1);
  source.faults.inject({ operation: "flush", calls: 1, effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await t.throwsAsync(() => lab.engine.flush("v1"), { code: "MEDIUM_ERROR" });
  t.is((await lab.session("c1")).changedGranules, 21, "the region that was hot");
  source.repair();
  await lab.lab.reboot();
  t.is((await lab.restart("c1")).reason, "MAP_WIDENED");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("reopen: a volume that could not be opened comes back without a restart; its copies go on, in a cascade too", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.copy(t, "v2", "v3", "quickopc");
  lab.lab.disk("v1").away = GONE;
  await lab.lab.kill(1);
  await lab.lab.step();
  await refusal(t, () => lab.engine.reopenVolume("v1"), "PATH_NOT_FOUND");
  t.like(await lab.engine.volumeStatus("v1"), { online: false, failure: { code: "PATH_NOT_FOUND" } });
  lab.lab.disk("v1").away = undefined;
  t.like(await lab.engine.reopenVolume("v1"), { uid: "v1", sizeBytes: SIZE });
  t.like(await lab.engine.volumeStatus("v1"), { online: true, failure: undefined });
  await lab.lab.finish();
  for (const volume of ["v1", "v2", "v3"]) await lab.holds(t, volume);
  t.is(lab.lab.disk("v1").handles, 1);
  await lab.engine.reopenVolume("v1");
  t.is(lab.lab.disk("v1").handles, 1, "a volume that is online stays as it is");
});

test("reopen: after a failed sync of the source its copies go on where they were", async (t) => {
  const source = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [source, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  source.faults.inject({ operation: "flush", calls: 1, effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await t.throwsAsync(() => lab.engine.flush("v1"), { code: "MEDIUM_ERROR" });
  await lab.lab.step();
  source.repair();
  await lab.engine.reopenVolume("v1");
  t.is(lab.lab.disk("v1").handles, 1, "the failed device was closed");
  await lab.write("v1", 18 * G, G);
  await lab.lab.finish();
  t.like(await lab.session("c1"), { phase: "tracking" });
  for (const volume of ["v1", "v2"]) await lab.holds(t, volume);
  await lab.restart("c1");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("reopen: after a failed sync of the destination the failed copy runs again", async (t) => {
  const destination = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [SIZE, destination]);
  await lab.copy(t, "v1", "v2", "quickopc");
  destination.faults.inject({ operation: "flush", calls: 1, effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await t.throwsAsync(() => lab.engine.flush("v2"), { code: "MEDIUM_ERROR" });
  destination.repair();
  await lab.engine.reopenVolume("v2");
  await refusal(t, () => lab.read("v2", 0, 512), "MEDIUM_ERROR"); // copied, but never durably
  t.is((await lab.restart("c1")).reason, "AFTER_FAILURE");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("reopen: a destination that was full again only in its device's cache: nothing that was not durable is read", async (t) => {
  const destination = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [SIZE, destination]);
  await lab.copy(t, "v1", "v2", "quickopc");
  const fault = destination.faults.inject({ operation: "write", effect: { kind: "stall" } });
  const reading = t.throwsAsync(() => lab.read("v2", 12 * G, G));
  await fault.reached(1);
  destination.faults.inject({ operation: "flush", effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await t.throwsAsync(() => lab.engine.flush("v2"), { code: "MEDIUM_ERROR" });
  fault.remove(); // the write ends well, after the sync that failed
  await reading;
  await lab.lab.settle();
  t.like(await lab.session("c1"), { phase: "failed", pendingGranules: 21 });
});

test("reopen: another device, or one that is too small, is not taken for the volume", async (t) => {
  const source = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [source, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  source.faults.inject({ operation: "flush", effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await t.throwsAsync(() => lab.engine.flush("v1"), { code: "MEDIUM_ERROR" });
  source.repair();
  lab.lab.disk("v1").identity = ["another"];
  await refusal(t, () => lab.engine.reopenVolume("v1"), "PATH_NOT_USABLE");
  lab.lab.disk("v1").identity = ["v2"];
  await refusal(t, () => lab.engine.reopenVolume("v1"), "PATH_REGISTERED");
  lab.lab.disk("v1").identity = undefined;
  await source.memory.resize(SIZE - 512);
  await refusal(t, () => lab.engine.reopenVolume("v1"), "VOLUME_SHRUNK");
  t.is(lab.lab.disk("v1").handles, 0, "none of them stays open");
  t.like(await lab.session("c1"), { phase: "copying", failure: undefined });
  await source.memory.resize(SIZE);
  await lab.engine.reopenVolume("v1");
  t.is(lab.lab.disk("v1").handles, 1);
});

test("reopen: not while a piece of a copy is still in the failed device", async (t) => {
  const source = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [source, SIZE, SIZE, SIZE]);
  const stalled = source.faults.inject({ operation: "read", effect: { kind: "stall" } });
  await lab.copy(t, "v1", "v2", "quickopc");
  await stalled.reached(1);
  source.faults.inject({ operation: "flush", effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await t.throwsAsync(() => lab.engine.flush("v1"), { code: "MEDIUM_ERROR" });
  const reopening = refusal(t, () => lab.engine.reopenVolume("v1"), "DEVICE_TIMEOUT");
  await lab.lab.settle();
  await refusal(t, () => lab.engine.reopenVolume("v1"), "VOLUME_BUSY");
  await lab.copy(t, "v3", "v4", "opc"); // others are managed meanwhile
  lab.lab.clock.advance(BARRIER_TIMEOUT_MS);
  await lab.lab.settle();
  await reopening;
  t.is(lab.lab.disk("v1").handles, 1, "it is not closed below the read");
  source.repair();
  stalled.remove();
  await lab.lab.settle();
  await lab.engine.reopenVolume("v1");
  t.is(lab.lab.disk("v1").handles, 1);
  await lab.lab.finish();
  for (const volume of ["v1", "v2"]) await lab.holds(t, volume);
});

test("resize to what the backing has now also brings back a volume that has shrunk", async (t) => {
  const disk = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [disk]);
  disk.faults.inject({ operation: "flush", effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await t.throwsAsync(() => lab.engine.flush("v1"), { code: "MEDIUM_ERROR" });
  disk.repair();
  await disk.memory.resize(4 * G);
  await refusal(t, () => lab.engine.reopenVolume("v1"), "VOLUME_SHRUNK");
  await refusal(t, () => lab.engine.resizeVolume("v1", 4 * G), "VOLUME_UNAVAILABLE");
  t.is((await lab.engine.resizeVolume("v1", 0)).sizeBytes, 4 * G);
  t.true((await lab.engine.volumeStatus("v1")).online);
});

test("reopen: a volume that another program wrote to while it was away has changed, and its unfinished copy has failed", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.copy(t, "v1", "v3", "quickopc", { pace: 15 });
  for (let turn = 0; (await lab.session("c2")).phase === "copying"; turn++) {
    if (turn === 200) return t.fail("it does not end");
    await lab.lab.settle();
  }
  t.is((await lab.session("c1")).phase, "copying");
  await lab.engine.stop();
  const disk = lab.lab.disk("v1");
  disk.away = GONE;
  await lab.lab.boot();
  const foreign = pattern(G, 77);
  await disk.memory.write(18 * G, foreign);
  lab.image("v1").set(foreign, 18 * G);
  disk.away = undefined;
  await lab.engine.reopenVolume("v1");
  t.is((await lab.session("c1")).phase, "failed", "what it still had to copy is gone");
  t.like(await lab.session("c2"), { phase: "tracking", changedGranules: 21 });
  t.true(lab.lab.events.some((event) => event.type === "engine.trouble" && event.message.includes("v1")));
  await lab.lab.kill(1);
  t.is((await lab.session("c1")).phase, "failed", "durably");
  t.is((await lab.restart("c2")).reason, "BASE_LOST");
  await lab.lab.finish();
  await lab.holds(t, "v3");
});

test("reopen: a volume that nobody wrote to while it was away keeps its copies and its difference", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [3]);
  await lab.engine.stop();
  lab.lab.disk("v1").away = GONE;
  await lab.lab.boot();
  await lab.engine.stop();
  await lab.lab.boot(); // away twice in a row
  lab.lab.disk("v1").away = undefined;
  await lab.engine.reopenVolume("v1");
  t.like(await lab.session("c1"), { phase: "tracking", changedGranules: 1 });
  await lab.write("v1", 7 * G, G);
  await lab.lab.kill(1); // our own write is not taken for a foreign one
  t.like(await lab.restart("c1"), { reason: "MAP_WIDENED" });
  await lab.lab.finish();
  await lab.holds(t, "v2");
});
