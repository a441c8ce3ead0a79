/**
 * Binding: which database belongs to the engine's state, and how far it had come.
 *
 * Why: a database that has lost rows, or is another's or an older one, does not know volumes that the state has copies of;
 * a start with it would make those copies fail, durably (data-safety §1.9). The engine's side of it is the file `state/box`.
 * Rules:
 *   1. The file is written after the database, never before: it may lag behind, and is never ahead of it. So a database
 *      that shows less than the file knows has lost changes, whatever the disk did in a crash.
 *   2. What only the database knows (the box, volumes, exports, ends of copies) is in the file before it is answered. The
 *      rest, which points and events bring, follows at once, without anybody waiting for it.
 *   3. A failure to write it costs nobody a change: it is reported, and made up for with the next one. Until then the loss of
 *      the newest changes would not be noticed.
 *   4. Nothing of the state is touched before the two have been found to belong together.
 */
import { endOnBug } from "../base/assert.ts";
import { asTidemarkError, TidemarkError } from "../base/errors.ts";
import { BOX_FILE, type BoxRecord, createBoxFile, openBoxFile } from "../engine/durable/box-file.ts";
import { isDamage, type StateFiles } from "../engine/durable/state-files.ts";
import type { Superblock } from "../engine/durable/superblock.ts";
import type { BoxRow } from "../store/rows.ts";
import type { Change, InspectedRow, KeyOf, ListOptions, Rows, Store, TableName, TalliedStore } from "../store/store.ts";
import type { Tally } from "../store/tally.ts";

/** What only the database knows, and nobody could tell from the state. */
const ANSWERED_WITH: ReadonlySet<TableName> = new Set(["box", "volumes", "exports", "ended-copies"]);

const ACCEPT = "tidemark fsck --data DIR --accept-database";

/** What is known of a database that holds together. */
export interface KnownDatabase {
  readonly box: BoxRow | undefined;
  readonly tally: Tally;
}

/** What the state says. */
export type Recorded =
  | { readonly kind: "nothing" }
  | { readonly kind: "record"; readonly record: BoxRecord }
  /** It cannot be read although there is something that it protects. */
  | { readonly kind: "lost"; readonly error: TidemarkError };

/** The store, bound. */
export interface BoundDatabase extends Store {
  /** Why the state does not know the newest changes; undefined when it does, or soon will. */
  readonly lag: TidemarkError | undefined;
}

/**
 * Opens the binding of a database that may be used with this state; from then on, commits have to go through what comes back.
 * Nothing is changed when it throws: METADATA_CORRUPT (rows are damaged or missing, or it is an older one),
 * STATE_DIRECTORY_INVALID (another box's), and what the disk throws.
 */
export async function bindDatabase(
  store: TalliedStore,
  files: StateFiles,
  report: (what: string, error: unknown) => void,
): Promise<BoundDatabase> {
  const { box, recorded } = await requireMatch(store, files);
  await files.syncDirectory("");
  const superblock = recorded.kind === "record" ? await openBoxFile(files) : undefined;
  try {
    await superblock?.heal();
  } catch (error) {
    await superblock?.close();
    throw error;
  }
  const bound = new BoundStore({ store, files, report, superblock });
  await bound.open(box);
  return bound;
}

/** Refuses a database that must not be used with this state, as `bindDatabase`; nothing is changed. */
export async function requireMatch(
  store: TalliedStore,
  files: StateFiles,
): Promise<{ readonly box: BoxRow | undefined; readonly recorded: Recorded }> {
  const { tally, damage } = await store.examine();
  if (damage !== undefined) throw damage;
  const box = await store.get("box", "box");
  const recorded = await readRecord(files);
  const refusal = mismatch({ box, tally }, recorded);
  if (refusal !== undefined) throw refusal;
  return { box, recorded };
}

