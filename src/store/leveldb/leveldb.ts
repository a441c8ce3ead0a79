/**
 * Store in LevelDB (package `level`).
 *
 * Every batch is written with `sync: true`: LevelDB's default loses acknowledged writes at power loss. A database that
 * another process has open is STATE_DIRECTORY_LOCKED; one that cannot be opened is METADATA_CORRUPT and never repaired
 * by itself (data-safety §1.9).
 */
import { Level } from "level";
import { TidemarkError } from "../../base/errors.ts";
import type { KeyRange, KeyValue, KeyValueChange } from "../key-value.ts";
import type { Schema } from "../schema.ts";
import type { Store } from "../store.ts";
import { TableStore } from "../table-store.ts";

type Database = Level<string, Uint8Array>;

/** Opens, or makes, the database in `directory`. STATE_DIRECTORY_LOCKED, METADATA_CORRUPT, SCHEMA_TOO_NEW. */
export async function openLevelStore(directory: string, schema?: Schema): Promise<Store> {
  const database: Database = new Level(directory, { keyEncoding: "utf8", valueEncoding: "view" });
  try {
    await database.open();
  } catch (error) {
    throw openFailed(directory, error);
  }
  return TableStore.open(levelEngine(database), schema);
}

function levelEngine(database: Database): KeyValue {
  return {
    get: (key) => database.get(key),
    entries: (range) => entries(database, range),
    batch: (changes: readonly KeyValueChange[]) => database.batch([...changes], { sync: true }),
    close: () => database.close(),
  };
}

function entries(database: Database, range: KeyRange): AsyncIterable<[string, Uint8Array]> {
  const limit = Number.isFinite(range.limit) ? range.limit : -1;
  // The iterator holds a snapshot from here on.
  return database.iterator({ gt: range.after, lt: range.before, reverse: range.reverse, limit });
}

function codesOf(error: unknown): string[] {
  const codes: string[] = [];
  for (let at: unknown = error; at instanceof Error; at = at.cause)
    if ("code" in at && typeof at.code === "string") codes.push(at.code);
  return codes;
}

function openFailed(directory: string, error: unknown): TidemarkError {
  const codes = codesOf(error);
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const reason = cause instanceof Error ? cause.message : String(cause);
  if (codes.includes("LEVEL_LOCKED"))
    return new TidemarkError(
      "STATE_DIRECTORY_LOCKED",
      {
        message: `${directory} is in use by another daemon`,
        hint: "stop it, or give this one a data directory of its own",
        metadata: { path: directory },
      },
      { cause: error },
    );
  if (codes.includes("LEVEL_CORRUPTION"))
    return new TidemarkError(
      "METADATA_CORRUPT",
      {
        message: `${directory} is damaged: ${reason}`,
        hint: "keep a copy of the data directory and restore this folder from a backup; volumes are not affected",
        metadata: { path: directory },
      },
      { cause: error },
    );
  return new TidemarkError(
    "STATE_DIRECTORY_INVALID",
    {
      message: `${directory} cannot be opened: ${reason}`,
      hint: "look after its owner, its permissions and the free space",
      metadata: { path: directory },
    },
    { cause: error },
  );
}
