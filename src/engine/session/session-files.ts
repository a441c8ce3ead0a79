/**
 * The durable side of one session: superblock, pending map, log of copied granules.
 *
 * Files, in `sessions/<id>/`: `super`; `pending-<serial>.map`, the granules missing at a checkpoint; `copied-<serial>.log`, the
 * granules copied since. Between a point and the next checkpoint the map is in the points log.
 * Invariants:
 *   1. Missing granules = map minus the records of the log named by the same record, of the same generation.
 *   2. A record of an older generation is ignored; generation numbers are never reused.
 *   3. The superblock says how many frames its log had: one that is shorter is damaged.
 *   4. Files that the superblock does not name are left-overs and are removed at start.
 * Source: data-safety 1.4, 1.8; formats: docs/file-formats.md.
 */
import { assert, endOnBug } from "../../base/assert.ts";
import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import { encodeJson, parseJson } from "../durable/fields.ts";
import { FrameLog, readFoundLog } from "../durable/frame-log.ts";
import { atLeastFrames, type ExpectedEnd, type LogEnd } from "../durable/log-end.ts";
import { readMap, writeMap } from "../durable/map-file.ts";
import { corruptFile, isDamage, type StateFiles } from "../durable/state-files.ts";
import { Superblock } from "../durable/superblock.ts";
import type { Core } from "../map/core.ts";
import type { PagedBitmap } from "../map/paged-bitmap.ts";
import type { GranuleRun } from "./extents.ts";
import { decodeSessionRecord, type SessionRecord } from "./session-record.ts";

export const SESSIONS_DIRECTORY = "sessions";
const RECORD_HEADER_BYTES = 8;
const RUN_BYTES = 16;
const DEFINITION_GENERATION = -1;

export class SessionFiles {
  readonly id: string;
  readonly #files: StateFiles;
  readonly #super: Superblock<SessionRecord>;
  #log: FrameLog;
  #logFile: string;
  #mapFile: string | undefined;
  #serial: number;
  #next: { readonly log: FrameLog; readonly name: string } | undefined;
  /** Map of the next generation, when it is in a file. */
  #nextMap: string | undefined;
  /** Log being made for the next generation: a checkpoint at the same time must not take it for a left-over. */
  #preparing: string | undefined;
  /** Told of what could not be tidied up after a change that is durable: nothing is wrong, a later checkpoint tries again. */
  onTrouble: (error: unknown) => void = () => undefined;

  private constructor(options: {
    id: string;
    files: StateFiles;
    superblock: Superblock<SessionRecord>;
    log: FrameLog;
    logFile: string;
    mapFile: string | undefined;
    serial: number;
  }) {
    this.id = options.id;
    this.#files = options.files;
    this.#super = options.superblock;
    this.#log = options.log;
    this.#logFile = options.logFile;
    this.#mapFile = options.mapFile;
    this.#serial = options.serial;
  }

  get mapFile(): string | undefined {
    return this.#mapFile;
  }

  get logFile(): string {
    return this.#logFile;
  }