/** What the state says. Errors that say nothing about the file are thrown. */
export async function readRecord(files: StateFiles): Promise<Recorded> {
  try {
    const superblock = await openBoxFile(files);
    await superblock.close();
    return { kind: "record", record: superblock.value };
  } catch (cause) {
    const error = asTidemarkError(cause);
    if (!isDamage(error)) throw error;
    const isNew = error.code === "PATH_NOT_FOUND" && !(await protects(files));
    return isNew ? { kind: "nothing" } : { kind: "lost", error };
  }
}

/** Why the database must not be used with this state; undefined when it may. */
export function mismatch({ box, tally }: KnownDatabase, recorded: Recorded): TidemarkError | undefined {
  if (recorded.kind === "nothing") return undefined;
  if (recorded.kind === "lost") return recordLost(recorded.error);
  const { record } = recorded;
  if (box === undefined) return older(tally, record, "is empty");
  if (box.uid !== record.boxUid) return foreign(box, record);
  if (tally.batches < record.batches) return older(tally, record, `has ${tally.batches} changes`);
  if (tally.batches === record.batches && tally.digest !== record.digest)
    return older(tally, record, `has as many changes, but other ones`);
  return undefined;
}

/**
 * Makes this database the one that belongs to the state, for an operator who knows that there is no newer one. Refused for an
 * empty one and another box's (STATE_DIRECTORY_INVALID): they say nothing of this state.
 */
export async function acceptDatabase(files: StateFiles, { box, tally }: KnownDatabase): Promise<void> {
  const recorded = await readRecord(files);
  if (box === undefined) throw notAcceptable("it is empty");
  if (recorded.kind === "record" && recorded.record.boxUid !== box.uid)
    throw notAcceptable(`it is box ${box.uid}'s, not box ${recorded.record.boxUid}'s`);
  await files.syncDirectory("");
  const record = recordOf(box, tally);
  const superblock = await (recorded.kind === "record"
    ? openBoxFile(files)
    : createBoxFile(files, record, recorded.kind === "lost" ? "damaged" : "nothing"));
  try {
    await superblock.store(record);
  } finally {
    await superblock.close();
  }
}

/** True when there is anything in the state that a wrong database would cost. */
async function protects(files: StateFiles): Promise<boolean> {
  for (const directory of ["sessions", "volumes"])
    if ((await files.exists(directory)) && (await files.list(directory)).length > 0) return true;
  return false;
}

function recordOf({ uid, number }: BoxRow, { batches, digest }: Tally): BoxRecord {
  return { boxUid: uid, boxNumber: number, batches, digest };
}

interface Parts {
  readonly store: TalliedStore;
  readonly files: StateFiles;
  readonly report: (what: string, error: unknown) => void;
  readonly superblock: Superblock<BoxRecord> | undefined;
}

/** The store, with every commit followed by its record in the state. */
class BoundStore implements BoundDatabase {
  readonly #store: TalliedStore;
  readonly #files: StateFiles;
  readonly #report: (what: string, error: unknown) => void;
  #box: BoxRow | undefined;
  #superblock: Superblock<BoxRecord> | undefined;
  /** Never rejects. */
  #recording: Promise<void> = Promise.resolve();
  /** Begins when `#recording` has ended. */
  #next: Promise<void> | undefined;
  #lag: TidemarkError | undefined;
  #closing: Promise<void> | undefined;

  constructor({ store, files, report, superblock }: Parts) {
    this.#store = store;
    this.#files = files;
    this.#report = report;
    this.#superblock = superblock;
  }

