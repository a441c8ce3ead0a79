/**
 * Devices that fail under a copy: the session says `failed` with its cause, the source's hosts go on, nothing is taken for
 * copied that is not, and after a repair everything can be had again.
 */
import test, { type ExecutionContext } from "ava";
import type { CopyFailure, CopyKind } from "../../src/engine/engine-api.ts";
import { CopyLab, FaultyDisk, G, pattern, refusal, same } from "../support/copy-lab.ts";

const SIZE = 20 * G + 1536;
const BAD = 9;
const badBlock = { offsetBytes: BAD * G + 1024, lengthBytes: 512 };
const point = pattern(SIZE, 1);
const KINDS = ["opc", "quickopc"] as const;

interface Stage {
  readonly lab: CopyLab;
  readonly source: FaultyDisk;
  readonly destination: FaultyDisk;
}

async function stage(t: ExecutionContext): Promise<Stage> {
  const [source, destination] = [new FaultyDisk(SIZE), new FaultyDisk(SIZE)];
  return { lab: await CopyLab.start(t, [source, destination]), source, destination };
}

async function failedWith(t: ExecutionContext, lab: CopyLab, cause: CopyFailure): Promise<void> {
  const status = await lab.session("c1");
  t.is(status.phase, "failed");
  t.is(status.failure?.cause, cause, status.failure?.message);
  t.truthy(status.failure?.message);
  t.is(lab.phases("c1").at(-1), "failed");
}

/** The failed copy runs again in full and is right; also over a restart of the box in between. */
async function againInFull(t: ExecutionContext, lab: CopyLab, kind: CopyKind): Promise<void> {
  await lab.lab.reboot();
  t.is((await lab.session("c1")).phase, "failed", "a failure survives a restart");
  const status = await lab.restart("c1");
  t.like(status, { reason: "AFTER_FAILURE", plannedGranules: 21, failure: undefined, kind });
  await lab.lab.finish();
  for (const volume of ["v1", "v2"]) await lab.holds(t, volume, "after the repair");
}

