/**
 * A data directory that is not what it should be: of a newer program, of another box, with parts missing, truncated, swapped or
 * not to be read. Each is refused, or costs what is damaged and no more, with a message that names file and remedy; the
 * other volumes go on serving (data-safety 1.8, 1.9, 1.10).
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, chown, cp, readdir, readFile, rename, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
// One after the other: each starts several daemons.
import test, { type ExecutionContext } from "ava";
import { crc32c, loadCore } from "../../src/engine/map/core.ts";
import { CopyKind, CopyPhase, Daemon } from "../support/daemon.ts";

const MiB = 1 << 20;

/** c1 tracks one to two; three has a copy of its own and must not notice anything. */
async function boxWithCopies(t: ExecutionContext): Promise<Daemon> {
  const daemon = await Daemon.start(t);
  for (const label of ["one", "two", "three", "four"]) await daemon.volume(label, MiB);
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

test.serial("a state file in the format of a newer program: refused, and nothing is changed", async (t) => {
  await loadCore();
  const daemon = await boxWithCopies(t);
  const path = inState(daemon, "sessions/c1/super");
  const content = await readFile(path);
  for (const slot of [content.subarray(0, 4096), content.subarray(4096)]) {
    slot.writeUInt16LE(2, 8);
    slot.writeUInt32LE(crc32c(slot.subarray(0, 4092)), 4092);
  }
  await writeFile(path, content);
  await refused(t, daemon, "SCHEMA_TOO_NEW", /sessions\/c1\/super.*format 2/);
  t.deepEqual(await readFile(path), content);
  const repair = await daemon.box.run(["fsck", "--data", daemon.path("state"), "--repair"]);
  t.regex(repair.stdout, /not repaired: a start of the box would be refused/);
  t.deepEqual(await readFile(path), content);
});

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
  "a file without permission: the start is refused and names it; with permission again nothing is lost",
  async (t) => {
    const daemon = await boxWithCopies(t);
    const script = fileURLToPath(new URL("../support/serve-as-nobody.ts", import.meta.url));
    const path = inState(daemon, "sessions/c1/super");
    await giveAway(daemon.path("."));
    await chown(path, 0, 0).catch(() => undefined);
    await chmod(path, 0o000);
    const args = ["--import=tsx", script, "serve", "--data", daemon.path("state"), "--log-level", "silent"];
    const env = { ...process.env, UV_THREADPOOL_SIZE: "32" };
    const child = spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", "pipe"] });
    let said = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (said += text));
    const [code] = (await once(child, "close")) as [number];
    t.is(code, 1, said);
    t.regex(
      said,
      /sessions\/c1\/super cannot be used: EACCES.*\(PERMISSION_DENIED\)\n {2}hint: give the state directory back/,
    );
    await chmod(path, 0o600);
    await daemon.serveAgain();
    t.is((await daemon.copy("c1")).phase, CopyPhase.TRACKING);
    await untouched(t, daemon);
  },
);

/** Everything below belongs to whoever the daemon is then. */
async function giveAway(directory: string): Promise<void> {
  if (process.geteuid?.() !== 0) return;
  await chown(directory, 65_534, 65_534);
  for (const entry of await readdir(directory, { withFileTypes: true, recursive: true }))
    await chown(join(entry.parentPath, entry.name), 65_534, 65_534);
}
