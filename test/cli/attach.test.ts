/** `volume attach` with a real file system on it: what is written arrives, what is left over is cleared away. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import anyTest, { type ExecutionContext, type TestFn } from "ava";
import { nbdClientArguments } from "../../src/client/attach/kernel-nbd.ts";
import { identify, isAlive } from "../../src/client/attach/process.ts";
import { needPath, needTools } from "../support/tools.ts";
import { needRoot } from "./need-root.ts";
import { RealBox } from "./real-box.ts";

const test = anyTest as TestFn<{ box: RealBox }>;
const MiB = 1024 * 1024;
const DEVICES = ["/dev/fuse", "/dev/loop-control"];
const TOOLS = ["nbdfuse", "fusermount3", "losetup", "mkfs.ext4", "e2fsck", "mount", "umount"];

test.beforeEach(async (t) => {
  t.context.box = await RealBox.start();
});
test.afterEach.always(async (t) => {
  const { box } = t.context;
  for (const line of (await box.run(["volume", "attachments", "--json"])).stdout.split("\n").filter(Boolean)) {
    const { device, name } = JSON.parse(line) as { device: string; name: string };
    spawnSync("umount", [device], { stdio: "ignore" });
    await box.run(["volume", "detach", name, "--force"]);
  }
  await box.close();
});

/** True, and said, when this machine cannot attach anything. */
function skipped(t: ExecutionContext): boolean {
  return !(needRoot(t) && needTools(t, TOOLS) && DEVICES.every((path) => needPath(t, path, "attach needs it")));
}

function must(t: ExecutionContext, command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { encoding: "utf8" });
  t.is(status, 0, `${command} ${args.join(" ")}: ${stderr}`);
  return stdout;
}

async function newVolume(box: RealBox, label: string, sizeBytes = 32 * MiB): Promise<string> {
  const path = box.path(`${label}.img`);
  writeFileSync(path, "");
  truncateSync(path, sizeBytes);
  return (await box.run(["volume", "register", path, "--label", label])).stdout.trim();
}

async function attach(t: ExecutionContext, box: RealBox, name: string, ...options: string[]): Promise<string> {
  const { code, stdout, stderr } = await box.run(["volume", "attach", name, ...options]);
  t.is(code, 0, stderr);
  const device = stdout.trim();
  t.true(statSync(device).isBlockDevice(), `${device} is a block device`);
  return device;
}

/** Nothing of an attachment is left: no record, mount, loop device or process. */
function nothingLeft(t: ExecutionContext, box: RealBox): void {
  const directory = box.path("runtime/attach");
  t.deepEqual(existsSync(directory) ? readdirSync(directory) : [], []);
  t.false(readFileSync("/proc/self/mountinfo", "utf8").includes(box.directory));
  t.false(
    spawnSync("losetup", ["--list", "--output", "BACK-FILE"], { encoding: "utf8" }).stdout.includes(box.directory),
  );
}

test.serial("what a file system writes is in the volume after detach, and the export is gone", async (t) => {
  if (skipped(t)) return;
  const { box } = t.context;
  const name = await newVolume(box, "disk");
  const device = await attach(t, box, "disk");
  must(t, "mkfs.ext4", "-q", device);
  const mount = box.path("mnt");
  mkdirSync(mount);
  must(t, "mount", device, mount);
  writeFileSync(join(mount, "hello"), "written through the loop device");

  const refused = await box.run(["volume", "detach", "disk"]);
  t.is(refused.code, 4);
  t.is(refused.stderr, `tidemark: ${device} is mounted at ${mount} (DEVICE_MOUNTED)\n  try: umount ${mount}\n`);
  t.is(readFileSync(join(mount, "hello"), "utf8"), "written through the loop device", "nothing was taken away");

  const twice = await box.run(["volume", "attach", name, "--json"]);
  t.is(twice.code, 4);
  t.like(JSON.parse(twice.stderr), { reason: "ALREADY_ATTACHED", metadata: { device } });

  must(t, "umount", mount);
  const detached = await box.run(["volume", "detach", device]);
  t.like(detached, { code: 0, stdout: `${name} detached from ${device}\n`, stderr: "" });
  nothingLeft(t, box);
  t.is((await box.run(["export", "list", "--json"])).stdout, "", "attach had added the export");
  must(t, "e2fsck", "-fn", box.path("disk.img"));
  t.true(readFileSync(box.path("disk.img")).includes("written through the loop device"));
});

