/** QuickOPC of spec/11 "Copy engines", "Copy session", "Restore legality matrix" and the acceptance cases. */
import test from "ava";
import type { SessionStatus } from "../../src/engine/engine-api.ts";
import { toCopy } from "../../src/server/convert.ts";
import { CopyLab, G, refusal, same } from "../support/copy-lab.ts";

const SIZE = 100 * G;
const small = 20 * G + 1536;

const percents = (status: SessionStatus) => {
  const { executePercent, updatePercent } = toCopy(status);
  return { executePercent, updatePercent };
};

test("spec/11 #32: the second run copies exactly the blocks changed in between", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  t.is((await lab.session("c1")).bytesCopied, SIZE, "the first run is full");
  for (const k of [1, 7, 0, 33]) {
    await lab.touch(
      "v1",
      Array.from({ length: k }, (_, index) => index * 3),
    );
    const status = await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
    t.like(status, { id: "c1", reason: "DIFFERENCE", plannedGranules: k, bytesPlanned: k * G });
    await lab.lab.finish();
    t.is((await lab.session("c1")).bytesCopied, k * G, `${k} changed blocks are moved, not one more`);
    await lab.holds(t, "v2");
  }
});

test("spec/11 #32: a block written many times, or in pieces, counts once; the partial last block with its own length", async (t) => {
  const lab = await CopyLab.start(t, [small, small]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [4, 4, 4]);
  await lab.write("v1", 4 * G + 3000, 1);
  await lab.write("v1", small - 1, 1);
  const status = await lab.restart("c1");
  t.like(status, { plannedGranules: 2, bytesPlanned: G + 1536 });
  await lab.lab.finish();
  t.is((await lab.session("c1")).bytesCopied, G + 1536);
  await lab.holds(t, "v2");
});

test("spec/11 #33: blocks written at the destination are overwritten by the second run", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [10, 11, 12]);
  await lab.touch("v2", [12, 50, 51, 99]);
  const plan = await lab.engine.explain({
    source: lab.extent("v1"),
    destination: lab.extent("v2"),
    kind: "quickopc",
  });
  t.like(plan, { sourceChangedGranules: 3, destinationChangedGranules: 4, plannedGranules: 6, pendingGranules: 0 });
  t.is((await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 })).plannedGranules, 6, "the union of both");
  await lab.lab.finish();
  same(t, await lab.lab.physical("v2"), await lab.lab.physical("v1"), "destination is source");
});

test("spec/11 #34: reverse QuickOPC is refused while tracking; reverse OPC copies only changed blocks", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [1, 2, 3, 4]);
  await lab.touch("v2", [4, 90]);
  const reverse = { source: lab.extent("v2"), destination: lab.extent("v1") };
  await refusal(
    t,
    () => lab.engine.startSessions([{ id: "c9", pace: 1, kind: "quickopc", ...reverse }]),
    "REVERSE_NOT_OPC",
  );
  await refusal(t, () => lab.engine.explain({ kind: "quickopc", ...reverse }), "REVERSE_NOT_OPC");
  const restore = await lab.copy(t, "v2", "v1", "opc");
  t.like(restore, { reason: "RESTORE_DIFFERENCE", plannedGranules: 5, bytesPlanned: 5 * G, kind: "opc" });
  const [regular, reversed] = await lab.engine.sessions();
  t.like(regular, { id: "c1", phase: "tracking", tracking: true }, "the regular direction keeps tracking");
  t.like(reversed, { id: restore.id, phase: "copying" }, "the reverse direction has a session of its own");
  t.deepEqual(
    reversed && [reversed.source.name, reversed.destination.name, percents(reversed).executePercent],
    ["v2", "v1", 40],
    "2 of 5 blocks are copied back",
  );
  await lab.reads(t, "v1", "reads as the replica at once");
  await lab.lab.finish();
  t.deepEqual(
    (await lab.engine.sessions()).map(({ id }) => id),
    ["c1"],
    "the restore is over, tracking goes on",
  );
  await lab.holds(t, "v1", "restored");
  same(t, await lab.lab.physical("v1"), await lab.lab.physical("v2"), "source is replica");
});

test("spec/11 #34: after a restore the next difference is still right", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [1, 2, 3]);
  await lab.copy(t, "v2", "v1", "opc");
  await lab.touch("v1", [70]);
  await lab.lab.finish();
  await lab.touch("v1", [2, 71]);
  const status = await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  t.is(status.reason, "DIFFERENCE");
  t.true(status.plannedGranules >= 3 && status.plannedGranules <= 5, "what changed; restored blocks may be among them");
  await lab.lab.finish();
  await lab.holds(t, "v2");
  same(t, await lab.lab.physical("v2"), await lab.lab.physical("v1"), "destination is source");
});

test("spec/11 restore matrix: while the first copy still runs a restore is refused, in both kinds", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  for (const kind of ["opc", "quickopc"] as const)
    await refusal(
      t,
      () => lab.engine.explain({ source: lab.extent("v2"), destination: lab.extent("v1"), kind }),
      "DESTINATION_COPYING",
    );
  await lab.reads(t, "v1", "unchanged");
});

