/**
 * A real daemon over devices that fail, are slow or stand still: nbdkit with its error and delay filters behind a FUSE
 * file, and clients that know nothing of it (fio, qemu-io, nbdcopy).
 *
 * data-safety 1.1 and 1.2: a copy that cannot go on has failed, the hosts of its source notice nothing, other volumes go
 * on, and nothing unreadable is ever taken for data.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { CopyFailure, CopyReason } from "../../src/gen/tidemark/v1/copy.ts";
import { needRoot } from "../cli/need-root.ts";
import { fuseFile } from "../device/fixtures.ts";
import { CopyKind, CopyPhase, call, Daemon, program, sameBytes } from "../support/daemon.ts";
import { needTools } from "../support/tools.ts";

const MiB = 1 << 20;
const SIZE_BYTES = 8 * MiB;
const TOOLS = ["nbdkit", "nbdfuse", "fusermount3", "fio", "qemu-io", "nbdcopy"];

test.beforeEach((t) => t.timeout(180_000));

interface FaultyVolume {
  /** What is really on its disk. */
  content(): Buffer;
  /** From now on. */
  break(): Promise<void>;
  mend(): void;
}

/** A volume of this label whose device is served by nbdkit with these filters and parameters. */
async function faultyVolume(
  t: ExecutionContext,
  daemon: Daemon,
  label: string,
  parameters: readonly string[],
): Promise<FaultyVolume> {
  const directory = daemon.path(label);
  mkdirSync(directory);
  const image = join(directory, "image");
  const trigger = join(directory, "broken");
  writeFileSync(image, randomBytes(SIZE_BYTES));
  const filters = parameters.filter((parameter) => parameter.startsWith("--"));
  const rest = parameters
    .filter((parameter) => !filters.includes(parameter))
    .map((parameter) => parameter.replace("TRIGGER", trigger));
  const path = await fuseFile(t, directory, ...filters, "file", image, ...rest);
  t.teardown(() => daemon.box.kill()); // first of all: the FUSE file cannot go while it is open
  await call(daemon.clients.volumes, "registerVolume", { path, lu: 0, label, requestId: "" });
  return {
    content: () => readFileSync(image),
    break: async () => {
      writeFileSync(trigger, "");
      await program("dd", `if=${path}`, "iflag=nocache", "count=0"); // what the page cache has would still be read
    },
    mend: () => rmSync(trigger),
  };
}

