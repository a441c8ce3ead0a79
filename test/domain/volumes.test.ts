import { link, mkdir, open, rename, stat, symlink, truncate, unlink, writeFile } from "node:fs/promises";
import test from "ava";
import type { ErrorCode, TidemarkError } from "../../src/base/errors.ts";
import type { VolumeRow } from "../../src/store/rows.ts";
import { KillableBox } from "../support/killable-box.ts";
import { BoxFixture, masterBootRecord, refusal } from "./box-fixture.ts";

const page = { pageSize: 0, pageToken: "" };
const MiB = 1 << 20;

test.serial("volumes get the lowest free LU number; names and labels both find them", async (t) => {
  const fixture = await BoxFixture.make(t);
  const box = await fixture.start();
  t.is((await fixture.create("a")).name, "g1d1");
  t.is((await fixture.create("b", MiB, "db")).name, "g1d2");
  await box.volumes.create({ path: fixture.path("c.img"), sizeBytes: MiB, lu: 7, label: "" }, () => []);
  await box.volumes.delete({ name: "g1d1", file: "remove" }, () => []);
  t.is((await fixture.create("d")).name, "g1d1");
  t.is((await fixture.create("e")).name, "g1d3");
  t.is((await box.volumes.get("db")).name, "g1d2");
  const { items } = await box.volumes.list(page);
  t.deepEqual(
    items.map(({ name }) => name),
    ["g1d1", "g1d2", "g1d3", "g1d7"],
  );
  t.true(items.every(({ status }) => status.online));
});

test.serial("registering refuses what cannot be a volume, by name, and changes nothing", async (t) => {
  const fixture = await BoxFixture.make(t);
  const box = await fixture.start();
  await fixture.create("taken", MiB, "db");
  const path = (name: string) => fixture.path(name);
  await mkdir(path("directory"));
  await writeFile(path("empty.img"), "");
  await writeFile(path("odd.img"), "x".repeat(700));
  await writeFile(path("good.img"), Buffer.alloc(4096));
  await symlink(path("taken.img"), path("link.img"));
  await link(path("taken.img"), path("hard.img"));
  await writeFile(`${fixture.data}/inside.img`, Buffer.alloc(4096));
  const cases: [string, { path: string; lu?: number; label?: string }, ErrorCode][] = [
    ["nothing there", { path: path("none.img") }, "PATH_NOT_FOUND"],
    ["no directory there", { path: path("none/none.img") }, "PATH_NOT_FOUND"],
    ["relative", { path: "good.img" }, "INVALID_ARGUMENT"],
    ["directory", { path: path("directory") }, "PATH_NOT_USABLE"],
    ["empty", { path: path("empty.img") }, "SIZE_INVALID"],
    ["odd size", { path: path("odd.img") }, "SIZE_INVALID"],
    ["same path", { path: path("taken.img") }, "PATH_REGISTERED"],
    ["symbolic link to it", { path: path("link.img") }, "PATH_REGISTERED"],
    ["hard link to it", { path: path("hard.img") }, "PATH_REGISTERED"],
    ["own data directory", { path: `${fixture.data}/inside.img` }, "PATH_NOT_USABLE"],
    ["proc", { path: "/proc/cpuinfo" }, "PATH_NOT_USABLE"],
    ["character device", { path: "/dev/null" }, "PATH_NOT_USABLE"],
    ["number taken", { path: path("good.img"), lu: 1 }, "VOLUME_EXISTS"],
    ["number too large", { path: path("good.img"), lu: 100_000 }, "INVALID_ARGUMENT"],
    ["label taken", { path: path("good.img"), label: "db" }, "LABEL_EXISTS"],
    ["label like a name", { path: path("good.img"), label: "g1d9" }, "INVALID_ARGUMENT"],
  ];
  for (const [what, request, code] of cases) {
    t.log(what);
    await refusal(t, () => box.volumes.register({ lu: 0, label: "", ...request }, () => []), code);
  }
  t.is((await box.volumes.list(page)).items.length, 1);
  const good = await box.volumes.register({ path: path("good.img"), lu: 0, label: "" }, () => []);
  t.is(good.name, "g1d2");
  t.is(good.row.sizeBytes, 4096);
});

test.serial("creating refuses bad sizes and paths that exist, and leaves no file", async (t) => {
  const fixture = await BoxFixture.make(t);
  const box = await fixture.start();
  await writeFile(fixture.path("there.img"), "precious");
  const cases: [string, number, ErrorCode][] = [
    ["zero.img", 0, "SIZE_INVALID"],
    ["odd.img", 1000, "SIZE_INVALID"],
    ["large.img", 64 * 2 ** 40 + 512, "SIZE_INVALID"],
    ["there.img", MiB, "PATH_EXISTS"],
    ["none/a.img", MiB, "PATH_NOT_FOUND"],
  ];
  for (const [name, sizeBytes, code] of cases) {
    const request = { path: fixture.path(name), sizeBytes, lu: 0, label: "" };
    await refusal(t, () => box.volumes.create(request, () => []), code);
    if (code !== "PATH_EXISTS") await t.throwsAsync(() => stat(fixture.path(name)));
  }
  t.is((await stat(fixture.path("there.img"))).size, 8);
  t.is((await box.volumes.list(page)).items.length, 0);
  t.is((await fixture.create("fine")).name, "g1d1", "no number was lost");
});

