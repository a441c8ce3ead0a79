/** Rows against each other and against the engine's files (data-safety 1.9): what is older, lost, twice or nobody's is told. */
import test from "ava";
import { checkCopies, checkRows } from "../../src/domain/row-checks.ts";
import { storeKey } from "../../src/store/keys.ts";
import { type MemoryDisk, openMemoryStore } from "../../src/store/memory/memory.ts";
import type { CopyRow, EndedCopyRow, VolumeRow } from "../../src/store/rows.ts";
import type { Change } from "../../src/store/store.ts";

const volume = (lu: number, more: Partial<VolumeRow> = {}): VolumeRow => ({
  ...{ uid: `uid-${lu}`, lu, label: "", path: `/images/${lu}.img`, sizeBytes: 8192, backing: "file" },
  ...{ createdByBox: true, createdMs: 1, state: "registered", resizingToBytes: 0 },
  ...more,
});

const side = (lu: number) => ({ volumeUid: `uid-${lu}`, name: `g1d${lu}`, offsetBytes: 0, lengthBytes: 8192 });

const copy = (number: number, generation: number): CopyRow => ({
  ...{ number, source: side(1), destination: side(2), kind: "quickopc" },
  ...{ createdMs: 1, pointMs: 1, generation, phase: "tracking" },
});

const ended = (number: number): EndedCopyRow => ({
  ...{ ...copy(number, 1), phase: "completed", pace: 15, endedMs: 2, reason: "FIRST_COPY" },
  ...{ plannedGranules: 1, pendingGranules: 0, changedGranules: 0, totalGranules: 1, bytesPlanned: 8192 },
  ...{ bytesCopied: 8192, bytesZeroed: 0, bytesCloned: 0, barrierMicroseconds: 1 },
  ...{ failureCause: "", failureMessage: "", destinationUsable: true },
});

const BOX: Change = { table: "box", put: { number: 1, uid: "box", createdMs: 1 } };
const NUMBERS: Change = { table: "counters", put: { name: "copy", value: 9 } };

async function check(
  changes: readonly Change[],
  disk: MemoryDisk = new Map(),
  spoil: (disk: MemoryDisk) => void = () => undefined,
) {
  const store = await openMemoryStore(disk);
  await store.commit(changes);
  spoil(disk);
  const rows = await checkRows(store);
  await store.close();
  return rows;
}

const brief = (findings: readonly { kind: string; path: string; subject: string; severity: string }[]) =>
  findings.map(({ kind, path, subject, severity }) => `${severity} ${kind} ${path} ${subject}`);

test("rows that agree have no findings and say which volumes there are; an interrupted resize counts with the smaller size", async (t) => {
  const rows = await check([
    BOX,
    NUMBERS,
    { table: "volumes", put: volume(1) },
    { table: "volumes", put: volume(2, { resizingToBytes: 4096 }) },
    { table: "volumes", put: volume(3, { state: "creating" }) },
    { table: "copies", put: copy(5, 2) },
    { table: "ended-copies", put: ended(4) },
  ]);
  t.deepEqual(rows.findings, []);
  t.deepEqual(
    rows.volumes?.map(({ name, sizeBytes }) => [name, sizeBytes]),
    [
      ["g1d1", 8192],
      ["g1d2", 4096],
    ],
  );
  t.deepEqual(checkCopies(rows, { sessions: [{ id: "c5", generation: 2 }], endedIds: [], outOfServiceIds: [] }), []);
  t.deepEqual(
    checkCopies(rows, { sessions: [{ id: "c5", generation: 3 }], endedIds: [], outOfServiceIds: [] }),
    [],
    "fired, not recorded yet",
  );
  t.deepEqual(
    checkCopies(rows, { sessions: [{ id: "c5", generation: undefined }], endedIds: [], outOfServiceIds: [] }),
    [],
    "without its superblock nobody knows how often it has run",
  );
  t.deepEqual(checkCopies(rows, { sessions: [], endedIds: ["c5"], outOfServiceIds: [] }), [], "over, not recorded yet");
});

test("state and database of different times", async (t) => {
  const rows = await check([
    BOX,
    NUMBERS,
    { table: "volumes", put: volume(1) },
    { table: "copies", put: copy(5, 4) },
    { table: "copies", put: copy(6, 1) },
    { table: "ended-copies", put: ended(4) },
  ]);
  const sessions = [
    { id: "c4", generation: 1 },
    { id: "c5", generation: 3 },
    { id: "c12", generation: 1 },
  ];
  const findings = checkCopies(rows, { sessions, endedIds: [], outOfServiceIds: [] });
  t.deepEqual(brief(findings), [
    "error stale state/sessions/c4 c4",
    "error stale state/sessions/c5 c5",
    "error stale db c12",
    "error missing state/sessions/c6 c6",
  ]);
  t.true(findings.every(({ remedy, cost }) => remedy !== "" && cost !== ""));
});

test("a damaged row of any table is told with its key, and that the box does not start; the others are read", async (t) => {
  const changes: readonly Change[] = [
    BOX,
    NUMBERS,
    { table: "volumes", put: volume(1) },
    { table: "volumes", put: volume(2) },
    { table: "copies", put: copy(5, 1) },
  ];
  for (const [key, volumesKnown] of [
    [storeKey("volumes", "uid-1"), false],
    [storeKey("box", "box"), false],
    [storeKey("copies", 5), true],
    [storeKey("counters", "copy"), true],
  ] as const) {
    const { findings, volumes, copies } = await check(changes, new Map(), (disk) => {
      const value = disk.get(key) ?? new Uint8Array(1);
      value[value.length - 1] = (value[value.length - 1] ?? 0) ^ 1;
    });
    t.deepEqual(brief(findings), ["error damaged db "], key);
    t.true(findings[0]?.message.includes(key));
    t.is(findings[0]?.cost, "the box does not start");
    t.is(volumes !== undefined, volumesKnown, key);
    t.is(copies, undefined);
  }
});

test("volumes twice, exports of nothing, volumes without a box", async (t) => {
  const row = { name: "g1d9", volumeUid: "uid-9", partition: 0, readOnly: false, createdMs: 1, sizeBytes: 1 };
  const twice = await check([
    BOX,
    { table: "volumes", put: volume(1) },
    { table: "volumes", put: volume(1, { uid: "uid-7", path: "/images/7.img" }) },
    { table: "exports", put: row },
  ]);
  t.deepEqual(brief(twice.findings), ["error unknown db g1d1", "warning unknown db g1d9"]);
  t.regex(twice.findings[1]?.remedy ?? "", /export remove g1d9/);
  const nobody = await check([{ table: "volumes", put: volume(1) }]);
  t.deepEqual(brief(nobody.findings), ["error missing db "]);
  t.is(nobody.volumes, undefined);
});
