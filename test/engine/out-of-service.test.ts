/**
 * A state file that must not be opened (no permission, a newer format) puts what has to do with it out of service, and nothing
 * else: volumes and copies that sessions connect with it are left exactly as they are, the others serve, and the next start
 * with permission finds everything (data-safety 1.8, 1.10; issue 3, bad input).
 */
import test, { type ExecutionContext } from "ava";
import { InjectedFailure } from "../../src/engine/durable/memory-state-files.ts";
import type { CopyReason } from "../../src/engine/engine-api.ts";
import { crc32c, loadCore } from "../../src/engine/map/core.ts";
import { CopyLab, G, refusal } from "../support/copy-lab.ts";
import { filesOf } from "../support/state-check.ts";

const SMALL = 20 * G + 1536;
/** More than one region of 4 MiB, so that a difference is one after a kill, too. */
const LARGE = 1024 * G;
/** What c1 and c3, which read on from its destination, have to do with. */
const LEFT_ALONE = /^(sessions\/c[13]|volumes\/v[125])\//;

/** What `tracked` leaves for the next run: the granules touched on either side. */
const PLANNED: Record<string, number> = { c1: 3, c3: 1 };

/** c1 tracks v1 to v2, c3 tracks v2 to v5, c2 tracks v3 to v4; v6 has no copy. */
async function tracked(t: ExecutionContext): Promise<CopyLab> {
  const lab = await CopyLab.start(t, [SMALL, SMALL, LARGE, LARGE, SMALL, SMALL]);
  for (const [source, destination] of [
    ["v1", "v2"],
    ["v3", "v4"],
    ["v2", "v5"],
  ] as const) {
    await lab.copy(t, source, destination, "quickopc", { pace: 15 });
    await lab.lab.finish();
  }
  await lab.touch("v1", [3, 4]);
  await lab.touch("v2", [9]);
  await lab.touch("v3", [5]);
  return lab;
}

async function fileLike(lab: CopyLab, pattern: RegExp): Promise<string> {
  const name = (await filesOf(lab)).filter((path) => pattern.test(path)).at(-1);
  if (name === undefined) throw new Error(`no file ${pattern}`);
  return name;
}

function forbid(lab: CopyLab, pattern: RegExp, code = "EACCES"): void {
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if ((type === "open" || type === "syncDirectory") && pattern.test(path)) throw new InjectedFailure(code);
  };
}

function allow(lab: CopyLab): void {
  lab.lab.stateFiles.intercept = undefined;
}

async function leftAlone(lab: CopyLab): Promise<Record<string, string>> {
  const paths = (await filesOf(lab)).filter((path) => LEFT_ALONE.test(path));
  const { stateFiles } = lab.lab;
  return Object.fromEntries(paths.map((path) => [path, Buffer.from(stateFiles.contents(path)).toString("base64")]));
}

async function online(lab: CopyLab): Promise<string[]> {
  const names = [...lab.lab.disks.keys()];
  const states = await Promise.all(names.map((name) => lab.engine.volumeStatus(name)));
  return names.filter((_, index) => states[index]?.online);
}

/** c1 and c3 with v1, v2 and v5 are out of service and nothing else is; the reason names `path`. */
async function outOfService(t: ExecutionContext, lab: CopyLab, path: string): Promise<void> {
  t.deepEqual(await online(lab), ["v3", "v4", "v6"]);
  t.deepEqual(lab.lab.found?.outOfService.map(({ id, failure }) => [id, failure.code]).sort(), [
    ["c1", "OUT_OF_SERVICE"],
    ["c3", "OUT_OF_SERVICE"],
  ]);
  for (const uid of ["v1", "v2", "v5"]) {
    const { failure } = await lab.engine.volumeStatus(uid);
    t.is(failure?.code, "OUT_OF_SERVICE");
    t.true(failure?.detail.message.includes(path), failure?.detail.message);
    t.regex(failure?.detail.hint ?? "", /then start the daemon again/);
    t.true(lab.lab.events.some((event) => event.type === "volume.failed" && event.uid === uid));
  }
  for (const { id, failure } of lab.lab.found?.outOfService ?? [])
    t.true(failure.detail.message.includes(path), `${id}: ${failure.detail.message}`);
}

