/**
 * Store in memory, for tests: what it holds survives `close` in its MemoryDisk, as a file would.
 *
 * Invariant: values are copied on the way in and out, so that nobody can change what is stored.
 */
import type { KeyRange, KeyValue, KeyValueChange } from "../key-value.ts";
import type { Schema } from "../schema.ts";
import { TableStore } from "../table-store.ts";

/** What the store keeps while it is closed: key to sealed value. */
export type MemoryDisk = Map<string, Uint8Array>;

/** `beforeBatch` may throw: then the batch fails, and nothing has changed. */
export function openMemoryStore(
  disk: MemoryDisk = new Map(),
  schema?: Schema,
  beforeBatch: () => void = () => undefined,
): Promise<TableStore> {
  return TableStore.open(memoryEngine(disk, beforeBatch), schema);
}

function memoryEngine(disk: MemoryDisk, beforeBatch: () => void): KeyValue {
  return {
    async get(key) {
      const value = disk.get(key);
      return value === undefined ? undefined : Uint8Array.from(value);
    },
    async getMany(keys) {
      return keys.map((key) => {
        const value = disk.get(key);
        return value && Uint8Array.from(value);
      });
    },
    entries: (range) => select(disk, range),
    async batch(changes: readonly KeyValueChange[]) {
      beforeBatch();
      for (const change of changes) {
        if (change.type === "put") disk.set(change.key, Uint8Array.from(change.value));
        else disk.delete(change.key);
      }
    },
    async reopen() {},
    async close() {},
  };
}

function select(disk: MemoryDisk, range: KeyRange): AsyncIterable<[string, Uint8Array]> {
  const keys = [...disk.keys()].map((key) => Buffer.from(key));
  const [after, before] = [Buffer.from(range.after), Buffer.from(range.before)];
  const inside = keys.filter((key) => Buffer.compare(key, after) > 0 && Buffer.compare(key, before) < 0);
  inside.sort(Buffer.compare);
  if (range.reverse) inside.reverse();
  // Taken now, not when the caller iterates: one instant.
  const entries = inside.slice(0, range.limit).map((key): [string, Uint8Array] => {
    const text = key.toString();
    return [text, Uint8Array.from(disk.get(text) ?? [])];
  });
  return (async function* () {
    yield* entries;
  })();
}