/** Random writes to all of a volume, each read back and compared; an error or a wrong byte makes it fail. */
function fioVerify(uri: string, ...more: string[]): Promise<string> {
  const load = ["--name=verify", "--ioengine=nbd", `--uri=${uri}`, "--rw=randwrite", "--bsrange=512-32k", "--size=8m"];
  const checks = ["--iodepth=8", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--verify_backlog=32"];
  return program("fio", ...load, ...checks, "--output-format=terse", ...more);
}

/** The whole of an export, as a client sees it. */
async function download(daemon: Daemon, label: string): Promise<Buffer> {
  const path = daemon.path(`${label}.download`);
  await program("nbdcopy", await daemon.uri(label), path);
  return readFileSync(path);
}

test("data-safety 3.2, 20: a source that cannot be read fails the copy, not its writers, not other volumes; mended, it is copied", async (t) => {
  if (!needRoot(t) || !needTools(t, TOOLS)) return;
  const daemon = await Daemon.start(t);
  const parameters = ["--filter=error", "error-pread=EIO", "error-pread-rate=100%", "error-pread-file=TRIGGER"];
  const source = await faultyVolume(t, daemon, "source", parameters);
  for (const label of ["copy", "other", "third"]) await daemon.volume(label, SIZE_BYTES);
  const { id } = await daemon.start("source", "copy", CopyKind.QUICKOPC);
  t.is((await daemon.copied(id)).phase, CopyPhase.TRACKING);
  const uri = await daemon.uri("source");
  await program("qemu-io", "-f", "raw", "-c", "write -P 7 1M 256k", uri);
  const before = await download(daemon, "copy");

  await source.break();
  await t.throwsAsync(program("qemu-io", "-f", "raw", "-c", "read 1M 64k", uri), { message: /Input\/output error/ });
  await daemon.restart(id);
  const failed = await daemon.copied(id);
  t.like(failed, { phase: CopyPhase.FAILED, failure: CopyFailure.BAD_SECTOR });
  t.truthy(failed.failureMessage);
  await program("qemu-io", "-f", "raw", "-c", "write -P 9 2M 64k", uri); // writing needs no reading
  const plain = await daemon.start("other", "third", CopyKind.OPC);
  t.is((await daemon.copied(plain.id)).phase, CopyPhase.COMPLETED);
  sameBytes(t, await download(daemon, "third"), await daemon.image("other"), "another copy meanwhile");
  sameBytes(t, await daemon.image("copy"), before, "the destination has not got anything unreadable");
  t.is((await daemon.copies()).find((copy) => copy.id === id)?.phase, CopyPhase.FAILED);

  await daemon.killAndServe();
  t.is((await daemon.copy(id)).phase, CopyPhase.FAILED, "durably");
  source.mend();
  t.is((await daemon.restart(id)).reason, CopyReason.AFTER_FAILURE);
  t.is((await daemon.copied(id)).phase, CopyPhase.TRACKING);
  sameBytes(t, await download(daemon, "copy"), source.content(), "the copy of the mended source");
});

test("data-safety 1.1: a destination that cannot be written fails the copy while fio verifies the source, which notices nothing", async (t) => {
  if (!needRoot(t) || !needTools(t, TOOLS)) return;
  const daemon = await Daemon.start(t);
  await daemon.volume("source", SIZE_BYTES);
  const errors = [
    "error-pwrite-rate=100%",
    "error-pwrite-file=TRIGGER",
    "error-zero-rate=100%",
    "error-zero-file=TRIGGER",
  ];
  const copy = await faultyVolume(t, daemon, "copy", ["--filter=error", "error=EIO", ...errors]);
  const { id } = await daemon.start("source", "copy", CopyKind.QUICKOPC);
  t.is((await daemon.copied(id)).phase, CopyPhase.TRACKING);
  const uri = await daemon.uri("source");
  const load = fioVerify(uri, "--loops=2");
  await copy.break();
  await program("qemu-io", "-f", "raw", "-c", "write -P 5 0 4k", uri).catch((error: unknown) => t.fail(String(error)));
  await daemon.restart(id);
  t.like(await daemon.copied(id), { phase: CopyPhase.FAILED, failure: CopyFailure.OTHER });
  await t.notThrowsAsync(load);

  copy.mend();
  t.is((await daemon.restart(id)).reason, CopyReason.AFTER_FAILURE);
  t.is((await daemon.copied(id)).phase, CopyPhase.TRACKING);
  sameBytes(t, copy.content(), await daemon.image("source"), "all of it");
});

test("a slow destination under fio, the daemon killed in between: the copy goes on where it was and is the source at the point", async (t) => {
  if (!needRoot(t) || !needTools(t, TOOLS)) return;
  const daemon = await Daemon.start(t);
  await daemon.volume("source", SIZE_BYTES);
  const copy = await faultyVolume(t, daemon, "copy", ["--filter=delay", "delay-write=20ms", "delay-zero=20ms"]);
  const point = await daemon.image("source");
  const { id } = await daemon.start("source", "copy", CopyKind.QUICKOPC, 8);
  // Each of these writes must first wait for the slow device.
  await fioVerify(await daemon.uri("source"), "--size=2m", "--io_size=1m");
  await daemon.killAndServe();
  t.is((await daemon.copy(id)).generation, 1n);
  t.is((await daemon.copied(id)).phase, CopyPhase.TRACKING);
  sameBytes(t, copy.content(), point, "the point");
  const again = await daemon.restart(id);
  t.true([CopyReason.MAP_WIDENED, CopyReason.DIFFERENCE].includes(again.reason as never), String(again.reason));
  t.is((await daemon.copied(id)).phase, CopyPhase.TRACKING);
  sameBytes(t, copy.content(), await daemon.image("source"), "the next point");
});

test("a device that stands still holds up nobody else, and what waited for it is written when it goes on", async (t) => {
  if (!needRoot(t) || !needTools(t, [...TOOLS, "pgrep"])) return;
  const daemon = await Daemon.start(t);
  const stuck = await faultyVolume(t, daemon, "stuck", []);
  for (const label of ["one", "two"]) await daemon.volume(label, SIZE_BYTES);
  const uri = await daemon.uri("stuck");
  const server = Number(await program("pgrep", "-f", `^nbdkit .*${daemon.path("stuck")}/image`));
  process.kill(server, "SIGSTOP");
  t.teardown(() => process.kill(server, "SIGCONT"));
  let written = false;
  const waiting = program("qemu-io", "-f", "raw", "-c", "write -P 6 64k 64k", uri).then(() => {
    written = true;
  });
  await fioVerify(await daemon.uri("one"));
  const { id } = await daemon.start("one", "two", CopyKind.OPC);
  t.is((await daemon.copied(id)).phase, CopyPhase.COMPLETED);
  sameBytes(t, await download(daemon, "two"), await daemon.image("one"), "copied meanwhile");
  t.false(written, "the device has not answered");
  process.kill(server, "SIGCONT");
  await waiting;
  t.true(stuck.content().subarray(65_536, 131_072).equals(Buffer.alloc(65_536, 6)));
});
