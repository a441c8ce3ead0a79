/**
 * A real daemon whose data directory lies on a small ext4 of its own, which runs full while fio writes.
 *
 * data-safety 1.1: what cannot be recorded is refused and says what to do; what was acknowledged is there, also after a kill
 * and a start on the full file system; with room again everything goes on, and the difference is a difference.
 */
import { chmodSync, closeSync, openSync, rmSync, truncateSync } from "node:fs";
import { join } from "node:path";
import type { ServiceError } from "@grpc/grpc-js";
import test, { type ExecutionContext } from "ava";
import { CopyReason } from "../../src/gen/tidemark/v1/copy.ts";
import { needRoot } from "../cli/need-root.ts";
import { refusalOf } from "../server/fixture.ts";
import { CopyKind, CopyPhase, Daemon, program, sameBytes } from "../support/daemon.ts";
import { needTools } from "../support/tools.ts";

const MiB = 1 << 20;
const REGION_BYTES = 4 * MiB;
const REGIONS = 150;
const HEAD_BYTES = 16 * 1024;
const SIZE_BYTES = REGIONS * REGION_BYTES;
const DISK_BYTES = 24 * MiB;
const TOOLS = ["mount", "umount", "mkfs.ext4", "fio", "qemu-io"];

test.beforeEach((t) => t.timeout(180_000));

class SmallDisk {
  readonly daemon: Daemon;
  readonly #ballast: string;

  private constructor(daemon: Daemon) {
    this.daemon = daemon;
    this.#ballast = join(daemon.path("state"), "ballast");
  }

  /** A daemon with a file system of its own under its data directory. */
  static async under(t: ExecutionContext): Promise<SmallDisk> {
    const daemon = await Daemon.start(t);
    await daemon.box.stop();
    const [image, state] = [daemon.path("disk.ext4"), daemon.path("state")];
    closeSync(openSync(image, "wx"));
    truncateSync(image, DISK_BYTES);
    await program("mkfs.ext4", "-q", "-F", "-m", "0", image);
    await program("mount", "-o", "loop", image, state);
    t.teardown(async () => {
      await daemon.box.kill(); // the file system is busy until then
      await program("umount", state);
    });
    chmodSync(state, 0o700);
    await daemon.serveAgain();
    return new SmallDisk(daemon);
  }

  /** To the last block. */
  async fill(): Promise<void> {
    await program(
      "sh",
      "-c",
      `dd if=/dev/zero of='${this.#ballast}' bs=64k 2>&1; dd if=/dev/zero of='${this.#ballast}.2' bs=1k 2>&1; true`,
    );
  }

