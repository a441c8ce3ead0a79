/**
 * A data directory that is not what it should be: of a newer program, of another box, with parts missing, truncated, swapped or
 * not to be read. Each is refused, or costs what is damaged and no more, with a message that names file and remedy; the
 * other volumes go on serving (data-safety 1.8, 1.9, 1.10).
 */
import { chmod, chown, cp, readdir, readFile, rename, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
// One after the other: each starts several daemons.
import test, { type ExecutionContext } from "ava";
import { crc32c, loadCore } from "../../src/engine/map/core.ts";
import { CopyKind, CopyPhase, Daemon } from "../support/daemon.ts";

const MiB = 1 << 20;

/** c1 tracks one to two; three has a copy of its own and must not notice anything. */
async function boxWithCopies(t: ExecutionContext): Promise<Daemon> {
  const daemon = await Daemon.start(t);
  for (const label of ["one", "two"]) await daemon.volume(label, MiB);
  // More than one region, so that a difference is one after a kill, too.
  for (const label of ["three", "four"]) await daemon.volume(label, 8 * MiB);
  for (const [source, destination] of [
    ["one", "two"],
    ["three", "four"],
  ] as const)
    await daemon.copied((await daemon.start(source, destination, CopyKind.QUICKOPC)).id);
  await daemon.box.stop();
  return daemon;
}

function inState(daemon: Daemon, path: string): string {
  return daemon.path(join("state/state", path));
}

async function only(daemon: Daemon, directory: string, pattern: RegExp): Promise<string> {
  const name = (await readdir(inState(daemon, directory))).find((candidate) => pattern.test(candidate));
  if (name === undefined) throw new Error(`no ${pattern} in ${directory}`);
  return join(directory, name);
}

/** The uid of a volume. */
async function uidOf(daemon: Daemon, label: string): Promise<string> {
  const { stdout } = await daemon.box.run(["volume", "get", label, "--json"]);
  return (JSON.parse(stdout) as { volume: { uid: string } }).volume.uid;
}

/** The start is refused with this code, and the message says what, where and what to do; the check says it, too. */
async function refused(t: ExecutionContext, daemon: Daemon, code: string, where: RegExp): Promise<void> {
  const error = await t.throwsAsync(() => daemon.box.serve());
  t.true(error?.message.includes(code), error?.message);
  t.regex(error?.message ?? "", where);
  t.regex(error?.message ?? "", /hint: /);
  const check = await daemon.box.run(["fsck", "--data", daemon.path("state")]);
  t.is(check.code, 1, check.stdout + check.stderr);
  t.regex(check.stdout, where);
}

/** It serves; c1 is in this phase; an event names the file; three and four are as they were. */
async function serves(t: ExecutionContext, daemon: Daemon, phase: CopyPhase, where: RegExp): Promise<void> {
  const check = await daemon.box.run(["fsck", "--data", daemon.path("state")]);
  t.is(check.code, 1, check.stdout + check.stderr);
  t.regex(check.stdout, where);
  await daemon.serveAgain();
  t.is((await daemon.copy("c1")).phase, phase);
  const { stdout } = await daemon.box.run(["events"]);
  t.regex(stdout, where);
  await untouched(t, daemon);
}

async function untouched(t: ExecutionContext, daemon: Daemon): Promise<void> {
  t.is((await daemon.copy("c2")).phase, CopyPhase.TRACKING);
  await daemon.write("three", 4096, Buffer.alloc(512, 9));
  const again = await daemon.restart("c2");
  t.true(again.plannedGranules < again.totalGranules, "still a difference");
  await daemon.copied("c2");
  t.deepEqual(await daemon.read("four"), await daemon.read("three"));
}

/** Every file of c1 and of its volumes. */
async function leftAlone(daemon: Daemon, uids: readonly string[]): Promise<Record<string, string>> {
  const contents: Record<string, string> = {};
  for (const directory of ["sessions/c1", ...uids.map((uid) => `volumes/${uid}`)])
    for (const name of await readdir(inState(daemon, directory)))
      contents[`${directory}/${name}`] = (await readFile(inState(daemon, join(directory, name)))).toString("base64");
  return contents;
}

/** c1 with one and two is out of service because of this file, everybody says so, and the others serve. */
async function outOfService(t: ExecutionContext, daemon: Daemon, where: RegExp): Promise<void> {
  const copy = await daemon.copy("c1");
  t.is(copy.phase, CopyPhase.TRACKING, "as last known");
  t.regex(copy.failureMessage, where);
  t.regex((await daemon.box.run(["copy", "list"])).stdout, /c1 .* tracking\(out-of-service\)/);
  for (const args of [
    ["copy", "restart", "c1"],
    ["copy", "start", "three", "two", "--kind", "opc"],
    ["volume", "reopen", "one"],
  ]) {
    const { code, stderr } = await daemon.box.run(args);
    t.not(code, 0, args.join(" "));
    t.regex(stderr, where);
    t.regex(stderr, /OUT_OF_SERVICE[\s\S]*start the daemon again/);
  }
  const doctor = await daemon.box.run(["doctor"]);
  t.is(doctor.code, 1);
  t.regex(doctor.stdout, where);
  for (const [subject, check] of [
    ["c1", "copy-out-of-service"],
    ["g1d1", "volume-unavailable"],
    ["g1d2", "volume-unavailable"],
  ])
    t.regex(doctor.stdout, new RegExp(`${subject}: .*\\[${check}\\]`));
  t.regex((await daemon.box.run(["events"])).stdout, /copy\.out-of-service +c1 /);
  await untouched(t, daemon);
}

test.serial(
  "a state file in the format of a newer program: what it has to do with is left alone, the others serve",
  async (t) => {
    await loadCore();
    const daemon = await boxWithCopies(t);
    const path = inState(daemon, "sessions/c1/super");
    const content = await readFile(path);
    const newer = Buffer.from(content);
    for (const slot of [newer.subarray(0, 4096), newer.subarray(4096)]) {
      slot.writeUInt16LE(2, 8);
      slot.writeUInt32LE(crc32c(slot.subarray(0, 4092)), 4092);
    }
    await writeFile(path, newer);
    const where = /sessions\/c1\/super.*format 2/;
    const check = await daemon.box.run(["fsck", "--data", daemon.path("state")]);
    t.is(check.code, 1, check.stdout + check.stderr);
    t.regex(check.stdout, where);
    t.regex(check.stdout, /cost: volume g1d1, volume g1d2, copy c1 are out of service/);
    const repair = await daemon.box.run(["fsck", "--data", daemon.path("state"), "--repair"]);
    t.regex(repair.stdout, /not repaired: files that must not be opened have to be seen to first/);
    t.deepEqual(await readFile(path), newer);
    await daemon.serveAgain();
    await outOfService(t, daemon, where);
    await daemon.box.stop();
    t.deepEqual(await readFile(path), newer);
    await writeFile(path, content);
    await daemon.serveAgain();
    t.is((await daemon.copy("c1")).phase, CopyPhase.TRACKING);
    await untouched(t, daemon);
  },
);

test.serial("a state directory without its database, and a database without its state: refused", async (t) => {
  const daemon = await boxWithCopies(t);
  const [db, state, away] = ["db", "state", "away"].map((name) => daemon.path(join("state", name))) as [
    string,
    string,
    string,
  ];
  await rename(db, away);
  await refused(t, daemon, "STATE_DIRECTORY_INVALID", /db is missing or empty/);
  await rm(db, { recursive: true, force: true });
  await rename(away, db);
  await rename(state, away);
  const error = await t.throwsAsync(() => daemon.box.serve());
  t.regex(error?.message ?? "", /state is missing or empty, but the database knows copies[\s\S]*hint: put/);
  await rm(state, { recursive: true, force: true });
  await rename(away, state);
  await daemon.serveAgain();
  t.is((await daemon.copy("c1")).phase, CopyPhase.TRACKING);
  await untouched(t, daemon);
});

test.serial("a map that was truncated: its copy has failed, the others go on", async (t) => {
  const daemon = await boxWithCopies(t);
  await truncate(inState(daemon, await only(daemon, "sessions/c1", /^pending-/)), 520);
  await serves(t, daemon, CopyPhase.FAILED, /sessions\/c1\/pending-\d+\.map/);
});

test.serial(
  "superblocks swapped between two volumes: neither is used for the other, the next copies are full, others are not",
  async (t) => {
    const daemon = await boxWithCopies(t);
    await daemon.serveAgain();
    const [one, two] = [await uidOf(daemon, "one"), await uidOf(daemon, "two")];
    await daemon.box.stop();
    const [a, b] = [inState(daemon, `volumes/${one}/super`), inState(daemon, `volumes/${two}/super`)];
    await rename(a, `${a}.away`);
    await rename(b, a);
    await rename(`${a}.away`, b);
    await serves(t, daemon, CopyPhase.TRACKING, new RegExp(`belongs to volume (${one}|${two})`));
    const again = await daemon.restart("c1");
    t.is(again.plannedGranules, again.totalGranules, "nothing is taken for known");
  },
);

test.serial("sessions of another box: left out and kept, the box's own go on", async (t) => {
  const [daemon, other] = [await boxWithCopies(t), await boxWithCopies(t)];
  await cp(inState(other, "sessions/c1"), inState(daemon, "sessions/c9"), { recursive: true });
  const check = await daemon.box.run(["fsck", "--data", daemon.path("state")]);
  t.is(check.code, 1);
  t.regex(check.stdout, /sessions\/c9\/super.*belongs to session c1/);
  await daemon.serveAgain();
  t.is((await daemon.copy("c1")).phase, CopyPhase.TRACKING);
  await untouched(t, daemon);
});

test.serial("another box's state beside a database: its volumes are unknown, and that is said of each", async (t) => {
  const [daemon, other] = [await boxWithCopies(t), await boxWithCopies(t)];
  await rm(inState(daemon, ""), { recursive: true });
  await cp(inState(other, ""), inState(daemon, ""), { recursive: true });
  const { code, stdout } = await daemon.box.run(["fsck", "--data", daemon.path("state")]);
  t.is(code, 1);
  t.regex(stdout, /sessions\/c1\/super: g1d1 \([-0-9a-f]+\) is not registered in this box \[foreign\]/);
  t.regex(stdout, /try: if state and database were restored from different times or boxes/);
  t.regex(stdout, /volumes\/[-0-9a-f]+: its volume is not registered in this box/);
});

test.serial(
  "a file without permission: what it has to do with is out of service and left alone, through kill and stop; then nothing is lost",
  async (t) => {
    const daemon = await boxWithCopies(t);
    await daemon.serveAgain();
    const uids = [await uidOf(daemon, "one"), await uidOf(daemon, "two")];
    await daemon.write("one", 8192, Buffer.alloc(512, 7));
    await daemon.box.stop();
    const before = await leftAlone(daemon, uids);
    await giveAway(daemon.path("."));
    const path = inState(daemon, "sessions/c1/super");
    await forbid(path);
    const where = /sessions\/c1\/super cannot be used: EACCES/;
    await daemon.serveAgain("nobody");
    await outOfService(t, daemon, where);
    await daemon.box.kill();
    await daemon.serveAgain("nobody");
    t.regex((await daemon.copy("c1")).failureMessage, where);
    await untouched(t, daemon);
    await daemon.box.stop();
    await chmod(path, 0o600);
    t.deepEqual(await leftAlone(daemon, uids), before, "not a byte has changed");
    await giveAway(daemon.path("."));
    await daemon.serveAgain("nobody");
    const copy = await daemon.copy("c1");
    t.like(copy, { phase: CopyPhase.TRACKING, failureMessage: "" });
    const again = await daemon.restart("c1");
    t.is(again.plannedGranules, 1n, "the same difference");
    await daemon.copied("c1");
    t.deepEqual(await daemon.read("two"), await daemon.read("one"));
    await untouched(t, daemon);
  },
);

test.serial("a file of the box's own without permission: the start is refused and names it", async (t) => {
  const daemon = await boxWithCopies(t);
  await giveAway(daemon.path("."));
  const path = inState(daemon, await only(daemon, "", /^points-/));
  await forbid(path);
  const error = await t.throwsAsync(() => daemon.box.serve("nobody"));
  t.regex(
    error?.message ?? "",
    /points-\d+\.log cannot be used: EACCES.*\(PERMISSION_DENIED\)\n {2}hint: give the state directory back/,
  );
  await chmod(path, 0o600);
  await giveAway(daemon.path("."));
  await daemon.serveAgain("nobody");
  t.is((await daemon.copy("c1")).phase, CopyPhase.TRACKING);
  await untouched(t, daemon);
});

test.serial("what is no copy's directory is said, left alone, and keeps nobody from serving", async (t) => {
  const daemon = await boxWithCopies(t);
  await writeFile(inState(daemon, "sessions/stray"), "abc");
  await writeFile(inState(daemon, "sessions/c77"), "abc");
  await serves(t, daemon, CopyPhase.TRACKING, /sessions\/stray/);
  await daemon.box.stop();
  for (const name of ["stray", "c77"]) t.is(await readFile(inState(daemon, `sessions/${name}`), "utf8"), "abc");
});

/** Nobody but root may open it, if the daemon is not root. */
async function forbid(path: string): Promise<void> {
  await chown(path, 0, 0).catch(() => undefined);
  await chmod(path, 0o000);
}

/** Everything below belongs to whoever the daemon is then. */
async function giveAway(directory: string): Promise<void> {
  if (process.geteuid?.() !== 0) return;
  await chown(directory, 65_534, 65_534);
  for (const entry of await readdir(directory, { withFileTypes: true, recursive: true }))
    await chown(join(entry.parentPath, entry.name), 65_534, 65_534);
}
