/** The store's contract: one suite, run against every implementation (store.ts, guarantees 1-5). */
import test, { type ExecutionContext } from "ava";
import fc from "fast-check";
import { TidemarkError } from "../../src/base/errors.ts";
import type { KeyValueChange } from "../../src/store/key-value.ts";
import { storeKey } from "../../src/store/keys.ts";
import { COMMIT_CHANGES_MAX } from "../../src/store/limits.ts";
import type { CopyRow, EndedCopyRow, EventRow, IntentRow, VolumeRow } from "../../src/store/rows.ts";
import type { Migration, Schema } from "../../src/store/schema.ts";
import type { Change, Store } from "../../src/store/store.ts";
import type { TableStore } from "../../src/store/table-store.ts";

/** One place that keeps a store's bytes, opened as often as the test likes. */
export interface StorePlace {
  open(schema?: Schema): Promise<TableStore>;
  /** Changes stored bytes behind the store's back; the store is closed. */
  rewrite(key: string, change: (value: Uint8Array) => Uint8Array | undefined): Promise<void>;
  /** Makes a value appear under another key. */
  move(from: string, to: string): Promise<void>;
}

export const volumeRow = (number: number, more: Partial<VolumeRow> = {}): VolumeRow => ({
  uid: `uid-${number}`,
  lu: number,
  label: "",
  path: `/images/${number}.img`,
  sizeBytes: 2 ** 45 + number * 512,
  backing: "file",
  createdByBox: true,
  createdMs: 1_700_000_000_000 + number,
  state: "registered",
  resizingToBytes: 0,
  ...more,
});

export const eventRow = (id: number, more: Partial<EventRow> = {}): EventRow => ({
  id,
  timeMs: 1_700_000_000_000,
  type: "copy.started",
  subject: `c${id}`,
  message: "copy started",
  attributes: { source: "g1d1", destination: "g1d2" },
  ...more,
});

const extentRow = (number: number) => ({
  volumeUid: `uid-${number}`,
  name: `g1d${number}`,
  offsetBytes: 8192,
  lengthBytes: 2 ** 40,
});

const endedCopyRow = (number: number): EndedCopyRow => ({
  number,
  source: extentRow(1),
  destination: extentRow(2),
  kind: "quickopc",
  phase: "cancelled",
  pace: 15,
  createdMs: 1,
  pointMs: 2,
  endedMs: 3,
  reason: "DIFFERENCE",
  generation: 4,
  plannedGranules: 5,
  pendingGranules: 6,
  changedGranules: 7,
  totalGranules: 8,
  bytesPlanned: 9,
  bytesCopied: 10,
  bytesZeroed: 11,
  bytesCloned: 12,
  barrierMicroseconds: 13,
  failureCause: "BAD_SECTOR",
  failureMessage: "sector 5 of g1d1",
  destinationUsable: true,
});

const copyRow = (number: number): CopyRow => ({
  number,
  source: extentRow(1),
  destination: extentRow(2),
  kind: "quickopc",
  createdMs: 1,
  pointMs: 2,
  generation: 3,
  phase: "tracking",
});

const intentRow = (id: string): IntentRow => ({
  id,
  method: "/x/Y",
  requestDigest: Uint8Array.of(1, 2),
  begunMs: 3,
  action: "fire",
  targets: [
    { newNumber: 9, number: 0, generation: 0, pointMs: 0 },
    { newNumber: 10, number: 4, generation: 2, pointMs: 5 },
  ],
  volumeUid: "uid-1",
  done: true,
  sessions: [9, 4],
});

/** CRC-32 (IEEE) of the key of the schema row and its body 08 01. */
const schemaOneChecksum = "e7906409";

async function refuses(t: ExecutionContext, run: () => Promise<unknown>, code: string, text: string): Promise<void> {
  const error = await t.throwsAsync(run, { instanceOf: TidemarkError });
  t.is(error?.code, code as never);
  t.true(`${error?.message} ${JSON.stringify(error?.detail.metadata)}`.includes(text), error?.message);
}

async function all<T>(rows: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const row of rows) found.push(row);
  return found;
}