async function refusedCommands(t: ExecutionContext, lab: CopyLab): Promise<void> {
  const { engine } = lab;
  for (const id of ["c1", "c3"])
    for (const command of [
      () => engine.restartSessions([id]),
      () => engine.restartSessions(["c2", id]),
      () => engine.cancelSession(id),
      () => engine.stopTracking(id),
      () => engine.setPace(id, 3),
      () => engine.sessionStatus(id),
    ])
      await refusal(t, command, "OUT_OF_SERVICE");
  for (const uid of ["v1", "v2", "v5"]) {
    for (const command of [
      () => engine.removeVolume(uid),
      () => engine.resizeVolume(uid, 40 * G),
      () => engine.resizeVolume(uid, 0),
      () => engine.reopenVolume(uid),
      () => engine.explain({ source: lab.extent(uid), destination: lab.extent("v6"), kind: "opc" }),
      () => engine.startSessions([{ ...request(lab, "v6", uid), id: "c9" }]),
      () => engine.startSessions([{ ...request(lab, uid, "v6"), id: "c9" }]),
    ])
      await refusal(t, command, "OUT_OF_SERVICE");
    for (const command of [
      () => engine.read(lab.extent(uid), 0, 512),
      () => engine.write(lab.extent(uid), 0, new Uint8Array(512)),
      () => engine.flush(uid),
    ]) {
      const error = await refusal(t, command, "VOLUME_UNAVAILABLE");
      t.is(error?.detail.metadata?.["reason"], "OUT_OF_SERVICE");
      t.regex(error?.detail.hint ?? "", /start the daemon again/);
      t.notRegex(error?.detail.hint ?? "", /volume reopen/);
    }
  }
}

function request(lab: CopyLab, source: string, destination: string) {
  return { source: lab.extent(source), destination: lab.extent(destination), kind: "quickopc" as const, pace: 15 };
}

/** The others: v6 is written, c2 copies a difference, twice. */
async function othersServe(t: ExecutionContext, lab: CopyLab): Promise<void> {
  await lab.touch("v6", [1, 2]);
  await lab.reads(t, "v6");
  for (const granule of [5, 11]) {
    await lab.touch("v3", [granule]);
    const again = await lab.restart("c2");
    t.true(again.plannedGranules < again.totalGranules, "still a difference");
    await lab.lab.finish();
    await lab.holds(t, "v4");
  }
}

/** With permission: c1 and c3 are what they were. */
async function everythingIsBack(t: ExecutionContext, lab: CopyLab, reason: CopyReason = "DIFFERENCE"): Promise<void> {
  t.deepEqual(lab.lab.found?.outOfService, []);
  t.is((await online(lab)).length, 6);
  const sessions = await Promise.all(["c1", "c2", "c3"].map((id) => lab.session(id)));
  for (const { id, source, destination, kind, failure } of sessions) {
    t.is(failure, undefined);
    const plan = await lab.engine.explain({ source, destination, kind });
    // What served is as after any stop, or kill; what did not is as it was.
    if (id !== "c2") t.like(plan, { reason, plannedGranules: PLANNED[id] }, id);
  }
  for (const { id, destination } of sessions) {
    await lab.restart(id);
    await lab.lab.finish();
    await lab.holds(t, destination.volumeUid, id);
  }
}

