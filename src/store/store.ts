/**
 * Store: the box's durable metadata, in typed tables.
 *
 * Role: the interface that the domain uses, whatever holds the bytes (leveldb/, memory/).
 * Guarantees every implementation gives, proven by test/store-contract:
 *   1. `commit` is all or nothing and durable once it has resolved; commits take effect in the order they were called.
 *   2. `list` and `scan` see one instant: the moment they were called.
 *   3. Rows of a table come in the order of their keys (numbers by value, text by UTF-8 bytes).
 *   4. A value that is not what was written, or belongs to another key, is never returned: METADATA_CORRUPT names it.
 *   5. A commit that fails changes nothing, also not later. The ones behind it are refused (METADATA_WRITE_FAILED) while
 *      the cause lasts, and taken again when it is gone, without a restart. Reading goes on.
 */
import type { TidemarkError } from "../base/errors.ts";
import type { KeyOf, Rows, TableName } from "./rows.ts";
import type { Examination, Tally } from "./tally.ts";

export type { KeyOf, Rows, TableName } from "./rows.ts";

/** One change. The key of a put is taken from its row. */
export type Change = {
  [T in TableName]: { readonly table: T; readonly put: Rows[T] } | { readonly table: T; readonly remove: KeyOf<T> };
}[TableName];

export interface ListOptions<T extends TableName> {
  /** Begin behind this key, in the direction of `order`. */
  readonly after?: KeyOf<T>;
  /** At most this many rows, up to LIST_ROWS_MAX. */
  readonly limit: number;
  readonly order?: "ascending" | "descending";
}

/** A row as it is found: what it says, or why it says nothing. */
export type InspectedRow<T extends TableName> = { readonly key: string } & (
  | { readonly row: Rows[T] }
  | { readonly error: TidemarkError }
);

export interface Store {
  /** The row, or undefined. METADATA_CORRUPT. */
  get<T extends TableName>(table: T, key: KeyOf<T>): Promise<Rows[T] | undefined>;
  /** One page of rows. METADATA_CORRUPT. */
  list<T extends TableName>(table: T, options: ListOptions<T>): Promise<Rows[T][]>;
  /** All rows of a table, in ascending order. METADATA_CORRUPT. */
  scan<T extends TableName>(table: T): AsyncIterable<Rows[T]>;
  /** All rows of a table, in ascending order, the damaged ones too: for checks. */
  inspect<T extends TableName>(table: T): AsyncIterable<InspectedRow<T>>;
  /** All changes at once, durable. At most COMMIT_CHANGES_MAX. METADATA_WRITE_FAILED, STOPPING after close. */
  commit(changes: readonly Change[]): Promise<void>;
  /** Waits for commits under way. Idempotent. */
  close(): Promise<void>;
}

/** A store that can say whether anything of it is missing. */
export interface TalliedStore extends Store {
  /** As of the newest batch that is durable. METADATA_CORRUPT when that is not known. */
  readonly tally: Tally;
  /** Reads everything: whether it is what the batches have left. Not while commits are under way. */
  examine(): Promise<Examination>;
}
