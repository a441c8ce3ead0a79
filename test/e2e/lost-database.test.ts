/**
 * A `db` that is not the one of its `state`: damaged where LevelDB says nothing of it, another box's, gone, or restored from an
 * older backup. A start is refused before anything follows from it, says what to do, and changes nothing; with the right
 * `db` back everything is as it was (data-safety 1.9).
 */
import { createHash } from "node:crypto";
import { cp, mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
// One after the other: each starts several daemons.
import test, { type ExecutionContext } from "ava";
import { CopyKind, CopyPhase, Daemon } from "../support/daemon.ts";

const MiB = 1 << 20;

/** c1 tracks one to two; beside them three and four. */
async function trackingBox(t: ExecutionContext): Promise<Daemon> {
  const daemon = await Daemon.start(t);
  for (const label of ["one", "two", "three", "four"]) await daemon.volume(label, MiB);
  await daemon.copied((await daemon.start("one", "two", CopyKind.QUICKOPC)).id);
  return daemon;
}

const dataOf = (daemon: Daemon, path = "") => daemon.path(join("state", path));

/** Every file below `directory`, by a digest of its content. */
async function digests(directory: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const entry of await readdir(directory, { withFileTypes: true, recursive: true }))
    if (entry.isFile()) {
      const path = join(entry.parentPath, entry.name);
      found[path] = createHash("sha256")
        .update(await readFile(path))
        .digest("hex");
    }
  return found;
}

async function put(from: string, to: string): Promise<void> {
  await rm(to, { recursive: true, force: true });
  await cp(from, to, { recursive: true });
}

/** No start, a typed error that says what to do, nothing of the state changed; fsck says the same. */
async function refused(t: ExecutionContext, daemon: Daemon, what: RegExp): Promise<void> {
  const check = await daemon.box.run(["fsck", "--data", dataOf(daemon)]);
  t.is(check.code, 1, check.stdout + check.stderr);
  t.regex(check.stdout, what);
  t.regex(check.stdout, /cost: the box does not start/);
  const before = await digests(dataOf(daemon, "state"));
  const error = await t.throwsAsync(() => daemon.box.serve());
  t.regex(error?.message ?? "", what);
  t.regex(error?.message ?? "", /\((METADATA_CORRUPT|STATE_DIRECTORY_INVALID)\)\n {2}hint: /);
  t.deepEqual(await digests(dataOf(daemon, "state")), before, "nothing follows from a refused start");
}

/** Everything is there, and c1 still copies no more than what has changed. */
async function whole(t: ExecutionContext, daemon: Daemon): Promise<void> {
  const { stdout } = await daemon.box.run(["volume", "list"]);
  for (const label of ["one", "two", "three", "four"]) t.regex(stdout, new RegExp(`\\b${label}\\b`));
  t.is((await daemon.copy("c1")).phase, CopyPhase.TRACKING);
}

async function stillADifference(t: ExecutionContext, daemon: Daemon): Promise<void> {
  await daemon.write("one", 4096, Buffer.alloc(512, 9));
  const again = await daemon.restart("c1");
  t.true(again.plannedGranules < again.totalGranules, "still a difference");
  await daemon.copied("c1");
  t.deepEqual(await daemon.read("two"), await daemon.read("one"));
}

/** Places all over a file, its ends included. */
function places(lengthBytes: number, count: number): number[] {
  return Array.from({ length: count }, (_, n) => Math.floor((n * (lengthBytes - 1)) / (count - 1)));
}

test.serial(
  "one flipped bit near the first rows of LevelDB's log: refused, and nothing is lost with the right db back",
  async (t) => {
    const daemon = await trackingBox(t);
    await daemon.box.kill();
    const [db, good] = [dataOf(daemon, "db"), daemon.path("good")];
    await put(db, good);
    const [log] = (await readdir(db)).filter((name) => name.endsWith(".log"));
    const path = join(db, log ?? "none");
    const content = await readFile(path);
    content[100]! ^= 1;
    await writeFile(path, content);
    const damaged = await digests(db);
    await refused(t, daemon, /\d+\.log is damaged at byte \d+, and there are changes behind that/);
    t.deepEqual(await digests(db), damaged, "the database is as it was");
    await put(good, db);
    await daemon.serveAgain();
    await whole(t, daemon);
    await stillADifference(t, daemon);
  },
);