for (const kind of KINDS) {
  test(`${kind}: a bad sector of the source in the background copy: failed(badsector)`, async (t) => {
    const { lab, source } = await stage(t);
    const fault = source.faults.inject({
      operation: "read",
      range: badBlock,
      effect: { kind: "error", code: "MEDIUM_ERROR" },
    });
    await lab.copy(t, "v1", "v2", kind);
    await lab.lab.finish();
    await failedWith(t, lab, "BAD_SECTOR");
    same(t, await lab.read("v2", 2 * G, G), point.subarray(2 * G, 3 * G), "what was copied is read");
    await refusal(t, () => lab.read("v2", BAD * G, 512), "MEDIUM_ERROR");
    const late = await refusal(t, () => lab.read("v2", 20 * G, 512), "MEDIUM_ERROR");
    t.regex(late?.message ?? "", /copy c1 failed/, "what was not copied is refused, never read from the old content");
    await refusal(t, () => lab.write("v2", 20 * G, 512), "MEDIUM_ERROR");
    await lab.write("v1", 15 * G, G);
    same(t, await lab.read("v1", 15 * G, G), lab.image("v1").subarray(15 * G, 16 * G), "the source goes on");
    await refusal(
      t,
      () => lab.engine.explain({ source: lab.extent("v2"), destination: lab.extent("v1"), kind: "opc" }),
      "SOURCE_UNREADABLE",
    );
    fault.remove();
    await againInFull(t, lab, kind);
  });

  test(`${kind}: a bad sector of the source in copy-on-write: failed(badsector), the host's write succeeds`, async (t) => {
    const { lab, source } = await stage(t);
    await lab.copy(t, "v1", "v2", kind);
    const fault = source.faults.inject({
      operation: "read",
      range: badBlock,
      effect: { kind: "error", code: "MEDIUM_ERROR" },
    });
    await lab.write("v1", BAD * G, G);
    await failedWith(t, lab, "BAD_SECTOR");
    fault.remove(); // writing a bad sector heals it
    same(t, await lab.granuleOnDisk("v1", BAD), lab.image("v1").subarray(BAD * G, (BAD + 1) * G), "written");
    await againInFull(t, lab, kind);
  });

  test(`${kind}: a bad sector of the source met by a read of the destination: the reader is told`, async (t) => {
    const { lab, source } = await stage(t);
    await lab.copy(t, "v1", "v2", kind);
    const fault = source.faults.inject({
      operation: "read",
      range: badBlock,
      effect: { kind: "error", code: "MEDIUM_ERROR" },
    });
    await refusal(t, () => lab.read("v2", BAD * G, G), "MEDIUM_ERROR");
    await failedWith(t, lab, "BAD_SECTOR");
    fault.remove();
    await againInFull(t, lab, kind);
  });

  for (const [code, cause] of [
    ["NO_SPACE", "OVERFLOW"],
    ["MEDIUM_ERROR", "OTHER"],
    ["DEVICE_GONE", "OTHER"],
  ] as const) {
    test(`${kind}: ${code} of the destination in the background copy: failed(${cause})`, async (t) => {
      const { lab, destination } = await stage(t);
      const fault = destination.faults.inject({ operation: "write", range: badBlock, effect: { kind: "error", code } });
      await lab.copy(t, "v1", "v2", kind);
      await lab.lab.finish();
      await failedWith(t, lab, cause);
      await lab.write("v1", 0, SIZE);
      await lab.reads(t, "v1", "the source goes on");
      fault.remove();
      await againInFull(t, lab, kind);
    });

    test(`${kind}: ${code} of the destination in copy-on-write: failed(${cause}), the host's write succeeds`, async (t) => {
      const { lab, destination } = await stage(t);
      await lab.copy(t, "v1", "v2", kind);
      const fault = destination.faults.inject({ operation: "write", range: badBlock, effect: { kind: "error", code } });
      await Promise.all([lab.write("v1", BAD * G, G), lab.write("v1", (BAD + 1) * G, G)]);
      await failedWith(t, lab, cause);
      await lab.reads(t, "v1", "both writes are there");
      fault.remove();
      await againInFull(t, lab, kind);
    });
  }

  test(`${kind}: a torn write of the destination is not taken for copied`, async (t) => {
    const { lab, destination } = await stage(t);
    destination.faults.inject({
      operation: "write",
      range: badBlock,
      calls: 1,
      effect: { kind: "torn", sectors: 3, code: "MEDIUM_ERROR" },
    });
    await lab.copy(t, "v1", "v2", kind);
    await lab.lab.finish();
    await failedWith(t, lab, "OTHER");
    await againInFull(t, lab, kind);
  });

  test(`${kind}: a failed flush of the destination fails the copy and takes the volume out of service`, async (t) => {
    const { lab, destination } = await stage(t);
    await lab.copy(t, "v1", "v2", kind);
    destination.faults.inject({ operation: "flush", calls: 1, effect: { kind: "error", code: "MEDIUM_ERROR" } });
    await lab.write("v1", BAD * G, G); // has to make the old data durable first
    await failedWith(t, lab, "OTHER");
    t.false((await lab.engine.volumeStatus("v2")).online);
    t.true(lab.lab.events.some((event) => event.type === "volume.failed" && event.uid === "v2"));
    await lab.reads(t, "v1", "the source goes on");
    await refusal(t, () => lab.read("v2", 0, 512), "VOLUME_UNAVAILABLE");
    await refusal(t, () => lab.engine.restartSessions(["c1"]), "VOLUME_UNAVAILABLE");
    destination.repair();
    await againInFull(t, lab, kind);
  });

  test(`${kind}: NO_SPACE told only by the flush is an overflow too`, async (t) => {
    const { lab, destination } = await stage(t);
    await lab.copy(t, "v1", "v2", kind);
    destination.faults.inject({ operation: "flush", calls: 1, effect: { kind: "error", code: "NO_SPACE" } });
    await lab.write("v1", BAD * G, G);
    await failedWith(t, lab, "OVERFLOW");
    destination.repair();
    await againInFull(t, lab, kind);
  });

  test(`${kind}: a failed copy can be cancelled; its destination is not usable, and free again`, async (t) => {
    const { lab, source } = await stage(t);
    const fault = source.faults.inject({
      operation: "read",
      range: badBlock,
      effect: { kind: "error", code: "MEDIUM_ERROR" },
    });
    await lab.copy(t, "v1", "v2", kind);
    await lab.lab.finish();
    t.false((await lab.engine.cancelSession("c1")).destinationUsable);
    await lab.write("v2", 0, SIZE);
    await lab.reads(t, "v2", "without a session the volume is what hosts write");
    fault.remove();
    t.is((await lab.copy(t, "v1", "v2", kind, { pace: 15 })).reason, "FIRST_COPY");
    await lab.lab.finish();
    await lab.holds(t, "v2");
  });
}

