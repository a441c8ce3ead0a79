/** OPC of spec/11 "Copy engines", "Copy session" and the acceptance cases: instant copy, copied in the background, then gone. */
import test from "ava";
import { CopyLab, FaultyDisk, G, pattern, refusal, same } from "../support/copy-lab.ts";

const SIZE = 20 * G + 1536;
const GRANULES = 21;

test("spec/11 #30: the command returns at once; uncopied blocks of the destination read as of the command", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  const status = await lab.copy(t, "v1", "v2", "opc");
  t.like(status, { phase: "copying", pendingGranules: GRANULES, plannedGranules: GRANULES, reason: "FIRST_COPY" });
  const point = pattern(SIZE, 1);
  same(t, await lab.granuleOnDisk("v2", 12), pattern(SIZE, 2).subarray(12 * G, 13 * G), "not copied yet");
  same(t, await lab.read("v2", 12 * G, G), point.subarray(12 * G, 13 * G), "reads as of the command");
  await lab.write("v1", 15 * G, G);
  same(t, await lab.read("v2", 15 * G, G), point.subarray(15 * G, 16 * G), "written first at the source: preserved");
  await lab.reads(t, "v2", "while copying");
  await lab.lab.finish();
  same(t, await lab.lab.physical("v2"), point, "the whole destination is the source as of the command");
});

test("spec/11 #30: a read of the destination while nothing else moves, block by block in any order", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "opc");
  await lab.write("v1", 0, SIZE);
  for (const granule of [20, 3, 19, 2, 11, 0])
    same(t, await lab.read("v2", granule * G, granule === 20 ? 1536 : G), atPoint(granule), `block ${granule}`);
});

const atPoint = (granule: number) => pattern(SIZE, 1).subarray(granule * G, (granule + 1) * G);

test("spec/11 #31: again while copying: the progress restarts, the destination holds the newer point", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  const first = await lab.copy(t, "v1", "v2", "opc");
  for (let step = 0; step < 4; step++) await lab.lab.step();
  t.is((await lab.session("c1")).pendingGranules, GRANULES - 10, "about 40 %");
  await lab.write("v1", 0, 4 * G); // copied already
  await lab.write("v1", 15 * G, 512); // not copied yet
  await lab.write("v2", 18 * G, 512); // lost with the new point
  const again = await lab.copy(t, "v1", "v2", "opc");
  t.is(again.id, first.id);
  t.like(again, { reason: "NOT_TRACKED", plannedGranules: GRANULES, pendingGranules: GRANULES, bytesCopied: 0 });
  t.is(again.generation, first.generation + 1);
  await lab.reads(t, "v2", "right after the newer point");
  await lab.lab.finish();
  await lab.holds(t, "v2");
  same(t, await lab.lab.physical("v2"), await lab.lab.physical("v1"), "the newer point");
});

test("spec/11 #31: the same by naming the session", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "opc");
  await lab.write("v1", 3 * G, 10 * G);
  const again = await lab.restart("c1");
  t.like(again, { id: "c1", reason: "NOT_TRACKED", plannedGranules: GRANULES, generation: 2 });
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("spec/11 OPC: the session disappears when the physical copy ends, and says so", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "opc");
  await lab.lab.finish();
  t.deepEqual(await lab.engine.sessions(), []);
  await refusal(t, () => lab.engine.sessionStatus("c1"), "SESSION_NOT_FOUND");
  t.deepEqual(lab.phases("c1"), ["copying", "completed, usable"]);
  const volumes = await Promise.all(["v1", "v2"].map((uid) => lab.engine.volumeStatus(uid)));
  t.deepEqual(
    volumes.map(({ epochs }) => epochs),
    [[], []],
    "OPC tracks nothing",
  );
});

test("spec/11 OPC: after completion the copy stands alone: the source may be overwritten with zeros", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "opc", { pace: 15 });
  await lab.lab.finish();
  await lab.engine.write(lab.extent("v1"), 0, new Uint8Array(SIZE));
  same(t, await lab.lab.physical("v2"), pattern(SIZE, 1), "the point");
  await lab.lab.reboot();
  same(t, await lab.lab.physical("v2"), pattern(SIZE, 1), "the point, after a restart");
});

test("spec/11 OPC: cancel while copying: no session, destination unusable, source never changed", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "opc");
  await lab.write("v1", 5 * G, 512);
  const { session, destinationUsable } = await lab.engine.cancelSession("c1");
  t.is(session.phase, "cancelled");
  t.false(destinationUsable);
  t.deepEqual(await lab.engine.sessions(), []);
  await lab.holds(t, "v1", "after the cancel");
  t.deepEqual(lab.phases("c1").at(-1), "cancelled, not usable");
  // Both volumes are free again, and what hosts write to them stays.
  await lab.write("v2", 0, SIZE);
  for (let step = 0; step < 5; step++) await lab.lab.step();
  await lab.holds(t, "v2", "written after the cancel");
  t.is((await lab.copy(t, "v2", "v1", "opc")).reason, "FIRST_COPY");
});