test.serial("an export that was there stays", async (t) => {
  if (skipped(t)) return;
  const { box } = t.context;
  const name = await newVolume(box, "kept");
  await box.run(["export", "add", "kept"]);
  await attach(t, box, "kept");
  t.is((await box.run(["volume", "detach", "kept"])).code, 0);
  t.is((await box.run(["export", "get", name])).code, 0);
});

test.serial("read-only: writes are refused, and a read-only export is never attached writable", async (t) => {
  if (skipped(t)) return;
  const { box } = t.context;
  await newVolume(box, "fixed");
  const device = await attach(t, box, "fixed", "--read-only");
  t.not(spawnSync("dd", ["if=/dev/zero", `of=${device}`, "bs=4k", "count=1", "conv=fsync"]).status, 0);
  t.is((await box.run(["volume", "detach", "fixed"])).code, 0);
  await box.run(["export", "add", "fixed", "--read-only"]);
  const refused = await box.run(["volume", "attach", "fixed"]);
  t.is(refused.code, 4);
  t.regex(refused.stderr, /exported read-only \(READ_ONLY\)\n {2}try: --read-only/);
});

test.serial("an attached destination shows each new point, not old pages of the cache", async (t) => {
  if (skipped(t)) return;
  const { box } = t.context;
  await newVolume(box, "origin");
  await newVolume(box, "replica");
  const device = await attach(t, box, "replica", "--read-only");
  const first = () => spawnSync("head", ["-c", "5", device], { encoding: "utf8" }).stdout;
  for (const word of ["first", "secnd", "third"]) {
    await box.run(["volume", "write", "origin"], { input: Buffer.from(word) });
    const { code, stderr } = await box.run(["copy", "start", "origin", "replica", "--kind", "quickopc", "--wait"]);
    t.is(code, 0, stderr);
    t.is(first(), word);
  }
});

test.serial("a killed background process is noticed, and cleared away when the user says so", async (t) => {
  if (skipped(t)) return;
  const { box } = t.context;
  await newVolume(box, "broken");
  await attach(t, box, "broken");
  const record = JSON.parse(readFileSync(recordFile(box), "utf8")) as { server: { pid: number; startTicks: string } };
  process.kill(record.server.pid, "SIGKILL");
  while (isAlive(record.server)) await new Promise(setImmediate);
  const doctor = await box.run(["doctor", "--json"]);
  t.is(doctor.code, 1);
  t.like(JSON.parse(doctor.stdout).findings[0], { check: "attachment-broken", severity: "FINDING_SEVERITY_ERROR" });
  t.regex((await box.run(["volume", "attachments"])).stdout, / broken /);
  const again = await box.run(["volume", "attach", "broken"]);
  t.is(again.code, 1, "what was not written may be lost: that is not decided silently");
  t.regex(again.stderr, /\(FLUSH_FAILED\)\n {2}try: .*volume detach NAME --force/);
  t.is((await box.run(["volume", "detach", "broken", "--force"])).code, 0);
  const device = await attach(t, box, "broken");
  must(t, "dd", "if=/dev/zero", `of=${device}`, "bs=4k", "count=1", "conv=fsync", "status=none");
});

test.serial("a half-made attachment of a killed command is cleared away", async (t) => {
  if (skipped(t)) return;
  const { box } = t.context;
  await newVolume(box, "half");
  let killed = false;
  const attaching = box.run(["volume", "attach", "half"], {
    started: (child) => {
      // As soon as the record is there, the command dies wherever it is.
      const watch = setInterval(() => {
        if (!killed && existsSync(box.path("runtime/attach")) && readdirSync(box.path("runtime/attach")).length > 0) {
          killed = child.kill("SIGKILL");
        }
      }, 1);
      child.once("close", () => clearInterval(watch));
    },
  });
  t.is((await attaching).signal, "SIGKILL");
  const device = await attach(t, box, "half");
  t.is((await box.run(["volume", "detach", device])).code, 0);
  nothingLeft(t, box);
});

