/** Clients that people use, unmodified, over unix and TCP sockets. */
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { exportUri } from "../../src/engine/nbd/server.ts";
import { hasTool, needPath, needPythonModule, needTools, SYSTEM_PYTHON } from "../support/tools.ts";
import { type Lab, pattern, startLab } from "./lab.ts";

const MiB = 1024 * 1024;

interface Finished {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end; the server lives in this process, so nothing may block it. */
function run(command: string, args: readonly string[]): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (chunk) => {
      stdout += chunk;
    });
    child.stderr.on("data", (chunk) => {
      stderr += chunk;
    });
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, stdout, stderr }));
  });
}

/** Runs a program that has to succeed; returns what it printed. */
async function succeed(t: ExecutionContext, command: string, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await run(command, args);
  t.is(code, 0, `${command} ${args.join(" ")}\n${stdout}\n${stderr}`);
  return stdout;
}

interface Place {
  readonly lab: Lab;
  readonly base: string;
  readonly uri: string;
}

async function startPlace(t: ExecutionContext, kind: "unix" | "tcp", sizeBytes: number): Promise<Place> {
  const lab = await startLab(t, { sizeBytes });
  const base = kind === "unix" ? lab.base : await lab.server.listen("127.0.0.1:0");
  return { lab, base, uri: exportUri(base, "x") };
}

