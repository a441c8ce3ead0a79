import { spawn } from "node:child_process";
import fs from "node:fs";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { systemClock } from "../../src/base/clock.ts";
import { type ErrorCode, TidemarkError } from "../../src/base/errors.ts";
import { VOLUME_SIZE_BYTES_MAX } from "../../src/base/limits.ts";
import { MiB, TiB } from "../../src/base/units.ts";
import { identityOf } from "../../src/engine/device/identity.ts";
import { inspectPath, openDevice } from "../../src/engine/device/open-device.ts";
import {
  fuseFile,
  imageOf,
  loopDevice,
  memoryFileSystem,
  mounted,
  opened,
  partitionedLoop,
  run,
  skippedWithoutRoot,
  sparseFile,
  temporaryDirectory,
} from "./fixtures.ts";

async function refused(t: ExecutionContext, path: string, code: ErrorCode): Promise<TidemarkError> {
  const error = await t.throwsAsync(openDevice(path, { clock: systemClock }), { instanceOf: TidemarkError });
  t.is(error.code, code, error.message);
  t.truthy(error.detail.hint, `a hint for ${code}`);
  return error;
}

test("refuses what is not there or is not a file or block device", async (t) => {
  const directory = temporaryDirectory(t);
  await refused(t, join(directory, "missing"), "PATH_NOT_FOUND");
  await refused(t, directory, "PATH_NOT_USABLE");
  await refused(t, "/dev/null", "PATH_NOT_USABLE");
  const pipe = join(directory, "pipe");
  run("mkfifo", pipe);
  await refused(t, pipe, "PATH_NOT_USABLE");
  const file = sparseFile(directory, "file", MiB);
  await refused(t, join(file, "below"), "PATH_NOT_FOUND");
  const ring = join(directory, "ring");
  fs.symlinkSync(ring, ring);
  await refused(t, ring, "PATH_NOT_USABLE");
});

test("refuses sizes that no volume can have", async (t) => {
  const directory = temporaryDirectory(t);
  await refused(t, sparseFile(directory, "empty", 0), "SIZE_INVALID");
  const odd = await refused(t, sparseFile(directory, "odd", 1000), "SIZE_INVALID");
  t.regex(odd.detail.hint ?? "", /truncate/);
  const device = await opened(t, sparseFile(directory, "one-sector", 512));
  t.is(device.sizeBytes, 512);
});

test("refuses more than 64 TiB", async (t) => {
  if (skippedWithoutRoot(t, "mkfs.xfs")) return;
  const directory = temporaryDirectory(t);
  const point = mounted(t, directory, "xfs", 400 * MiB);
  const path = sparseFile(point, "large", VOLUME_SIZE_BYTES_MAX);
  const device = await openDevice(path, { clock: systemClock });
  t.is(device.sizeBytes, 64 * TiB);
  await device.close();
  fs.truncateSync(path, VOLUME_SIZE_BYTES_MAX + 512);
  await refused(t, path, "SIZE_INVALID");
});

test("a file is opened once: a second opening names this box", async (t) => {
  const directory = temporaryDirectory(t);
  const path = sparseFile(directory, "file", MiB);
  const first = await openDevice(path, { clock: systemClock });
  const error = await refused(t, path, "PATH_HELD");
  t.is(error.detail.metadata?.["pid"], String(process.pid));
  const link = join(directory, "hard");
  fs.linkSync(path, link);
  await refused(t, link, "PATH_HELD");
  await first.close();
  const again = await openDevice(link, { clock: systemClock });
  await again.close();
});

