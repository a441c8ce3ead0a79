/**
 * Store in LevelDB (package `level`).
 *
 * Every batch is written with `sync: true`: LevelDB's default loses acknowledged writes at power loss. A database that
 * another process has open is STATE_DIRECTORY_LOCKED; one that cannot be opened is METADATA_CORRUPT and never repaired
 * by itself (data-safety §1.9).
 * LevelDB drops what it cannot read of its log: the log is looked at before it is opened (log-check.ts).
 * After a failed write LevelDB takes no more, or writes on behind a torn record, and its buffer may still hold what was
 * refused: it is closed and opened anew before the next batch, once there is room for what opening writes.
 */
import { Level } from "level";
import { TidemarkError } from "../../base/errors.ts";
import type { KeyRange, KeyValue, KeyValueChange } from "../key-value.ts";
import type { Schema } from "../schema.ts";
import { TableStore } from "../table-store.ts";
import { openFailed, readFailed, reopenFailed } from "./failures.ts";
import { checkLogs } from "./log-check.ts";
import { requireRoom } from "./room.ts";

type Database = Level<string, Uint8Array>;

/** Opens, or makes, the database in `directory`. STATE_DIRECTORY_LOCKED, METADATA_CORRUPT, SCHEMA_TOO_NEW. */
export async function openLevelStore(directory: string, schema?: Schema): Promise<TableStore> {
  return TableStore.open(await LevelEngine.open(directory), schema);
}

class LevelEngine implements KeyValue {
  readonly #directory: string;
  /** Undefined while it is opened anew, and after that has failed. */
  #database: Database | undefined;
  /** Never rejects. */
  #reopening: Promise<void> = Promise.resolve();

  private constructor(directory: string, database: Database) {
    this.#directory = directory;
    this.#database = database;
  }

  static async open(directory: string): Promise<LevelEngine> {
    try {
      await checkLogs(directory);
      return new LevelEngine(directory, await openDatabase(directory));
    } catch (error) {
      throw openFailed(directory, error);
    }
  }

  async get(key: string): Promise<Uint8Array | undefined> {
    await this.#reopening;
    try {
      return await this.#require().get(key);
    } catch (error) {
      throw readFailed(this.#directory, error);
    }
  }

  async getMany(keys: readonly string[]): Promise<(Uint8Array | undefined)[]> {
    await this.#reopening;
    try {
      return await this.#require().getMany([...keys]);
    } catch (error) {
      throw readFailed(this.#directory, error);
    }
  }

  entries(range: KeyRange): AsyncIterable<[string, Uint8Array]> {
    const limit = Number.isFinite(range.limit) ? range.limit : -1;
    // The iterator holds a snapshot from here on.
    const iterator = this.#require().iterator({
      gt: range.after,
      lt: range.before,
      reverse: range.reverse,
      limit,
    });
    return guarded(iterator, this.#directory);
  }

  async batch(changes: readonly KeyValueChange[]): Promise<void> {
    await this.#require().batch([...changes], { sync: true });
  }

  async reopen(): Promise<void> {
    const reopening = this.#openAnew();
    this.#reopening = reopening.catch(() => undefined); // whoever waits finds out by itself
    await reopening;
  }

  async close(): Promise<void> {
    await this.#reopening;
    await this.#database?.close();
  }

  async #openAnew(): Promise<void> {
    // First, while reading still goes on: opening writes what the log holds into a table.
    await requireRoom(this.#directory);
    const before = this.#database;
    this.#database = undefined;
    try {
      await before?.close();
      this.#database = await openDatabase(this.#directory);
    } catch (error) {
      throw reopenFailed(this.#directory, error);
    }
  }

  #require(): Database {
    if (this.#database !== undefined) return this.#database;
    throw reopenFailed(this.#directory, new Error("it could not be opened again after a failed write"));
  }
}

async function openDatabase(directory: string): Promise<Database> {
  const database: Database = new Level(directory, { keyEncoding: "utf8", valueEncoding: "view" });
  await database.open();
  return database;
}

async function* guarded(
  entries: AsyncIterable<[string, Uint8Array]>,
  directory: string,
): AsyncGenerator<[string, Uint8Array], void, undefined> {
  try {
    yield* entries;
  } catch (error) {
    throw error instanceof TidemarkError ? error : readFailed(directory, error);
  }
}
