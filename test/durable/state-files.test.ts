import { mkdtemp, readFile, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test, { type ExecutionContext } from "ava";
import { AssertionError } from "../../src/base/assert.ts";
import { InjectedFailure, memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import { replaceFile } from "../../src/engine/durable/replace-file.ts";
import type { StateFiles } from "../../src/engine/durable/state-files.ts";
import { systemStateFiles } from "../../src/engine/durable/system-state-files.ts";

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const bytes = (content: string) => new TextEncoder().encode(content);

async function systemFiles(t: ExecutionContext): Promise<{ files: StateFiles; root: string }> {
  const root = await mkdtemp(join(tmpdir(), "tidemark-state-"));
  t.teardown(() => rm(root, { recursive: true, force: true }));
  return { files: systemStateFiles(root), root };
}

const IMPLEMENTATIONS: Record<string, (t: ExecutionContext) => Promise<StateFiles>> = {
  system: async (t) => (await systemFiles(t)).files,
  memory: async () => memoryStateFiles(),
};

for (const [name, make] of Object.entries(IMPLEMENTATIONS)) {
  test(`${name}: create modes`, async (t) => {
    const files = await make(t);
    await t.throwsAsync(files.open("a", { create: "must-exist" }), { code: "PATH_NOT_FOUND" });
    await (await files.open("a", { create: "must-not-exist" })).close();
    await t.throwsAsync(files.open("a", { create: "must-not-exist" }), { code: "PATH_EXISTS" });
    await (await files.open("a", { create: "may-exist" })).close();
    await (await files.open("a", { create: "must-exist" })).close();
  });

  test(`${name}: reads end at the end of the file, gaps read as zeros, truncation cuts and extends`, async (t) => {
    const files = await make(t);
    const file = await files.open("a", { create: "must-not-exist" });
    await file.write(4, bytes("word"));
    t.is(await file.size(), 8);
    t.deepEqual([...(await file.read(2, 100))], [0, 0, ...bytes("word")]);
    t.is((await file.read(8, 10)).length, 0);
    t.is((await file.read(80, 10)).length, 0);
    await file.truncate(6);
    t.is(text(await file.read(4, 10)), "wo");
    await file.truncate(7);
    t.deepEqual([...(await file.read(4, 10))], [...bytes("wo"), 0]);
    await file.sync();
    await file.close();
    await file.close();
    await t.throwsAsync(file.read(0, 1), { instanceOf: AssertionError });
  });

  test(`${name}: names`, async (t) => {
    const files = await make(t);
    await files.makeDirectory("d");
    await files.makeDirectory("d");
    for (const path of ["d/b", "d/a", "c"]) await (await files.open(path, { create: "must-not-exist" })).close();
    t.deepEqual(await files.list(""), ["c", "d"]);
    t.deepEqual(await files.list("d"), ["a", "b"]);
    await files.rename("d/b", "d/a");
    t.deepEqual(await files.list("d"), ["a"]);
    t.true(await files.exists("d/a"));
    t.false(await files.exists("d/b"));
    await t.throwsAsync(files.removeDirectory("d"));
    await files.remove("d/a");
    await files.remove("d/a");
    await files.removeDirectory("d");
    await files.removeDirectory("d");
    await t.throwsAsync(files.list("d"), { code: "PATH_NOT_FOUND" });
    await t.throwsAsync(files.rename("d2", "d3"), { code: "PATH_NOT_FOUND" });
    await files.syncDirectory("");
    await t.throwsAsync(files.open("../out", { create: "may-exist" }), { instanceOf: AssertionError });
  });

  test(`${name}: a replaced file is complete, and no temporary name is left`, async (t) => {
    const files = await make(t);
    for (const content of ["first, and longer", "second"]) {
      const file = await replaceFile(files, "a", (fresh) => fresh.write(0, bytes(content)));
      t.is(text(await file.read(0, 100)), content);
      await file.close();
    }
    await t.throwsAsync(
      replaceFile(files, "a", () => Promise.reject(new Error("stop"))),
      { message: "stop" },
    );
    t.deepEqual(await files.list(""), ["a"]);
  });
}

test("system: modes are private, symbolic links are not followed", async (t) => {
  const { files, root } = await systemFiles(t);
  await files.makeDirectory("d");
  await (await files.open("d/a", { create: "must-not-exist" })).close();
  t.is((await stat(join(root, "d"))).mode & 0o777, 0o700);
  t.is((await stat(join(root, "d/a"))).mode & 0o777, 0o600);
  await writeFile(join(root, "target"), "keep");
  await symlink(join(root, "target"), join(root, "link"));
  await t.throwsAsync(files.open("link", { create: "may-exist" }));
  t.is(await readFile(join(root, "target"), "utf8"), "keep");
});

test("memory: a failed sync is final, other failures are not", async (t) => {
  const files = memoryStateFiles();
  const file = await files.open("a", { create: "must-not-exist" });
  files.intercept = ({ type }) => {
    if (type === "write") throw new InjectedFailure("ENOSPC", 2);
  };
  await t.throwsAsync(file.write(0, bytes("word")), { code: "METADATA_WRITE_FAILED" });
  t.is(text(await file.read(0, 10)), "wo");
  files.intercept = ({ type }) => {
    if (type === "sync") throw new InjectedFailure("EIO");
  };
  await t.throwsAsync(file.sync(), { code: "METADATA_WRITE_FAILED" });
  files.intercept = undefined;
  await t.throwsAsync(file.write(0, bytes("word")), { code: "METADATA_WRITE_FAILED" });
  await t.throwsAsync(file.sync(), { code: "METADATA_WRITE_FAILED" });
});

test("memory: a kill keeps what was stored; a power loss keeps what was durable and tears the rest by sector", async (t) => {
  const outcomes = new Set<string>();
  for (let seed = 0; seed < 300; seed++) {
    const files = memoryStateFiles();
    const file = await files.open("a", { create: "must-not-exist" });
    await file.write(0, new Uint8Array(1024).fill(1));
    await file.sync();
    await files.syncDirectory("");
    await file.write(0, new Uint8Array(2048).fill(2));
    files.kill(seed);
    t.deepEqual(files.contents("a"), new Uint8Array(2048).fill(2));
    await t.throwsAsync(file.read(0, 1), { code: "DEVICE_GONE" });
    files.crash(seed);
    const left = files.contents("a");
    t.true(left.length === 1024 || left.length === 2048);
    let shape = `${left.length}:`;
    for (let at = 0; at < left.length; at += 512) {
      const sector = left.subarray(at, at + 512);
      t.true(
        sector.every((byte) => byte === sector[0]),
        "a sector is never torn",
      );
      t.true(sector[0] === 2 || sector[0] === (at < 1024 ? 1 : 0));
      shape += sector[0];
    }
    outcomes.add(shape);
  }
  t.true(outcomes.has("1024:11") && outcomes.has("2048:2222") && outcomes.has("2048:2100"));
  t.true(outcomes.size > 10);
});

test("memory: a name is durable only after its directory was synced", async (t) => {
  let lost = 0;
  for (let seed = 0; seed < 50; seed++) {
    const files = memoryStateFiles();
    await (await replaceFile(files, "a", (fresh) => fresh.write(0, bytes("old")))).close();
    const file = await files.open("b", { create: "must-not-exist" });
    await file.write(0, bytes("new"));
    await file.sync();
    await files.rename("b", "a");
    files.crash(seed);
    const content = text(files.contents("a"));
    t.true(content === "old" || content === "new");
    if (content === "old") lost++;
  }
  t.true(lost > 0 && lost < 50);
});
