/** `tidemark fsck` and `tidemark scrub` against a real box: what they say, what they mend, and their exit codes. */
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { Level } from "level";
import { RealBox } from "./real-box.ts";
import { runTidemark } from "./run-tidemark.ts";

/** A box with c1, which tracks g1d1 to g1d2 with a change since. */
async function boxWithCopy(t: ExecutionContext): Promise<RealBox> {
  const box = await RealBox.start();
  t.teardown(() => box.close());
  for (const name of ["one", "two"])
    await must(t, box, ["volume", "create", "--size", "8MiB", "--path", box.path(`${name}.img`), "--label", name]);
  await must(t, box, ["copy", "start", "one", "two", "--kind", "quickopc", "--wait"]);
  await must(t, box, ["volume", "write", "one", "--offset", "64KiB"], Buffer.alloc(512, 7));
  return box;
}

async function must(t: ExecutionContext, box: RealBox, args: readonly string[], input?: Buffer): Promise<string> {
  const { code, stdout, stderr } = await box.run(args, input === undefined ? {} : { input });
  t.is(code, 0, `tidemark ${args.join(" ")}: ${stderr}`);
  return stdout;
}

function fsck(box: RealBox, ...args: string[]) {
  return runTidemark(["fsck", "--data", box.path("state"), ...args]);
}

function linesOf(stdout: string): Record<string, Record<string, unknown>>[] {
  return stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Record<string, Record<string, unknown>>);
}

function findingsOf(stdout: string): Record<string, unknown>[] {
  return linesOf(stdout).flatMap(({ finding }) => (finding === undefined ? [] : [finding]));
}

/** A file of the state directory, changed behind the box's back. */
async function change(box: RealBox, path: string, edit: (content: Buffer) => Buffer): Promise<void> {
  const full = box.path(join("state", path));
  await writeFile(full, edit(await readFile(full)));
}

const zeroed = (content: Buffer) => Buffer.alloc(content.length);

test("fsck: nothing to find after a clean stop; refused while the box runs; what a kill leaves is no damage", async (t) => {
  const box = await boxWithCopy(t);
  const running = await fsck(box);
  t.is(running.code, 4);
  t.regex(running.stderr, /STATE_DIRECTORY_LOCKED[\s\S]*tidemark scrub/);
  await box.kill();
  const killed = await fsck(box, "--json");
  const found = findingsOf(killed.stdout);
  t.true(
    found.every(({ severity, cost }) => severity === "FINDING_SEVERITY_WARNING" && cost === undefined),
    killed.stdout,
  );
  await box.serve();
  await box.stop();
  const clean = await fsck(box);
  t.is(clean.code, 0, clean.stdout);
  t.regex(clean.stdout, /^\d+ files, [\d.]+KiB, 0 findings: nothing is left to be done\n$/);
});

test("fsck: damage is named with file, cost and remedy, nothing is changed; --repair makes of it what a start would", async (t) => {
  const box = await boxWithCopy(t);
  await box.stop();
  const maps = (await readdir(box.path("state/state/sessions/c1"))).filter((name) => name.startsWith("pending-"));
  const map = `state/sessions/c1/${maps[0]}`;
  await change(box, map, zeroed);
  await writeFile(box.path("state/state/points-77.log.new"), "half");
  const text = await fsck(box);
  t.is(text.code, 1);
  t.true(text.stdout.includes(`error: ${map} (byte 0): the header of the map is damaged [damaged]`), text.stdout);
  t.regex(text.stdout, /cost: copy c1 \(g1d1 to g1d2\) fails: run again it copies everything/);
  t.regex(text.stdout, /try: start the box, then run copy c1 again/);
  t.regex(text.stdout, /2 findings: 2 left/);
  const before = await readFile(box.path(`state/${map}`));
  const again = await fsck(box);
  t.is(again.stdout, text.stdout, "looking changes nothing");
  t.deepEqual(await readFile(box.path(`state/${map}`)), before);

  const repaired = await fsck(box, "--repair", "--json");
  t.is(repaired.code, 0, repaired.stdout + repaired.stderr);
  const lines = linesOf(repaired.stdout);
  t.like(lines.at(-1), { summary: { findings: 2, repaired: 2, left: 0 } });
  t.true(lines.slice(0, -1).every(({ finding }) => finding?.["repaired"] === true));
  t.is((await fsck(box)).code, 0);
  await box.serve();
  const copies = await box.json(t, ["copy", "list"]);
  t.like(copies[0], { id: "c1", phase: "COPY_PHASE_FAILED" });
});

