/**
 * TableStore: the store over any key-value engine.
 *
 * Invariants: commits take effect in the order of their calls (commit-line.ts); `close` waits for those under way.
 */
import { assert } from "../base/assert.ts";
import { asTidemarkError, TidemarkError } from "../base/errors.ts";
import { CommitLine } from "./commit-line.ts";
import { corruptValue, openValue, sealValue } from "./envelope.ts";
import type { KeyValue, KeyValueChange } from "./key-value.ts";
import { storeKey, tableRange } from "./keys.ts";
import { COMMIT_CHANGES_MAX, LIST_ROWS_MAX, VALUE_BYTES_MAX } from "./limits.ts";
import type { KeyOf, Rows, TableName } from "./rows.ts";
import { SCHEMA, type Schema, settleSchema } from "./schema.ts";
import type { Change, InspectedRow, ListOptions, TalliedStore } from "./store.ts";
import { TABLES } from "./tables.ts";
import { type Examination, TalliedEngine, type Tally } from "./tally.ts";

export class TableStore implements TalliedStore {
  readonly #engine: TalliedEngine;
  readonly #commits: CommitLine;
  #closing: Promise<void> | undefined;

  private constructor(engine: TalliedEngine) {
    this.#engine = engine;
    this.#commits = new CommitLine(engine);
  }

  /**
   * Settles the schema, then opens. Closes the engine when it throws: SCHEMA_TOO_NEW, STATE_DIRECTORY_INVALID, METADATA_CORRUPT.
   * Whether rows are damaged or missing says `examine`.
   */
  static async open(engine: KeyValue, schema: Schema = SCHEMA): Promise<TableStore> {
    try {
      const tallied = await TalliedEngine.open(engine);
      await settleSchema(tallied, schema);
      return new TableStore(tallied);
    } catch (error) {
      await engine.close();
      throw error;
    }
  }

  /** What the store holds, as of the newest batch. METADATA_CORRUPT when that is not known. */
  get tally(): Tally {
    return this.#engine.tally;
  }

  /** Reads everything: whether it is what the batches have left. Not while commits are under way. */
  examine(): Promise<Examination> {
    this.#refuseClosed();
    return this.#engine.examine();
  }

  async get<T extends TableName>(table: T, key: KeyOf<T>): Promise<Rows[T] | undefined> {
    this.#refuseClosed();
    const text = storeKey(table, key);
    const value = await this.#engine.get(text);
    return value === undefined ? undefined : decodeRow(table, text, value);
  }

  async list<T extends TableName>(table: T, options: ListOptions<T>): Promise<Rows[T][]> {
    this.#refuseClosed();
    assert(options.limit > 0 && options.limit <= LIST_ROWS_MAX, "a page has 1 to LIST_ROWS_MAX rows");
    const reverse = options.order === "descending";
    const whole = tableRange(table);
    const edge = options.after === undefined ? undefined : storeKey(table, options.after);
    const after = !reverse && edge !== undefined ? edge : whole.after;
    const before = reverse && edge !== undefined ? edge : whole.before;
    const rows: Rows[T][] = [];
    for await (const [key, value] of this.#engine.entries({ after, before, reverse, limit: options.limit }))
      rows.push(decodeRow(table, key, value));
    return rows;
  }

  scan<T extends TableName>(table: T): AsyncIterable<Rows[T]> {
    this.#refuseClosed();
    const entries = this.#engine.entries({ ...tableRange(table), reverse: false, limit: Number.POSITIVE_INFINITY });
    return decodeAll(table, entries);
  }

  inspect<T extends TableName>(table: T): AsyncIterable<InspectedRow<T>> {
    this.#refuseClosed();
    const entries = this.#engine.entries({ ...tableRange(table), reverse: false, limit: Number.POSITIVE_INFINITY });
    return inspectAll(table, entries);
  }

  async commit(changes: readonly Change[]): Promise<void> {
    this.#refuseClosed();
    assert(changes.length <= COMMIT_CHANGES_MAX, "a commit has at most COMMIT_CHANGES_MAX changes");
    if (changes.length === 0) return;
    await this.#commits.add(changes.map(encodeChange));
  }

  close(): Promise<void> {
    this.#closing ??= this.#commits.close().then(() => this.#engine.close());
    return this.#closing;
  }

  #refuseClosed(): void {
    if (this.#closing !== undefined)
      throw new TidemarkError("STOPPING", { message: "the store is closed", hint: "start the daemon again" });
  }
}

async function* decodeAll<T extends TableName>(
  table: T,
  entries: AsyncIterable<[string, Uint8Array]>,
): AsyncIterable<Rows[T]> {
  for await (const [key, value] of entries) yield decodeRow(table, key, value);
}

async function* inspectAll<T extends TableName>(
  table: T,
  entries: AsyncIterable<[string, Uint8Array]>,
): AsyncIterable<InspectedRow<T>> {
  for await (const [key, value] of entries) {
    try {
      yield { key, row: decodeRow(table, key, value) };
    } catch (error) {
      yield { key, error: asTidemarkError(error) };
    }
  }
}

function decodeRow<T extends TableName>(table: T, key: string, value: Uint8Array): Rows[T] {
  const body = openValue(key, value);
  let row: Rows[T];
  try {
    row = TABLES[table].decode(body);
  } catch (error) {
    throw corruptValue(key, error instanceof Error ? error.message : String(error), error);
  }
  if (storeKey(table, TABLES[table].keyOf(row)) !== key) throw corruptValue(key, "it holds the row of another key");
  return row;
}

function encodeChange(change: Change): KeyValueChange {
  if ("remove" in change) return { type: "del", key: storeKey(change.table, change.remove) };
  // Sound by the type of Change: `put` is the row of `table`.
  const table = TABLES[change.table] as (typeof TABLES)[TableName] & { keyOf(row: unknown): string | number };
  const encode = table.encode as (row: unknown) => Uint8Array;
  const key = storeKey(change.table, table.keyOf(change.put));
  const body = encode(change.put);
  assert(body.length <= VALUE_BYTES_MAX, "a value is at most VALUE_BYTES_MAX");
  return { type: "put", key, value: sealValue(key, body) };
}