for (const kind of ["unix", "tcp"] as const) {
  test(`nbdinfo tells everything (${kind})`, async (t) => {
    if (!needTools(t, ["nbdinfo"])) return;
    const { lab, base, uri } = await startPlace(t, kind, 5 * MiB + 512);
    lab.target.beginEpoch(4);
    lab.target.tryWrite(1 * MiB, pattern(8192, 1));
    lab.exports.targets.set("käse & brot/1", lab.target);
    t.is((await succeed(t, "nbdinfo", ["--size", uri])).trim(), String(5 * MiB + 512));
    const info = JSON.parse(await succeed(t, "nbdinfo", ["--json", uri]));
    t.is(info.protocol, "newstyle-fixed");
    t.true(info.structured);
    const facts = info.exports[0];
    t.is(facts["export-name"], "x");
    t.is(facts["export-size"], 5 * MiB + 512);
    t.deepEqual(facts.contexts, ["base:allocation", "qemu:dirty-bitmap:4"]);
    for (const can of [
      "can_cache",
      "can_df",
      "can_fast_zero",
      "can_flush",
      "can_fua",
      "can_multi_conn",
      "can_trim",
      "can_zero",
    ]) {
      t.true(facts[can], can);
    }
    t.false(facts.is_read_only);
    t.deepEqual([facts.block_size_minimum, facts.block_size_preferred, facts.block_size_maximum], [1, 4096, 32 * MiB]);
    const map = JSON.parse(await succeed(t, "nbdinfo", ["--json", "--map", uri]));
    const pieces = (rows: readonly { offset: number; length: number; type: number }[]) =>
      rows.map(({ offset, length, type }) => [offset, length, type]);
    const rest = 5 * MiB + 512 - 1 * MiB - 8192;
    t.deepEqual(pieces(map), [
      [0, MiB, 3],
      [MiB, 8192, 0],
      [MiB + 8192, rest, 3],
    ]);
    const changes = JSON.parse(await succeed(t, "nbdinfo", ["--json", "--map=qemu:dirty-bitmap:4", uri]));
    t.deepEqual(pieces(changes), [
      [0, MiB, 0],
      [MiB, 8192, 1],
      [MiB + 8192, rest, 0],
    ]);
    const list = JSON.parse(await succeed(t, "nbdinfo", ["--json", "--list", base]));
    t.deepEqual(
      list.exports.map((entry: Record<string, unknown>) => entry["export-name"]),
      ["x", "käse & brot/1"],
    );
    t.is((await succeed(t, "nbdinfo", ["--size", exportUri(base, "käse & brot/1")])).trim(), String(5 * MiB + 512));
    t.not((await run("nbdinfo", ["--size", exportUri(base, "none")])).code, 0);
    lab.target.readOnly = true;
    t.is((await run("nbdinfo", ["--is", "read-only", uri])).code, 0);
    t.not((await run("nbdinfo", ["--can", "trim", uri])).code, 0);
  });

  test(`nbdcopy copies in both directions (${kind})`, async (t) => {
    if (!needTools(t, ["nbdcopy"])) return;
    const { lab, uri } = await startPlace(t, kind, 24 * MiB + 512);
    const file = join(lab.directory, "image");
    const image = Buffer.alloc(24 * MiB + 512);
    image.set(pattern(9 * MiB, 1), 3 * MiB + 512);
    image.set(pattern(700, 2), 24 * MiB - 200);
    writeFileSync(file, image);
    await succeed(t, "nbdcopy", ["--flush", file, uri]);
    t.is(Buffer.compare(lab.target.bytes, image), 0);
    t.is(Buffer.compare(lab.target.durable, image), 0);
    const back = join(lab.directory, "back");
    await succeed(t, "nbdcopy", ["--connections=4", "--requests=64", uri, back]);
    t.is(Buffer.compare(readFileSync(back), image), 0);
    lab.target.path = "deferred";
    const again = join(lab.directory, "again");
    await succeed(t, "nbdcopy", ["--request-size=1048576", uri, again]);
    t.is(Buffer.compare(readFileSync(again), image), 0);
    await succeed(t, "nbdcopy", ["--synchronous", "--allocated", file, uri]);
    t.is(Buffer.compare(lab.target.bytes, image), 0);
  });

  test(`qemu-img converts, compares and maps (${kind})`, async (t) => {
    if (!needTools(t, ["qemu-img"])) return;
    const { lab, uri } = await startPlace(t, kind, 16 * MiB);
    const file = join(lab.directory, "image");
    const image = Buffer.alloc(16 * MiB);
    image.set(pattern(5 * MiB, 3), 2 * MiB);
    writeFileSync(file, image);
    lab.target.bytes.fill(1);
    const raw = ["-f", "raw", "-O", "raw"];
    await succeed(t, "qemu-img", ["convert", "-n", ...raw, file, uri]);
    t.is(Buffer.compare(lab.target.bytes, image), 0);
    t.regex(await succeed(t, "qemu-img", ["info", "-f", "raw", uri]), /virtual size: 16 MiB/);
    await succeed(t, "qemu-img", ["compare", "-f", "raw", "-F", "raw", file, uri]);
    const qcow = join(lab.directory, "image.qcow2");
    await succeed(t, "qemu-img", ["convert", "-f", "raw", "-O", "qcow2", uri, qcow]);
    await succeed(t, "qemu-img", ["compare", "-f", "qcow2", "-F", "raw", qcow, uri]);
    await lab.target.trim(0, 16 * MiB);
    lab.target.tryWrite(4 * MiB, pattern(65_536, 1));
    const map = JSON.parse(await succeed(t, "qemu-img", ["map", "--output=json", "-f", "raw", uri]));
    t.deepEqual(
      map.map(({ start, length, zero }: Record<string, unknown>) => [start, length, zero]),
      [
        [0, 4 * MiB, true],
        [4 * MiB, 65_536, false],
        [4 * MiB + 65_536, 12 * MiB - 65_536, true],
      ],
    );
    lab.target.tryWrite(5 * MiB, Buffer.from([1]));
    t.is((await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", file, uri])).code, 1);
  });

  test(`qemu-io reads, writes, zeroes and discards (${kind})`, async (t) => {
    if (!needTools(t, ["qemu-io"])) return;
    const { lab, uri } = await startPlace(t, kind, 8 * MiB);
    lab.target.fastZero = true;
    const commands = [
      "write -P 0xa5 1000 3000",
      "write -f -P 0x11 1M 64k",
      "read -P 0xa5 1000 3000",
      "aio_write -P 0x22 2M 512k",
      "aio_write -P 0x33 3M 1M",
      "aio_flush",
      "read -P 0x22 2M 512k",
      "read -P 0x33 3M 1M",
      "write -z 3M 100k",
      "write -z -u 3500k 8k",
      "read -P 0 3M 100k",
      "discard 1M 64k",
      "read -P 0 1M 64k",
      "flush",
    ];
    const printed = await succeed(t, "qemu-io", ["-f", "raw", ...commands.flatMap((c) => ["-c", c]), uri]);
    t.notRegex(printed, /fail|error/i);
    const { bytes, durable } = lab.target;
    t.true(bytes.subarray(1000, 4000).every((byte) => byte === 0xa5));
    t.is(bytes[999], 0);
    t.is(bytes[4000], 0);
    t.is(Buffer.compare(bytes, durable), 0);
    const wrong = await run("qemu-io", ["-f", "raw", "-c", "read -P 1 1000 10", uri]);
    t.regex(wrong.stdout + wrong.stderr, /verification failed/);
  });

  test(`libnbd in Python uses every command and flag (${kind})`, async (t) => {
    if (!needPythonModule(t, "nbd", "python3-libnbd")) return;
    const { lab, uri } = await startPlace(t, kind, 4 * MiB);
    lab.target.beginEpoch(9);
    const script = join(lab.directory, "script.py");
    writeFileSync(script, LIBNBD_SCRIPT);
    t.is((await succeed(t, SYSTEM_PYTHON, [script, uri])).trim(), "all good");
    const { bytes, calls } = lab.target;
    t.is(bytes.subarray(7, 12).toString(), "hello");
    t.true(calls.includes("cache 0+65536"));
    t.true(calls.includes("zero keep"));
    t.true(calls.includes("trim"));
  });

  test(`fio writes and verifies (${kind})`, async (t) => {
    if (!needTools(t, ["fio"])) return;
    const { lab, uri } = await startPlace(t, kind, 16 * MiB);
    for (const [path, size] of [
      ["inline", "4k"],
      ["deferred", "4k"],
      ["inline", "200k"],
    ] as const) {
      lab.target.path = path;
      const job = ["--name=verify", "--ioengine=nbd", `--uri=${uri}`, "--rw=randrw", `--bs=${size}`, "--size=16m"];
      const verify = ["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--iodepth=32", "--io_size=8m"];
      const printed = await succeed(t, "fio", [...job, ...verify, "--fsync=64", "--thread"]);
      t.regex(printed, /err= 0/);
    }
  });

  test(`nbdfuse mounts a volume as a file (${kind})`, async (t) => {
    if (!needTools(t, ["nbdfuse", "fusermount3"])) return;
    if (!needPath(t, "/dev/fuse", "which nbdfuse needs")) return;
    const { lab, uri } = await startPlace(t, kind, 8 * MiB + 4096);
    const image = pattern(lab.target.sizeBytes, 5);
    lab.target.bytes.set(image);
    const mount = join(lab.directory, "mount");
    mkdirSync(mount);
    const file = join(mount, "volume");
    const pid = join(lab.directory, "pid");
    const child = spawn("nbdfuse", ["--pidfile", pid, file, uri], { stdio: "inherit" });
    const gone = new Promise((resolve) => child.once("exit", resolve));
    t.teardown(async () => {
      await run("fusermount3", ["-u", mount]);
      await gone;
    });
    while ((await run("test", ["-s", pid])).code !== 0) {
      if (child.exitCode !== null) {
        t.fail("nbdfuse ended");
        return;
      }
    }
    const handle = await open(file, "r+");
    try {
      t.is((await handle.stat()).size, lab.target.sizeBytes);
      const { buffer } = await handle.read(Buffer.alloc(lab.target.sizeBytes), 0, lab.target.sizeBytes, 0);
      t.is(Buffer.compare(buffer, image), 0);
      await handle.write(Buffer.from("written through fuse"), 0, 20, 5000);
      await handle.datasync();
    } finally {
      await handle.close();
    }
    t.is(lab.target.durable.subarray(5000, 5020).toString(), "written through fuse");
  });
}

test("nbdcopy and the daemon's peers agree on a copy between two volumes", async (t) => {
  if (!needTools(t, ["nbdcopy"])) return;
  const source = await startPlace(t, "unix", 12 * MiB);
  const destination = await startPlace(t, "tcp", 12 * MiB);
  source.lab.target.tryWrite(3 * MiB, pattern(4 * MiB, 1));
  await succeed(t, "nbdcopy", ["--flush", source.uri, destination.uri]);
  t.is(Buffer.compare(source.lab.target.bytes, destination.lab.target.durable), 0);
  if (!hasTool("qemu-img")) return;
  await succeed(t, "qemu-img", ["compare", "-f", "raw", "-F", "raw", source.uri, destination.uri]);
});

const LIBNBD_SCRIPT = `
import errno, nbd, sys
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.add_meta_context("qemu:dirty-bitmap:9")
h.connect_uri(sys.argv[1])
h.set_strict_mode(0)
size = h.get_size()
assert size == 4 << 20
assert h.can_meta_context("qemu:dirty-bitmap:9")
h.pwrite(b"hello", 7, nbd.CMD_FLAG_FUA)
assert h.pread(5, 7) == b"hello"
assert h.pread(5, 7, nbd.CMD_FLAG_DF) == b"hello"
h.cache(65536, 0)
h.zero(512, 8192, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.trim(4096, 16384, nbd.CMD_FLAG_FUA)
h.flush()
def fails(code, call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as error:
        assert error.errnum == code, (error.errnum, code)
    else:
        raise AssertionError("should have failed")
fails(errno.ENOTSUP, h.zero, 512, 0, nbd.CMD_FLAG_FAST_ZERO)
fails(errno.ENOSPC, h.pwrite, b"beyond", size)
fails(errno.EINVAL, h.pread, 1, size)
fails(errno.EINVAL, h.trim, 1, size)
seen = {}
def extents(context, offset, entries, error):
    seen[context] = entries
h.block_status(65536, 0, extents)
assert sum(seen["base:allocation"][0::2]) == 65536
assert seen["qemu:dirty-bitmap:9"] == [24576, 1, 40960, 0], seen
h.block_status(65536, 0, extents, nbd.CMD_FLAG_REQ_ONE)
assert seen["qemu:dirty-bitmap:9"] == [24576, 1], seen
chunks = []
def chunk(data, offset, status, error):
    chunks.append((offset, len(data), status))
assert len(h.pread_structured(2 << 20, 0, chunk)) == 2 << 20
assert sum(length for _, length, _ in chunks) == 2 << 20
cookies = []
buffers = []
for n in range(64):
    buffers.append(nbd.Buffer.from_bytearray(bytearray([n]) * 3000))
    cookies.append(h.aio_pwrite(buffers[n], 100000 + n * 3000))
while h.aio_in_flight() > 0:
    h.poll(-1)
    for cookie in list(cookies):
        if h.aio_command_completed(cookie):
            cookies.remove(cookie)
for n in range(64):
    assert h.pread(3000, 100000 + n * 3000) == bytes([n]) * 3000
h.shutdown()
print("all good")
`;