  /** `box` undefined: a new one, whose row is still to come. */
  async open(box: BoxRow | undefined): Promise<void> {
    this.#box = box;
    if (box !== undefined && this.#superblock === undefined) await this.#create(box);
    await this.#record();
  }

  get lag(): TidemarkError | undefined {
    return this.#lag;
  }

  get<T extends TableName>(table: T, key: KeyOf<T>): Promise<Rows[T] | undefined> {
    return this.#store.get(table, key);
  }

  list<T extends TableName>(table: T, options: ListOptions<T>): Promise<Rows[T][]> {
    return this.#store.list(table, options);
  }

  scan<T extends TableName>(table: T): AsyncIterable<Rows[T]> {
    return this.#store.scan(table);
  }

  inspect<T extends TableName>(table: T): AsyncIterable<InspectedRow<T>> {
    return this.#store.inspect(table);
  }

  async commit(changes: readonly Change[]): Promise<void> {
    await this.#store.commit(changes);
    if (changes.length === 0) return;
    for (const change of changes)
      if (change.table === "box" && "put" in change && this.#superblock === undefined) await this.#create(change.put);
    const recorded = this.#record();
    if (changes.some(({ table }) => ANSWERED_WITH.has(table))) await recorded;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    try {
      await this.#store.close();
      // Also what closing has put back.
      await this.#record();
    } finally {
      await this.#superblock?.close();
    }
  }

  /** Throws: a box without it does not start. */
  async #create(box: BoxRow): Promise<void> {
    this.#box = box;
    this.#superblock = await createBoxFile(this.#files, recordOf(box, this.#store.tally), "nothing");
  }

  /** Resolves when the file knows all that is stored now, or that was reported to have failed. */
  #record(): Promise<void> {
    this.#next ??= this.#recording.then(() => {
      this.#next = undefined;
      this.#recording = this.#write();
      return this.#recording;
    });
    return this.#next;
  }

  async #write(): Promise<void> {
    if (this.#superblock === undefined || this.#box === undefined) return;
    try {
      const record = recordOf(this.#box, this.#store.tally);
      if (record.batches !== this.#superblock.value.batches) await this.#superblock.store(record);
      this.#lag = undefined;
    } catch (error) {
      endOnBug(error);
      if (this.#lag === undefined)
        this.#report(`state/${BOX_FILE} could not be written: lost changes would go unnoticed`, error);
      this.#lag = asTidemarkError(error);
    }
  }
}

function older({ batches }: Tally, record: BoxRecord, what: string): TidemarkError {
  return new TidemarkError("METADATA_CORRUPT", {
    message: `db ${what}, state/${BOX_FILE} says that it had ${record.batches}: it has lost changes, or is an older copy`,
    hint:
      "keep a copy of the data directory and put the newest `db` folder back; if there is no newer one: " +
      `tidemark fsck says what an older one costs, and ${ACCEPT} takes it`,
    metadata: { path: "db", found: String(batches), wanted: String(record.batches) },
  });
}

function foreign(box: BoxRow, record: BoxRecord): TidemarkError {
  return new TidemarkError("STATE_DIRECTORY_INVALID", {
    message: `db belongs to another box (${box.uid}, number ${box.number}) than state (${record.boxUid}, number ${record.boxNumber})`,
    hint: "put the `db` and the `state` of one box beside each other",
    metadata: { path: "db", belongsTo: box.uid },
  });
}

function recordLost({ code, message }: TidemarkError): TidemarkError {
  const isMissing = code === "PATH_NOT_FOUND";
  const what = isMissing ? `state/${BOX_FILE} is missing` : `state/${message}`;
  return new TidemarkError(isMissing ? "STATE_DIRECTORY_INVALID" : "METADATA_CORRUPT", {
    message: `${what}: nobody can tell whether db is the one that belongs to this state`,
    hint: `put the file back; if it is gone and db is the newest there is, look at tidemark fsck, then: ${ACCEPT}`,
    metadata: { path: `state/${BOX_FILE}` },
  });
}

function notAcceptable(why: string): TidemarkError {
  return new TidemarkError("STATE_DIRECTORY_INVALID", {
    message: `this db cannot be accepted for this state: ${why}`,
    hint: "put the box's own `db` back; without one, start with another data directory and register the volumes again",
    metadata: { path: "db" },
  });
}