  makeRoom(): void {
    for (const path of [this.#ballast, `${this.#ballast}.2`]) rmSync(path);
  }
}

function fioVerify(uri: string, size: string): Promise<string> {
  const load = [
    "--name=verify",
    "--ioengine=nbd",
    `--uri=${uri}`,
    "--rw=randwrite",
    "--bsrange=512-32k",
    `--size=${size}`,
  ];
  const checks = ["--iodepth=8", "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--verify_backlog=32"];
  return program("fio", ...load, ...checks, "--output-format=terse");
}

function write(uri: string, offsetBytes: number, value: number): Promise<string> {
  return program("qemu-io", "-f", "raw", "-c", `write -P ${value} ${offsetBytes} 8k`, uri);
}

/** The beginning of every region: nobody writes anything else, but fio, which writes to the first two. */
async function written(daemon: Daemon, label: string): Promise<Buffer> {
  const heads: Buffer[] = [];
  for (let region = 0; region < REGIONS; region++)
    heads.push(await daemon.read(label, region * REGION_BYTES, HEAD_BYTES));
  return Buffer.concat([...heads, await daemon.read(label, 0, 2 * REGION_BYTES)]);
}

/** Writes the first granule of one region after the other until one is refused; that region. */
async function firstRefused(uri: string, from: number): Promise<number> {
  for (let region = from; region < REGIONS; region++) {
    try {
      await write(uri, region * REGION_BYTES, 4);
    } catch {
      return region;
    }
  }
  throw new Error("the file system does not run full");
}

test("data-safety 1.1: a full ext4 under the data directory and a kill on it: a start says what it needs, and nothing acknowledged is lost", async (t) => {
  if (!needRoot(t) || !needTools(t, TOOLS)) return;
  const disk = await SmallDisk.under(t);
  const { daemon } = disk;
  for (const label of ["source", "copy", "other", "spare"]) await daemon.volume(label, SIZE_BYTES, "empty");
  const { id } = await daemon.start("source", "copy", CopyKind.QUICKOPC);
  t.is((await daemon.copied(id)).phase, CopyPhase.TRACKING);
  const uri = await daemon.uri("source");
  const other = await daemon.uri("other"); // an export is remembered, which needs room
  await fioVerify(uri, "8m"); // the first two regions are hot
  await disk.fill();

  await t.notThrowsAsync(fioVerify(uri, "8m"), "hosts go on where nothing has to be recorded");
  await t.notThrowsAsync(fioVerify(other, "8m"), "and where nothing is tracked");
  const refused = await firstRefused(uri, 2);
  const refusal = refusalOf((await t.throwsAsync(daemon.start("other", "spare", CopyKind.OPC))) as ServiceError);
  t.is(refusal.reason, "METADATA_WRITE_FAILED");
  const acknowledged = await written(daemon, "source");
  t.is(acknowledged.at(refused * HEAD_BYTES), 0, "what was refused was not written");

  await daemon.box.kill();
  const start = await t.throwsAsync(daemon.serveAgain());
  t.regex(start?.message ?? "", /METADATA_WRITE_FAILED[\s\S]*make room/, "LevelDB needs room to be opened");
  disk.makeRoom();
  await daemon.serveAgain();
  sameBytes(t, await written(daemon, "source"), acknowledged, "after the kill on the full file system");
  t.like(await daemon.copy(id), { phase: CopyPhase.TRACKING, tracking: true });
  await write(await daemon.uri("source"), refused * REGION_BYTES, 5);
  const again = await daemon.restart(id);
  t.is(again.reason, CopyReason.MAP_WIDENED);
  t.true(
    again.plannedGranules <= BigInt((refused + 1) * 512),
    `${again.plannedGranules} granules, ${refused + 1} regions were written`,
  );
  t.is((await daemon.copied(id)).phase, CopyPhase.TRACKING);
  sameBytes(t, await written(daemon, "copy"), await written(daemon, "source"), "the difference");
});

test("data-safety 1.1: a full ext4 under the data directory while a copy runs: room is made, no restart is needed", async (t) => {
  if (!needRoot(t) || !needTools(t, TOOLS)) return;
  const disk = await SmallDisk.under(t);
  const { daemon } = disk;
  for (const label of ["source", "copy"]) await daemon.volume(label, 64 * MiB);
  const point = await daemon.image("source");
  const uri = await daemon.uri("source");
  const { id } = await daemon.start("source", "copy", CopyKind.QUICKOPC, 4);
  await disk.fill();
  // A write to the source that needs its old content preserved cannot be acknowledged without a record of it; reading goes on.
  await program("qemu-io", "-f", "raw", "-c", "read 32M 1M", uri);
  disk.makeRoom();
  const copy = await daemon.copied(id);
  t.is(copy.phase, CopyPhase.TRACKING, copy.failureMessage);
  sameBytes(t, await daemon.image("copy"), point, "the point");
  await fioVerify(uri, "8m");
  t.is((await daemon.restart(id)).reason, CopyReason.DIFFERENCE);
  t.is((await daemon.copied(id)).phase, CopyPhase.TRACKING);
  sameBytes(t, await daemon.image("copy"), await daemon.image("source"), "the difference");
});