export function storeContract(name: string, make: (t: ExecutionContext) => Promise<StorePlace>): void {
  test(`${name}: every table gives back what was put, also after a restart`, async (t) => {
    const place = await make(t);
    const changes: Change[] = [
      { table: "box", put: { number: 7, uid: "box-uid", createdMs: 12 } },
      { table: "volumes", put: volumeRow(1, { label: "db#1", state: "creating", resizingToBytes: 512 }) },
      {
        table: "exports",
        put: { name: "g1d1p2", volumeUid: "uid-1", partition: 2, readOnly: true, createdMs: 5, sizeBytes: 2 ** 40 },
      },
      { table: "copies", put: copyRow(8) },
      { table: "intents", put: intentRow("r/2") },
      { table: "ended-copies", put: endedCopyRow(9) },
      { table: "events", put: eventRow(3) },
      {
        table: "requests",
        put: {
          id: "r/1 ü",
          method: "/x/Y",
          requestDigest: Uint8Array.of(1, 2),
          response: Uint8Array.of(0, 255),
          answeredMs: 4,
        },
      },
      { table: "counters", put: { name: "copy", value: 2 ** 53 - 1 } },
    ];
    const first = await place.open();
    await first.commit(changes);
    await first.close();
    const store = await place.open();
    t.deepEqual(await store.get("box", "box"), { number: 7, uid: "box-uid", createdMs: 12 });
    t.deepEqual(
      await store.get("volumes", "uid-1"),
      volumeRow(1, { label: "db#1", state: "creating", resizingToBytes: 512 }),
    );
    t.is((await store.get("exports", "g1d1p2"))?.partition, 2);
    t.deepEqual(await store.get("copies", 8), copyRow(8));
    const intent = await store.get("intents", "r/2");
    t.deepEqual(intent && { ...intent, requestDigest: Uint8Array.from(intent.requestDigest) }, intentRow("r/2"));
    t.deepEqual(await store.get("ended-copies", 9), endedCopyRow(9));
    t.deepEqual(await store.get("events", 3), eventRow(3));
    const request = await store.get("requests", "r/1 ü");
    t.deepEqual([...(request?.response ?? [])], [0, 255]);
    t.is((await store.get("counters", "copy"))?.value, 2 ** 53 - 1);
    t.is(await store.get("volumes", "uid-2"), undefined);
    await store.close();
  });

  test(`${name}: a commit is all or nothing, puts and removes together`, async (t) => {
    const store = await (await make(t)).open();
    await store.commit([1, 2].map((n): Change => ({ table: "volumes", put: volumeRow(n) })));
    await store.commit([
      { table: "volumes", remove: "uid-1" },
      { table: "volumes", put: volumeRow(2, { label: "two" }) },
      { table: "events", put: eventRow(1) },
    ]);
    t.is(await store.get("volumes", "uid-1"), undefined);
    t.is((await store.get("volumes", "uid-2"))?.label, "two");
    t.is((await store.get("events", 1))?.subject, "c1");
    await store.commit([]);
    await store.close();
  });

  test(`${name}: numbered rows come in the order of their numbers, pages follow each other`, async (t) => {
    const store = await (await make(t)).open();
    const ids = [1, 2, 9, 10, 11, 99, 100, 1000, 2 ** 32, 2 ** 53 - 1];
    await store.commit(ids.toReversed().map((id): Change => ({ table: "events", put: eventRow(id) })));
    t.deepEqual(
      (await all(store.scan("events"))).map((row) => row.id),
      ids,
    );
    t.deepEqual(
      (await store.list("events", { limit: 3 })).map((row) => row.id),
      [1, 2, 9],
    );
    t.deepEqual(
      (await store.list("events", { limit: 3, after: 9 })).map((row) => row.id),
      [10, 11, 99],
    );
    t.deepEqual(
      (await store.list("events", { limit: 3, after: 50 })).map((row) => row.id),
      [99, 100, 1000],
    );
    t.deepEqual(
      (await store.list("events", { limit: 2, order: "descending" })).map((row) => row.id),
      [2 ** 53 - 1, 2 ** 32],
    );
    t.deepEqual(
      (await store.list("events", { limit: 2, after: 10, order: "descending" })).map((row) => row.id),
      [9, 2],
    );
    t.deepEqual(await store.list("events", { limit: 2, after: 2 ** 53 - 1 }), []);
    await store.close();
  });

  test(`${name}: tables do not see each other's rows`, async (t) => {
    const store = await (await make(t)).open();
    await store.commit([
      { table: "events", put: eventRow(1) },
      { table: "ended-copies", put: endedCopyRow(1) },
      { table: "counters", put: { name: "!events!1", value: 1 } },
    ]);
    t.is((await all(store.scan("events"))).length, 1);
    t.is((await all(store.scan("ended-copies"))).length, 1);
    t.is((await all(store.scan("counters"))).length, 1);
    t.is((await all(store.scan("exports"))).length, 0);
    await store.close();
  });

  test(`${name}: a scan sees the instant of its call`, async (t) => {
    const store = await (await make(t)).open();
    const put = (from: number, count: number) =>
      store.commit(Array.from({ length: count }, (_, i): Change => ({ table: "events", put: eventRow(from + i) })));
    await put(1, 300);
    const rows = store.scan("events");
    await put(1000, 300);
    await store.commit([{ table: "events", remove: 300 }]);
    t.is((await all(rows)).length, 300);
    t.is((await all(store.scan("events"))).length, 599);
    await store.close();
  });

  test(`${name}: any sequence of commits leaves what a map would hold`, async (t) => {
    const place = await make(t);
    const change = fc.record({ number: fc.nat(20), label: fc.option(fc.string({ maxLength: 8 }), { nil: undefined }) });
    const model = new Map<string, VolumeRow>();
    let store = await place.open();
    const property = fc.asyncProperty(
      fc.array(fc.array(change, { maxLength: 6 }), { maxLength: 5 }),
      async (commits) => {
        for (const commit of commits) {
          const changes = commit.map(({ number, label }): Change => {
            const row = volumeRow(number, { label: label ?? "" });
            if (label === undefined) model.delete(row.uid);
            else model.set(row.uid, row);
            return label === undefined ? { table: "volumes", remove: row.uid } : { table: "volumes", put: row };
          });
          await store.commit(changes);
        }
        await store.close();
        store = await place.open();
        const expected = [...model.values()].sort((a, b) => (a.uid < b.uid ? -1 : 1));
        t.deepEqual(await all(store.scan("volumes")), expected);
      },
    );
    await fc.assert(property, { numRuns: 25 });
    await store.close();
  });

  test(`${name}: concurrent commits take effect in the order of their calls`, async (t) => {
    const store = await (await make(t)).open();
    await Promise.all(
      Array.from({ length: 200 }, (_, n) => store.commit([{ table: "counters", put: { name: "x", value: n } }])),
    );
    t.is((await store.get("counters", "x"))?.value, 199);
    await store.close();
  });

  test(`${name}: a damaged value is METADATA_CORRUPT and names its key`, async (t) => {
    const place = await make(t);
    const first = await place.open();
    await first.commit([1, 2].map((n): Change => ({ table: "volumes", put: volumeRow(n) })));
    await first.close();
    const key = storeKey("volumes", "uid-1");
    await place.rewrite(key, (value) => {
      value[value.length - 1]! ^= 1;
      return value;
    });
    const store = await place.open();
    await refuses(t, () => store.get("volumes", "uid-1"), "METADATA_CORRUPT", key);
    await refuses(t, () => store.list("volumes", { limit: 10 }), "METADATA_CORRUPT", key);
    await refuses(t, () => all(store.scan("volumes")), "METADATA_CORRUPT", key);
    const inspected = await all(store.inspect("volumes"));
    t.deepEqual(
      inspected.filter((row) => "error" in row).map((row) => row.key),
      [key],
      "an inspection goes on behind it",
    );
    t.is((await store.get("volumes", "uid-2"))?.lu, 2);
    await store.close();
  });

  test(`${name}: every flipped bit and every cut of a value is noticed`, async (t) => {
    const place = await make(t);
    const key = storeKey("events", 5);
    const first = await place.open();
    await first.commit([{ table: "events", put: eventRow(5) }]);
    await first.close();
    let sealed = new Uint8Array();
    await place.rewrite(key, (value) => {
      sealed = Uint8Array.from(value);
      return value;
    });
    const damage = fc.oneof(
      fc.nat(sealed.length * 8 - 1).map((bit) => {
        const value = Uint8Array.from(sealed);
        value[bit >> 3]! ^= 1 << (bit & 7);
        return value;
      }),
      fc.nat(sealed.length - 1).map((length) => sealed.slice(0, length)),
    );
    const property = fc.asyncProperty(damage, async (value) => {
      await place.rewrite(key, () => value);
      const store = await place.open();
      const error = await t.throwsAsync(() => store.get("events", 5), { instanceOf: TidemarkError });
      t.is(error?.code, "METADATA_CORRUPT");
      t.is((await store.examine()).damage?.detail.metadata?.["key"], key);
      await store.close();
    });
    await fc.assert(property, { numRuns: 60 });
  });

  test(`${name}: a value that is gone, back from earlier or stored behind the store's back is noticed by an examination`, async (t) => {
    const place = await make(t);
    const key = storeKey("events", 5);
    const first = await place.open();
    await first.commit([{ table: "events", put: eventRow(5, { message: "earlier" }) }]);
    await first.close();
    let [earlier, now] = [new Uint8Array(), new Uint8Array()];
    await place.rewrite(key, (value) => {
      earlier = Uint8Array.from(value);
      return value;
    });
    const second = await place.open();
    await second.commit([
      { table: "events", put: eventRow(5) },
      { table: "events", put: eventRow(6) },
    ]);
    t.like(await second.examine(), { tally: { batches: 3, values: 3 }, damage: undefined });
    await second.close();
    await place.rewrite(key, (value) => {
      now = Uint8Array.from(value);
      return value;
    });
    const damaged = async (wanted: string, damage: () => Promise<void>, mend: () => Promise<void>) => {
      await damage();
      const store = await place.open();
      await refuses(t, async () => Promise.reject((await store.examine()).damage), "METADATA_CORRUPT", wanted);
      await store.commit([{ table: "counters", put: { name: "x", value: 1 } }]);
      t.not((await store.examine()).damage, undefined, "commits do not hide it");
      await store.commit([{ table: "counters", remove: "x" }]);
      await store.close();
      await mend();
      const mended = await place.open();
      t.is((await mended.examine()).damage, undefined);
      await mended.close();
    };
    const store = (value: Uint8Array | undefined) => () => place.rewrite(key, () => value);
    await damaged("2 values of 3", store(undefined), store(now));
    await damaged("its 3 values are not those", store(earlier), store(now));
    const other = storeKey("events", 7);
    await damaged(
      other,
      () => place.rewrite(other, () => now),
      () => place.rewrite(other, () => undefined),
    );
  });

  test(`${name}: a store whose tally is gone or damaged can be read, not written`, async (t) => {
    const place = await make(t);
    const first = await place.open();
    await first.commit([{ table: "events", put: eventRow(5) }]);
    await first.close();
    for (const damage of [(value: Uint8Array) => value.fill(1, 8), () => undefined]) {
      await place.rewrite(storeKey("tally", "tally"), damage);
      const store = await place.open();
      t.is((await store.get("events", 5))?.id, 5);
      t.is((await store.examine()).tally, undefined);
      await refuses(t, async () => store.tally, "METADATA_CORRUPT", "!tally!tally");
      await refuses(t, () => store.commit([{ table: "events", remove: 5 }]), "METADATA_CORRUPT", "!tally!tally");
      await store.close();
    }
  });

  test(`${name}: a store of schema 1, whose envelopes were others, is refused as too old`, async (t) => {
    const place = await make(t);
    await (await place.open()).close();
    const key = storeKey("schema", "version");
    await place.rewrite(key, () => Buffer.from("01" + schemaOneChecksum + "0801", "hex"));
    await refuses(t, () => place.open(), "STATE_DIRECTORY_INVALID", "schema version 1");
  });

  test(`${name}: a value under another key is METADATA_CORRUPT`, async (t) => {
    const place = await make(t);
    const first = await place.open();
    await first.commit([{ table: "volumes", put: volumeRow(1) }]);
    await first.close();
    await place.move(storeKey("volumes", "uid-1"), storeKey("volumes", "uid-9"));
    const store = await place.open();
    await refuses(t, () => store.get("volumes", "uid-9"), "METADATA_CORRUPT", "uid-9");
    await store.close();
  });

  test(`${name}: a newer schema is SCHEMA_TOO_NEW and stays untouched`, async (t) => {
    const place = await make(t);
    const first = await place.open({ version: 3, migrations: new Map() });
    await first.commit([{ table: "volumes", put: volumeRow(1) }]);
    await first.close();
    await refuses(t, () => place.open({ version: 2, migrations: new Map() }), "SCHEMA_TOO_NEW", "3");
    const again = await place.open({ version: 3, migrations: new Map() });
    t.is((await again.get("volumes", "uid-1"))?.lu, 1);
    await again.close();
  });

  test(`${name}: an older schema is lifted step by step, each step once`, async (t) => {
    const place = await make(t);
    const first = await place.open({ version: 1, migrations: new Map() });
    await first.commit([
      { table: "volumes", put: volumeRow(1) },
      { table: "counters", put: { name: "old", value: 1 } },
    ]);
    await first.close();
    const steps: number[] = [];
    const step =
      (from: number, changes: KeyValueChange[]): Migration =>
      async () => {
        steps.push(from);
        return changes;
      };
    const migrations = new Map([
      [1, step(1, [{ type: "del", key: storeKey("counters", "old") }])],
      [2, step(2, [])],
    ]);
    for (let round = 0; round < 2; round++) {
      const store = await place.open({ version: 3, migrations });
      t.is(await store.get("counters", "old"), undefined);
      t.is((await store.get("volumes", "uid-1"))?.lu, 1);
      await store.close();
    }
    t.deepEqual(steps, [1, 2]);
  });

  test(`${name}: a schema without a way up, or lost, is METADATA_CORRUPT`, async (t) => {
    const place = await make(t);
    await (await place.open({ version: 1, migrations: new Map() })).close();
    await refuses(t, () => place.open({ version: 2, migrations: new Map() }), "METADATA_CORRUPT", "schema");
    const store = await place.open({ version: 1, migrations: new Map() });
    await store.commit([{ table: "events", put: eventRow(1) }]);
    await store.close();
    await place.rewrite(storeKey("schema", "version"), () => undefined);
    await refuses(t, () => place.open({ version: 1, migrations: new Map() }), "METADATA_CORRUPT", "schema");
  });

  test(`${name}: close waits for commits and is idempotent; a closed store refuses`, async (t) => {
    const place = await make(t);
    const store = await place.open();
    const commit = store.commit([{ table: "volumes", put: volumeRow(1) }]);
    await Promise.all([store.close(), store.close(), commit]);
    await refuses(t, () => store.get("volumes", "uid-1"), "STOPPING", "closed");
    await refuses(t, () => store.commit([]), "STOPPING", "closed");
    const again = await place.open();
    t.is((await again.get("volumes", "uid-1"))?.lu, 1);
    await again.close();
  });

  test(`${name}: bounds of pages and commits are asserted`, async (t) => {
    const store = await (await make(t)).open();
    await t.throwsAsync(() => store.list("events", { limit: 0 }), { message: /assertion/ });
    await t.throwsAsync(() => store.list("events", { limit: 1001 }), { message: /assertion/ });
    const many = Array.from({ length: COMMIT_CHANGES_MAX + 1 }, (_, id): Change => ({ table: "events", remove: id }));
    await t.throwsAsync(() => store.commit(many), { message: /assertion/ });
    await store.close();
  });
}