test.serial("of two requests for one label, number or path at the same time one wins", async (t) => {
  const fixture = await BoxFixture.make(t);
  const box = await fixture.start();
  const request = (name: string, lu: number, label: string) =>
    box.volumes.create({ path: fixture.path(name), sizeBytes: MiB, lu, label }, () => []);
  const label = await Promise.allSettled([request("a.img", 0, "x"), request("b.img", 0, "x")]);
  t.deepEqual(label.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
  const number = await Promise.allSettled([request("c.img", 9, ""), request("d.img", 9, "")]);
  t.deepEqual(number.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
  const path = await Promise.allSettled([request("e.img", 0, ""), request("e.img", 0, "")]);
  t.deepEqual(path.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
  const many = await Promise.all(Array.from({ length: 20 }, (_, i) => request(`m${i}.img`, 0, "")));
  t.is(new Set(many.map(({ name }) => name)).size, 20);
});

test.serial("deleting keeps the file unless told and allowed; exports and sessions hold a volume", async (t) => {
  const fixture = await BoxFixture.make(t);
  const box = await fixture.start();
  await writeFile(fixture.path("own.img"), Buffer.alloc(4096));
  await box.volumes.register({ path: fixture.path("own.img"), lu: 0, label: "" }, () => []);
  await refusal(t, () => box.volumes.delete({ name: "g1d1", file: "remove" }, () => []), "INVALID_ARGUMENT");
  await box.volumes.delete({ name: "g1d1", file: "keep" }, () => []);
  t.is((await stat(fixture.path("own.img"))).size, 4096);

  await fixture.create("a", MiB, "src");
  await fixture.create("b");
  await box.exports.add({ name: "src", readOnly: false }, () => []);
  const busy = await refusal(t, () => box.volumes.delete({ name: "src", file: "keep" }, () => []), "VOLUME_BUSY");
  t.is(busy?.detail.metadata?.["export"], "g1d1");
  await box.exports.remove({ name: "src", clients: "refuse" }, () => []);
  await box.copies.start({ pairs: [{ source: "src", destination: "g1d2" }], kind: "quickopc", pace: 0 }, () => []);
  await refusal(t, () => box.volumes.delete({ name: "g1d2", file: "keep" }, () => []), "VOLUME_BUSY");
  await refusal(
    t,
    () => box.volumes.resize({ name: "g1d2", sizeBytes: 2 * MiB, shrink: "refuse" }, () => []),
    "VOLUME_BUSY",
  );
  await box.copies.cancel("c1", () => []);
  await box.volumes.delete({ name: "g1d2", file: "remove" }, () => []);
  await t.throwsAsync(() => stat(fixture.path("b.img")));
  await refusal(t, () => box.volumes.get("g1d2"), "VOLUME_NOT_FOUND");
});

test.serial("resizing grows, shrinks only when allowed, and takes over the backing's size", async (t) => {
  const fixture = await BoxFixture.make(t);
  const box = await fixture.start();
  await fixture.create("a");
  const resize = (sizeBytes: number, shrink: "allow" | "refuse" = "refuse") =>
    box.volumes.resize({ name: "g1d1", sizeBytes, shrink }, () => []);
  t.is((await resize(2 * MiB)).row.sizeBytes, 2 * MiB);
  t.is((await stat(fixture.path("a.img"))).size, 2 * MiB);
  await refusal(t, () => resize(MiB), "SIZE_INVALID");
  t.is((await resize(MiB, "allow")).row.sizeBytes, MiB);
  await truncate(fixture.path("a.img"), 3 * MiB);
  t.is((await resize(0)).row.sizeBytes, 3 * MiB);
  await refusal(t, () => resize(1000, "allow"), "SIZE_INVALID");
  await fixture.restart();
  t.is((await fixture.box.volumes.get("g1d1")).row.sizeBytes, 3 * MiB);
});

test.serial(
  "a volume whose file is gone or has shrunk stays registered and unavailable; the others go on",
  async (t) => {
    const fixture = await BoxFixture.make(t);
    await fixture.start();
    await fixture.create("gone");
    await fixture.create("shrunk");
    await fixture.create("fine");
    await fixture.box.exports.add({ name: "g1d1", readOnly: false }, () => []);
    await fixture.stop();
    await rename(fixture.path("gone.img"), fixture.path("away.img"));
    await truncate(fixture.path("shrunk.img"), 512);
    const box = await fixture.start();
    const { items } = await box.volumes.list(page);
    t.deepEqual(
      items.map(({ status }) => status.online),
      [false, false, true],
    );
    t.is(items[0]?.status.failure?.code, "PATH_NOT_FOUND");
    t.is(items[1]?.status.failure?.code, "VOLUME_SHRUNK");
    const findings = await box.diagnose();
    const errors = findings.filter(({ severity }) => severity === "error");
    t.deepEqual(errors.map(({ check, subject }) => `${check} ${subject}`).sort(), [
      "export-unavailable g1d1",
      "volume-unavailable g1d1",
      "volume-unavailable g1d2",
    ]);
    t.true(findings.every(({ message, remedy }) => message !== "" && remedy !== ""));
    await refusal(t, () => box.exports.add({ name: "g1d2", readOnly: false }, () => []), "VOLUME_UNAVAILABLE");
    t.is((await box.exports.get("g1d1")).connections, 0);
    await fixture.stop();
    await rename(fixture.path("away.img"), fixture.path("gone.img"));
    const again = await fixture.start();
    t.true((await again.volumes.get("g1d1")).status.online);
    await again.exports.remove({ name: "g1d1", clients: "refuse" }, () => []);
    await again.volumes.delete({ name: "g1d2", file: "keep" }, () => []);
  },
);

const intent = (fixture: BoxFixture, more: Partial<VolumeRow>): VolumeRow => ({
  uid: "11111111-1111-4111-8111-111111111111",
  lu: 5,
  label: "half",
  path: fixture.path("half.img"),
  sizeBytes: MiB,
  backing: "file",
  createdByBox: true,
  createdMs: 1,
  state: "creating",
  resizingToBytes: 0,
  ...more,
});

const leftovers: [string, "creating" | "deleting", ((path: string) => Promise<void>) | undefined, "gone" | "kept"][] = [
  ["creation that made no file", "creating", undefined, "gone"],
  ["creation that made an empty file", "creating", (path) => writeFile(path, ""), "gone"],
  ["creation that made the file", "creating", (path) => writeFile(path, "").then(() => truncate(path, MiB)), "gone"],
  ["creation beside somebody's data", "creating", (path) => writeFile(path, Buffer.alloc(MiB, 1)), "kept"],
  ["creation beside another size", "creating", (path) => writeFile(path, "").then(() => truncate(path, 512)), "kept"],
  ["removal before the file went", "deleting", (path) => writeFile(path, Buffer.alloc(MiB, 1)), "gone"],
  ["removal after the file went", "deleting", undefined, "gone"],
];
for (const [what, state, make, file] of leftovers)
  test.serial(`a crash during a ${what} leaves nothing half: file ${file}`, async (t) => {
    const fixture = await BoxFixture.make(t);
    await fixture.leave([{ table: "volumes", put: intent(fixture, { state }) }]);
    await make?.(fixture.path("half.img"));
    const box = await fixture.start();
    t.is((await box.volumes.list(page)).items.length, 0);
    t.is(await fixture.store.get("volumes", intent(fixture, {}).uid), undefined);
    const there = await stat(fixture.path("half.img")).then(
      () => true,
      () => false,
    );
    t.is(there, file === "kept");
    t.is(fixture.reports.length, file === "kept" ? 1 : 0);
    const again = { path: fixture.path("half2.img"), sizeBytes: MiB, lu: 5, label: "half" };
    t.is((await box.volumes.create(again, () => [])).name, "g1d5", "number and label are free again");
  });

for (const cut of ["before", "after"] as const)
  test.serial(`a crash ${cut} the file was cut finishes a shrinking resize`, async (t) => {
    const fixture = await BoxFixture.make(t);
    await fixture.start();
    const { row } = await fixture.create("a", 2 * MiB);
    await fixture.stop();
    await fixture.leave([{ table: "volumes", put: { ...row, resizingToBytes: MiB } }]);
    if (cut === "after") await truncate(fixture.path("a.img"), MiB);
    const box = await fixture.start();
    const view = await box.volumes.get("g1d1");
    t.true(view.status.online);
    t.is(view.row.sizeBytes, MiB);
    t.is(view.row.resizingToBytes, 0);
    t.is((await stat(fixture.path("a.img"))).size, MiB);
  });

test.serial(
  "a shrinking resize that a crash interrupted is still meant when its file was away at the next start",
  async (t) => {
    const fixture = await BoxFixture.make(t);
    await fixture.start();
    const { row } = await fixture.create("a", 2 * MiB);
    await fixture.stop();
    await fixture.leave([{ table: "volumes", put: { ...row, resizingToBytes: MiB } }]);
    await truncate(fixture.path("a.img"), MiB);
    await rename(fixture.path("a.img"), fixture.path("away"));
    const box = await fixture.start();
    t.false((await box.volumes.get("g1d1")).status.online);
    t.is((await box.volumes.get("g1d1")).row.resizingToBytes, MiB);
    await rename(fixture.path("away"), fixture.path("a.img"));
    const view = await box.reopenVolume("g1d1", () => []);
    t.like(view.row, { sizeBytes: MiB, resizingToBytes: 0 });
    t.true(view.status.online);
  },
);

test.serial("partitions have names, places and may be unfit for copying", async (t) => {
  const fixture = await BoxFixture.make(t);
  const box = await fixture.start();
  await fixture.create("a", 4 * MiB);
  await fixture.create("b", 4 * MiB);
  const file = await open(fixture.path("a.img"), "r+");
  await file.write(
    masterBootRecord([
      [2048, 2048],
      [63, 1000],
    ]),
    0,
    512,
    0,
  );
  await file.close();
  const { items } = await box.volumes.partitions("g1d1", page);
  t.deepEqual(
    items.map(({ name, offsetBytes, sizeBytes, copyable }) => [name, offsetBytes, sizeBytes, copyable]),
    [
      ["g1d1p1", MiB, MiB, true],
      ["g1d1p2", 63 * 512, 1000 * 512, false],
    ],
  );
  const start = (source: string) =>
    box.copies.start({ pairs: [{ source, destination: "g1d2" }], kind: "opc", pace: 0 }, () => []);
  const unaligned = await refusal(t, () => start("g1d1p2"), "PARTITION_UNALIGNED");
  t.true(unaligned?.message.includes("g1d1p2") && unaligned.message.includes(String(63 * 512)));
  await refusal(t, () => start("g1d1p3"), "PARTITION_NOT_FOUND");
  const exported = await box.exports.add({ name: "g1d1p2", readOnly: true }, () => []);
  t.is(exported.row.sizeBytes, 1000 * 512);
  t.is(exported.label, "");
  await refusal(t, () => box.volumes.get("g1d1p1"), "INVALID_ARGUMENT");
  const [session] = await start("g1d1p1");
  t.is(session?.source.name, "g1d1p1");
});

test.serial("names of other boxes and unknown names are VOLUME_NOT_FOUND, no name is INVALID_ARGUMENT", async (t) => {
  const fixture = await BoxFixture.make(t);
  const box = await fixture.start({ number: 3 });
  await fixture.create("a");
  t.is((await box.volumes.get("g3d1")).name, "g3d1");
  const elsewhere = await refusal(t, () => box.volumes.get("g1d1"), "VOLUME_NOT_FOUND");
  t.true(elsewhere?.message.includes("box 1"));
  await refusal(t, () => box.volumes.get("nobody"), "VOLUME_NOT_FOUND");
  await refusal(t, () => box.volumes.get(""), "INVALID_ARGUMENT");
});

test.serial("the box's number is remembered; another one later is refused", async (t) => {
  const fixture = await BoxFixture.make(t);
  const box = await fixture.start({ number: 42 });
  const { uid } = box.facts();
  await fixture.restart({ number: 42 });
  await fixture.restart();
  t.is(fixture.box.facts().number, 42);
  t.is(fixture.box.facts().uid, uid);
  await fixture.stop();
  await refusal(t, () => fixture.start({ number: 41 }), "STATE_DIRECTORY_INVALID");
  await unlink(fixture.path("nbd.sock")).catch(() => {});
});

test("a shrink that a copy forbids is never half meant: whenever the daemon is killed in it, the copy is whole", async (t) => {
  for (let step = 1; ; step++) {
    const killable = await KillableBox.make(t, 2);
    await killable.box.copies.start(
      { pairs: [{ source: "g1d1", destination: "g1d2" }], kind: "quickopc", pace: 15 },
      () => [],
    );
    await killable.finish();
    let steps = 0;
    killable.intercept(() => (++steps < step ? undefined : new Promise<never>(() => undefined)));
    const request = { name: "g1d2", sizeBytes: 1 << 17, shrink: "allow" } as const;
    let code: ErrorCode | undefined;
    const refused = killable.box.volumes
      .resize(request, () => [])
      .catch((error: TidemarkError) => {
        code = error.code;
      });
    await Promise.race([refused, killable.settle()]);
    const isLast = steps < step;
    if (isLast) t.is(code, "VOLUME_BUSY");
    await killable.kill(step);
    const { phase, failure } = await killable.box.copies.get("c1");
    t.deepEqual([phase, failure], ["tracking", undefined], `step ${step}`);
    t.is((await killable.box.volumes.get("g1d2")).row.resizingToBytes, 0);
    await killable.die();
    if (isLast) break;
  }
});
