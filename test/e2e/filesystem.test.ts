/**
 * An ext4 file system on an attached volume, busy with a real program, copied at a point under fsfreeze: the copy is clean
 * without a repair, and every file on it is what it was.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { cpSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import test, { type ExecutionContext } from "ava";
import { needRoot } from "../cli/need-root.ts";
import { CopyKind, CopyPhase, Daemon, program } from "../support/daemon.ts";
import { needPath, needTools, SYSTEM_PYTHON } from "../support/tools.ts";

const MiB = 1 << 20;
const TOOLS = ["nbdfuse", "fusermount3", "losetup", "mkfs.ext4", "e2fsck", "mount", "umount", "fsfreeze", "python3"];
const SOURCES = fileURLToPath(new URL("../../src/engine", import.meta.url));

/** Inserts rows, each transaction durable, and says the number of each committed one; ends when its input ends. */
const WRITER = `
import sqlite3, sys, threading, hashlib
db = sqlite3.connect(sys.argv[1] + "/rows.db", isolation_level=None)
db.execute("pragma synchronous=full")
db.execute("create table rows(number integer primary key, text text, sum text)")
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
number = 0
while not ended.is_set():
    text = ("row %d " % number) * 40
    db.execute("insert into rows values(?, ?, ?)", (number, text, hashlib.sha256(text.encode()).hexdigest()))
    print(number, flush=True)
    number += 1
`;
const READER = `
import sqlite3, sys, hashlib
db = sqlite3.connect(sys.argv[1])
assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
rows = db.execute("select number, text, sum from rows order by number").fetchall()
for position, (number, text, sum) in enumerate(rows):
    assert number == position and hashlib.sha256(text.encode()).hexdigest() == sum
print(len(rows))
`;

function must(command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${stderr}`);
  return stdout;
}

async function attach(t: ExecutionContext, daemon: Daemon, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await daemon.box.run(["volume", "attach", ...args]);
  if (code !== 0) throw new Error(stderr);
  const device = stdout.trim();
  t.teardown(async () => {
    spawnSync("umount", [device], { stdio: "ignore" });
    await daemon.box.run(["volume", "detach", device, "--force"]);
  });
  return device;
}

function checksums(directory: string): Record<string, string> {
  const sums: Record<string, string> = {};
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || entry.name.startsWith("rows.db")) continue;
    const path = join(entry.parentPath, entry.name);
    sums[path.slice(directory.length)] = createHash("sha256").update(readFileSync(path)).digest("hex");
  }
  return sums;
}

/** Rows that have been committed so far. */
class Writer {
  readonly #child;
  committed = 0;

  constructor(directory: string) {
    this.#child = spawn(SYSTEM_PYTHON, ["-c", WRITER, directory], { stdio: ["pipe", "pipe", "inherit"] });
    this.#child.stdout.setEncoding("utf8").on("data", (text: string) => {
      this.committed += text.split("\n").length - 1;
    });
  }

  async until(committed: number): Promise<void> {
    while (this.committed < committed) {
      if (this.#child.exitCode !== null) throw new Error("the writer has ended");
      await once(this.#child.stdout, "data");
    }
  }

  /** Idempotent. */
  async stop(): Promise<void> {
    if (this.#child.exitCode !== null) return;
    const closed = once(this.#child, "close");
    this.#child.stdin.end();
    await closed;
  }
}

test("a busy ext4 copied under fsfreeze: clean, and every file is what it was, twice", async (t) => {
  if (!needRoot(t) || !needTools(t, TOOLS)) return;
  if (!needPath(t, "/dev/fuse", "attach needs it") || !needPath(t, "/dev/loop-control", "attach needs it")) return;
  const daemon = await Daemon.start(t);
  const mounts = ["origin", "replica"].map((name) => daemon.path(name));
  const [origin = "", replica = ""] = mounts;
  for (const path of mounts) mkdirSync(path);
  await daemon.volume("one", 96 * MiB, "empty");
  await daemon.volume("two", 96 * MiB, "empty");
  const device = await attach(t, daemon, "one");
  must("mkfs.ext4", "-q", device);
  must("mount", device, origin);
  cpSync(SOURCES, join(origin, "engine"), { recursive: true });
  const writer = new Writer(origin);
  t.teardown(() => writer.stop());
  await writer.until(20);

  const moved: bigint[] = [];
  for (const round of [1, 2]) {
    const sums = checksums(origin);
    must("fsfreeze", "--freeze", origin);
    const committed = writer.committed;
    const { id } = await daemon.start("one", "two", CopyKind.QUICKOPC).finally(() => must("fsfreeze", "-u", origin));
    await writer.until(committed + 10); // the source goes on while it is copied
    const copy = await daemon.copied(id);
    t.is(copy.phase, CopyPhase.TRACKING, copy.failureMessage);
    moved.push(copy.bytesPlanned);

    must("e2fsck", "-fn", daemon.path("two.img"));
    const taken = await attach(t, daemon, "two", "--read-only");
    must("mount", "-o", "ro,noload", taken, replica);
    t.deepEqual(checksums(replica), sums, `files of round ${round}`);
    // A transaction may be half done at the point: SQLite decides that on a copy that it may write.
    const database = daemon.path(`rows-${round}`);
    mkdirSync(database);
    for (const name of readdirSync(replica).filter((entry) => entry.startsWith("rows.db")))
      cpSync(join(replica, name), join(database, name));
    const rows = Number(await program(SYSTEM_PYTHON, "-c", READER, join(database, "rows.db")));
    t.true(rows >= committed, `${committed} rows were committed before the point, ${rows} are in the copy`);
    must("umount", replica);
    t.is((await daemon.box.run(["volume", "detach", "two"])).code, 0);
    cpSync(SOURCES, join(origin, `engine-${round}`), { recursive: true });
  }
  t.true((moved[1] ?? 0n) * 4n < (moved[0] ?? 0n), `the second run moves the difference only: ${moved}`);
  await writer.stop();
  must("umount", origin);
  t.is((await daemon.box.run(["volume", "detach", "one"])).code, 0);
  must("e2fsck", "-fn", daemon.path("one.img"));
});