test("spec/11 OPC: a host write to the destination during the cancel is not overwritten by a copy under way", async (t) => {
  const destination = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [SIZE, destination], { jobBytes: 4 * G });
  const stalled = destination.faults.inject({ operation: "write", calls: 1, effect: { kind: "stall" } });
  await lab.copy(t, "v1", "v2", "opc");
  await stalled.reached(1); // granules 0 to 3 are read and about to be written
  const cancelling = lab.engine.cancelSession("c1");
  await lab.lab.settle();
  const writing = lab.write("v2", G, G);
  await lab.lab.settle();
  stalled.remove();
  t.false((await cancelling).destinationUsable);
  await writing;
  await lab.lab.settle();
  same(t, await lab.granuleOnDisk("v2", 1), lab.image("v2").subarray(G, 2 * G), "the host's write");
});

test("spec/11 OPC: the same for a copy that a host's read has asked for", async (t) => {
  const destination = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [SIZE, destination]);
  await lab.copy(t, "v1", "v2", "opc");
  const range = { offsetBytes: 10 * G, lengthBytes: G };
  const stalled = destination.faults.inject({ operation: "write", calls: 1, range, effect: { kind: "stall" } });
  const reading = lab.read("v2", 10 * G, 512);
  await stalled.reached(1);
  const cancelling = lab.engine.cancelSession("c1");
  await lab.lab.settle();
  const writing = lab.write("v2", 10 * G, G);
  await lab.lab.settle();
  stalled.remove();
  await Promise.allSettled([reading, cancelling, writing]);
  await lab.lab.settle();
  same(t, await lab.granuleOnDisk("v2", 10), lab.image("v2").subarray(10 * G, 11 * G), "the host's write");
});

test("spec/11 OPC: tracking cannot be stopped on a session that does not track", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "opc");
  await refusal(t, () => lab.engine.stopTracking("c1"), "NOT_TRACKING");
  t.is((await lab.session("c1")).phase, "copying");
});

test("spec/11 OPC: several sessions leave one source at different points, each with its own content", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE, SIZE]);
  for (const destination of ["v2", "v3", "v4"]) {
    await lab.copy(t, "v1", destination, destination === "v3" ? "quickopc" : "opc");
    await lab.write("v1", 4 * G + 100, 6 * G);
  }
  t.is((await lab.engine.sessions()).length, 3);
  for (const volume of ["v1", "v2", "v3", "v4"]) await lab.reads(t, volume, "while three copy");
  await lab.lab.finish();
  for (const volume of ["v1", "v2", "v3", "v4"]) await lab.holds(t, volume);
});

test("spec/11 OPC: Execute is exact at every step", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "opc");
  for (let copied = 2; copied < GRANULES; copied += 2) {
    const status = await lab.session("c1");
    t.is(status.plannedGranules - status.pendingGranules, copied);
    t.is(status.bytesCopied, copied * G);
    let onDisk = 0;
    const [disk, point] = [await lab.lab.physical("v2"), pattern(SIZE, 1)];
    while (Buffer.compare(disk.subarray(onDisk * G, onDisk * G + G), point.subarray(onDisk * G, onDisk * G + G)) === 0)
      onDisk++;
    t.is(onDisk, copied, "as many are at the destination");
    await lab.lab.step();
  }
});

test("the pace decides how much of the time is copied: 1 is the slowest, 15 never rests", async (t) => {
  const moved: number[] = [];
  for (const pace of [1, 5, 14, 15]) {
    const lab = await CopyLab.start(t, [400 * G, 400 * G]);
    await lab.copy(t, "v1", "v2", "quickopc", { pace });
    for (let ms = 0; ms < 40; ms++) {
      lab.lab.clock.advance(1);
      await lab.lab.settle();
    }
    moved.push(400 - (await lab.session("c1")).pendingGranules);
  }
  t.deepEqual(
    [...moved].sort((a, b) => a - b),
    moved,
    `granules moved in the same time: ${moved}`,
  );
  t.is(new Set(moved).size, moved.length, `each pace differs: ${moved}`);
});

test("the pace can be changed while copying and is kept; paces outside 1 to 15 are refused", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  t.is((await lab.engine.setPace("c1", 15)).pace, 15);
  await lab.lab.step();
  for (let turn = 0; turn < 20; turn++) await lab.lab.settle();
  t.is((await lab.session("c1")).phase, "tracking", "without further rests");
  await lab.lab.reboot();
  t.is((await lab.session("c1")).pace, 15);
  for (const pace of [0, 16, 1.5, Number.NaN])
    await refusal(t, () => lab.engine.setPace("c1", pace), "INVALID_ARGUMENT");
});
