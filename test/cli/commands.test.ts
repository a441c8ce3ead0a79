/** Every command against a real daemon: what it prints, as text and with --json, and how it ends. */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import anyTest, { type ExecutionContext, type TestFn } from "ava";
import { needPath, needTools } from "../support/tools.ts";
import { needRoot } from "./need-root.ts";
import { RealBox } from "./real-box.ts";

const test = anyTest as TestFn<{ box: RealBox }>;
const MiB = 1024 * 1024;
type Json = Record<string, unknown>;

test.before(async (t) => {
  t.context.box = await RealBox.start();
});
test.after.always((t) => t.context.box.close());

/** Registers a new image and returns its name. */
async function newVolume(box: RealBox, t: ExecutionContext, label: string, content: Buffer): Promise<string> {
  const path = box.path(`${label}.img`);
  writeFileSync(path, content);
  const { code, stdout, stderr } = await box.run(["volume", "register", path, "--label", label]);
  t.is(code, 0, stderr);
  return stdout.trim();
}

function objectOf(message: Json | undefined, field: string): Json {
  return (message?.[field] ?? {}) as Json;
}

function copiesOf(message: Json | undefined): Json[] {
  return (message?.["copies"] ?? []) as Json[];
}

test("volume: register, create, list, get, resize, delete", async (t) => {
  const { box } = t.context;
  const path = box.path("life.img");
  const created = await box.run([
    "volume",
    "create",
    "--size",
    "8MiB",
    "--path",
    path,
    "--lu",
    "70",
    "--label",
    "life",
  ]);
  t.like(created, { code: 0, stdout: "g1d70\n", stderr: "" });
  const [got] = await box.json(t, ["volume", "get", "life"]);
  t.like(got, { volume: { name: "g1d70", lu: 70, label: "life", sizeBytes: String(8 * MiB), path } });
  const list = await box.json(t, ["volume", "list"]);
  t.true(
    list.some((volume) => volume["name"] === "g1d70"),
    "one volume a line",
  );
  const table = await box.run(["volume", "list"]);
  t.regex(table.stdout, /^NAME +LABEL +SIZE +STATE/);
  t.regex(table.stdout, /^g1d70 +life +8MiB +online +file +---- +\//m);
  t.regex((await box.run(["volume", "get", "g1d70"])).stdout, /^size: +8MiB \(8388608 bytes\)$/m);
  const [resized] = await box.json(t, ["volume", "resize", "life", "--size", "16MiB"]);
  t.like(resized, { volume: { sizeBytes: String(16 * MiB) } });
  t.like(await box.run(["volume", "resize", "life", "--size", "8MiB"]), { stdout: "" });
  t.deepEqual(await box.json(t, ["volume", "delete", "life", "--delete-file"]), [{}]);
  t.false(existsSync(path));
  t.is((await box.run(["volume", "get", "life"])).code, 3);
});

test("volume: bytes in and out, and what changed", async (t) => {
  const { box } = t.context;
  const content = randomBytes(3 * MiB + 777);
  await newVolume(box, t, "bytes", Buffer.alloc(8 * MiB));
  const written = await box.run(["volume", "write", "bytes", "--offset", "1MiB", "--json"], { input: content });
  t.deepEqual(JSON.parse(written.stdout), { bytesWritten: String(content.length) });
  const read = await box.runBytes(["volume", "read", "bytes", "--offset", "1MiB", "--length", String(content.length)]);
  t.is(read.code, 0, read.stderr);
  t.is(Buffer.compare(read.bytes, content), 0);
  const all = await box.runBytes(["volume", "read", "bytes"]);
  t.is(all.bytes.length, 8 * MiB);
  t.is((await box.run(["volume", "read", "bytes", "--offset", "9MiB"])).code, 2, "beyond the end");
  t.is((await box.run(["volume", "write", "bytes", "--offset", "8MiB"], { input: content })).code, 2);
  t.is((await box.run(["volume", "write", "none"], { input: content })).code, 3);
});

test("export: add, list, get, remove", async (t) => {
  const { box } = t.context;
  const name = await newVolume(box, t, "offered", Buffer.alloc(MiB));
  const { stdout } = await box.run(["export", "add", "offered"]);
  t.regex(stdout, new RegExp(`^nbd\\+unix:///${name}\\?socket=/.*\\n$`));
  const [got] = await box.json(t, ["export", "get", "offered"]);
  t.like(got, { export: { name, label: "offered", uri: stdout.trim(), sizeBytes: String(MiB) } });
  const list = await box.json(t, ["export", "list"]);
  t.true(list.some((item) => item["name"] === name));
  t.regex((await box.run(["export", "list"])).stdout, new RegExp(`^${name} +offered +1MiB +read-write +0 +nbd`, "m"));
  t.is((await box.run(["export", "add", name])).code, 4, "exported already");
  t.is((await box.run(["volume", "delete", name])).code, 4, "in use");
  t.deepEqual(await box.json(t, ["export", "remove", name]), [{}]);
  t.is((await box.run(["export", "remove", name])).code, 3);
  const [added] = await box.json(t, ["export", "add", name, "--read-only"]);
  t.like(added, { export: { readOnly: true } });
});

test("copy: the life of a QuickOPC session", async (t) => {
  const { box } = t.context;
  const content = randomBytes(4 * MiB);
  const source = await newVolume(box, t, "quick-source", content);
  const destination = await newVolume(box, t, "quick-destination", Buffer.alloc(4 * MiB));
  const names = [source, destination] as const;
  const [plan] = await box.json(t, ["copy", "explain", ...names, "--kind", "QUICKOPC"]);
  t.like(plan, { reason: "COPY_REASON_FIRST_COPY", plannedGranules: "512", bytesPlanned: String(4 * MiB) });
  const [started] = await box.json(t, ["copy", "start", ...names, "--kind", "quickopc", "--pace", "7", "--wait"]);
  const copies = copiesOf(started);
  t.like(copies[0], { source, destination, phase: "COPY_PHASE_TRACKING", tracking: true, pace: 7 });
  const id = String(copies[0]?.["id"]);
  t.is(Buffer.compare(readFileSync(box.path("quick-destination.img")), content), 0, "the destination is the source");

  await box.run(["volume", "write", source, "--offset", "64KiB"], { input: randomBytes(8192) });
  const [got] = await box.json(t, ["copy", "get", id]);
  const epoch = String(objectOf(got, "copy")["sourceEpoch"]);
  t.deepEqual(await box.json(t, ["volume", "changes", source, "--since", epoch]), [
    { offsetBytes: "65536", lengthBytes: "8192" },
  ]);
  const changes = await box.run(["volume", "changes", source, "--since", epoch]);
  t.is(changes.stdout, "65536 8192\ntotal 8KiB (8192 bytes) in 1 extents\n");
  t.is((await box.run(["volume", "changes", source, "--since", "999"])).code, 3);
  t.regex((await box.run(["volume", "get", source])).stdout, /^EPOCH +BEGAN +CHANGED-GRANULES +STATE +HELD-BY$/m);

  const [restarted] = await box.json(t, ["copy", "restart", id, "--wait"]);
  t.like(copiesOf(restarted)[0], {
    id,
    plannedGranules: "1",
    reason: "COPY_REASON_DIFFERENCE",
    phase: "COPY_PHASE_TRACKING",
  });
  t.regex((await box.run(["copy", "get", id])).stdout, /^reason: +difference since the last point$/m);
  t.regex(
    (await box.run(["copy", "list"])).stdout,
    new RegExp(`^${id} +${source} +${destination} +quickopc +tracking +---- +0%`, "m"),
  );
  t.true((await box.json(t, ["copy", "list", "--volume", source])).every((copy) => copy["source"] === source));
  t.like((await box.json(t, ["copy", "pace", id, "3"]))[0], { copy: { pace: 3 } });
  const watched = await box.json(t, ["copy", "watch", id]);
  t.like(watched.at(-1), { copy: { id, phase: "COPY_PHASE_TRACKING" } });
  t.like((await box.json(t, ["copy", "stop-tracking", id]))[0], { copy: { id, phase: "COPY_PHASE_COMPLETED" } });
  t.is((await box.run(["copy", "cancel", id])).code, 3, "it has ended");
  t.true((await box.json(t, ["copy", "list", "--all"])).some((copy) => copy["id"] === id));
});

test("copy: several pairs fire as one, and cancelling says what the destination is worth", async (t) => {
  const { box } = t.context;
  const source = await newVolume(box, t, "many-source", randomBytes(MiB));
  const left = await newVolume(box, t, "many-left", Buffer.alloc(MiB));
  const right = await newVolume(box, t, "many-right", Buffer.alloc(MiB));
  const args = ["copy", "start", source, left, "many-source", "many-right", "--kind", "quickopc", "--wait"];
  const { code, stdout, stderr } = await box.run(args);
  t.is(code, 0, stderr);
  t.is(stdout.trim().split("\n").length, 3);
  t.regex(stderr, /2 copies copying 100% of 2MiB\n$/);
  const copies = await box.json(t, ["copy", "list", "--volume", right]);
  const cancelled = await box.run(["copy", "cancel", String(copies[0]?.["id"])]);
  t.is(cancelled.stdout, `${copies[0]?.["id"]} cancelled; ${right} holds a complete copy\n`);
});

test("status, doctor, version and events", async (t) => {
  const { box } = t.context;
  t.like((await box.json(t, ["status"]))[0], { box: { number: 1 } });
  t.regex((await box.run(["status"])).stdout, /^box: +g1$/m);
  const doctor = await box.run(["doctor", "--json"]);
  t.true(Array.isArray(JSON.parse(doctor.stdout).findings));
  t.like((await box.json(t, ["version"]))[0], { client: "0.1.0", server: "0.1.0" });
  const name = await newVolume(box, t, "eventful", Buffer.alloc(MiB));
  const events = await box.json(t, ["events", "--subject", name]);
  t.true(events.length > 0);
  t.true(events.every((event) => event["subject"] === name));
});

test("events --follow shows what happens until Ctrl-C, which ends it with 130", async (t) => {
  const { box } = t.context;
  await newVolume(box, t, "before", Buffer.alloc(MiB));
  const followed = box.run(["events", "--follow", "--json"], {
    started: (child) => {
      let seen = "";
      let registering: Promise<string> | undefined;
      child.stdout?.on("data", (text: Buffer) => {
        seen += text.toString();
        // The kept events are being shown: what happens from now on is in the list or followed, never lost.
        if (seen.includes(box.path("before.img"))) {
          registering ??= newVolume(box, t, "followed", Buffer.alloc(MiB));
        }
        if (seen.includes(box.path("followed.img"))) void registering?.then(() => child.kill("SIGINT"));
      });
    },
  });
  const { code, stdout } = await followed;
  t.is(code, 130);
  t.true(stdout.includes(box.path("followed.img")));
});

test("a label or name with no volume, a taken label, a missing path: what is wrong and what to try", async (t) => {
  const { box } = t.context;
  await newVolume(box, t, "taken", Buffer.alloc(MiB));
  const file = box.path("more.img");
  writeFileSync(file, Buffer.alloc(MiB));
  const refusals: readonly (readonly [args: readonly string[], code: number, reason: string])[] = [
    [["volume", "get", "nobody"], 3, "VOLUME_NOT_FOUND"],
    [["volume", "register", box.path("absent.img")], 3, "PATH_NOT_FOUND"],
    [["volume", "register", file, "--label", "taken"], 4, "LABEL_EXISTS"],
    [["volume", "register", file, "--label", "g1d2"], 2, "INVALID_ARGUMENT"],
    [["volume", "register", box.path("taken.img")], 4, "PATH_REGISTERED"],
    [["volume", "create", "--size", "1000", "--path", box.path("odd.img")], 4, "SIZE_INVALID"],
    [["copy", "get", "c9999"], 3, "SESSION_NOT_FOUND"],
    [["copy", "start", "taken", "taken", "--kind", "opc"], 4, "SOURCE_IS_DESTINATION"],
    [["copy", "stop-tracking", "c9999"], 3, "SESSION_NOT_FOUND"],
    [["export", "get", "taken"], 3, "EXPORT_NOT_FOUND"],
  ];
  for (const [args, code, reason] of refusals) {
    const { code: ended, stdout, stderr } = await box.run([...args, "--json"]);
    const failure = JSON.parse(stderr) as Json;
    t.deepEqual({ ended, reason: failure["reason"], stdout }, { ended: code, reason, stdout: "" }, args.join(" "));
    t.not(failure["hint"], "", `${args.join(" ")} has a hint`);
  }
});

test("the same request id does a thing once", async (t) => {
  const { box } = t.context;
  const args = ["volume", "create", "--size", "1MiB", "--path", box.path("once.img"), "--request-id", "once-1"];
  const first = await box.run(args);
  const second = await box.run(args);
  t.like(second, { code: 0, stdout: first.stdout });
});

test("completion offers the names of this box", async (t) => {
  const { box } = t.context;
  const name = await newVolume(box, t, "completed", Buffer.alloc(MiB));
  const volumes = await box.run(["complete", "--", "volume", "get", ""]);
  t.true(volumes.stdout.split("\n").includes(`${name}\t${box.path("completed.img")}`));
  t.regex(
    (await box.run(["complete", "--", "copy", "start", name, "compl"])).stdout,
    new RegExp(`^completed\t${name}$`, "m"),
  );
  const elsewhere = ["complete", "--", "volume", "get", "--address", "unix:/nonexistent", ""];
  t.like(await box.run(elsewhere), { code: 0, stderr: "" });
});

test("options may stand before the command and after its operands", async (t) => {
  const { box } = t.context;
  const first = await box.run(["--json", "volume", "list"]);
  const last = await box.run(["volume", "list", "--json"]);
  t.is(first.code, 0);
  t.is(last.code, 0);
  t.is(typeof JSON.parse(first.stdout.split("\n")[0] ?? ""), "object");
});

test("partition list shows what a partition table holds", async (t) => {
  if (!needTools(t, ["sfdisk"])) return;
  const { box } = t.context;
  const path = box.path("parted.img");
  writeFileSync(path, "");
  truncateSync(path, 16 * MiB);
  const sfdisk = spawn("sfdisk", ["--quiet", path], { stdio: ["pipe", "ignore", "inherit"] });
  sfdisk.stdin.end("label: gpt\nstart=2048, size=8192, name=boot\nstart=10240, size=4096\n");
  await once(sfdisk, "close");
  await box.run(["volume", "register", path, "--label", "parted", "--lu", "80"]);
  const partitions = await box.json(t, ["partition", "list", "parted"]);
  t.is(partitions.length, 2);
  t.like(partitions[0], {
    name: "g1d80p1",
    number: 1,
    offsetBytes: String(MiB),
    sizeBytes: String(4 * MiB),
    label: "boot",
  });
  const table = await box.run(["volume", "partitions", "parted"]);
  t.regex(table.stdout, /^g1d80p1 +1048576 +4MiB +yes +\S+ +boot$/m);
});

/**
 * A source volume and a destination of the same size whose source is served by nbdkit with a filter that delays or
 * fails: a file over NBD. Returns false, and skips the test, where the tools for it are missing.
 */
async function filteredSource(
  t: ExecutionContext,
  box: RealBox,
  label: string,
  filter: readonly string[],
): Promise<boolean> {
  const able = needRoot(t) && needTools(t, ["nbdkit", "nbdfuse", "fusermount3"]);
  if (!able || !needPath(t, "/dev/fuse", "a file over NBD needs it")) return false;
  const socket = box.path(`${label}.sock`);
  const mount = box.path(label);
  mkdirSync(mount);
  const [name, ...settings] = filter;
  const server = spawn("nbdkit", ["-f", "-U", socket, `--filter=${name}`, "memory", "64M", ...settings], {
    stdio: "ignore",
  });
  t.teardown(() => server.kill());
  await appears(t, socket);
  const fuse = spawn("nbdfuse", [`${mount}/disk`, `nbd+unix:///?socket=${socket}`], { stdio: "ignore" });
  const fuseGone = once(fuse, "close");
  await appears(t, `${mount}/disk`);
  t.teardown(async () => {
    await once(spawn("fusermount3", ["-u", "-z", mount], { stdio: "ignore" }), "close");
    await fuseGone;
  });
  const { code, stderr } = await box.run(["volume", "register", `${mount}/disk`, "--label", label]);
  t.is(code, 0, stderr);
  writeFileSync(box.path(`${label}-copy.img`), "");
  truncateSync(box.path(`${label}-copy.img`), 64 * MiB);
  await box.run(["volume", "register", box.path(`${label}-copy.img`), "--label", `${label}-copy`]);
  // Runs before the unmounting above: the box must have closed the file.
  t.teardown(async () => {
    const copies = await box.run(["copy", "list", "--volume", label, "--json"]);
    for (const line of copies.stdout.split("\n").filter(Boolean)) {
      await box.run(["copy", "cancel", String((JSON.parse(line) as Json)["id"])]);
    }
    await box.run(["volume", "delete", label]);
  });
  return true;
}

async function appears(t: ExecutionContext, path: string): Promise<void> {
  for (let attempt = 0; attempt < 500; attempt++) {
    if (existsSync(path)) return;
    await sleep(20);
  }
  t.fail(`${path} does not appear`);
}

const SLOW = ["delay", "rdelay=300ms"];

test.serial("copy start --wait: running out of time ends with 8, and the copy goes on", async (t) => {
  const { box } = t.context;
  if (!(await filteredSource(t, box, "slow-time", SLOW))) return;
  const args = ["copy", "start", "slow-time", "slow-time-copy", "--kind", "opc", "--wait", "--timeout", "3s"];
  const { code, stderr } = await box.run(args);
  t.is(code, 8, stderr);
  t.regex(stderr, /the copy goes on: c\d+ \(DEADLINE_EXCEEDED\)\n {2}try: tidemark copy watch c\d+\n$/);
  const copies = await box.json(t, ["copy", "list", "--volume", "slow-time"]);
  t.like(copies[0], { phase: "COPY_PHASE_COPYING" });
});

test.serial("copy start --wait: Ctrl-C ends with 130, and the copy goes on", async (t) => {
  const { box } = t.context;
  if (!(await filteredSource(t, box, "slow-stop", SLOW))) return;
  const waiting = await box.run(["copy", "start", "slow-stop", "slow-stop-copy", "--kind", "opc", "--wait"], {
    started: (child) => child.stderr?.once("data", () => child.kill("SIGINT")),
  });
  t.is(waiting.code, 130, waiting.stderr);
  t.regex(waiting.stderr, /interrupted; the copy goes on: c\d+ \(INTERRUPTED\)/);
  t.is((await box.json(t, ["copy", "list", "--volume", "slow-stop"])).length, 1);
});

test.serial("copy start --wait and copy watch: a cancelled copy ends with 7", async (t) => {
  const { box } = t.context;
  if (!(await filteredSource(t, box, "slow-cancel", SLOW))) return;
  const waiting = box.run(["copy", "start", "slow-cancel", "slow-cancel-copy", "--kind", "opc", "--wait", "--json"]);
  let copies: Json[] = [];
  while (copies.length === 0) copies = await box.json(t, ["copy", "list", "--volume", "slow-cancel"]);
  const id = String(copies[0]?.["id"]);
  const watching = box.run(["copy", "watch", id], {
    started: (child) => child.stdout?.once("data", () => void box.run(["copy", "cancel", id])),
  });
  const [waited, watched] = await Promise.all([waiting, watching]);
  t.is(waited.code, 7, waited.stderr);
  t.like(JSON.parse(waited.stderr), { code: "COPY_FAILED", reason: "COPY_CANCELLED", metadata: { id } });
  t.is(watched.code, 7, watched.stderr);
  t.regex(watched.stdout, new RegExp(`^${id} copying \\d+% of 64MiB`, "m"));
});

test.serial("copy start --wait: a source that cannot be read ends with 7, with the cause", async (t) => {
  const { box } = t.context;
  const flag = box.path("bad.flag");
  const failing = ["error", "error-pread=EIO", "error-pread-rate=100%", `error-pread-file=${flag}`];
  if (!(await filteredSource(t, box, "bad", failing))) return;
  writeFileSync(flag, ""); // from now on every read fails
  const { code, stderr } = await box.run(["copy", "start", "bad", "bad-copy", "--kind", "opc", "--wait"]);
  t.is(code, 7, stderr);
  t.regex(stderr, /tidemark: c\d+ failed: .+ \(COPY_FAILED\)\n {2}try: tidemark copy get c\d+/);
  const list = await box.run(["copy", "list", "--volume", "bad"]);
  t.regex(list.stdout, /failed\(bad-sector\)/);
});
