import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import test, { type ExecutionContext } from "ava";
import { Level } from "level";
import { TidemarkError } from "../../src/base/errors.ts";
import { openLevelStore } from "../../src/store/leveldb/leveldb.ts";
import { fullDiskContract, storeContract, volumeRow } from "./contract.ts";

const run = promisify(execFile);

async function temporaryDirectory(t: ExecutionContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "tidemark-store-"));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

async function raw<T>(directory: string, use: (database: Level<string, Uint8Array>) => Promise<T>): Promise<T> {
  const database = new Level<string, Uint8Array>(directory, { valueEncoding: "view" });
  await database.open();
  try {
    return await use(database);
  } finally {
    await database.close();
  }
}

storeContract("leveldb", async (t) => {
  const directory = await temporaryDirectory(t);
  return {
    open: (schema) => openLevelStore(directory, schema),
    rewrite: (key, change) =>
      raw(directory, async (database) => {
        const value = change(Uint8Array.from((await database.get(key)) ?? []));
        await (value === undefined ? database.del(key) : database.put(key, value));
      }),
    move: (from, to) =>
      raw(directory, async (database) => {
        const value = await database.get(from);
        if (value !== undefined) await database.put(to, value);
        await database.del(from);
      }),
  };
});

test("leveldb: a second opener is STATE_DIRECTORY_LOCKED", async (t) => {
  const directory = await temporaryDirectory(t);
  const store = await openLevelStore(directory);
  const error = await t.throwsAsync(() => openLevelStore(directory), { instanceOf: TidemarkError });
  t.is(error?.code, "STATE_DIRECTORY_LOCKED");
  t.truthy(error?.detail.hint);
  await store.close();
  await (await openLevelStore(directory)).close();
});

test("leveldb: a directory that is none is STATE_DIRECTORY_INVALID", async (t) => {
  const directory = await temporaryDirectory(t);
  const path = join(directory, "db");
  await writeFile(path, "not a directory");
  const error = await t.throwsAsync(() => openLevelStore(path), { instanceOf: TidemarkError });
  t.is(error?.code, "STATE_DIRECTORY_INVALID");
});

test("leveldb: a lost manifest is METADATA_CORRUPT, never a new empty store", async (t) => {
  const directory = await temporaryDirectory(t);
  await (await openLevelStore(directory)).close();
  for (const name of await readdir(directory))
    if (name.startsWith("MANIFEST")) await writeFile(join(directory, name), "damaged");
  const error = await t.throwsAsync(() => openLevelStore(directory), { instanceOf: TidemarkError });
  t.is(error?.code, "METADATA_CORRUPT");
});

test("leveldb: acknowledged commits survive kill -9", async (t) => {
  const directory = await temporaryDirectory(t);
  const script = `
    import { openLevelStore } from ${JSON.stringify(new URL("../../src/store/leveldb/leveldb.ts", import.meta.url).href)};
    const store = await openLevelStore(${JSON.stringify(directory)});
    await store.commit([{ table: "volumes", put: ${JSON.stringify(volumeRow(1))} }]);
    process.kill(process.pid, "SIGKILL");`;
  const killed = run(process.execPath, ["--import=tsx", "--input-type=module", "-e", script]);
  const error = (await t.throwsAsync(() => killed)) as unknown as { signal: string; stderr: string };
  t.is(error.signal, "SIGKILL", error.stderr);
  const store = await openLevelStore(directory);
  t.deepEqual(await store.get("volumes", "uid-1"), volumeRow(1));
  await store.close();
});

/** A small disk of its own for the database; undefined without the right to mount one. */
async function smallDisk(t: ExecutionContext, kind: "tmpfs" | "ext4"): Promise<string | undefined> {
  const directory = await temporaryDirectory(t);
  const place = join(directory, "disk");
  await mkdir(place);
  const image = join(directory, "disk.img");
  const mounting =
    kind === "tmpfs"
      ? run("mount", ["-t", "tmpfs", "-o", "size=6m", "tmpfs", place])
      : run("truncate", ["--size=24M", image])
          .then(() => run("mkfs.ext4", ["-q", image]))
          .then(() => run("mount", ["-o", "loop", image, place]));
  try {
    await mounting;
  } catch (error) {
    t.is(process.env["CI"], undefined, `CI can mount a small file system: ${error}`);
    t.log("not run: no right to mount a small file system");
    return undefined;
  }
  t.teardown(() => run("umount", ["-l", place]));
  return place;
}

for (const kind of ["tmpfs", "ext4"] as const)
  fullDiskContract(`leveldb on ${kind}`, async (t) => {
    const disk = await smallDisk(t, kind);
    if (disk === undefined) return undefined;
    const ballast = join(disk, "ballast");
    return {
      open: () => openLevelStore(join(disk, "db")),
      /** To the last byte; dd ends with an error then. */
      fill: () => run("dd", ["if=/dev/zero", `of=${ballast}`, "bs=1k"]).catch(() => undefined),
      makeRoom: () => rm(ballast),
    };
  });

test("leveldb: a database that cannot be read is refused, names its folder and what to do, and stays as it is", async (t) => {
  const directory = await temporaryDirectory(t);
  const store = await openLevelStore(directory);
  await store.commit([{ table: "volumes", put: volumeRow(1) }]);
  await store.close();
  await (await openLevelStore(directory)).close(); // what the log held is in a table now
  const [table] = (await readdir(directory)).filter((name) => name.endsWith(".ldb"));
  await rm(join(directory, table ?? "none"));
  const files = await readdir(directory);
  const error = await t.throwsAsync(() => openLevelStore(directory), { instanceOf: TidemarkError });
  t.is(error?.code, "METADATA_CORRUPT");
  t.true(error?.message.includes(directory));
  t.regex(error?.detail.hint ?? "", /backup.*register the volumes again/);
  t.false(
    (await readdir(directory)).some((name) => name.startsWith("lost")),
    "nothing is repaired",
  );
  t.deepEqual(
    files.filter((name) => name.endsWith(".ldb")),
    [],
  );
});
