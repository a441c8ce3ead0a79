import { execFile } from "node:child_process";
import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import test, { type ExecutionContext } from "ava";
import { Level } from "level";
import { TidemarkError } from "../../src/base/errors.ts";
import { openLevelStore } from "../../src/store/leveldb/leveldb.ts";
import { eventRow, storeContract, volumeRow } from "./contract.ts";

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
  const run = promisify(execFile)(process.execPath, ["--import=tsx", "--input-type=module", "-e", script]);
  const error = (await t.throwsAsync(() => run)) as unknown as { signal: string; stderr: string };
  t.is(error.signal, "SIGKILL", error.stderr);
  const store = await openLevelStore(directory);
  t.deepEqual(await store.get("volumes", "uid-1"), volumeRow(1));
  await store.close();
});

test("leveldb: a full disk refuses commits by name, keeps what was acknowledged, and heals when opened again", async (t) => {
  const directory = await temporaryDirectory(t);
  const run = promisify(execFile);
  const mounted = await run("mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", directory]).then(
    () => true,
    () => false,
  );
  if (!mounted) {
    t.is(process.env["CI"], undefined, "CI can mount a small file system");
    t.log("not run: no right to mount a small file system");
    return;
  }
  t.teardown(() => run("umount", ["-l", directory]));
  const place = join(directory, "db");
  const store = await openLevelStore(place);
  let acknowledged = 0;
  const refusal = await t.throwsAsync(
    async () => {
      for (let id = 1; id < 10_000; id++) {
        await store.commit([{ table: "events", put: eventRow(id, { message: "x".repeat(4000) }) }]);
        acknowledged = id;
      }
    },
    { instanceOf: TidemarkError },
  );
  t.is(refusal?.code, "METADATA_WRITE_FAILED");
  t.truthy(refusal?.detail.hint);
  t.true(acknowledged > 10);
  t.is((await store.get("events", acknowledged))?.id, acknowledged, "reading goes on");
  const again = await t.throwsAsync(() => store.commit([{ table: "counters", put: { name: "x", value: 1 } }]), {
    instanceOf: TidemarkError,
  });
  t.is(again?.code, "METADATA_WRITE_FAILED", "no commit goes into a log that may be torn");
  await store.close();
  await run("mount", ["-o", "remount,size=16m", directory]);
  const healed = await openLevelStore(place);
  for (let id = 1; id <= acknowledged; id++) t.is((await healed.get("events", id))?.id, id);
  await healed.commit([{ table: "counters", put: { name: "x", value: 1 } }]);
  t.is((await healed.get("counters", "x"))?.value, 1);
  await healed.close();
});