test("a file locked by another process names its pid and command", async (t) => {
  const path = sparseFile(temporaryDirectory(t), "file", MiB);
  const child = spawn("flock", ["-x", path, "sh", "-c", "echo locked; exec sleep 100"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  t.teardown(() => child.kill("SIGKILL"));
  await new Promise((resolve) => child.stdout.once("data", resolve));
  const error = await refused(t, path, "PATH_HELD");
  t.regex(error.message, /process \d+ \((flock|sleep|sh)\)/);
  t.true(Number(error.detail.metadata?.["pid"]) > 0);
});

test("a block device is opened once, also against others' O_EXCL", async (t) => {
  if (skippedWithoutRoot(t)) return;
  const device = loopDevice(t, sparseFile(temporaryDirectory(t), "file", MiB));
  const first = await openDevice(device, { clock: systemClock });
  t.is(first.kind, "block");
  t.is(first.sizeBytes, MiB);
  const error = await refused(t, device, "PATH_HELD");
  t.is(error.detail.metadata?.["pid"], String(process.pid));
  await first.close();
  const fd = fs.openSync(device, fs.constants.O_RDONLY | fs.constants.O_EXCL);
  await refused(t, device, "PATH_HELD");
  fs.closeSync(fd);
  await (await openDevice(device, { clock: systemClock })).close();
});

test("a mounted device and a file behind a loop device are refused by name", async (t) => {
  if (skippedWithoutRoot(t)) return;
  const directory = temporaryDirectory(t);
  const point = mounted(t, directory, "ext4", 16 * MiB);
  const device = run("findmnt", "-n", "-o", "SOURCE", point).trim();
  const error = await refused(t, device, "PATH_MOUNTED");
  t.is(error.detail.metadata?.["mountPoint"], point);
  const file = await refused(t, imageOf(device), "PATH_HELD");
  t.is(file.detail.metadata?.["holder"], device);
});

test("a mounted btrfs, which hides its device number, is refused too", async (t) => {
  if (skippedWithoutRoot(t, "mkfs.btrfs")) return;
  const point = mounted(t, temporaryDirectory(t), "btrfs", 128 * MiB);
  await refused(t, run("findmnt", "-n", "-o", "SOURCE", point).trim(), "PATH_MOUNTED");
});

test("a disk with a mounted partition is refused", async (t) => {
  if (skippedWithoutRoot(t, "sfdisk")) return;
  const directory = temporaryDirectory(t);
  const image = sparseFile(directory, "disk", 64 * MiB);
  run("sh", "-c", `echo '2048,32768,L' | sfdisk -q ${image}`);
  const disk = partitionedLoop(t, image);
  const partition = `${disk}p1`;
  run("mkfs.ext4", "-q", "-F", partition);
  const point = join(directory, "mount");
  fs.mkdirSync(point);
  run("mount", partition, point);
  t.teardown(() => run("umount", point));
  const error = await refused(t, disk, "PATH_MOUNTED");
  t.is(error.detail.metadata?.["mountPoint"], point);
});

test("what cannot be written is opened read-only", async (t) => {
  if (skippedWithoutRoot(t)) return;
  const directory = temporaryDirectory(t);
  const point = memoryFileSystem(t, directory, 4 * MiB);
  const path = sparseFile(point, "file", MiB);
  run("mount", "-o", "remount,ro", point);
  const device = await opened(t, path);
  t.true(device.readOnly);
  await t.throwsAsync(device.write(0, Buffer.alloc(512)), { code: "READ_ONLY" });
  t.false(device.tryWrite(0, Buffer.alloc(512)));
  await t.throwsAsync(device.zero(0, 512, { release: "allow" }), { code: "READ_ONLY" });
  await t.notThrowsAsync(device.flush());
  const block = await opened(t, loopDevice(t, sparseFile(directory, "file", MiB), "--read-only"));
  t.true(block.readOnly);
});

test("inspectPath tells what a path is and leaves it free", async (t) => {
  const directory = temporaryDirectory(t);
  const path = sparseFile(directory, "file", 3 * MiB);
  fs.symlinkSync(path, join(directory, "link"));
  const facts = await inspectPath(join(directory, "link"), { clock: systemClock });
  t.is(facts.path, fs.realpathSync(path));
  t.is(facts.kind, "file");
  t.is(facts.sizeBytes, 3 * MiB);
  t.false(facts.readOnly);
  await (await openDevice(path, { clock: systemClock })).close();
});

test("file systems that share extents are found by asking them", async (t) => {
  if (skippedWithoutRoot(t, "mkfs.xfs", "mkfs.btrfs")) return;
  const directory = temporaryDirectory(t);
  const xfs = mounted(t, directory, "xfs", 320 * MiB);
  const btrfs = mounted(t, directory, "btrfs", 128 * MiB);
  const ext4 = mounted(t, directory, "ext4", 16 * MiB);
  const domains: (string | undefined)[] = [];
  for (const path of [xfs, btrfs, ext4]) {
    const device = await opened(t, sparseFile(path, "file", MiB));
    domains.push(device.capabilities.cloneDomain);
  }
  const second = await opened(t, sparseFile(xfs, "second", MiB));
  t.truthy(domains[0]);
  t.truthy(domains[1]);
  t.not(domains[0], domains[1]);
  t.is(domains[2], undefined);
  t.is(second.capabilities.cloneDomain, domains[0]);
});

test("a FUSE file is opened and never answers on the caller's thread", async (t) => {
  if (skippedWithoutRoot(t, "nbdkit", "nbdfuse")) return;
  const device = await opened(t, await fuseFile(t, temporaryDirectory(t), "memory", "1M"));
  t.is(device.sizeBytes, MiB);
  const data = Buffer.alloc(4096, 7);
  t.false(device.tryWrite(0, data));
  await device.write(0, data);
  const back = Buffer.alloc(4096);
  t.false(device.tryRead(0, back));
  await device.read(0, back);
  t.deepEqual(back, data);
});

test("identity: hard links, symbolic links and loop devices lead to the same keys", async (t) => {
  if (skippedWithoutRoot(t, "sfdisk")) return;
  const directory = temporaryDirectory(t);
  const path = sparseFile(directory, "file", 64 * MiB);
  const other = sparseFile(directory, "other", 64 * MiB);
  fs.linkSync(path, join(directory, "hard"));
  fs.symlinkSync(path, join(directory, "soft"));
  run("sh", "-c", `printf '2048,32768,L\\n,,L\\n' | sfdisk -q ${path}`);
  const disk = partitionedLoop(t, path);
  const keys = await identityOf(path);
  const shares = async (name: string) => (await identityOf(name)).some((key) => keys.includes(key));
  t.true(await shares(join(directory, "hard")));
  t.true(await shares(join(directory, "soft")));
  t.true(await shares(disk));
  t.true(await shares(`${disk}p1`));
  t.false(await shares(other));
  const diskKeys = await identityOf(disk);
  t.true((await identityOf(`${disk}p2`)).some((key) => key.startsWith("block:") && diskKeys.includes(key)));
  const fd = fs.openSync(path, "r");
  t.deepEqual(await identityOf(fd), keys);
  fs.closeSync(fd);
  await t.throwsAsync(identityOf(join(directory, "missing")), { code: "PATH_NOT_FOUND" });
});

test("looking at a file, opening and closing it is no write to it", async (t) => {
  const file = sparseFile(temporaryDirectory(t), "file", MiB);
  fs.utimesSync(file, 1_000_000, 1_000_000); // long before the clock tick of this test
  const before = fs.statSync(file, { bigint: true });
  await inspectPath(file, { clock: systemClock });
  const device = await openDevice(file, { clock: systemClock });
  t.is((await device.stamp()).split(":")[2], String(before.mtimeNs));
  await device.close();
  t.is(fs.statSync(file, { bigint: true }).mtimeNs, before.mtimeNs);
});
