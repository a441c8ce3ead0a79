/**
 * Bad input, case by case (issue "The box", list "Bad input"): each gives a typed error with what to do next, or a failed
 * copy with its cause, and nothing is lost. Through the API of a real daemon.
 */
import { execFileSync, spawnSync } from "node:child_process";
import {
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { ServiceError } from "@grpc/grpc-js";
import anyTest, { type ExecutionContext, type TestFn } from "ava";
import type { ErrorCode } from "../../src/base/errors.ts";
import { CopyFailure, CopyKind, CopyPhase } from "../../src/gen/tidemark/v1/copy.ts";
import { VolumeState } from "../../src/gen/tidemark/v1/volume.ts";
import { needRoot } from "../cli/need-root.ts";
import { runTidemark } from "../cli/run-tidemark.ts";
import { all, call, DaemonFixture, refusalOf, refused } from "../server/fixture.ts";
import { pause, startCopy, writeBlocks } from "../support/daemon.ts";
import { needTools } from "../support/tools.ts";

const test = anyTest as TestFn<{ fixture: DaemonFixture; ends: (() => unknown)[] }>;
const MiB = 1 << 20;

test.beforeEach(async (t) => {
  t.context.ends = [];
  t.context.fixture = await DaemonFixture.start({ teardown: (end) => t.context.ends.push(end as () => unknown) });
});
test.afterEach.always(async (t) => {
  for (const end of t.context.ends.reverse()) await end();
});

/** Refused with this code, and with what to do next. */
async function refuses(t: ExecutionContext, run: () => Promise<unknown>, code: ErrorCode) {
  const refusal = await refused(t, run, code);
  t.truthy(refusal?.metadata["hint"], `${code} says what to do next: ${refusal?.message}`);
  return refusal;
}

const register = (fixture: DaemonFixture, path: string, label = "", lu = 0) =>
  call(fixture.clients.volumes, "registerVolume", { path, label, lu, requestId: "" });
const start = (fixture: DaemonFixture, source: string, destination: string, kind: CopyKind = CopyKind.OPC, pace = 0) =>
  startCopy(fixture.clients, source, destination, kind, pace);

function file(fixture: DaemonFixture, name: string, sizeBytes: number): string {
  const path = fixture.path(name);
  writeFileSync(path, "");
  truncateSync(path, sizeBytes);
  return path;
}

async function copied(fixture: DaemonFixture, id: string) {
  for (;;) {
    const { copy } = await call(fixture.clients.copies, "getCopy", { id });
    if (copy === undefined || copy.phase !== CopyPhase.COPYING) return copy;
    await pause(10);
  }
}

async function read(fixture: DaemonFixture, name: string, offset = 0, length = 0): Promise<Buffer> {
  const range = { name, offsetBytes: BigInt(offset), lengthBytes: BigInt(length) };
  return Buffer.concat((await all(fixture.clients.data.readBlocks(range))).map(({ data }) => data));
}

test.serial("unknown names of volumes, partitions, exports and sessions", async (t) => {
  const { fixture } = t.context;
  const { volumes, exports, copies } = fixture.clients;
  await fixture.create("a");
  await refuses(t, () => call(volumes, "getVolume", { name: "g1d9" }), "VOLUME_NOT_FOUND");
  await refuses(t, () => call(volumes, "getVolume", { name: "nobody" }), "VOLUME_NOT_FOUND");
  await refuses(
    t,
    () => call(volumes, "deleteVolume", { name: "g1d9", deleteFile: false, requestId: "" }),
    "VOLUME_NOT_FOUND",
  );
  await refuses(t, () => start(fixture, "g1d9", "g1d1"), "VOLUME_NOT_FOUND");
  t.is((await refuses(t, () => start(fixture, "g1d1", "g1d9"), "VOLUME_NOT_FOUND"))?.field, "pairs.destination");
  await refuses(t, () => start(fixture, "g1d1p7", "g1d1"), "PARTITION_NOT_FOUND");
  await refuses(t, () => call(exports, "getExport", { name: "g1d1" }), "EXPORT_NOT_FOUND");
  await refuses(
    t,
    () => call(exports, "addExport", { name: "g1d9", readOnly: false, requestId: "" }),
    "VOLUME_NOT_FOUND",
  );
  await refuses(t, () => call(copies, "getCopy", { id: "c77" }), "SESSION_NOT_FOUND");
  await refuses(t, () => call(copies, "cancelCopy", { id: "c77", requestId: "" }), "SESSION_NOT_FOUND");
  await refuses(t, () => call(copies, "restartCopy", { ids: ["c77"], requestId: "" }), "SESSION_NOT_FOUND");
  await refuses(t, () => call(copies, "stopTracking", { id: "c77", requestId: "" }), "SESSION_NOT_FOUND");
  await refuses(t, () => call(copies, "getCopy", { id: "session 1" }), "INVALID_ARGUMENT");
});

test.serial("duplicate names: LU number, label, export", async (t) => {
  const { fixture } = t.context;
  await fixture.create("a", MiB, "twin");
  await refuses(t, () => register(fixture, file(fixture, "b.img", MiB), "", 1), "VOLUME_EXISTS");
  await refuses(t, () => register(fixture, file(fixture, "c.img", MiB), "twin"), "LABEL_EXISTS");
  const add = () => call(fixture.clients.exports, "addExport", { name: "twin", readOnly: false, requestId: "" });
  await add();
  await refuses(t, add, "EXPORT_EXISTS");
  t.is((await register(fixture, fixture.path("b.img"))).volume?.name, "g1d2", "the refused numbers are free");
});

test.serial("paths that are no volume: a directory, nothing, a character device, not absolute", async (t) => {
  const { fixture } = t.context;
  mkdirSync(fixture.path("directory"));
  await refuses(t, () => register(fixture, fixture.path("directory")), "PATH_NOT_USABLE");
  await refuses(t, () => register(fixture, fixture.path("nothing")), "PATH_NOT_FOUND");
  await refuses(t, () => register(fixture, "/dev/zero"), "PATH_NOT_USABLE");
  await refuses(t, () => register(fixture, "relative.img"), "INVALID_ARGUMENT");
  const create = (path: string) =>
    call(fixture.clients.volumes, "createVolume", { path, sizeBytes: BigInt(MiB), lu: 0, label: "", requestId: "" });
  file(fixture, "there.img", MiB);
  await refuses(t, () => create(fixture.path("there.img")), "PATH_EXISTS");
  await refuses(t, () => create(fixture.path("nowhere/x.img")), "PATH_NOT_FOUND");
});

test.serial("the same bytes under another name: hard link, symbolic link, the path again", async (t) => {
  const { fixture } = t.context;
  const path = file(fixture, "a.img", MiB);
  await register(fixture, path, "first");
  linkSync(path, fixture.path("hard.img"));
  symlinkSync(path, fixture.path("soft.img"));
  for (const other of ["a.img", "hard.img", "soft.img"]) {
    const refusal = await refuses(t, () => register(fixture, fixture.path(other)), "PATH_REGISTERED");
    t.regex(refusal?.message ?? "", /g1d1/, "it says as what");
  }
  await fixture.stop();
  await fixture.start();
  await refuses(t, () => register(fixture, fixture.path("hard.img")), "PATH_REGISTERED");
});

test.serial("the same bytes under another name: a loop device over the file, a file below a loop device", async (t) => {
  if (!needRoot(t) || !needTools(t, ["losetup"])) return;
  const { fixture, ends } = t.context;
  const path = file(fixture, "a.img", MiB);
  const loop = execFileSync("losetup", ["--find", "--show", path], { encoding: "utf8" }).trim();
  ends.push(() => execFileSync("losetup", ["--detach", loop]));
  await register(fixture, loop, "byLoop");
  await refuses(t, () => register(fixture, path), "PATH_REGISTERED");
  await call(fixture.clients.volumes, "deleteVolume", { name: "byLoop", deleteFile: false, requestId: "" });
  // Only the loop device may be written while it exists: whoever wants the file has to take it away first.
  await refuses(t, () => register(fixture, path), "PATH_HELD");
});

test.serial("a path that is mounted, and the image below it", async (t) => {
  if (!needRoot(t) || !needTools(t, ["losetup", "mkfs.ext4", "mount", "umount"])) return;
  const { fixture, ends } = t.context;
  const path = file(fixture, "fs.img", 8 * MiB);
  execFileSync("mkfs.ext4", ["-q", path]);
  const loop = execFileSync("losetup", ["--find", "--show", path], { encoding: "utf8" }).trim();
  ends.push(() => execFileSync("losetup", ["--detach", loop]));
  const directory = fixture.path("mnt");
  mkdirSync(directory);
  execFileSync("mount", [loop, directory]);
  ends.push(() => spawnSync("umount", [directory]));
  const refusal = await refuses(t, () => register(fixture, loop), "PATH_MOUNTED");
  t.true(refusal?.message.includes(directory), "it says where");
  t.true(["PATH_MOUNTED", "PATH_HELD"].includes((await refusedCode(t, () => register(fixture, path))) ?? ""));
  execFileSync("umount", [directory]);
  t.is((await register(fixture, loop)).volume?.name, "g1d1");
});

async function refusedCode(t: ExecutionContext, run: () => Promise<unknown>): Promise<string | undefined> {
  const error = await t.throwsAsync(run);
  const refusal = error && refusalOf(error as ServiceError);
  t.truthy(refusal?.metadata["hint"]);
  return refusal?.reason;
}

test.serial(
  "a volume whose backing has shrunk: unavailable with the reason, others go on, right again when repaired",
  async (t) => {
    const { fixture } = t.context;
    const path = file(fixture, "a.img", 2 * MiB);
    await register(fixture, path);
    await fixture.create("b", 2 * MiB);
    await writeBlocks(fixture.clients, "g1d1", MiB, Buffer.alloc(MiB, 7));
    await fixture.stop();
    const content = await readFile(path);
    truncateSync(path, MiB);
    await fixture.start();
    const { volume } = await call(fixture.clients.volumes, "getVolume", { name: "g1d1" });
    t.is(volume?.state, VolumeState.UNAVAILABLE);
    t.regex(volume?.stateReason ?? "", /1048576 bytes.*2097152/);
    await refuses(t, () => read(fixture, "g1d1", 0, 512), "VOLUME_UNAVAILABLE");
    await refuses(t, () => start(fixture, "g1d1", "g1d2"), "VOLUME_UNAVAILABLE");
    await writeBlocks(fixture.clients, "g1d2", 0, Buffer.alloc(512, 1));
    await fixture.stop();
    writeFileSync(path, content);
    await fixture.start();
    t.is((await read(fixture, "g1d1", MiB, 1))[0], 7);
  },
);

test.serial(
  "a volume whose file is gone: unavailable, with what to do; brought back it is opened again, with its export",
  async (t) => {
    const { fixture } = t.context;
    const path = file(fixture, "a.img", MiB);
    await register(fixture, path, "one");
    await call(fixture.clients.exports, "addExport", { name: "one", readOnly: false, requestId: "" });
    await writeBlocks(fixture.clients, "one", 0, Buffer.alloc(512, 6));
    await fixture.stop();
    renameSync(path, fixture.path("elsewhere.img"));
    await fixture.start();
    const { findings } = await call(fixture.clients.box, "diagnose", {});
    const remedy = findings.find(({ check }) => check === "volume-unavailable")?.remedy ?? "";
    t.regex(remedy, /bring .*a\.img back with its content.*tidemark volume reopen g1d1.*tidemark volume delete g1d1/);
    t.notRegex(remedy, /volume create/, "a new file there would be taken for the volume");
    const reopen = () => call(fixture.clients.volumes, "reopenVolume", { name: "one", requestId: "" });
    const refusal = await refuses(t, reopen, "PATH_NOT_FOUND");
    t.regex(refusal?.metadata["hint"] ?? "", /back with its content/);
    await refuses(
      t,
      () => call(fixture.clients.exports, "addExport", { name: "one", readOnly: true, requestId: "" }),
      "EXPORT_EXISTS",
    );
    renameSync(fixture.path("elsewhere.img"), path);
    t.is((await reopen()).volume?.state, VolumeState.ONLINE);
    t.is((await read(fixture, "one", 0, 1))[0], 6);
    t.deepEqual(
      (await call(fixture.clients.box, "diagnose", {})).findings.filter(({ subject }) => subject === "g1d1"),
      [],
    );
    t.is((await reopen()).volume?.state, VolumeState.ONLINE, "once more does no harm");
    const { events } = await call(fixture.clients.box, "listEvents", { subject: "g1d1", pageSize: 0, pageToken: "" });
    t.is(events.filter(({ type }) => type === "volume.reopened").length, 1);
  },
);

test.serial("a backing that shrinks while it is used: reads beyond and copies of it are refused", async (t) => {
  const { fixture } = t.context;
  const path = file(fixture, "a.img", 2 * MiB);
  await register(fixture, path);
  await fixture.create("b", 2 * MiB);
  await writeBlocks(fixture.clients, "g1d1", 0, Buffer.alloc(2 * MiB, 9));
  truncateSync(path, MiB);
  const refusal = await refuses(t, () => read(fixture, "g1d1", MiB + 4096, 512), "DEVICE_GONE");
  t.is(refusal?.metadata["reason"], "VOLUME_SHRUNK");
  t.is((await read(fixture, "g1d1", 0, 1))[0], 9, "what is left is read");
  await refuses(t, () => start(fixture, "g1d1", "g1d2"), "DEVICE_GONE");
});

test.serial("sizes no volume can have: nothing, beyond 64 TiB, no multiple of a sector", async (t) => {
  const { fixture, ends } = t.context;
  await refuses(t, () => register(fixture, file(fixture, "empty.img", 0)), "SIZE_INVALID");
  await refuses(t, () => register(fixture, file(fixture, "odd.img", MiB + 100)), "SIZE_INVALID");
  const create = (sizeBytes: bigint) => () =>
    call(fixture.clients.volumes, "createVolume", {
      ...{ path: fixture.path("new.img"), sizeBytes, lu: 0, label: "", requestId: "" },
    });
  for (const size of [0n, 511n, BigInt(MiB) + 1n, 64n * 2n ** 40n + 512n])
    await refuses(t, create(size), "SIZE_INVALID");
  t.false(existsSync(fixture.path("new.img")), "nothing was made");
  if (!existsSync("/dev/shm")) return;
  const shared = mkdtempSync("/dev/shm/tidemark-");
  ends.push(() => rmSync(shared, { recursive: true }));
  const huge = join(shared, "huge.img");
  writeFileSync(huge, "");
  truncateSync(huge, 64 * 2 ** 40 + 512);
  await refuses(t, () => register(fixture, huge), "SIZE_INVALID");
});

test.serial("copies that cannot be: smaller destination, onto itself, in a circle", async (t) => {
  const { fixture } = t.context;
  await fixture.create("a", 2 * MiB, "one");
  await fixture.create("b", MiB, "small");
  await fixture.create("c", 2 * MiB, "three");
  await fixture.create("d", 2 * MiB, "four");
  await refuses(t, () => start(fixture, "one", "small"), "DESTINATION_TOO_SMALL");
  await refuses(t, () => start(fixture, "one", "one"), "SOURCE_IS_DESTINATION");
  await refuses(t, () => start(fixture, "one", "g1d1"), "SOURCE_IS_DESTINATION");
  const first = await start(fixture, "one", "three", CopyKind.QUICKOPC);
  await copied(fixture, first.id);
  const second = await start(fixture, "three", "four", CopyKind.QUICKOPC);
  await copied(fixture, second.id);
  const circle = await refuses(t, () => start(fixture, "four", "one"), "COPY_CYCLE");
  t.regex(circle?.message ?? "", new RegExp(`${first.id}|${second.id}`), "it names a copy of the circle");
  await refuses(t, () => start(fixture, "one", "four"), "DESTINATION_IN_USE");
});

test.serial("a partition that does not begin on a block is refused by name, its neighbours are copied", async (t) => {
  if (!needTools(t, ["sfdisk"])) return;
  const { fixture } = t.context;
  const path = file(fixture, "disk.img", 16 * MiB);
  execFileSync("sfdisk", ["--quiet", path], { input: "label: gpt\nstart=2048,size=4096\nstart=8191,size=4096\n" });
  await register(fixture, path);
  await fixture.create("b", 16 * MiB);
  await writeBlocks(fixture.clients, "g1d1p1", 0, Buffer.alloc(4096 * 512, 8));
  const refusal = await refuses(t, () => start(fixture, "g1d1p2", "g1d2"), "PARTITION_UNALIGNED");
  t.regex(refusal?.message ?? "", /g1d1p2.*4193792/, "it says where it begins");
  await refuses(t, () => start(fixture, "g1d2", "g1d1p1"), "DESTINATION_TOO_SMALL");
  const { id } = await start(fixture, "g1d1p1", "g1d2");
  await copied(fixture, id);
  t.true((await read(fixture, "g1d2", 0, 4096 * 512)).every((byte) => byte === 8));
  t.true(
    (await read(fixture, "g1d2", 4096 * 512)).every((byte) => byte === 0),
    "beyond it nothing is touched",
  );
});

test.serial("restores that the matrix refuses: QuickOPC while tracking, any while copying", async (t) => {
  const { fixture } = t.context;
  await fixture.create("a", 32 * MiB, "one");
  await fixture.create("b", 32 * MiB, "two");
  await writeBlocks(fixture.clients, "one", 0, Buffer.alloc(32 * MiB, 5));
  const { id } = await start(fixture, "one", "two", CopyKind.QUICKOPC, 1);
  for (const kind of [CopyKind.OPC, CopyKind.QUICKOPC])
    await refuses(t, () => start(fixture, "two", "one", kind), "DESTINATION_COPYING");
  await call(fixture.clients.copies, "setCopyPace", { id, pace: 15, requestId: "" });
  await copied(fixture, id);
  await refuses(t, () => start(fixture, "two", "one", CopyKind.QUICKOPC), "REVERSE_NOT_OPC");
});

test.serial("volumes in use are neither deleted nor resized", async (t) => {
  const { fixture } = t.context;
  const { volumes, copies } = fixture.clients;
  await fixture.create("a");
  await fixture.create("b");
  const { id } = await start(fixture, "g1d1", "g1d2", CopyKind.QUICKOPC);
  await copied(fixture, id);
  for (const name of ["g1d1", "g1d2"]) {
    await refuses(t, () => call(volumes, "deleteVolume", { name, deleteFile: true, requestId: "" }), "VOLUME_BUSY");
    const resize = { name, sizeBytes: BigInt(2 * MiB), allowShrink: false, requestId: "" };
    await refuses(t, () => call(volumes, "resizeVolume", resize), "VOLUME_BUSY");
  }
  await call(copies, "cancelCopy", { id, requestId: "" });
  await call(volumes, "deleteVolume", { name: "g1d2", deleteFile: true, requestId: "" });
  t.false(existsSync(fixture.path("b.img")));
});

test.serial("a second daemon on the same data directory", async (t) => {
  const { fixture } = t.context;
  await fixture.create("a");
  const { code, stderr } = await runTidemark([
    "serve",
    "--data",
    fixture.data,
    "--address",
    `unix:${fixture.path("2.sock")}`,
  ]);
  t.not(code, 0);
  t.regex(stderr, /STATE_DIRECTORY_LOCKED/);
  t.regex(stderr, new RegExp(`${process.pid}`), "it says who has it");
  t.is((await call(fixture.clients.volumes, "getVolume", { name: "g1d1" })).volume?.name, "g1d1", "the first goes on");
});

test.serial(
  "a full disk under a destination: failed(overflow), the source goes on, right after room is made",
  async (t) => {
    if (!needRoot(t) || !needTools(t, ["mount", "umount"])) return;
    const { fixture } = t.context;
    const small = tmpfs(t.context, fixture.path("small"), "4m");
    await fixture.create("a", 8 * MiB, "one");
    await writeBlocks(fixture.clients, "one", 0, Buffer.alloc(8 * MiB, 3));
    const path = join(small, "two.img");
    writeFileSync(path, "");
    truncateSync(path, 8 * MiB);
    await register(fixture, path, "two");
    const { id } = await start(fixture, "one", "two", CopyKind.QUICKOPC);
    const copy = await copied(fixture, id);
    t.is(copy?.phase, CopyPhase.FAILED);
    t.is(copy?.failure, CopyFailure.OVERFLOW);
    await writeBlocks(fixture.clients, "one", 0, Buffer.alloc(8192, 4));
    execFileSync("mount", ["-o", "remount,size=16m", small]);
    await call(fixture.clients.copies, "restartCopy", { ids: [id], requestId: "" });
    t.is((await copied(fixture, id))?.phase, CopyPhase.TRACKING);
    t.true((await readFile(path)).equals(await readFile(fixture.path("a.img"))));
  },
);

function tmpfs(context: { ends: (() => unknown)[] }, directory: string, size: string): string {
  mkdirSync(directory, { recursive: true });
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${size},mode=0700`, "tidemark-test", directory]);
  context.ends.push(() => spawnSync("umount", ["--lazy", directory]));
  return directory;
}

/** A daemon whose data directory has a small disk of its own: a is tracked, two of its blocks have changed, no room is left. */
async function tracksOnFullDisk(context: { fixture: DaemonFixture; ends: (() => unknown)[] }) {
  const { fixture } = context;
  await fixture.stop();
  tmpfs(context, fixture.data, "24m");
  context.ends.push(() => fixture.stop()); // before the disk is taken away
  await fixture.start();
  for (const name of ["a", "b", "c", "d"]) await fixture.create(name, 2048 * MiB, name);
  await writeBlocks(fixture.clients, "a", 0, Buffer.alloc(MiB, 1));
  const { id } = await start(fixture, "a", "b", CopyKind.QUICKOPC);
  await copied(fixture, id);
  await writeBlocks(fixture.clients, "a", 0, Buffer.alloc(8192, 2));
  const ballast = join(fixture.data, "ballast");
  spawnSync("dd", ["if=/dev/zero", `of=${ballast}`, "bs=4k"], { stdio: "ignore" });
  return { id, ballast };
}

test.serial(
  "a daemon stopped while the disk under its data directory is full says so, and finds everything again",
  async (t) => {
    if (!needRoot(t) || !needTools(t, ["mount", "umount"])) return;
    const { fixture } = t.context;
    const { id, ballast } = await tracksOnFullDisk(t.context);
    await writeBlocks(fixture.clients, "a", 8192, Buffer.alloc(8192, 3));
    await t.throwsAsync(() => fixture.stop(), { code: "METADATA_WRITE_FAILED" });
    rmSync(ballast);
    await fixture.start();
    const { copies } = await call(fixture.clients.copies, "restartCopy", { ids: [id], requestId: "" });
    const planned = copies[0]?.plannedGranules ?? 0n;
    t.true(planned >= 2n && planned <= 512n, `the region written last at most: ${planned}`);
    await copied(fixture, id);
    t.true((await read(fixture, "b", 0, 65536)).equals(await read(fixture, "a", 0, 65536)));
  },
);

test.serial(
  "a full disk under the data directory: what cannot be recorded is refused, nothing acknowledged is lost",
  async (t) => {
    if (!needRoot(t) || !needTools(t, ["mount", "umount"])) return;
    const { fixture } = t.context;
    const { id, ballast } = await tracksOnFullDisk(t.context);
    await writeBlocks(fixture.clients, "a", 8192, Buffer.alloc(8192, 3)); // its region is hot already
    // The last page of the log takes some more; then a write to a region that is not hot cannot be recorded.
    let region = 1;
    const next = () => writeBlocks(fixture.clients, "a", region * 4 * MiB, Buffer.alloc(8192, 4));
    while (await succeeds(next)) region++;
    await refuses(t, next, "METADATA_WRITE_FAILED");
    await refuses(t, () => start(fixture, "a", "c"), "METADATA_WRITE_FAILED");
    t.is((await read(fixture, "a", 8192, 1))[0], 3, "reading goes on");
    t.is((await read(fixture, "a", region * 4 * MiB, 1))[0], 0, "what was refused was not written");
    await writeBlocks(fixture.clients, "c", 0, Buffer.alloc(8192, 5)); // not tracked

    rmSync(ballast);
    await next();
    const other = await start(fixture, "c", "d");
    t.is((await copied(fixture, other.id))?.phase, CopyPhase.COMPLETED, "there is room again: no restart is needed");
    await fixture.stop();
    await fixture.start();
    const { copies } = await call(fixture.clients.copies, "restartCopy", { ids: [id], requestId: "" });
    t.is(copies[0]?.plannedGranules, BigInt(2 + region), "exactly what was acknowledged");
    await copied(fixture, id);
    for (let at = 0; at <= region * 4 * MiB; at += 4 * MiB)
      t.true((await read(fixture, "b", at, 16384)).equals(await read(fixture, "a", at, 16384)), `at ${at}`);
    await start(fixture, "a", "c");
  },
);

async function succeeds(run: () => Promise<unknown>): Promise<boolean> {
  return run().then(
    () => true,
    () => false,
  );
}