  /** Where the log in use ends; after `close`, for good. */
  get logEnd(): { readonly path: string; readonly end: LogEnd } {
    return { path: `${this.directory}/${this.#logFile}`, end: this.#log.end };
  }

  /** Bytes of the log that are acknowledged. */
  get logBytes(): number {
    return this.#log.sizeBytes;
  }

  /** What the superblock says, durably; another object after every change. */
  get record(): SessionRecord {
    return this.#super.value;
  }

  /** As Superblock.renew. */
  renewSuper(): Promise<void> {
    return this.#super.renew(this.#files);
  }

  /** As Superblock.verify. */
  verifySuper(files: StateFiles): Promise<number | undefined> {
    return this.#super.verify(files);
  }

  get directory(): string {
    return directoryOf(this.id);
  }

  /**
   * Makes the files of a session that has not been fired: durable, in state `creating`. What an attempt that was given up has
   * left under this id goes first; PATH_EXISTS when there is more than that, and then nothing has been touched.
   */
  static async create(files: StateFiles, record: Omit<SessionRecord, "mapFile" | "logFile">): Promise<SessionFiles> {
    const { id } = record;
    const directory = directoryOf(id);
    if (await files.exists(directory)) await removeUnfired(files, id);
    await files.makeDirectory(directory);
    const serial = 1;
    const logFile = logName(serial);
    const first: SessionRecord = { ...record, mapFile: undefined, logFile };
    let log: FrameLog | undefined;
    try {
      log = await createLog(files, directory, serial, first);
      const superblock = await Superblock.create(
        files,
        `${directory}/super`,
        "session",
        id,
        first,
        decodeSessionRecord,
      );
      await files.syncDirectory(SESSIONS_DIRECTORY);
      return new SessionFiles({ id, files, superblock, log, logFile, mapFile: undefined, serial });
    } catch (error) {
      // The first error is the one to report; what cannot be removed now is removed at the next start.
      await Promise.allSettled([log?.close()]);
      await removeSessionDirectory(files, id).catch(endOnBug);
      throw error;
    }
  }

  /** The superblock of a session found at start; `open` takes it over. */
  static openSuperblock(files: StateFiles, id: string): Promise<Superblock<SessionRecord>> {
    return Superblock.open(files, `${directoryOf(id)}/super`, "session", id, decodeSessionRecord);
  }

  /**
   * Opens the files of `record`, which comes from `superblock` or from a later point, and gives back the map of missing
   * granules. `pointMap` is the map of the point when the record comes from there. Nothing is changed on the disk: `begin`
   * comes before they are used, or `abandon`.
   */
  static async find(
    files: StateFiles,
    core: Core,
    superblock: Superblock<SessionRecord>,
    record: SessionRecord,
    options: { pointMap: PagedBitmap | undefined; granuleCount: number; ends?: ReadonlyMap<string, ExpectedEnd> },
  ): Promise<{ sessionFiles: SessionFiles; missing: PagedBitmap }> {
    const { id } = record;
    const directory = directoryOf(id);
    const missing =
      options.pointMap ??
      (await readMap(
        files,
        `${directory}/${record.mapFile ?? missingMap(id)}`,
        { kind: "pending", ownerId: id, generation: record.generation, bitCount: options.granuleCount },
        core,
      ));
    const serial = serialOf(record.logFile);
    const logPath = `${directory}/${record.logFile}`;
    let log: FrameLog | undefined;
    try {
      log = await FrameLog.find(
        files,
        logPath,
        "session",
        id,
        (payload) => {
          const runs = decodeCopied(payload, record.generation, missing.bitCount);
          if (runs === undefined) throw corruptFile(logPath, "holds a record of copied granules that makes no sense");
          for (const run of runs) missing.clearRange(run.first, run.count);
        },
        options.ends?.get(logPath) ?? expectedLogEnd(superblock.value, record),
      );
      const newest = Math.max(serial, ...(await files.list(directory)).map(serialOf));
      const { mapFile, logFile } = record;
      const sessionFiles = new SessionFiles({ id, files, superblock, log, logFile, mapFile, serial: newest });
      return { sessionFiles, missing };
    } catch (error) {
      missing.dispose();
      await log?.abandon();
      throw error;
    }
  }

  /** Cuts off the torn tail of the log and removes left-over files: before anything is written. */
  async begin(): Promise<void> {
    await this.#super.heal();
    await this.#log.cutTail();
    await this.#removeLeftovers();
  }

  /** Closes the files as they were found. */
  async abandon(): Promise<void> {
    await this.#log.abandon();
    await this.#super.close();
  }

  /**
   * For a session of which something is damaged: a new superblock that says `record`, and a new log. What is left of the old
   * files goes with the checkpoint that has to follow.
   */
  static async salvage(files: StateFiles, record: SessionRecord): Promise<SessionFiles> {
    const { id } = record;
    const directory = directoryOf(id);
    const serial = Math.max(serialOf(record.logFile), ...(await files.list(directory)).map(serialOf)) + 1;
    const logFile = logName(serial);
    const { logFrames: _, ...rest } = record; // of its old log
    const first: SessionRecord = { ...rest, mapFile: undefined, logFile };
    const log = await createLog(files, directory, serial, first);
    const path = `${directory}/super`;
    const superblock = await Superblock.create(files, path, "session", id, first, decodeSessionRecord, "damaged");
    return new SessionFiles({ id, files, superblock, log, logFile, mapFile: undefined, serial });
  }

  /** The record as it was when one of the session's logs was begun; undefined when none can be read. */
  static async readDefinition(files: StateFiles, id: string): Promise<SessionRecord | undefined> {
    const directory = directoryOf(id);
    const names = (await files.list(directory)).filter((name) => /^copied-\d+\.log$/.test(name));
    for (const name of names.sort((a, b) => serialOf(b) - serialOf(a))) {
      let found: SessionRecord | undefined;
      try {
        await readFoundLog(files, `${directory}/${name}`, "session", id, (payload) => {
          found ??= decodeDefinition(payload);
        });
      } catch (error) {
        if (!isDamage(asTidemarkError(error))) throw error;
      }
      if (found) return found;
    }
    return undefined;
  }

  /** Whether the files say that a point was prepared, and perhaps fired, after what `record` knows of. */
  static async mayBeLater(files: StateFiles, record: SessionRecord): Promise<boolean> {
    if (record.state === "creating") return true;
    const known = serialOf(record.logFile);
    return (await files.list(directoryOf(record.id))).some((name) => /^copied-/.test(name) && serialOf(name) > known);
  }

  /** Makes the log of the generation about to be fired; its name is durable when it returns. */
  async prepareGeneration(): Promise<string> {
    assert(this.#next === undefined, "one point at a time");
    const serial = ++this.#serial;
    const name = logName(serial);
    this.#preparing = name;
    try {
      const log = await createLog(this.#files, this.directory, serial, this.#super.value);
      this.#next = { log, name };
    } finally {
      this.#preparing = undefined;
    }
    return name;
  }

  /** The point is durable: records go to the new log from now on. */
  adoptGeneration(): void {
    this.#mapFile = this.#nextMap;
    this.#nextMap = undefined;
    if (!this.#next) return; // the first generation has the log that the session was made with
    const old = this.#log;
    this.#log = this.#next.log;
    this.#logFile = this.#next.name;
    this.#next = undefined;
    // The old generation's records no longer count, so it does not matter whether its log can be closed in order.
    old.close().catch(() => undefined);
  }

  /** For a map that does not fit into the record of the point: in a file, durable, whose name goes into the record. */
  async writePointMap(generation: number, map: PagedBitmap): Promise<string> {
    const name = `pending-${++this.#serial}.map`;
    this.#nextMap = name; // from here on no checkpoint takes it for a left-over
    const header = { kind: "pending" as const, ownerId: this.id, generation, bitCount: map.bitCount };
    await writeMap(this.#files, `${this.directory}/${name}`, header, map);
    return name;
  }

  /** The point was not fired. */
  async abandonGeneration(): Promise<void> {
    const next = this.#next;
    if (this.#nextMap) await this.#files.remove(`${this.directory}/${this.#nextMap}`);
    this.#nextMap = undefined;
    if (!next) return;
    this.#next = undefined;
    await next.log.close();
    await this.#files.remove(`${this.directory}/${next.name}`);
  }

  /** Records, durably, that these granules are at the destination. Their data must be durable already. */
  async appendCopied(generation: number, runs: readonly GranuleRun[]): Promise<void> {
    await this.#log.append(encodeCopied(generation, runs));
    await this.#log.sync();
  }

  /** As `checkpoint`, with a new log in the place of one that is damaged on the disk. */
  async checkpointWithNewLog(record: SessionRecord, missing: PagedBitmap): Promise<void> {
    const serial = ++this.#serial;
    const name = logName(serial);
    const making = createLog(this.#files, this.directory, serial, { ...record, logFile: name });
    const log = await making.catch((error: unknown) => {
      missing.dispose();
      throw error;
    });
    try {
      await this.checkpoint(record, missing, { log, name });
    } catch (error) {
      if (this.#log !== log) await log.close();
      throw error;
    }
  }

  /**
   * Writes `record` with the map of missing granules; takes over and disposes `missing`. Durable when it returns. The
   * superblock decides: until it names `next`, records go on into the log it names.
   */
  async checkpoint(
    record: SessionRecord,
    missing: PagedBitmap,
    next?: { readonly log: FrameLog; readonly name: string },
  ): Promise<void> {
    const mapFile = `pending-${++this.#serial}.map`;
    const header = {
      kind: "pending" as const,
      ownerId: this.id,
      generation: record.generation,
      bitCount: missing.bitCount,
    };
    try {
      await writeMap(this.#files, `${this.directory}/${mapFile}`, header, missing);
    } finally {
      missing.dispose();
    }
    const log = next?.log ?? this.#log;
    const logFile = next?.name ?? this.#logFile;
    await this.#super.store({ ...record, mapFile, logFile, logFrames: log.durableFrames });
    this.#mapFile = mapFile;
    if (next) {
      const old = this.#log;
      this.#log = next.log;
      this.#logFile = next.name;
      await old.close().catch(this.onTrouble);
    }
    await this.#removeLeftovers().catch(this.onTrouble);
  }

  async #removeLeftovers(): Promise<void> {
    for (const name of await this.#files.list(this.directory))
      if (!this.#isKept(name)) await this.#files.remove(`${this.directory}/${name}`);
  }

  /** Asked anew for each name: a point may prepare or adopt its log between two of them. */
  #isKept(name: string): boolean {
    if (this.#preparing !== undefined && name.startsWith(this.#preparing)) return true;
    return (
      name === "super" ||
      name === this.#mapFile ||
      name === this.#logFile ||
      name === this.#next?.name ||
      name === this.#nextMap
    );
  }

  /** Durably over; what remains is to retire the files. */
  async end(record: SessionRecord): Promise<void> {
    const { logFrames: _, ...rest } = record;
    await this.#super.store({ ...rest, state: "ended", mapFile: this.#mapFile, logFile: this.#logFile });
  }

  async close(): Promise<void> {
    await this.#log.close();
    await this.#super.close();
  }

  /** Removes what an ended session needs no more: everything but the superblock, which says how it ended. */
  async retire(): Promise<void> {
    await this.abandonGeneration();
    await this.close();
    for (const name of await this.#files.list(this.directory))
      if (name !== "super") await this.#files.remove(`${this.directory}/${name}`);
  }

  async remove(): Promise<void> {
    await this.abandonGeneration();
    await this.close();
    await removeSessionDirectory(this.#files, this.id);
  }
}

/** Nothing of it counts as long as it says that it has not begun, or nothing at all. */
async function removeUnfired(files: StateFiles, id: string): Promise<void> {
  const path = `${directoryOf(id)}/super`;
  if (await files.exists(path)) {
    const found = await SessionFiles.openSuperblock(files, id);
    await found.close();
    if (found.value.state !== "creating")
      throw new TidemarkError("PATH_EXISTS", {
        message: `${path} exists: there is a copy ${id} already`,
        hint: "start the daemon again, so that it finds what is there (`tidemark fsck` shows it before)",
        metadata: { path },
      });
  }
  await removeSessionDirectory(files, id);
}

/** Removes what is left of a session that never began or is over. The superblock goes last. */
export async function removeSessionDirectory(files: StateFiles, id: string): Promise<void> {
  const directory = directoryOf(id);
  const names = (await files.list(directory)).filter((name) => name !== "super");
  for (const name of names) await files.remove(`${directory}/${name}`);
  await files.syncDirectory(directory);
  await files.remove(`${directory}/super`);
  await files.removeDirectory(directory);
  await files.syncDirectory(SESSIONS_DIRECTORY);
}

function directoryOf(id: string): string {
  return `${SESSIONS_DIRECTORY}/${id}`;
}

function logName(serial: number): string {
  return `copied-${serial}.log`;
}

function serialOf(name: string): number {
  return Number(/-(\d+)\.(?:map|log)/.exec(name)?.[1] ?? 0);
}

/** A record from a point has a log of its own, of which the superblock knows nothing. */
export function expectedLogEnd(own: SessionRecord, record: SessionRecord): ExpectedEnd | undefined {
  return own.logFile === record.logFile ? atLeastFrames(own.logFrames) : undefined;
}

function missingMap(id: string): never {
  throw new TidemarkError("METADATA_CORRUPT", {
    message: `session ${id} has no pending map, and the points log does not have it either`,
    hint: "cancel the session and start the copy again",
  });
}

/** A new log, durable, that begins with what session it is of: enough to know its extents when the superblock is lost. */
function createLog(files: StateFiles, directory: string, serial: number, record: SessionRecord): Promise<FrameLog> {
  const first = encodeDefinition(record);
  return FrameLog.create(files, `${directory}/${logName(serial)}`, "session", record.id, serial, first);
}

/** Like a copied record, of a generation that no session has, followed by the record as JSON. */
function encodeDefinition(record: SessionRecord): Uint8Array {
  const head = new Uint8Array(RECORD_HEADER_BYTES);
  new DataView(head.buffer).setFloat64(0, DEFINITION_GENERATION, true);
  return Buffer.concat([head, encodeJson(record)]);
}

/** Undefined: a record of copied granules. */
export function decodeDefinition(payload: Uint8Array): SessionRecord | undefined {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  if (payload.byteLength < RECORD_HEADER_BYTES || view.getFloat64(0, true) !== DEFINITION_GENERATION) return undefined;
  return decodeSessionRecord(parseJson(payload.subarray(RECORD_HEADER_BYTES)));
}

/** A copied record: generation, then first and count of each run, as 64-bit floats (exact below 2^53), little-endian. */
function encodeCopied(generation: number, runs: readonly GranuleRun[]): Uint8Array {
  const bytes = new Uint8Array(RECORD_HEADER_BYTES + runs.length * RUN_BYTES);
  const view = new DataView(bytes.buffer);
  view.setFloat64(0, generation, true);
  runs.forEach((run, index) => {
    view.setFloat64(RECORD_HEADER_BYTES + index * RUN_BYTES, run.first, true);
    view.setFloat64(RECORD_HEADER_BYTES + index * RUN_BYTES + 8, run.count, true);
  });
  return bytes;
}

/** Runs; none for a record of another generation, undefined when the payload is not what `encodeCopied` makes. */
export function decodeCopied(payload: Uint8Array, generation: number, granuleCount: number): GranuleRun[] | undefined {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  if (payload.byteLength < RECORD_HEADER_BYTES) return undefined;
  if (view.getFloat64(0, true) !== generation) return [];
  if ((payload.byteLength - RECORD_HEADER_BYTES) % RUN_BYTES !== 0) return undefined;
  const runs: GranuleRun[] = [];
  for (let offset = RECORD_HEADER_BYTES; offset < payload.byteLength; offset += RUN_BYTES) {
    const run = { first: view.getFloat64(offset, true), count: view.getFloat64(offset + 8, true) };
    const whole = Number.isSafeInteger(run.first) && Number.isSafeInteger(run.count);
    if (!whole || run.first < 0 || run.count < 1 || run.first + run.count > granuleCount) return undefined;
    runs.push(run);
  }
  return runs;
}
