/**
 * The binding of a database to the engine's state (data-safety 1.9): no crash, wherever it comes, makes a box's own database
 * look like a wrong one, and no database that has lost an acknowledged change of its own passes for the right one.
 */
import test, { type ExecutionContext } from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import { acceptDatabase, type BoundDatabase, bindDatabase, mismatch, readRecord } from "../../src/domain/binding.ts";
import {
  InjectedFailure,
  type MemoryStateFiles,
  memoryStateFiles,
} from "../../src/engine/durable/memory-state-files.ts";
import { type MemoryDisk, openMemoryStore } from "../../src/store/memory/memory.ts";
import type { Change } from "../../src/store/store.ts";
import { volumeRow } from "../store-contract/contract.ts";
import { BoxFixture } from "./box-fixture.ts";

const box: Change = { table: "box", put: { number: 1, uid: "box-uid", createdMs: 1 } };
const event = (id: number): Change => ({
  table: "events",
  put: { id, timeMs: 1, type: "x", subject: "", message: "m", attributes: {} },
});
const volume = (number: number): Change => ({ table: "volumes", put: volumeRow(number) });

const silent = () => undefined;

async function bind(
  disk: MemoryDisk,
  files: MemoryStateFiles,
  report: (what: string) => void = silent,
): Promise<BoundDatabase> {
  return bindDatabase(await openMemoryStore(disk), files, report);
}

/** Makes the state worth protecting, as an engine does. */
async function use(files: MemoryStateFiles): Promise<void> {
  await files.makeDirectory("volumes");
  await files.makeDirectory("volumes/uid-1");
}

async function known(disk: MemoryDisk) {
  const store = await openMemoryStore(disk);
  return { box: await store.get("box", "box"), tally: store.tally };
}

async function refused(t: ExecutionContext, run: () => Promise<unknown>, code: string, what: RegExp): Promise<void> {
  const error = await t.throwsAsync(run, { instanceOf: TidemarkError });
  t.is(error?.code, code as never, error?.message);
  t.regex(error?.message ?? "", what);
  t.truthy(error?.detail.hint);
}

/** What a box does: its row, then volumes and events, some of them at once. */
async function work(disk: MemoryDisk, files: MemoryStateFiles, answered: (what: number) => void): Promise<void> {
  const store = await bind(disk, files);
  await store.commit([box]);
  await use(files);
  for (let n = 1; n <= 3; n++) {
    await Promise.all([store.commit([event(n)]), store.commit([event(10 + n)])]);
    await store.commit([volume(n), event(20 + n)]);
    answered(n);
  }
  await store.close();
}

for (const ending of ["kill", "crash"] as const)
  test(`a ${ending} at any step: the next start takes the database, and it may not have lost a volume that was answered`, async (t) => {
    const never = new Promise<never>(() => undefined);
    let steps = Number.POSITIVE_INFINITY;
    for (let last = 1; last <= steps; last++) {
      const [disk, files]: [MemoryDisk, MemoryStateFiles] = [new Map(), memoryStateFiles()];
      let step = 0;
      let dead: MemoryDisk | undefined;
      let volumes = 0;
      /** The disk as it was when each volume was answered, and before. */
      const earlier: MemoryDisk[] = [];
      files.intercept = () => {
        if (++step < last) return undefined;
        dead ??= new Map(disk);
        return never;
      };
      const done = work(disk, files, (count) => {
        volumes = count;
        earlier.push(new Map(disk));
      }).then(() => "done" as const);
      const turns = (async () => {
        for (let turn = 0; dead === undefined && turn < 400; turn++) await new Promise(setImmediate);
        return "dead" as const;
      })();
      if ((await Promise.race([done, turns])) === "done") steps = step;
      files.intercept = () => undefined;
      files[ending](last);
      const left = dead ?? new Map(disk);
      const again = await bind(left, files);
      for (let n = 1; n <= volumes; n++) t.truthy(await again.get("volumes", `uid-${n}`), `step ${last}`);
      await again.close();
      for (const old of earlier.slice(0, -1))
        await refused(
          t,
          () => bind(new Map(old), files),
          "METADATA_CORRUPT",
          /it has lost changes, or is an older copy/,
        );
    }
    t.true(steps > 20 && Number.isFinite(steps), String(steps));
  });

test("every earlier state of a database is refused beside a state of today, and taken when that is asked for", async (t) => {
  const [disk, files]: [MemoryDisk, MemoryStateFiles] = [new Map(), memoryStateFiles()];
  const earlier: MemoryDisk[] = [];
  await work(disk, files, () => earlier.push(new Map(disk)));
  for (const old of [new Map(), ...earlier.slice(0, -1)] as MemoryDisk[])
    await refused(t, () => bind(new Map(old), files), "METADATA_CORRUPT", /lost changes|is empty/);
  await (await bind(disk, files)).close();
  const old = earlier[0] as MemoryDisk;
  await acceptDatabase(files, await known(old));
  await (await bind(old, files)).close();
});

