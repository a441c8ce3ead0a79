import { execFile, execFileSync } from "node:child_process";
import fs from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import test, { type ExecutionContext } from "ava";
import { systemClock } from "../../src/base/clock.ts";
import { TidemarkError } from "../../src/base/errors.ts";
import { DEVICE_INLINE_BYTES_MAX } from "../../src/base/limits.ts";
import type { AllocationExtent } from "../../src/base/ports.ts";
import { KiB, MiB } from "../../src/base/units.ts";
import { native } from "../../src/engine/device/native.ts";
import { openDevice } from "../../src/engine/device/open-device.ts";
import {
  fuseFile,
  loopDevice,
  memoryFileSystem,
  mounted,
  opened,
  pattern,
  readBack,
  run,
  skippedWithoutRoot,
  sparseFile,
  stillClock,
  temporaryDirectory,
} from "./fixtures.ts";

const runProgram = promisify(execFile);

function allocatedBytes(path: string): number {
  return fs.statSync(path).blocks * 512;
}

/** Extents with their sizes summed by kind. */
function sums(extents: readonly AllocationExtent[]): { zero: number; data: number } {
  const result = { zero: 0, data: 0 };
  for (const extent of extents) result[extent.zero ? "zero" : "data"] += extent.lengthBytes;
  return result;
}

test("cached data is read, and data written, on the caller's thread", async (t) => {
  const device = await opened(t, sparseFile(temporaryDirectory(t), "file", MiB));
  const data = pattern(64 * KiB, 1);
  await device.write(8192, data);
  const back = Buffer.alloc(data.length);
  t.true(device.tryRead(8192, back));
  t.is(Buffer.compare(back, data), 0);
  t.true(device.tryWrite(512, data.subarray(0, 512)));
  t.true(device.tryRead(512, back.subarray(0, 512)));
  t.is(Buffer.compare(back.subarray(0, 512), data.subarray(0, 512)), 0);
});

test("what is not in the page cache is not read on the caller's thread", async (t) => {
  const path = sparseFile(temporaryDirectory(t), "file", MiB);
  fs.writeFileSync(path, pattern(MiB, 2));
  run("dd", `of=${path}`, "conv=notrunc,fdatasync", "oflag=nocache", "count=0", "status=none");
  const device = await opened(t, path);
  const back = Buffer.alloc(4096);
  t.false(device.tryRead(512 * KiB, back), "dd oflag=nocache dropped it");
  await device.read(512 * KiB, back);
  t.is(Buffer.compare(back, pattern(MiB, 2).subarray(512 * KiB, 512 * KiB + 4096)), 0);
  t.true(device.tryRead(512 * KiB, back));
});

test("a write to a part of a page that is not cached leaves the caller's thread", async (t) => {
  const path = sparseFile(temporaryDirectory(t), "file", MiB);
  fs.writeFileSync(path, pattern(MiB, 3));
  run("dd", `of=${path}`, "conv=notrunc,fdatasync", "oflag=nocache", "count=0", "status=none");
  const device = await opened(t, path);
  t.false(device.tryWrite(512 * KiB + 512, Buffer.alloc(512, 1)));
  t.true(device.tryWrite(512 * KiB + 8192, Buffer.alloc(4096, 1)));
});

test("large requests leave the caller's thread", async (t) => {
  const device = await opened(t, sparseFile(temporaryDirectory(t), "file", 4 * MiB));
  const large = DEVICE_INLINE_BYTES_MAX + 512;
  const data = pattern(large, 4);
  t.false(device.tryWrite(0, data));
  await device.write(0, data);
  t.false(device.tryRead(0, Buffer.alloc(large)));
  t.is(Buffer.compare(await readBack(device, 0, large), data), 0);
});

test("buffers: slices of one buffer, shared and WebAssembly memory, and memory that moved", async (t) => {
  const device = await opened(t, sparseFile(temporaryDirectory(t), "file", MiB));
  await device.write(0, pattern(64 * KiB, 5));
  const expected = pattern(64 * KiB, 5);
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 100 });
  const before = new Uint8Array(memory.buffer, 1000, 4096);
  t.true(device.tryRead(4096, before));
  t.is(Buffer.compare(before, expected.subarray(4096, 8192)), 0);
  memory.grow(50);
  const after = new Uint8Array(memory.buffer, 200_000, 4096);
  t.true(device.tryRead(8192, after));
  t.is(Buffer.compare(after, expected.subarray(8192, 12288)), 0);
  const shared = new Uint8Array(new SharedArrayBuffer(8192), 4096);
  t.true(device.tryRead(0, shared));
  t.is(Buffer.compare(shared, expected.subarray(0, 4096)), 0);
  const small = new Uint8Array(16);
  t.true(device.tryRead(512, small));
  t.is(Buffer.compare(small, expected.subarray(512, 528)), 0);
});