test("spec/11 restore matrix: another pair of the source that copies blocks the restore, one that tracks does not", async (t) => {
  const lab = await CopyLab.start(t, [small, small, small]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.copy(t, "v1", "v3", "quickopc");
  await refusal(
    t,
    () => lab.engine.explain({ source: lab.extent("v2"), destination: lab.extent("v1"), kind: "opc" }),
    "DESTINATION_COPYING",
  );
  await lab.lab.finish();
  await lab.touch("v1", [3]);
  t.is((await lab.copy(t, "v2", "v1", "opc")).plannedGranules, 1);
  await lab.lab.finish();
  await lab.holds(t, "v1");
  // The restore changed v1: the other pair's next difference must have it.
  const other = await lab.copy(t, "v1", "v3", "quickopc", { pace: 15 });
  t.true(other.plannedGranules >= 1);
  await lab.lab.finish();
  await lab.holds(t, "v3");
});

test("spec/11 restore matrix: the destination of a copy cannot be restored into from elsewhere", async (t) => {
  const lab = await CopyLab.start(t, [small, small, small]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  for (const kind of ["opc", "quickopc"] as const)
    await refusal(
      t,
      () => lab.engine.explain({ source: lab.extent("v3"), destination: lab.extent("v2"), kind }),
      "DESTINATION_IN_USE",
    );
});

test("spec/11 engine part of #15: first executing n % and no update figure to trust, then tracking at 0 %", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  for (let percent = 2; percent < 100; percent += 2) {
    const status = await lab.session("c1");
    t.like(status, { phase: "copying", tracking: true });
    t.is(percents(status).executePercent, percent);
    await lab.lab.step();
  }
  await lab.lab.finish();
  const status = await lab.session("c1");
  t.like(status, { phase: "tracking", tracking: true, pendingGranules: 0 });
  t.deepEqual(percents(status), { executePercent: 100, updatePercent: 0 });
  t.deepEqual(lab.phases("c1"), ["copying", "tracking"]);
});

test("spec/11 engine part of #16: after 12 % is updated Update is 12 %, on either side, rounded down", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.write("v1", 8 * G, 12 * G);
  t.is(percents(await lab.session("c1")).updatePercent, 12);
  await lab.touch("v2", [8, 60]);
  t.is(percents(await lab.session("c1")).updatePercent, 13, "block 8 counts once");
  await lab.lab.reboot();
  t.is(percents(await lab.session("c1")).updatePercent, 13, "also after a restart");
  t.like(await lab.session("c1"), { phase: "tracking", changedGranules: 13, totalGranules: 100 });
});

test("spec/11 engine part of #16: Update is 100 only when everything has changed, and never rounded up to it", async (t) => {
  const lab = await CopyLab.start(t, [200 * G, 200 * G]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.write("v1", 0, 128 * G);
  await lab.write("v1", 128 * G, 71 * G);
  t.is(percents(await lab.session("c1")).updatePercent, 99);
  await lab.touch("v1", [199]);
  t.is(percents(await lab.session("c1")).updatePercent, 100);
});

test("spec/11 engine part of #17: the tracking destination is used again and only updated blocks are copied", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  const first = await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.write("v1", 8 * G, 12 * G);
  const second = await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  t.like(second, { id: first.id, generation: 2, plannedGranules: 12 });
  await lab.lab.finish();
  t.is((await lab.session("c1")).bytesCopied, 12 * G);
  t.deepEqual(percents(await lab.session("c1")), { executePercent: 100, updatePercent: 0 });
});

test("spec/11 engine part of #18: at 40 % a tracked copy goes on to 100 %, a cancelled plain one aborts", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.copy(t, "v1", "v3", "opc");
  for (let step = 0; step < 19; step++) await lab.lab.step();
  for (const id of ["c1", "c2"]) t.is(percents(await lab.session(id)).executePercent, 40);
  t.false((await lab.engine.cancelSession("c2")).destinationUsable);
  await lab.lab.finish();
  t.like(await lab.session("c1"), { phase: "tracking", pendingGranules: 0 });
  await lab.holds(t, "v2");
});

test("spec/11 engine part of #20: after tracking is cancelled any restore is a full copy, and so is the next QuickOPC", async (t) => {
  const lab = await CopyLab.start(t, [small, small, small]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [5]);
  t.true((await lab.engine.cancelSession("c1")).destinationUsable, "tracking only: the destination is a replica");
  t.like(await lab.copy(t, "v2", "v3", "opc", { pace: 15 }), { reason: "FIRST_COPY", plannedGranules: 21 });
  await lab.lab.finish();
  t.like(await lab.copy(t, "v2", "v1", "opc", { pace: 15 }), { reason: "FIRST_COPY", plannedGranules: 21 });
  await lab.lab.finish();
  t.like(await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 }), { reason: "FIRST_COPY", plannedGranules: 21 });
  await lab.lab.finish();
  for (const volume of ["v1", "v2", "v3"]) await lab.holds(t, volume);
});