for (const [what, pattern] of [
  ["a copy's superblock", /^sessions\/c1\/super$/],
  ["a copy's map", /^sessions\/c1\/pending-/],
  ["a copy's log", /^sessions\/c1\/copied-/],
  ["a copy's directory", /^sessions\/c1(\/|$)/],
  ["a volume's superblock", /^volumes\/v1\/super$/],
  ["a volume's map", /^volumes\/v2\/epoch-/],
  ["a volume's activity log", /^volumes\/v2\/al-/],
] as const)
  for (const ending of ["stop", "kill"] as const)
    test(`${what} without permission: what it has to do with is left alone, the others serve (${ending})`, async (t) => {
      const lab = await tracked(t);
      lab.lab.hints = [{ id: "c1", volumeUids: ["v1", "v2"] }];
      await lab.engine.stop();
      const before = await leftAlone(lab);
      const path = await fileLike(lab, pattern);
      forbid(lab, pattern);
      await lab.lab.bootAfterStop();
      await outOfService(t, lab, pattern.test(path) && /c1\(/.test(pattern.source) ? "sessions/c1" : path);
      await refusedCommands(t, lab);
      await othersServe(t, lab);
      if (ending === "stop") await lab.engine.stop();
      else await lab.lab.halt(1);
      t.deepEqual(await leftAlone(lab), before, "not a byte of it has changed");
      allow(lab);
      await lab.lab.bootAfterStop();
      await everythingIsBack(t, lab);
    });

test("a newer format does the same, and is as it was after a stop", async (t) => {
  await loadCore();
  const lab = await tracked(t);
  await lab.engine.stop();
  const { stateFiles } = lab.lab;
  for (const [pattern, checksumAt] of [
    [/^sessions\/c1\/super$/, 4092],
    [/^sessions\/c3\/pending-/, 508],
    [/^volumes\/v5\/al-/, 4092],
  ] as const) {
    const path = await fileLike(lab, pattern);
    const content = stateFiles.contents(path);
    const newer = Buffer.from(content);
    newer.writeUInt16LE(2, 8);
    newer.writeUInt32LE(crc32c(newer.subarray(0, checksumAt)), checksumAt);
    stateFiles.damage(path, newer);
    const before = await leftAlone(lab);
    await lab.lab.bootAfterStop();
    await outOfService(t, lab, path);
    t.regex((await lab.engine.volumeStatus("v5")).failure?.detail.hint ?? "", /tidemark release that wrote/);
    await othersServe(t, lab);
    await lab.engine.stop();
    t.deepEqual(await leftAlone(lab), before);
    stateFiles.damage(path, content);
  }
  await lab.lab.bootAfterStop();
  await everythingIsBack(t, lab);
});

test("after a kill: a point that only the points log knows of is kept there, whatever the others do meanwhile", async (t) => {
  for (const ending of ["stop", "kill", "kill at once"] as const) {
    const lab = await tracked(t);
    await lab.engine.stop();
    await lab.lab.bootAfterStop();
    await lab.touch("v1", [12]);
    // The point has happened; no file of c1 or its volumes says so.
    lab.lab.stateFiles.intercept = ({ type, path }) =>
      type === "write" && /sessions\/c1\/super|volumes\/v[12]\//.test(path) ? new Promise(() => undefined) : undefined;
    const { generation } = await lab.restart("c1");
    await lab.lab.halt(1);
    const before = await leftAlone(lab);
    forbid(lab, /^volumes\/v1\/super$/);
    await lab.lab.boot();
    await outOfService(t, lab, "volumes/v1/super");
    if (ending !== "kill at once") await othersServe(t, lab);
    if (ending === "stop") await lab.engine.stop();
    else await lab.lab.halt(2);
    forbid(lab, /^volumes\/v1\/super$/);
    await lab.lab.bootAfterStop();
    await othersServe(t, lab);
    const logs = (await filesOf(lab)).filter((path) => /^points-/.test(path));
    t.true(logs.length <= 3, `bounded: ${logs.join(", ")}`);
    await lab.lab.halt(3);
    t.deepEqual(await leftAlone(lab), before, ending);
    allow(lab);
    await lab.lab.boot();
    t.like(await lab.session("c1"), { generation, failure: undefined });
    await lab.reads(t, "v2", ending);
    await lab.lab.finish();
    await lab.holds(t, "v2", ending);
    for (const [id, destination] of [
      ["c1", "v2"],
      ["c3", "v5"],
    ] as const) {
      await lab.restart(id);
      await lab.lab.finish();
      await lab.holds(t, destination, ending);
    }
    await lab.lab.reboot();
    t.is((await filesOf(lab)).filter((path) => /^points-/.test(path)).length, 1, "nothing is carried any more");
  }
});

test("a torn tail, a left-over and a copy half made stay until they may be opened", async (t) => {
  const lab = await tracked(t);
  await lab.lab.halt(1);
  const { stateFiles } = lab.lab;
  for (const pattern of [/^sessions\/c1\/copied-/, /^volumes\/v2\/al-/]) {
    const path = await fileLike(lab, pattern);
    stateFiles.damage(path, Buffer.concat([stateFiles.contents(path), Buffer.alloc(77, 5)]));
  }
  stateFiles.damage("sessions/c1/pending-900.map", Buffer.alloc(9, 1));
  stateFiles.damage("volumes/v2/epoch-1-900.map", Buffer.alloc(9, 1));
  const before = await leftAlone(lab);
  forbid(lab, /^sessions\/c3\/super$/);
  lab.lab.hints = [{ id: "c3", volumeUids: ["v2", "v5"] }];
  await lab.lab.boot();
  await outOfService(t, lab, "sessions/c3/super");
  await othersServe(t, lab);
  await lab.engine.stop();
  t.deepEqual(await leftAlone(lab), before);
  allow(lab);
  await lab.lab.bootAfterStop();
  t.false((await filesOf(lab)).includes("sessions/c1/pending-900.map"));
  for (const [id, destination] of [
    ["c1", "v2"],
    ["c3", "v5"],
  ] as const) {
    await lab.restart(id);
    await lab.lab.finish();
    await lab.holds(t, destination, id);
  }
});

test("what a clean stop noted of a volume stays while it is out of service: a foreign write in that time is noticed", async (t) => {
  const lab = await tracked(t);
  await lab.engine.stop();
  for (const ending of ["stop", "kill"] as const) {
    forbid(lab, /^volumes\/v1\/super$/);
    await lab.lab.bootAfterStop();
    await othersServe(t, lab);
    if (ending === "stop") await lab.engine.stop();
    else await lab.lab.halt(1);
    t.true((await filesOf(lab)).includes("clean-stop.log"), ending);
  }
  await lab.lab.disk("v2").memory.write(G, new Uint8Array(512));
  allow(lab);
  await lab.lab.boot();
  const told = lab.lab.events.flatMap((event) => (event.type === "engine.trouble" ? [event.message] : []));
  t.deepEqual(
    told.map((message) => /volume (v\d) .*another program/.exec(message)?.[1]),
    ["v2"],
  );
  t.is((await lab.restart("c1")).reason, "BASE_LOST");
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("nobody knows which volumes a copy has to do with: the start is refused, and nothing is changed", async (t) => {
  const lab = await tracked(t);
  await lab.engine.stop();
  const before = await leftAlone(lab);
  forbid(lab, /^sessions\/c1\/(super|copied)/);
  await t.throwsAsync(() => lab.lab.bootAfterStop(), { code: "PERMISSION_DENIED", message: /sessions\/c1\// } as never);
  await lab.lab.halt(1);
  t.deepEqual(await leftAlone(lab), before);
  lab.lab.hints = [{ id: "c1", volumeUids: ["v1", "v2"] }];
  forbid(lab, /^sessions\/c1\/(super|copied)/);
  await lab.lab.boot();
  await outOfService(t, lab, "sessions/c1/");
});

for (const path of ["points-", "clean-stop.log"] as const)
  test(`a file of the box's own (${path}) refuses the start`, async (t) => {
    const lab = await tracked(t);
    await lab.engine.stop();
    forbid(lab, new RegExp(`^${path}`));
    await t.throwsAsync(() => lab.lab.bootAfterStop(), { code: "PERMISSION_DENIED" } as never);
    allow(lab);
    await lab.lab.halt(1);
    await lab.lab.boot();
    await everythingIsBack(t, lab);
  });

test("what passes (descriptors) refuses the start as before; a damaged file beside it costs only what is damaged", async (t) => {
  const lab = await tracked(t);
  await lab.engine.stop();
  forbid(lab, /^volumes\/v1\/super$/, "EMFILE");
  await t.throwsAsync(() => lab.lab.bootAfterStop(), { message: /volumes\/v1\/super/ });
  await lab.lab.halt(1);
  lab.lab.stateFiles.damage("sessions/c2/super", Buffer.alloc(8192, 1));
  forbid(lab, /^volumes\/v1\/super$/);
  await lab.lab.boot();
  await outOfService(t, lab, "volumes/v1/super");
  t.is((await lab.session("c2")).phase, "failed");
});

test("a damaged points log counts for what is out of service at the start that finds it in service again", async (t) => {
  const lab = await tracked(t);
  await lab.engine.stop();
  await lab.lab.bootAfterStop();
  lab.lab.stateFiles.intercept = ({ type, path }) =>
    type === "write" && /sessions\/c1\/super/.test(path) ? new Promise(() => undefined) : undefined;
  await lab.restart("c1");
  await lab.lab.halt(1);
  const log = await fileLike(lab, /^points-/);
  lab.lab.stateFiles.damage(log, Buffer.alloc(5000, 3));
  forbid(lab, /^volumes\/v1\/super$/);
  await lab.lab.boot();
  await outOfService(t, lab, "volumes/v1/super");
  await lab.restart("c2");
  await lab.engine.stop();
  t.true((await filesOf(lab)).includes(log), "the next start has to find it, too");
  allow(lab);
  await lab.lab.bootAfterStop();
  t.is((await lab.session("c1")).phase, "failed");
  t.is((await lab.session("c2")).phase, "tracking");
  t.false((await filesOf(lab)).includes(log), "set aside");
});

test("a points log that is missing is missing until what follows from it is durable", async (t) => {
  for (const way of ["refused", "killed"] as const) {
    const lab = await tracked(t);
    await lab.engine.stop();
    await lab.lab.bootAfterStop();
    lab.lab.stateFiles.intercept = ({ type, path }) =>
      type === "write" && /sessions\/c1\/super/.test(path) ? new Promise(() => undefined) : undefined;
    await lab.restart("c1");
    await lab.lab.halt(1);
    for (const path of await filesOf(lab)) if (/^points-/.test(path)) await lab.lab.stateFiles.remove(path);
    if (way === "refused") {
      forbid(lab, /^volumes\/v4\/super$/);
      const error = await t.throwsAsync(() => lab.lab.boot());
      t.regex(error?.message ?? "", /volumes\/v4\/super/);
    } else {
      let reached: () => void = () => undefined;
      const at = new Promise<void>((resolve) => {
        reached = resolve;
      });
      lab.lab.stateFiles.intercept = ({ type, path }) => {
        if (type !== "write" || !/^sessions\/c1\//.test(path)) return undefined;
        reached();
        return new Promise(() => undefined);
      };
      void lab.lab.boot();
      await at;
    }
    await lab.lab.halt(2);
    allow(lab);
    await lab.lab.boot();
    t.is((await lab.session("c1")).phase, "failed", way);
    t.is((await lab.session("c2")).phase, "tracking", way);
  }
});

test("what a volume that is out of service lives on is taken: nobody writes to it under another name", async (t) => {
  const lab = await tracked(t);
  await lab.engine.stop();
  forbid(lab, /^volumes\/v1\/super$/);
  await lab.lab.bootAfterStop();
  await refusal(
    t,
    () => lab.engine.addVolume({ uid: "v9", name: "v9", path: "v1", sizeBytes: SMALL }),
    "PATH_REGISTERED",
  );
  await refusal(t, () => lab.engine.inspectPath("v2"), "PATH_REGISTERED");
});

test("a scrub passes over what is out of service", async (t) => {
  const lab = await tracked(t);
  await lab.engine.stop();
  forbid(lab, /^volumes\/v1\/super$/);
  await lab.lab.bootAfterStop();
  const targets = await lab.engine.scrubTargets(undefined);
  t.deepEqual(targets.map(({ kind, id }) => `${kind} ${id}`).sort(), [
    "points ",
    "session c2",
    "volume v3",
    "volume v4",
  ]);
  t.deepEqual(await lab.engine.scrubTargets("v1"), [{ kind: "points", id: "" }]);
  for (const target of targets) t.deepEqual((await lab.engine.scrub(target)).findings, [], target.id);
});

test("what is no copy's directory is said and left alone; the start goes on", async (t) => {
  const lab = await tracked(t);
  await lab.engine.stop();
  const { stateFiles } = lab.lab;
  stateFiles.damage("sessions/stray", new Uint8Array(3));
  stateFiles.damage("sessions/c77", new Uint8Array(3));
  await stateFiles.makeDirectory("sessions/lost+found");
  stateFiles.damage("sessions/lost+found/keep", new Uint8Array(3));
  await lab.lab.bootAfterStop();
  t.is((await online(lab)).length, 6);
  for (const name of ["sessions/stray", "sessions/c77", "sessions/lost+found"])
    t.true(
      lab.lab.events.some((event) => event.type === "engine.trouble" && event.message.includes(name)),
      name,
    );
  await everythingIsBack(t, lab);
  await lab.engine.stop();
  const files = await filesOf(lab);
  for (const name of ["sessions/stray", "sessions/c77", "sessions/lost+found/keep"]) t.true(files.includes(name));
});