test("a range outside the device is a mistake of ours", async (t) => {
  const device = await opened(t, sparseFile(temporaryDirectory(t), "file", MiB));
  for (const [offset, length] of [
    [MiB, 1],
    [MiB - 512, 1024],
    [-512, 512],
  ] as const) {
    t.throws(() => device.tryRead(offset, Buffer.alloc(length)), { name: "AssertionError" });
    t.throws(() => device.tryWrite(offset, Buffer.alloc(length)), { name: "AssertionError" });
  }
});

async function checkZeroAndTrim(t: ExecutionContext, path: string, { holes }: { holes: boolean }) {
  const device = await opened(t, path);
  const data = pattern(MiB, 6);
  await device.write(0, data);
  await device.flush();
  await device.zero(64 * KiB, 128 * KiB, { release: "allow" });
  await device.zero(512 * KiB + 512, 1024, { release: "keep" });
  data.fill(0, 64 * KiB, 192 * KiB);
  data.fill(0, 512 * KiB + 512, 512 * KiB + 1536);
  t.is(Buffer.compare(await readBack(device, 0, MiB), data), 0);
  const { zero } = sums(await device.allocation(0, MiB, 1000));
  if (holes) t.true(zero >= 128 * KiB);
  else t.is(zero, 0);
  await device.trim(256 * KiB, 64 * KiB);
  const trimmed = await readBack(device, 256 * KiB, 64 * KiB);
  t.true(trimmed.every((byte) => byte === 0) || Buffer.compare(trimmed, data.subarray(256 * KiB, 320 * KiB)) === 0);
  t.is(Buffer.compare(await readBack(device, 320 * KiB, 704 * KiB), data.subarray(320 * KiB)), 0);
}

test("zero and trim on a file give the space back", async (t) => {
  const path = sparseFile(temporaryDirectory(t), "file", MiB);
  await checkZeroAndTrim(t, path, { holes: true });
  t.true(allocatedBytes(path) <= MiB - 192 * KiB + 16 * KiB);
});

test("zero with release keep keeps the space", async (t) => {
  const path = sparseFile(temporaryDirectory(t), "file", MiB);
  const device = await opened(t, path);
  await device.write(0, pattern(MiB, 7));
  await device.flush();
  await device.zero(0, MiB, { release: "keep" });
  await device.flush();
  t.true((await readBack(device, 0, MiB)).every((byte) => byte === 0));
  t.true(allocatedBytes(path) >= MiB);
});

test("zero and trim on a block device", async (t) => {
  if (skippedWithoutRoot(t)) return;
  const path = loopDevice(t, sparseFile(temporaryDirectory(t), "file", MiB));
  await checkZeroAndTrim(t, path, { holes: false });
});

test("zero where the file system can do neither writes zeros", async (t) => {
  if (skippedWithoutRoot(t, "nbdkit", "nbdfuse")) return;
  const directory = temporaryDirectory(t);
  // nbdfuse has no fallocate at all; tmpfs has no ZERO_RANGE.
  await checkZeroAndTrim(t, await fuseFile(t, directory, "memory", "1M"), { holes: false });
  await checkZeroAndTrim(t, sparseFile(memoryFileSystem(t, directory, 4 * MiB), "file", MiB), { holes: true });
});

test("allocation covers the range, merges and obeys the limit", async (t) => {
  const device = await opened(t, sparseFile(temporaryDirectory(t), "file", 4 * MiB));
  await device.write(MiB, pattern(64 * KiB, 8));
  await device.write(2 * MiB, pattern(64 * KiB, 9));
  await device.flush();
  const all = await device.allocation(0, 4 * MiB, 100);
  t.deepEqual(all, [
    { offsetBytes: 0, lengthBytes: MiB, zero: true },
    { offsetBytes: MiB, lengthBytes: 64 * KiB, zero: false },
    { offsetBytes: MiB + 64 * KiB, lengthBytes: MiB - 64 * KiB, zero: true },
    { offsetBytes: 2 * MiB, lengthBytes: 64 * KiB, zero: false },
    { offsetBytes: 2 * MiB + 64 * KiB, lengthBytes: 2 * MiB - 64 * KiB, zero: true },
  ]);
  t.deepEqual(await device.allocation(0, 4 * MiB, 2), all.slice(0, 2));
  t.deepEqual(await device.allocation(MiB + 4096, 4096, 100), [
    { offsetBytes: MiB + 4096, lengthBytes: 4096, zero: false },
  ]);
  t.deepEqual(await device.allocation(0, 0, 100), []);
});