/** A place whose disk can be filled up. */
export interface FullDisk {
  open(): Promise<Store>;
  fill(): Promise<unknown>;
  makeRoom(): Promise<unknown>;
}

/** Guarantee 5. `make` gives undefined where the disk cannot be made. */
export function fullDiskContract(name: string, make: (t: ExecutionContext) => Promise<FullDisk | undefined>): void {
  test(`${name}: a full disk refuses commits, and the store goes on by itself when there is room again`, async (t) => {
    const disk = await make(t);
    if (disk === undefined) return;
    const store = await disk.open();
    const acknowledged = new Map<number, string>();
    let lastId = 0;
    /** Puts one event and removes another: the sum of what was acknowledged is what must be there. */
    const commit = async (size: number): Promise<TidemarkError | undefined> => {
      const id = ++lastId;
      const message = String.fromCharCode(97 + (id % 26)).repeat(size);
      const [oldest] = acknowledged.keys();
      const drop: Change[] = id % 3 === 0 && oldest !== undefined ? [{ table: "events", remove: oldest }] : [];
      try {
        await store.commit([...drop, { table: "events", put: eventRow(id, { message }) }]);
        acknowledged.set(id, message);
        if (drop.length > 0 && oldest !== undefined) acknowledged.delete(oldest);
        return undefined;
      } catch (error) {
        if (!(error instanceof TidemarkError)) throw error;
        return error;
      }
    };
    for (let round = 1; round <= 3; round++) {
      for (let count = 0; count < 5; count++) t.is(await commit(900), undefined, `round ${round}: there is room`);
      await disk.fill();
      let refusal: TidemarkError | undefined;
      while (refusal === undefined) refusal = await commit(4000);
      t.is(refusal.code, "METADATA_WRITE_FAILED", refusal.message);
      t.regex(refusal.detail.hint ?? "", /make room|free/);
      const several = await Promise.all([commit(4000), commit(10), commit(4000)]);
      t.true(
        several.every((error) => error?.code === "METADATA_WRITE_FAILED"),
        "nothing goes behind a torn record",
      );
      const [first] = acknowledged.keys();
      t.is((await store.get("events", first ?? 0))?.id, first, "reading goes on");
      await disk.makeRoom();
    }
    t.is(await commit(900), undefined, "no restart is needed");
    const check = async (of: Store, when: string) => {
      const found = new Map((await all(of.scan("events"))).map((row) => [row.id, row.message]));
      t.deepEqual(new Set(found.keys()), new Set(acknowledged.keys()), when);
      for (const [id, message] of acknowledged) t.is(found.get(id), message);
    };
    await check(store, "exactly what was acknowledged");
    await store.close();
    const again = await disk.open();
    await check(again, "also after a restart");
    await again.close();
  });
}
