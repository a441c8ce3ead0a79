/** Defects that reviews have found, each as short as it can be told. */
import test, { type ExecutionContext } from "ava";
import { InjectedFailure } from "../../src/engine/durable/memory-state-files.ts";
import { CopyLab, FaultyDisk, G, pattern, same } from "../support/copy-lab.ts";

const SIZE = 20 * G;

/** v1 is being copied to v2, and v2 tracked to v3, which has brought everything through v2. */
async function cascade(lab: CopyLab, t: ExecutionContext): Promise<void> {
  await lab.copy(t, "v1", "v2", "opc");
  await lab.copy(t, "v2", "v3", "quickopc", { pace: 15 });
  for (let turn = 0; turn < 10; turn++) await lab.lab.settle();
  t.is((await lab.session("c2")).phase, "tracking");
}

/** The copy to v2 is given up: v3 gets what v2 has then. */
async function giveUpAndCopyOn(lab: CopyLab, t: ExecutionContext): Promise<void> {
  t.is((await lab.session("c1")).pendingGranules, 8);
  await lab.engine.cancelSession("c1");
  const content = await lab.read("v2", 0, 8 * G);
  await lab.engine.restartSessions(["c2"]);
  await lab.lab.finish();
  same(t, await lab.read("v3", 0, 8 * G), content, "v3");
}

test("data-safety 3.2, 7: power loss, then a copy is cancelled that a cascade has read through: its next difference has what fell back", async (t) => {
  const lab = await CopyLab.start(t, [8 * G, 8 * G, 8 * G]);
  await cascade(lab, t);
  await lab.lab.halt(1);
  lab.lab.stateFiles.crash(5);
  await lab.lab.disk("v2").memory.write(0, pattern(8 * G, 2)); // nothing of the copy was flushed
  await lab.lab.boot();
  await giveUpAndCopyOn(lab, t);
});