test("resize grows and shrinks a file, only confirms a block device", async (t) => {
  const directory = temporaryDirectory(t);
  const path = sparseFile(directory, "file", MiB);
  const device = await opened(t, path);
  await device.resize(2 * MiB);
  t.is(device.sizeBytes, 2 * MiB);
  t.is(fs.statSync(path).size, 2 * MiB);
  await device.write(2 * MiB - 512, pattern(512, 10));
  await device.resize(MiB);
  t.is(fs.statSync(path).size, MiB);
  await t.throwsAsync(device.resize(1000), { code: "SIZE_INVALID" });
  await t.throwsAsync(device.resize(0), { code: "SIZE_INVALID" });
  if (skippedWithoutRoot(t)) return;
  const image = sparseFile(directory, "image", MiB);
  const node = loopDevice(t, image);
  const block = await opened(t, node);
  await block.resize(MiB);
  await t.throwsAsync(block.resize(2 * MiB), { code: "SIZE_INVALID" });
  fs.truncateSync(image, 2 * MiB);
  run("losetup", "--set-capacity", node);
  await block.resize(2 * MiB);
  t.is(block.sizeBytes, 2 * MiB);
});

test("a file that shrank behind the box's back: reads and flush say so", async (t) => {
  const path = sparseFile(temporaryDirectory(t), "file", MiB);
  const device = await opened(t, path);
  fs.truncateSync(path, 512 * KiB);
  t.false(device.tryRead(768 * KiB, Buffer.alloc(4096)));
  const error = await t.throwsAsync(device.read(768 * KiB, Buffer.alloc(4096)), { instanceOf: TidemarkError });
  t.is(error.code, "DEVICE_GONE");
  t.is(error.detail.metadata?.["reason"], "VOLUME_SHRUNK");
  t.is(error.detail.metadata?.["presentBytes"], String(512 * KiB));
  await t.throwsAsync(device.flush(), { code: "DEVICE_GONE" });
});

test("a full file system: NO_SPACE with the place, and the device goes on", async (t) => {
  if (skippedWithoutRoot(t)) return;
  const point = mounted(t, temporaryDirectory(t), "ext4", 8 * MiB);
  const device = await opened(t, sparseFile(point, "file", 64 * MiB));
  const data = pattern(MiB, 11);
  let failure: unknown;
  for (let at = 0; at < 64 && failure === undefined; at++) {
    failure = await device.write(at * MiB, data).then(
      () => undefined,
      (error: unknown) => error,
    );
  }
  t.true(failure instanceof TidemarkError);
  t.is((failure as TidemarkError).code, "NO_SPACE");
  t.is((failure as TidemarkError).detail.metadata?.["lengthBytes"], String(MiB));
  const error = t.throws(() => {
    for (let at = 0; at < 64 * MiB; at += 64 * KiB) device.tryWrite(at, data.subarray(0, 64 * KiB));
  });
  t.is((error as TidemarkError).code, "NO_SPACE");
  t.is(Buffer.compare(await readBack(device, 0, 64 * KiB), data.subarray(0, 64 * KiB)), 0);
});

test("a medium error names its range; the rest can be read", async (t) => {
  if (skippedWithoutRoot(t, "nbdkit", "nbdfuse")) return;
  const directory = temporaryDirectory(t);
  const trigger = join(directory, "errors-on");
  const path = await fuseFile(
    t,
    directory,
    "--filter=error",
    "memory",
    "1M",
    "error=EIO",
    "error-rate=100%",
    `error-file=${trigger}`,
  );
  const device = await opened(t, path);
  await device.write(0, pattern(4096, 12));
  fs.writeFileSync(trigger, "");
  const error = await t.throwsAsync(device.read(64 * KiB, Buffer.alloc(8192)), { instanceOf: TidemarkError });
  t.is(error.code, "MEDIUM_ERROR");
  t.is(error.detail.metadata?.["offsetBytes"], String(64 * KiB));
  t.is(error.detail.metadata?.["lengthBytes"], "8192");
  t.truthy(error.detail.hint);
  await t.throwsAsync(device.write(0, Buffer.alloc(512)), { code: "MEDIUM_ERROR" });
  fs.rmSync(trigger);
  t.is(Buffer.compare(await readBack(device, 0, 4096), pattern(4096, 12)), 0);
});

