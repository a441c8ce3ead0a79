/** Volumes that stall or go away under a real daemon: stopping, bringing them back. */
import { once } from "node:events";
import { renameSync } from "node:fs";
import test from "ava";
import { STOP_MS_MAX } from "../../src/base/limits.ts";
import { VolumeState } from "../../src/gen/tidemark/v1/volume.ts";
import { fuseDevice, skippedWithoutRoot, temporaryDirectory } from "../device/fixtures.ts";
import {
  CopyKind,
  CopyPhase,
  call,
  codeOf,
  Daemon,
  pause,
  program,
  sameBytes,
  writeBlocks,
} from "../support/daemon.ts";

const MIB = 1 << 20;
/** So large that its copy at the lowest pace has not ended when the box is stopped. */
const SIZE = 96 * MIB;
/** Far longer than a stop may take. */
const DELAY_SECONDS = 300;

test.serial(
  "SIGTERM while a device stalls: the daemon ends in time, says which volume, and the others are exact",
  async (t) => {
    if (skippedWithoutRoot(t, "nbdkit", "nbdfuse")) return;
    const delay = `wdelay=${DELAY_SECONDS}`;
    const stalled = await fuseDevice(t, temporaryDirectory(t), "--filter=delay", "memory", "8M", delay);
    const daemon = await Daemon.start(t);
    await daemon.volume("work", 8 * MIB);
    await daemon.volume("copy", 8 * MIB, "empty");
    const { id } = await daemon.start("work", "copy", CopyKind.QUICKOPC);
    await daemon.copied(id);
    await daemon.write("work", 0, Buffer.alloc(4096, 1));
    const { volume } = await call(daemon.clients.volumes, "registerVolume", {
      ...{ path: stalled.path, lu: 9, label: "", requestId: "" },
    });
    t.is(volume?.name, "g1d9");
    const writing = writeBlocks(daemon.clients, "g1d9", 0, Buffer.alloc(4096, 2)).catch(() => undefined);
    for (let turn = 0; ; turn++) {
      const { volume: now } = await call(daemon.clients.volumes, "getVolume", { name: "g1d9" });
      if (now?.counters?.writeOperations === 1n) break;
      if (turn === 500) return t.fail("the write does not begin");
      await pause(20);
    }
    const child = daemon.box.process();
    const ended = once(child, "close");
    const begunMs = Date.now();
    child.kill("SIGTERM");
    while (!daemon.box.log().includes("g1d9 did not answer while the box stopped (DEVICE_TIMEOUT)")) {
      if (Date.now() - begunMs > STOP_MS_MAX + 5000) return t.fail(`it does not stop: ${daemon.box.log()}`);
      await pause(100);
    }
    // The kernel keeps what is left of the process until the device answers; nothing of the box waits for that.
    stalled.abort();
    const [code] = (await ended) as [number | null];
    t.is(code, 3);
    await writing;
    await daemon.serveAgain();
    t.like(
      await daemon.copy(id),
      { phase: CopyPhase.TRACKING, changedGranules: 1n },
      "stopped in order: nothing is widened",
    );
  },
);

test.serial(
  "volume reopen: a file that comes back is online without a restart, with its copy and its export",
  async (t) => {
    const daemon = await Daemon.start(t);
    const { box } = daemon;
    await daemon.volume("work", SIZE);
    await daemon.volume("copy", SIZE, "empty");
    const uri = await daemon.uri("work");
    const { id } = await daemon.start("work", "copy", CopyKind.QUICKOPC, 1);
    await box.stop();
    renameSync(box.path("work.img"), box.path("away.img"));
    await daemon.serveAgain();
    t.like(await box.run(["volume", "read", "copy", "--offset", "95MiB", "--length", "4KiB"]), { code: 4 });
    t.is((await daemon.copy(id)).phase, CopyPhase.COPYING);
    const refused = await box.run(["volume", "reopen", "work"]);
    t.is(refused.code, 3, refused.stderr);
    renameSync(box.path("away.img"), box.path("work.img"));
    const doctor = await box.run(["doctor"]);
    t.regex(doctor.stdout, /tidemark volume reopen g1d1/);
    t.like(await box.run(["volume", "reopen", "work"]), { code: 0, stdout: "g1d1 is open\n" });
    const { volume } = await call(daemon.clients.volumes, "getVolume", { name: "work" });
    t.is(volume?.state, VolumeState.ONLINE);
    t.like(await box.run(["volume", "reopen", "work"]), { code: 0 }, "again: nothing to do");
    t.is((await program("nbdinfo", "--size", uri)).trim(), String(SIZE));
    await box.run(["copy", "pace", id, "15"]);
    t.like(await daemon.copied(id), { phase: CopyPhase.TRACKING, failureMessage: "" });
    sameBytes(t, await daemon.image("copy"), await daemon.image("work"), "the copy");
    const { stdout } = await box.run(["events", "--subject", "g1d1"]);
    t.is(stdout.match(/is open again/g)?.length, 1);
    const error = await t.throwsAsync(() =>
      call(daemon.clients.volumes, "reopenVolume", { name: "g1d7", requestId: "" }),
    );
    t.is(codeOf(error), "VOLUME_NOT_FOUND");
  },
);