test("a failing copy does not disturb another copy of the same source", async (t) => {
  const [source, bad, good] = [new FaultyDisk(SIZE), new FaultyDisk(SIZE), new FaultyDisk(SIZE)];
  const lab = await CopyLab.start(t, [source, bad, good]);
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.copy(t, "v1", "v3", "quickopc");
  bad.faults.inject({ operation: "write", effect: { kind: "error", code: "NO_SPACE" } });
  await lab.write("v1", BAD * G, 3 * G);
  await failedWith(t, lab, "OVERFLOW");
  await lab.reads(t, "v3", "the other copy");
  await lab.lab.finish();
  await lab.holds(t, "v3");
  t.is((await lab.session("c2")).changedGranules, 3);
});

test("a cascade fails below a failed step, with a cause, and is right after both run again", async (t) => {
  const [first, second, third] = [new FaultyDisk(SIZE), new FaultyDisk(SIZE), new FaultyDisk(SIZE)];
  const lab = await CopyLab.start(t, [first, second, third]);
  await lab.copy(t, "v1", "v2", "quickopc");
  const fault = first.faults.inject({
    operation: "read",
    range: badBlock,
    effect: { kind: "error", code: "MEDIUM_ERROR" },
  });
  await lab.copy(t, "v2", "v3", "quickopc");
  await lab.lab.finish();
  for (const id of ["c1", "c2"]) t.is((await lab.session(id)).failure?.cause, "BAD_SECTOR");
  fault.remove();
  await lab.restart("c1");
  await lab.restart("c2");
  await lab.lab.finish();
  for (const volume of ["v2", "v3"]) await lab.holds(t, volume);
});

test("QuickOPC: a bad sector of the source while only tracking: the host is told, tracking reads nothing and goes on", async (t) => {
  const { lab, source } = await stage(t);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  const fault = source.faults.inject({
    operation: "read",
    range: badBlock,
    effect: { kind: "error", code: "MEDIUM_ERROR" },
  });
  await t.throwsAsync(() => lab.read("v1", BAD * G, G), { code: "MEDIUM_ERROR" });
  await lab.touch("v1", [3]);
  t.like(await lab.session("c1"), { phase: "tracking", changedGranules: 1 });
  // The unchanged bad block is not read: the good copy of it stays.
  await lab.restart("c1");
  await lab.lab.finish();
  t.like(await lab.session("c1"), { phase: "tracking", bytesCopied: G });
  same(t, await lab.granuleOnDisk("v2", BAD), point.subarray(BAD * G, (BAD + 1) * G), "the good copy");
  // Written in part, it has to be read by the next difference: that fails, and never puts bad data over the good copy.
  await lab.write("v1", BAD * G, 512);
  await lab.restart("c1");
  await lab.lab.finish();
  await failedWith(t, lab, "BAD_SECTOR");
  same(t, await lab.granuleOnDisk("v2", BAD), point.subarray(BAD * G, (BAD + 1) * G), "still the good copy");
  fault.remove();
  await againInFull(t, lab, "quickopc");
});

test("QuickOPC: the way back from a bad sector: end the tracking and copy the replica over the source", async (t) => {
  const { lab, source } = await stage(t);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  const fault = source.faults.inject({
    operation: "read",
    range: badBlock,
    effect: { kind: "error", code: "MEDIUM_ERROR" },
  });
  await t.throwsAsync(() => lab.read("v1", BAD * G, G), { code: "MEDIUM_ERROR" });
  t.true((await lab.engine.cancelSession("c1")).destinationUsable);
  await lab.copy(t, "v2", "v1", "opc", { pace: 15 });
  await lab.lab.finish();
  fault.remove(); // overwritten
  await lab.holds(t, "v1");
});
