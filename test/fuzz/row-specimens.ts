/**
 * Rows of the store for the files door: every table with rows, whose stored values are then damaged.
 *
 * Rule: a row is read exactly as it was written, or METADATA_CORRUPT or SCHEMA_TOO_NEW names its key.
 */
import { TidemarkError } from "../../src/base/errors.ts";
import { openValue, sealValue } from "../../src/store/envelope.ts";
import { type MemoryDisk, openMemoryStore } from "../../src/store/memory/memory.ts";
import type { Change, Store, TableName } from "../../src/store/store.ts";
import { applyAll, type ByteDamage } from "./byte-damage.ts";
import type { Chance } from "./chance.ts";

const TABLES: readonly TableName[] = ["box", "volumes", "exports", "ended-copies", "events", "requests", "counters"];

export interface RowDamage {
  /** Which key, in their order. */
  readonly key: number;
  readonly damages: readonly ByteDamage[];
  /** The checksum is right again. */
  readonly resealed: boolean;
  /** The value lies under this key instead. */
  readonly otherKey?: number;
}

interface Whole {
  readonly disk: MemoryDisk;
  /** What each table reads as, as JSON. */
  readonly tables: ReadonlyMap<TableName, string>;
}

let whole: Promise<Whole> | undefined;

async function wholeStore(): Promise<Whole> {
  const disk: MemoryDisk = new Map();
  const store = await openMemoryStore(disk);
  await store.commit(ROWS);
  const tables = new Map<TableName, string>();
  for (const table of TABLES) tables.set(table, await readTable(store, table));
  await store.close();
  return { disk, tables };
}

async function readTable(store: Store, table: TableName): Promise<string> {
  const found: unknown[] = [];
  for await (const row of store.scan(table)) found.push(row);
  return JSON.stringify(found);
}

const EXTENT = { volumeUid: "v1", name: "g1d1", offsetBytes: 0, lengthBytes: 2 ** 40 };

const ROWS: readonly Change[] = [
  { table: "box", put: { number: 1, uid: "box", createdMs: 1_700_000_000_000 } },
  ...[1, 2, 3].map((lu): Change => {
    const facts = {
      label: `l${lu}`,
      path: `/images/${lu}.img`,
      sizeBytes: 2 ** 30 * lu,
      createdMs: 17,
      resizingToBytes: 0,
    };
    return {
      table: "volumes",
      put: { uid: `v${lu}`, lu, ...facts, backing: "file", createdByBox: lu === 1, state: "registered" },
    };
  }),
  {
    table: "exports",
    put: { name: "g1d1", volumeUid: "v1", partition: 0, readOnly: false, createdMs: 18, sizeBytes: 2 ** 30 },
  },
  {
    table: "ended-copies",
    put: {
      number: 7,
      source: EXTENT,
      destination: { ...EXTENT, volumeUid: "v2" },
      kind: "opc",
      phase: "ended",
      pace: 8,
      createdMs: 1,
      pointMs: 2,
      endedMs: 3,
      reason: "FIRST",
      generation: 1,
      plannedGranules: 2 ** 33,
      pendingGranules: 0,
      changedGranules: 0,
      totalGranules: 2 ** 33,
      bytesPlanned: 2 ** 46,
      bytesCopied: 2 ** 46,
      bytesZeroed: 0,
      bytesCloned: 0,
      barrierMicroseconds: 1234,
      failureCause: "",
      failureMessage: "",
      destinationUsable: true,
    },
  },
  ...[1, 2, 3].map(
    (id): Change => ({
      table: "events",
      put: {
        id,
        timeMs: id,
        type: "copy.ended",
        subject: "c7",
        message: "ended",
        attributes: { volume: "g1d1", [`k${id}`]: "v" },
      },
    }),
  ),
  {
    table: "requests",
    put: {
      id: "r-1",
      method: "/tidemark.v1.X/Y",
      requestDigest: Buffer.alloc(32, 7),
      response: Buffer.alloc(40, 9),
      answeredMs: 5,
    },
  },
  { table: "counters", put: { name: "copies", value: 12 } },
];

export function anyRowDamage(chance: Chance, damage: (length: number) => ByteDamage): RowDamage {
  const damages = Array.from({ length: chance.between(1, 3) }, () => damage(60));
  const plain = { key: chance.below(100), damages: chance.odds(10) ? [] : damages, resealed: chance.odds(50) };
  return chance.odds(15) ? { ...plain, otherKey: chance.below(100) } : plain;
}

/** Reads every table of a store with that damage. */
export async function readRows(damage: RowDamage): Promise<string[]> {
  whole ??= wholeStore();
  const { disk: good, tables } = await whole;
  const disk: MemoryDisk = new Map(good);
  const keys = [...good.keys()];
  const from = keys[damage.key % keys.length] as string;
  const key = damage.otherKey === undefined ? from : (keys[damage.otherKey % keys.length] as string);
  const value = good.get(from) as Uint8Array;
  const changed = damage.resealed
    ? sealValue(key, applyAll(openValue(from, value), damage.damages))
    : applyAll(value, damage.damages);
  disk.set(key, changed);
  let store: Store;
  try {
    store = await openMemoryStore(disk);
  } catch (error) {
    return errorOf(error, key);
  }
  const violations: string[] = [];
  for (const table of TABLES) {
    try {
      const found = await readTable(store, table);
      if (!damage.resealed && found !== tables.get(table))
        violations.push(`wrong content: table ${table} is not what was written`);
    } catch (error) {
      violations.push(...errorOf(error, key));
    }
  }
  await store.close();
  return violations;
}

function errorOf(error: unknown, key: string): string[] {
  if (!(error instanceof TidemarkError)) return [`not typed: ${error instanceof Error ? error.stack : String(error)}`];
  if (error.code !== "METADATA_CORRUPT" && error.code !== "SCHEMA_TOO_NEW")
    return [`not typed: ${error.code}: ${error.message}`];
  if (error.detail.hint === undefined) return [`no hint: ${error.message}`];
  return error.message.includes(key) || error.code === "SCHEMA_TOO_NEW"
    ? []
    : [`no file: "${error.message}" does not name ${key}`];
}
