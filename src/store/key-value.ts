/**
 * KeyValue: what an engine below the store has to offer. Table rules, checksums and schema live above it, once.
 *
 * Guarantees: `batch` is atomic and durable when it has resolved; `entries` sees the instant of its call; keys are
 * ordered by their UTF-8 bytes; values returned belong to the caller.
 * After a `batch` has failed, `get` still gives what was there before it, and no further batch is given before `reopen`
 * has resolved; whether the failed one turns up then is open.
 */
export type KeyValueChange =
  | { readonly type: "put"; readonly key: string; readonly value: Uint8Array }
  | { readonly type: "del"; readonly key: string };

export interface KeyRange {
  /** Keys strictly between the two. */
  readonly after: string;
  readonly before: string;
  readonly reverse: boolean;
  readonly limit: number;
}

export interface KeyValue {
  get(key: string): Promise<Uint8Array | undefined>;
  /** In the order of `keys`. */
  getMany(keys: readonly string[]): Promise<(Uint8Array | undefined)[]>;
  entries(range: KeyRange): AsyncIterable<[key: string, value: Uint8Array]>;
  batch(changes: readonly KeyValueChange[]): Promise<void>;
  /** Takes up writing again after a failed batch. METADATA_WRITE_FAILED while that cannot be done. */
  reopen(): Promise<void>;
  close(): Promise<void>;
}