test("a failed flush fails the device until it is opened again", async (t) => {
  if (skippedWithoutRoot(t)) return;
  // The loop device takes the data into its page cache; the full file system behind it refuses it at the flush.
  const point = memoryFileSystem(t, temporaryDirectory(t), MiB);
  const path = loopDevice(t, sparseFile(point, "file", 8 * MiB));
  const device = await openDevice(path, { clock: stillClock });
  await device.write(0, pattern(512 * KiB, 12));
  await device.flush();
  await device.write(MiB, pattern(4 * MiB, 13));
  const flushes = await Promise.allSettled([device.flush(), device.flush()]);
  const codes = flushes.map((flush) => (flush.status === "rejected" ? (flush.reason as TidemarkError).code : "ok"));
  t.true(["MEDIUM_ERROR", "NO_SPACE"].includes(codes[0] ?? ""), codes[0]);
  t.is(codes[1], "DEVICE_GONE");
  // Pages may be marked clean after a failed flush: nothing is believed any more.
  await t.throwsAsync(device.flush(), { code: "DEVICE_GONE" });
  await t.throwsAsync(device.write(0, Buffer.alloc(512)), { code: "DEVICE_GONE" });
  await t.throwsAsync(device.read(0, Buffer.alloc(512)), { code: "DEVICE_GONE" });
  t.false(device.tryRead(0, Buffer.alloc(512)));
  t.false(device.tryWrite(0, Buffer.alloc(512)));
  await device.close();
  const again = await opened(t, path);
  t.is(Buffer.compare(await readBack(again, 0, 512 * KiB), pattern(512 * KiB, 12)), 0);
});

test("data-safety 1.2: after a failed flush the next to open a file reads what is on the disk, not what the cache says", async (t) => {
  if (skippedWithoutRoot(t)) return;
  const directory = temporaryDirectory(t);
  // ext4 takes the data into its page cache and marks the pages clean when the full file system below refuses them.
  const disk = loopDevice(t, sparseFile(memoryFileSystem(t, directory, 1536 * KiB), "image", 8 * MiB));
  run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "nodiscard", disk);
  const point = join(directory, "ext4-mount");
  fs.mkdirSync(point);
  run("mount", disk, point);
  t.teardown(() => run("umount", point));
  const path = sparseFile(point, "file", 4 * MiB);
  const device = await openDevice(path, { clock: stillClock });
  await device.write(0, pattern(64 * KiB, 21));
  await device.flush();
  await device.write(MiB, pattern(3 * MiB, 22));
  await t.throwsAsync(device.flush());
  await device.close();
  const again = await openDevice(path, { clock: stillClock });
  const seen = await readBack(again, 0, 4 * MiB);
  await again.close();
  const onDisk = execFileSync("dd", [`if=${path}`, "iflag=direct", "bs=1M", "status=none"], { maxBuffer: 8 * MiB });
  t.is(Buffer.compare(seen, onDisk), 0);
  t.not(Buffer.compare(onDisk.subarray(MiB), pattern(3 * MiB, 22)), 0, "the disk has lost something");
  t.is(Buffer.compare(seen.subarray(0, 64 * KiB), pattern(64 * KiB, 21)), 0, "what a flush covered is there");
});

test("close waits for what runs, refuses what comes later, and releases the lock", async (t) => {
  const path = sparseFile(temporaryDirectory(t), "file", 4 * MiB);
  const device = await openDevice(path, { clock: systemClock });
  const data = pattern(MiB, 13);
  const writes = [0, 1, 2, 3].map((at) => device.write(at * MiB, data));
  const flush = device.flush();
  const closed = device.close();
  await Promise.all(writes);
  await flush;
  await closed;
  await device.close();
  await t.throwsAsync(device.read(0, Buffer.alloc(512)), { code: "DEVICE_GONE" });
  t.false(device.tryRead(0, Buffer.alloc(512)));
  const again = await opened(t, path);
  t.is(Buffer.compare(await readBack(again, 3 * MiB, MiB), data), 0);
});

test("one stalled device does not stop another", async (t) => {
  if (skippedWithoutRoot(t, "nbdkit", "nbdfuse")) return;
  const directory = temporaryDirectory(t);
  const stalled = await fuseFile(t, directory, "--filter=delay", "memory", "16M", "rdelay=5");
  const healthy = sparseFile(directory, "healthy", MiB);
  // A process of its own: the thread pool's size is fixed when it is first used.
  const script = fileURLToPath(new URL("./stalled-device-script.ts", import.meta.url));
  const { stdout } = await runProgram(process.execPath, ["--import=tsx", script, stalled, healthy], {
    env: { ...process.env, UV_THREADPOOL_SIZE: "32" },
  });
  t.is(stdout.trim(), "healthy first");
});

test("without native calls the same interface works on plain file calls", async (t) => {
  const path = sparseFile(temporaryDirectory(t), "file", MiB);
  const script = fileURLToPath(new URL("./no-native-script.ts", import.meta.url));
  const { stdout } = await runProgram(process.execPath, ["--import=tsx", script, path], {
    env: { ...process.env, TIDEMARK_NO_NATIVE: "1" },
  });
  t.deepEqual(JSON.parse(stdout), {
    native: false,
    tried: false,
    second: "PATH_HELD",
    same: true,
    zeroed: true,
    moved: MiB,
  });
});

test("native calls are bound here", (t) => {
  t.truthy(native, "koffi loads on the platforms that CI has");
});