test("spec/11 engine part of #21: stop tracking during the physical copy: the copy goes on to the end, tracking is over", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.lab.step();
  const status = await lab.engine.stopTracking("c1");
  t.like(status, { phase: "copying", tracking: false, kind: "opc", pendingGranules: 96 });
  await lab.write("v1", 50 * G, G);
  await lab.reads(t, "v2", "still the point");
  await refusal(t, () => lab.engine.stopTracking("c1"), "NOT_TRACKING");
  await lab.lab.finish();
  t.deepEqual(await lab.engine.sessions(), []);
  await lab.holds(t, "v2");
  t.deepEqual(lab.phases("c1"), ["copying", "completed, usable"]);
});

test("spec/11 QuickOPC: stop tracking while tracking: the session is released, the destination usable", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  t.is((await lab.engine.stopTracking("c1")).phase, "completed");
  t.deepEqual(await lab.engine.sessions(), []);
  t.is(lab.phases("c1").at(-1), "completed, usable");
  t.deepEqual((await lab.engine.volumeStatus("v1")).epochs, [], "nobody needs the map any more");
  await lab.holds(t, "v2");
});

test("spec/11 QuickOPC: cancel while copying makes the destination unusable, cancel while tracking does not", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  t.false((await lab.engine.cancelSession("c1")).destinationUsable);
  await lab.holds(t, "v1");
  t.is((await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 })).reason, "FIRST_COPY", "the difference base is lost");
  await lab.lab.finish();
  t.true((await lab.engine.cancelSession("c2")).destinationUsable);
  await lab.holds(t, "v2");
  t.deepEqual([lab.phases("c1").at(-1), lab.phases("c2").at(-1)], ["cancelled, not usable", "cancelled, usable"]);
});

test("spec/11 QuickOPC: again while copying: what is left to copy and what has changed", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc");
  for (let step = 0; step < 19; step++) await lab.lab.step(); // granules 0 to 39 are copied
  await lab.touch("v1", [5, 6, 80]);
  await lab.touch("v2", [7, 81]);
  // 80 and 81 have been copied by these writes: 58 of the first run are left, 5 have changed.
  const status = await lab.copy(t, "v1", "v2", "quickopc");
  t.like(status, { id: "c1", reason: "DIFFERENCE", plannedGranules: 63, generation: 2, bytesCopied: 0 });
  await lab.reads(t, "v2", "the newer point");
  await lab.lab.finish();
  t.is((await lab.session("c1")).bytesCopied, 63 * G);
  await lab.holds(t, "v2");
});

test("spec/11 QuickOPC: OPC in the same direction ends the tracking and copies everything", async (t) => {
  const lab = await CopyLab.start(t, [small, small]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [2]);
  const status = await lab.copy(t, "v1", "v2", "opc");
  t.like(status, { id: "c1", kind: "opc", tracking: false, reason: "KIND_CHANGED", plannedGranules: 21 });
  await lab.lab.finish();
  t.deepEqual(await lab.engine.sessions(), []);
  await lab.holds(t, "v2");
});

test("spec/11 QuickOPC: a running OPC becomes QuickOPC by a full copy", async (t) => {
  const lab = await CopyLab.start(t, [small, small]);
  await lab.copy(t, "v1", "v2", "opc");
  t.like(await lab.copy(t, "v1", "v2", "quickopc"), { kind: "quickopc", reason: "NOT_TRACKED", plannedGranules: 21 });
  await lab.touch("v1", [1, 20]);
  await lab.lab.finish();
  t.like(await lab.session("c1"), { phase: "tracking", changedGranules: 2 });
  await lab.holds(t, "v2");
});

test("spec/11 QuickOPC: several trackings of one source keep their own differences", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [1, 2]);
  await lab.copy(t, "v1", "v3", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [2, 3]);
  await lab.touch("v3", [40]);
  t.is((await lab.session("c1")).changedGranules, 3);
  t.is((await lab.session("c2")).changedGranules, 3);
  await lab.lab.reboot();
  t.is((await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 })).plannedGranules, 3, "1, 2 and 3");
  t.is((await lab.copy(t, "v1", "v3", "quickopc", { pace: 15 })).plannedGranules, 3, "2, 3 and 40");
  await lab.lab.finish();
  for (const volume of ["v2", "v3"]) await lab.holds(t, volume);
});

test("what changed since an epoch is what the next run copies", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [3, 4, 5, 77, 99]);
  const { sourceEpoch } = await lab.session("c1");
  const range = { sinceEpoch: sourceEpoch, untilEpoch: 0, offsetBytes: 0, lengthBytes: SIZE, extentsMax: 10 };
  t.deepEqual(await lab.engine.changedExtents(lab.extent("v1"), range), [
    { offsetBytes: 3 * G, lengthBytes: 3 * G },
    { offsetBytes: 77 * G, lengthBytes: G },
    { offsetBytes: 99 * G, lengthBytes: G },
  ]);
  await refusal(t, () => lab.engine.changedExtents(lab.extent("v1"), { ...range, sinceEpoch: 77 }), "EPOCH_NOT_FOUND");
  t.is((await lab.restart("c1")).plannedGranules, 5);
});