test("another box's database, an empty one and a lost record are refused; the first two cannot be accepted", async (t) => {
  const [disk, files]: [MemoryDisk, MemoryStateFiles] = [new Map(), memoryStateFiles()];
  await work(disk, files, silent);
  const other: MemoryDisk = new Map();
  const store = await openMemoryStore(other);
  await store.commit([{ table: "box", put: { number: 2, uid: "other-uid", createdMs: 1 } }]);
  for (let n = 0; n < 20; n++) await store.commit([event(n)]);
  await refused(t, () => bind(new Map(other), files), "STATE_DIRECTORY_INVALID", /belongs to another box \(other-uid/);
  for (const wrong of [other, new Map()] as MemoryDisk[])
    await refused(
      t,
      async () => acceptDatabase(files, await known(wrong)),
      "STATE_DIRECTORY_INVALID",
      /cannot be accepted/,
    );
  await files.remove("box");
  await refused(t, () => bind(new Map(disk), files), "STATE_DIRECTORY_INVALID", /state\/box is missing/);
  await acceptDatabase(files, await known(disk));
  await (await bind(disk, files)).close();
  const file = await files.open("box", { create: "must-exist" });
  await file.write(0, new Uint8Array(8192));
  await file.close();
  await refused(
    t,
    () => bind(new Map(disk), files),
    "METADATA_CORRUPT",
    /state\/box: both superblock slots are damaged/,
  );
  await acceptDatabase(files, await known(disk));
  await (await bind(disk, files)).close();
});

test("two databases that have gone different ways since a common backup are told apart", async (t) => {
  const [disk, files]: [MemoryDisk, MemoryStateFiles] = [new Map(), memoryStateFiles()];
  await work(disk, files, silent);
  const fork: MemoryDisk = new Map(disk);
  const mine = await bind(disk, files);
  await mine.commit([volume(8)]);
  await mine.close();
  const other = await openMemoryStore(fork);
  await other.commit([volume(9)]);
  await refused(t, () => bind(fork, files), "METADATA_CORRUPT", /as many changes, but other ones/);
});

test("a state that has nothing yet takes a database without a record: a kill between the two", async (t) => {
  const disk: MemoryDisk = new Map();
  await (await openMemoryStore(disk)).commit([box]);
  const files = memoryStateFiles();
  t.is((await readRecord(files)).kind, "nothing");
  await (await bind(disk, files)).close();
  t.is(mismatch(await known(disk), await readRecord(files)), undefined);
  t.like(await readRecord(files), { kind: "record", record: { boxUid: "box-uid" } });
});

test("a record that cannot be written costs no change, is reported once, and made up for", async (t) => {
  const [disk, files]: [MemoryDisk, MemoryStateFiles] = [new Map(), memoryStateFiles()];
  const reports: string[] = [];
  const store = await bind(disk, files, (what) => reports.push(what));
  await store.commit([box]);
  await use(files);
  files.intercept = ({ type }) => {
    if (type === "write") throw new InjectedFailure("ENOSPC");
    return undefined;
  };
  await store.commit([volume(1)]);
  await store.commit([volume(2)]);
  t.is(reports.length, 1);
  t.regex(reports[0] ?? "", /state\/box could not be written/);
  t.truthy(await store.get("volumes", "uid-2"));
  t.is(store.lag?.code, "METADATA_WRITE_FAILED");
  files.intercept = () => undefined;
  await store.commit([volume(3)]);
  t.is(store.lag, undefined);
  await store.close();
  const record = await readRecord(files);
  t.is(record.kind === "record" && record.record.batches, (await known(disk)).tally.batches);
});

test("nobody waits for the record of a point or an event", async (t) => {
  const [disk, files]: [MemoryDisk, MemoryStateFiles] = [new Map(), memoryStateFiles()];
  const store = await bind(disk, files);
  await store.commit([box]);
  let open: () => void = silent;
  const gate = new Promise<void>((resolve) => {
    open = resolve;
  });
  files.intercept = () => gate;
  await store.commit([event(1)]);
  const slow = store.commit([volume(1)]);
  const first = await Promise.race([slow.then(() => "volume"), new Promise((r) => setImmediate(r)).then(() => "turn")]);
  t.is(first, "turn", "a volume is answered when it is recorded");
  open();
  await slow;
  await store.close();
});

test("doctor says that the state does not know the newest changes", async (t) => {
  const fixture = await BoxFixture.make(t);
  const message = "write of state file box failed: EIO";
  const box = await fixture.start({ binding: { lag: new TidemarkError("METADATA_WRITE_FAILED", { message }) } });
  const finding = (await box.diagnose()).find(({ check }) => check === "database-not-recorded");
  t.like(finding, { severity: "warning", subject: "" });
  t.regex(finding?.message ?? "", /their loss would not be noticed: write of state file box failed: EIO/);
  t.regex(finding?.remedy ?? "", /start the daemon again/);
});