test.serial("flipped bits all over db: each start is refused, or everything is there", async (t) => {
  const daemon = await trackingBox(t);
  await daemon.restartDaemon(); // what the first log held is in a table now
  await daemon.write("one", 8192, Buffer.alloc(512, 7));
  await daemon.copied((await daemon.restart("c1")).id);
  await daemon.box.stop();
  const [db, good] = [dataOf(daemon, "db"), daemon.path("good")];
  const state = daemon.path("good-state");
  await put(db, good);
  await put(dataOf(daemon, "state"), state);
  const files = (await readdir(db)).filter((name) => /\.(log|ldb)$/.test(name));
  t.true(files.some((name) => name.endsWith(".log")) && files.some((name) => name.endsWith(".ldb")), files.join());
  let refusals = 0;
  for (const name of files) {
    const content = await readFile(join(good, name));
    for (const at of content.length === 0 ? [] : places(content.length, 4)) {
      await put(good, db);
      const damaged = Buffer.from(content);
      damaged[at]! ^= 1 << (at % 8);
      await writeFile(join(db, name), damaged);
      const before = await digests(dataOf(daemon, "state"));
      try {
        await daemon.serveAgain();
      } catch (error) {
        refusals++;
        t.regex(String(error), /\((METADATA_CORRUPT|SCHEMA_TOO_NEW)\)\n {2}hint: /, `${name} ${at}`);
        t.deepEqual(await digests(dataOf(daemon, "state")), before, `${name} ${at}`);
        continue;
      }
      await whole(t, daemon);
      await daemon.box.stop();
      await put(state, dataOf(daemon, "state"));
    }
  }
  t.true(refusals > 0);
  await put(good, db);
  await daemon.serveAgain();
  await whole(t, daemon);
  await stillADifference(t, daemon);
});

test.serial("the db of another box: refused, and never accepted", async (t) => {
  const [daemon, other] = [await trackingBox(t), await trackingBox(t)];
  await Promise.all([daemon.box.stop(), other.box.stop()]);
  const [db, good] = [dataOf(daemon, "db"), daemon.path("good")];
  await rename(db, good);
  await put(dataOf(other, "db"), db);
  await refused(t, daemon, /db belongs to another box/);
  const accept = await daemon.box.run(["fsck", "--data", dataOf(daemon), "--accept-database"]);
  t.is(accept.code, 1);
  t.regex(accept.stdout, /cannot be accepted for this state: it is box .*'s, not box/);
  await refused(t, daemon, /db belongs to another box/);
  const repair = await daemon.box.run(["fsck", "--data", dataOf(daemon), "--repair"]);
  t.regex(repair.stdout, /not repaired: the database has to be restored first/);
  await put(good, db);
  await daemon.serveAgain();
  await whole(t, daemon);
  await stillADifference(t, daemon);
});

test.serial("an emptied db, and a state without its record: refused", async (t) => {
  const daemon = await trackingBox(t);
  await daemon.box.stop();
  const [db, good] = [dataOf(daemon, "db"), daemon.path("good")];
  await rename(db, good);
  await mkdir(db);
  await refused(t, daemon, /db is missing or empty/);
  await put(good, db);
  for (const name of await readdir(db)) if (name.endsWith(".log")) await rm(join(db, name));
  await refused(t, daemon, /db is empty, state\/box says that it had \d+/);
  await put(good, db);
  const record = dataOf(daemon, "state/box");
  await rename(record, daemon.path("record"));
  await refused(t, daemon, /state\/box is missing/);
  await rename(daemon.path("record"), record);
  await daemon.serveAgain();
  await whole(t, daemon);
  await stillADifference(t, daemon);
});

test.serial("an older db beside a state of today: refused, taken only when that is asked for", async (t) => {
  const daemon = await Daemon.start(t);
  for (const label of ["one", "two"]) await daemon.volume(label, MiB);
  await daemon.copied((await daemon.start("one", "two", CopyKind.QUICKOPC)).id);
  await daemon.box.stop();
  const [db, backup] = [dataOf(daemon, "db"), daemon.path("backup")];
  await put(db, backup);
  await daemon.serveAgain();
  for (const label of ["three", "four"]) await daemon.volume(label, MiB);
  await daemon.copied((await daemon.start("three", "four", CopyKind.QUICKOPC)).id);
  await daemon.box.stop();
  const newest = daemon.path("newest");
  await put(db, newest);
  await put(backup, db);
  await refused(
    t,
    daemon,
    /db has \d+ changes, state\/box says that it had \d+: it has lost changes, or is an older copy/,
  );
  await put(newest, db);
  await daemon.serveAgain();
  await whole(t, daemon);
  t.is((await daemon.copy("c2")).phase, CopyPhase.TRACKING);
  await daemon.box.stop();

  await put(backup, db);
  const accept = await daemon.box.run(["fsck", "--data", dataOf(daemon), "--accept-database"]);
  t.regex(accept.stdout, /the database is taken for the one that belongs to this state from now on/);
  t.regex(accept.stdout, /sessions\/c2\/super: .* is not registered in this box/, "what it costs is said");
  await daemon.serveAgain();
  const { stdout } = await daemon.box.run(["volume", "list"]);
  t.notRegex(stdout, /three/);
  t.is((await daemon.copy("c1")).phase, CopyPhase.TRACKING);
  await stillADifference(t, daemon);
});
