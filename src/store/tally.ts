/**
 * Tally: how many batches the store has taken, how many values it holds, and a digest of them all.
 *
 * Why: an envelope shows that a value is not what was written; that a value is missing, or an older one is back, nothing in
 * it can show. LevelDB drops what it cannot read of its log without a word, from the middle as well (data-safety §1.9).
 * How: one row, written in every batch. The digest is the exclusive or of a hash of each key with its value, so a
 * batch needs only the values before it, whatever the size of the store. A store whose newest batches are gone is whole as it
 * was earlier; that shows the number of batches, for whoever has it elsewhere (domain/binding.ts).
 * Invariants: the row is true of what the engine holds after any batch, also one that failed and turned up; the number
 * of batches never goes back.
 */
import { createHash } from "node:crypto";
import { asTidemarkError, TidemarkError } from "../base/errors.ts";
import * as wire from "../gen/tidemark/store/v1/store.ts";
import { corruptValue, openValue, sealValue } from "./envelope.ts";
import type { KeyRange, KeyValue, KeyValueChange } from "./key-value.ts";
import { EVERY_KEY, storeKey } from "./keys.ts";

export interface Tally {
  /** Batches stored so far; never the same for two contents of one store. */
  readonly batches: number;
  readonly values: number;
  /** Hexadecimal. */
  readonly digest: string;
}

/** What reading everything has shown; `damage` says why the content cannot be relied on. */
export type Examination =
  | { readonly tally: Tally; readonly damage: undefined }
  /** Without a tally when the row itself is missing or damaged. */
  | { readonly tally: Tally | undefined; readonly damage: TidemarkError };

export const TALLY_KEY = storeKey("tally", "tally");
const DIGEST_BYTES = 16;
const EMPTY: Tally = { batches: 0, values: 0, digest: "00".repeat(DIGEST_BYTES) };

/** An engine that keeps the tally of another one. */
export class TalliedEngine implements KeyValue {
  readonly #engine: KeyValue;
  #tally: Tally | TidemarkError;

  private constructor(engine: KeyValue, tally: Tally | TidemarkError) {
    this.#engine = engine;
    this.#tally = tally;
  }

  /** Also opens a store whose tally is missing or damaged: it can be read. */
  static async open(engine: KeyValue): Promise<TalliedEngine> {
    return new TalliedEngine(engine, await readTally(engine));
  }

  /** As of the newest batch. METADATA_CORRUPT. */
  get tally(): Tally {
    if (this.#tally instanceof TidemarkError) throw this.#tally;
    return this.#tally;
  }

  /** Reads everything, once; damage names the first value that is bad, else what is missing. */
  async examine(): Promise<Examination> {
    const tally = await readTally(this.#engine);
    const digest = Buffer.alloc(DIGEST_BYTES);
    let values = 0;
    let damage: TidemarkError | undefined;
    for await (const [key, value] of this.#engine.entries({
      ...EVERY_KEY,
      reverse: false,
      limit: Number.POSITIVE_INFINITY,
    })) {
      if (key === TALLY_KEY) continue;
      values++;
      combine(digest, key, value);
      damage ??= damageOf(key, value);
    }
    if (tally instanceof TidemarkError) return { tally: undefined, damage: damage ?? tally };
    if (damage !== undefined) return { tally, damage };
    const isWhole = values === tally.values && digest.toString("hex") === tally.digest;
    return isWhole ? { tally, damage: undefined } : { tally, damage: incomplete(values, tally.values) };
  }

  get(key: string): Promise<Uint8Array | undefined> {
    return this.#engine.get(key);
  }

  getMany(keys: readonly string[]): Promise<(Uint8Array | undefined)[]> {
    return this.#engine.getMany(keys);
  }

  entries(range: KeyRange): AsyncIterable<[key: string, value: Uint8Array]> {
    return this.#engine.entries(range);
  }

  async batch(changes: readonly KeyValueChange[]): Promise<void> {
    const next = await this.#after(changes);
    await this.#engine.batch([...changes, { type: "put", key: TALLY_KEY, value: sealTally(next) }]);
    this.#tally = next;
  }

  async reopen(): Promise<void> {
    await this.#engine.reopen();
    // The failed batch may be there now, and its tally with it.
    this.#tally = await readTally(this.#engine);
  }

  close(): Promise<void> {
    return this.#engine.close();
  }

  /** The tally once these changes are made. */
  async #after(changes: readonly KeyValueChange[]): Promise<Tally> {
    const before = this.tally;
    const last = new Map(changes.map((change) => [change.key, change]));
    const keys = [...last.keys()];
    const found = await this.#engine.getMany(keys);
    const digest = Buffer.from(before.digest, "hex");
    let { values } = before;
    for (const [index, key] of keys.entries()) {
      const old = found[index];
      if (old !== undefined) {
        combine(digest, key, old);
        values--;
      }
      const change = last.get(key);
      if (change?.type !== "put") continue;
      combine(digest, key, change.value);
      values++;
    }
    return { batches: before.batches + 1, values, digest: digest.toString("hex") };
  }
}

/** Takes a value into the digest or, the second time, out of it. */
function combine(digest: Buffer, key: string, value: Uint8Array): void {
  const hash = createHash("sha256").update(`${key}\0`).update(value).digest();
  for (let at = 0; at < DIGEST_BYTES; at++) digest[at] = (digest[at] as number) ^ (hash[at] as number);
}

function damageOf(key: string, value: Uint8Array): TidemarkError | undefined {
  try {
    openValue(key, value);
    return undefined;
  } catch (error) {
    return asTidemarkError(error);
  }
}

function sealTally({ batches, values, digest }: Tally): Uint8Array {
  const row = { batches: BigInt(batches), values: BigInt(values), digest: Buffer.from(digest, "hex") };
  return sealValue(TALLY_KEY, wire.TallyRow.encode(row).finish());
}

/** The row; of an empty store without it, the empty one. What the engine throws is thrown. */
async function readTally(engine: KeyValue): Promise<Tally | TidemarkError> {
  const value = await engine.get(TALLY_KEY);
  if (value === undefined) {
    for await (const _ of engine.entries({ ...EVERY_KEY, reverse: false, limit: 1 }))
      return corruptValue(TALLY_KEY, "it is missing although the store has rows");
    return EMPTY;
  }
  try {
    return decodeTally(openValue(TALLY_KEY, value));
  } catch (error) {
    return asTidemarkError(error);
  }
}

function decodeTally(body: Uint8Array): Tally {
  let row: wire.TallyRow;
  try {
    row = wire.TallyRow.decode(body);
  } catch (error) {
    throw corruptValue(TALLY_KEY, error instanceof Error ? error.message : String(error), error);
  }
  const [batches, values] = [Number(row.batches), Number(row.values)];
  if (!Number.isSafeInteger(batches) || !Number.isSafeInteger(values) || row.digest.length !== DIGEST_BYTES)
    throw corruptValue(TALLY_KEY, "it makes no sense");
  return { batches, values, digest: Buffer.from(row.digest).toString("hex") };
}

function incomplete(found: number, wanted: number): TidemarkError {
  const what = found === wanted ? `its ${found} values are not those` : `it holds ${found} values of ${wanted}`;
  return new TidemarkError("METADATA_CORRUPT", {
    message: `the database has lost changes: ${what} that its last change has left`,
    hint: "keep a copy of the data directory and restore its `db` folder from a backup; volumes are not affected",
    metadata: { found: String(found), wanted: String(wanted) },
  });
}