test.serial("without its server a volume can still be detached, and lost writes are never kept quiet", async (t) => {
  if (skipped(t)) return;
  const { box } = t.context;
  const name = await newVolume(box, "orphan");
  const device = await attach(t, box, "orphan");
  await box.kill();
  // Writes that nobody can store any more: they stay in the cache of the block device.
  spawnSync("dd", ["if=/dev/urandom", `of=${device}`, "bs=64k", "count=1", "status=none"]);
  const refused = await box.run(["volume", "detach", name]);
  t.is(refused.code, 1, refused.stderr);
  t.regex(refused.stderr, /could not be flushed.* \(FLUSH_FAILED\)\n {2}try: .*--force/);
  const forced = await box.run(["volume", "detach", name, "--force"]);
  t.is(forced.code, 0, forced.stderr);
  t.regex(forced.stderr, /the export of g\d+d\d+ stays: cannot reach the server/);
  nothingLeft(t, box);
});

test.serial("a device that another program holds is not taken away", async (t) => {
  if (skipped(t)) return;
  const { box } = t.context;
  await newVolume(box, "held");
  const device = await attach(t, box, "held");
  const program = `import os,sys; f=os.open(sys.argv[1], os.O_RDONLY|os.O_EXCL); print("held", flush=True); sys.stdin.read()`;
  const holder = spawn("python3", ["-c", program, device], { stdio: ["pipe", "pipe", "inherit"] });
  await once(holder.stdout, "data");
  const refused = await box.run(["volume", "detach", "held"]);
  holder.stdin.end();
  await once(holder, "close");
  t.is(refused.code, 4);
  t.regex(refused.stderr, /is in use: .* \(DEVICE_BUSY\)/);
  t.is((await box.run(["volume", "detach", "held"])).code, 0);
});

test.serial("attaching what is not there, and detaching what is not attached", async (t) => {
  const { box } = t.context;
  const detached = await box.run(["volume", "detach", "nobody"]);
  t.is(detached.code, 3);
  t.regex(detached.stderr, /is not attached here \(NOT_ATTACHED\)/);
  if (skipped(t)) return;
  t.is((await box.run(["volume", "attach", "nobody"])).code, 3);
  nothingLeft(t, box);
});

test.serial("a missing tool is named with its package", async (t) => {
  const { needTool } = await import("../../src/client/attach/process.ts");
  const error = t.throws(() => needTool("no-such-tool"));
  t.like(error, {
    reason: "TOOL_MISSING",
    message: "no-such-tool is not installed",
    hint: "apt-get install no-such-tool",
  });
});

test("nbd-client is given the parts of a URI", (t) => {
  t.deepEqual(nbdClientArguments("nbd+unix:///g1d1?socket=/run/a%20b.sock", "/dev/nbd0"), [
    ...["-unix", "/run/a b.sock", "/dev/nbd0", "-name", "g1d1"],
  ]);
  t.deepEqual(nbdClientArguments("nbd://box.example:10810/g1d1", "/dev/nbd1"), [
    ...["box.example", "10810", "/dev/nbd1", "-name", "g1d1"],
  ]);
  t.deepEqual(nbdClientArguments("nbd://[::1]/x", "/dev/nbd1").slice(0, 2), ["::1", "10809"]);
  t.throws(() => nbdClientArguments("nbds://box/x", "/dev/nbd1"), { message: /cannot use/ });
});

test("a process is known by its start as well as its number", (t) => {
  const me = identify(process.pid);
  t.true(isAlive(me));
  t.false(isAlive({ pid: process.pid, startTicks: "1" }), "a reused number is another process");
  t.false(isAlive(undefined));
});

function recordFile(box: RealBox): string {
  const [only = ""] = readdirSync(box.path("runtime/attach"));
  return join(box.path("runtime/attach"), only, "record.json");
}