test("fsck: a database that is gone or damaged, and rows and files that do not belong together", async (t) => {
  const box = await boxWithCopy(t);
  await box.stop();
  await rm(box.path("state/state/sessions/c1"), { recursive: true });
  const without = await fsck(box, "--json");
  t.is(without.code, 1);
  t.true(
    findingsOf(without.stdout).some(({ path }) => path === "state/sessions/c1"),
    without.stdout,
  );
  await rm(box.path("state/db/CURRENT"));
  const database = await fsck(box, "--repair");
  t.is(database.code, 1);
  t.regex(database.stdout, /error: db: .* is missing or empty \[missing\]/);
  t.regex(database.stdout, /not repaired: the database does not say which volumes are registered/);
});

test("fsck: a lost superblock is one finding: the record in the copy's log is no older state", async (t) => {
  const box = await boxWithCopy(t);
  await box.stop();
  await change(box, "state/sessions/c1/super", zeroed);
  const { stdout } = await fsck(box, "--json");
  t.deepEqual(
    findingsOf(stdout).map(({ path }) => path),
    ["state/sessions/c1/super"],
    stdout,
  );
});

test("fsck: a damaged row of db refuses the start; what it says of db cannot be accepted", async (t) => {
  const box = await boxWithCopy(t);
  await box.stop();
  const key = "!volumes!";
  const database = new Level<string, Uint8Array>(box.path("state/db"), { valueEncoding: "view" });
  for await (const [name, value] of database.iterator({ gt: key, limit: 1 })) {
    value[value.length - 1]! ^= 1;
    await database.put(name, value);
  }
  await database.close();
  const found = await fsck(box);
  t.is(found.code, 1);
  t.regex(found.stdout, /error: db: metadata !volumes!.* is damaged: its checksum is wrong/);
  t.regex(found.stdout, /cost: the box does not start/);
  const accept = await fsck(box, "--accept-database");
  t.regex(accept.stdout, /not repaired: the database is damaged: it has to be restored first/);
  t.regex(String(await t.throwsAsync(() => box.serve())), /metadata !volumes!.* is damaged/);
  t.is((await fsck(box, "--accept-database", "--repair")).code, 2, "two steps");
});

test("fsck: what is no data directory is refused, and wrong options are", async (t) => {
  const nothing = await runTidemark(["fsck", "--data", "/nonexistent/box", "--json"]);
  t.is(nothing.code, 4);
  t.like(JSON.parse(nothing.stderr), { reason: "STATE_DIRECTORY_INVALID" });
  t.regex(nothing.stderr, /name the directory that `tidemark serve` was given/);
  t.notRegex(nothing.stderr, /does not exist yet/, "that is good for serve alone");
  const unnamed = await runTidemark(["fsck"], { env: { TIDEMARK_DATA: "" } });
  t.is(unnamed.code, 2);
  t.is((await runTidemark(["fsck", "--dta", "x"])).code, 2);
});

test("scrub: nothing to find; damage is written anew and told as events; the next start loses nothing", async (t) => {
  const box = await boxWithCopy(t);
  const clean = await box.run(["scrub"]);
  t.is(clean.code, 0, clean.stderr);
  t.regex(clean.stdout, /0 findings: nothing is left to be done/);
  const volumes = await readdir(box.path("state/state/volumes"));
  const damaged = ["state/sessions/c1/super", ...volumes.map((uid) => `state/volumes/${uid}/super`)];
  for (const path of damaged) await change(box, path, zeroed);
  const { code, stdout } = await box.run(["scrub", "one"]);
  t.is(code, 0, stdout);
  const repaired = stdout.split("\n").filter((line) => line.startsWith("repaired: "));
  t.is(repaired.length, 2, stdout);
  const rest = await box.json(t, ["scrub"]);
  const found = rest.flatMap(({ finding }) => (finding as Record<string, unknown> | undefined) ?? []);
  t.is(found.length, 1, "the other volume's");
  t.like(found[0], { repaired: true, severity: "FINDING_SEVERITY_ERROR" });
  t.is(rest.at(-1)?.["done"], rest.at(-1)?.["total"]);
  const events = (await box.json(t, ["events"])).filter(({ type }) => String(type).startsWith("metadata."));
  t.is(events.filter(({ type }) => type === "metadata.damaged").length, 3);
  t.is(events.filter(({ type }) => type === "metadata.repaired").length, 3);
  await box.kill();
  await box.serve();
  t.like((await box.json(t, ["copy", "list"]))[0], { id: "c1", phase: "COPY_PHASE_TRACKING" });
  const plan = await box.json(t, ["copy", "explain", "one", "two", "--kind", "quickopc"]);
  t.not(plan[0]?.["reason"], "COPY_REASON_BASE_LOST");
  const unknown = await box.run(["scrub", "nine"]);
  t.is(unknown.code, 3, unknown.stderr);
});