test("data-safety 3.2, 7: a device loses what was not flushed and comes back, then the copy to it is cancelled: the same", async (t) => {
  const disk = new FaultyDisk(8 * G);
  const lab = await CopyLab.start(t, [8 * G, disk, 8 * G]);
  await cascade(lab, t);
  disk.faults.inject({ operation: "flush", effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await t.throwsAsync(() => lab.engine.flush("v2"));
  await lab.lab.settle();
  await disk.memory.write(0, pattern(8 * G, 2));
  disk.repair();
  await lab.engine.reopenVolume("v2");
  await giveUpAndCopyOn(lab, t);
});

test("data-safety 3.2, 7: that is noted before the copy is over: killed between the two, nothing is missing", async (t) => {
  const lab = await CopyLab.start(t, [8 * G, 8 * G, 8 * G]);
  await cascade(lab, t);
  await lab.lab.halt(1);
  lab.lab.stateFiles.crash(5);
  await lab.lab.disk("v2").memory.write(0, pattern(8 * G, 2));
  await lab.lab.boot();
  for (let turn = 0; turn < 10; turn++) await lab.lab.settle(); // the start has written what it had to
  lab.lab.stateFiles.intercept = ({ type, path }) =>
    type === "write" && path.startsWith("volumes/v2/") ? new Promise(() => undefined) : undefined;
  void lab.engine.cancelSession("c1").catch(() => undefined);
  for (let turn = 0; turn < 10; turn++) await lab.lab.settle();
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.kill(1);
  if ((await lab.engine.sessions()).some(({ id }) => id === "c1")) await lab.engine.cancelSession("c1");
  const content = await lab.read("v2", 0, 8 * G);
  await lab.engine.restartSessions(["c2"]);
  await lab.lab.finish();
  same(t, await lab.read("v3", 0, 8 * G), content, "v3");
});

test("a superblock that was written anew and cannot be opened again takes nothing that a later start would not find", async (t) => {
  for (const seed of [1, 2, 3, 4, 5, 6, 7, 8]) {
    const disk = new FaultyDisk(SIZE);
    const lab = await CopyLab.start(t, [SIZE, disk]);
    await lab.copy(t, "v1", "v2", "quickopc");
    const { stateFiles } = lab.lab;
    const damaged = Buffer.from(stateFiles.contents("sessions/c1/super"));
    const older = damaged.readUInt32LE(16) > damaged.readUInt32LE(4096 + 16) ? 4096 : 0;
    damaged.fill(255, older + 100, older + 103);
    stateFiles.damage("sessions/c1/super", damaged);
    let renamed = false;
    stateFiles.intercept = ({ type, path }) => {
      if (type === "rename" && path === "sessions/c1/super.new") renamed = true;
      if (renamed && type === "open" && path === "sessions/c1/super") {
        stateFiles.intercept = undefined;
        throw new InjectedFailure("EMFILE");
      }
    };
    for (const target of await lab.engine.scrubTargets("v1")) {
      let over = false;
      const scrubbing = lab.engine.scrub(target).finally(() => {
        over = true;
      });
      for (let turn = 0; turn < 3000 && !over; turn++) {
        if (turn > 200) lab.lab.clock.advance(1);
        await new Promise((resolve) => setImmediate(resolve));
      }
      await scrubbing;
    }
    t.true(renamed);
    disk.faults.inject({ operation: "write", effect: { kind: "error", code: "MEDIUM_ERROR" } });
    // It cannot be preserved, and that the copy has failed cannot be made durable.
    await t.throwsAsync(() => lab.write("v1", 15 * G, G));
    const { phase } = await lab.session("c1");
    disk.repair();
    await lab.lab.halt(seed);
    stateFiles.crash(seed);
    await lab.lab.boot();
    t.is((await lab.session("c1")).phase, phase, `seed ${seed}`);
    await lab.engine.stop();
  }
});

for (const [what, act] of [
  ["an end of tracking", (lab: CopyLab) => lab.engine.stopTracking("c1")],
  ["a pace", (lab: CopyLab) => lab.engine.setPace("c1", 9)],
] as const)
  test(`${what} whose left-overs cannot be removed is done, says so, and is found so after a kill`, async (t) => {
    const lab = await CopyLab.start(t, [SIZE, SIZE]);
    await lab.copy(t, "v1", "v2", "quickopc");
    lab.lab.stateFiles.intercept = ({ type, path }) => {
      if (type === "remove" && /c1\/pending-/.test(path)) throw new InjectedFailure("EIO");
    };
    await act(lab);
    t.true(lab.lab.events.some((event) => event.type === "engine.trouble" && /pending-/.test(event.message)));
    const { tracking, pace, kind } = await lab.session("c1");
    lab.lab.stateFiles.intercept = undefined;
    await lab.lab.kill(1);
    t.like(await lab.session("c1"), { tracking, pace, kind });
  });

test("a copy under a number that another one has is refused and touches nothing", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  const before = await lab.lab.stateFiles.list("sessions/c1");
  const request = { id: "c1", source: lab.extent("v1"), destination: lab.extent("v3"), kind: "opc", pace: 15 } as const;
  await t.throwsAsync(() => lab.engine.startSessions([request]), { code: "PATH_EXISTS" } as never);
  t.deepEqual(await lab.lab.stateFiles.list("sessions/c1"), before);
  await lab.touch("v1", [4]);
  t.is((await lab.restart("c1")).plannedGranules, 1);
});

test("a refused start whose files could not be removed does not keep its number", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (type === "write" && /points-/.test(path)) throw new InjectedFailure("ENOSPC");
    if (type === "remove" && /c1/.test(path)) throw new InjectedFailure("EIO");
  };
  const request = { id: "c1", source: lab.extent("v1"), destination: lab.extent("v2"), kind: "opc", pace: 1 } as const;
  await t.throwsAsync(() => lab.engine.startSessions([request]));
  lab.lab.stateFiles.intercept = undefined;
  const [started] = await lab.engine.startSessions([request]);
  t.is(started?.phase, "copying");
});

test("another program has written to the destination of an unfinished copy while the box was stopped: the copy has failed", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "opc");
  await lab.engine.stop();
  await lab.lab.disk("v2").memory.write(0, new Uint8Array(512).fill(7));
  await lab.lab.bootAfterStop();
  t.is((await lab.session("c1")).phase, "failed");
  await lab.engine.stop();
});

test("a disk that is full for a moment costs a copy nothing", async (t) => {
  const lab = await CopyLab.start(t, [SIZE, SIZE]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  await lab.touch("v1", [3]);
  let full = true;
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (!full || type !== "write" || !/c1\/copied-/.test(path) || path.endsWith(".new")) return;
    full = false;
    throw new InjectedFailure("ENOSPC");
  };
  await lab.restart("c1");
  for (let turn = 0; turn < 5; turn++) {
    await lab.lab.settle();
    lab.lab.clock.advance(6000);
  }
  await lab.lab.finish();
  t.is((await lab.session("c1")).phase, "tracking");
  t.false(full);
});
