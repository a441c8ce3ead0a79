/**
 * The points log of the box: one record a point, durable before the gates open. It is the commit of all sessions and
 * epochs of the point together: all or none.
 *
 * Files: `points-<n>.log`; the highest number is in use. A record is needed until every session of it has a checkpoint of
 * its own and every activity log has its seal durably; then a new log is begun and the older ones are removed. All that
 * are there are read, in order: whether the making of the newest was reported as failed does not matter.
 * A log takes no point before the one in use says, durably, that it is continued in it: when the newest is missing, that is noticed.
 * A log that is damaged is set aside as `points-<n>.log.damaged`, for whoever wants to look at it, once what follows from
 * the damage is durable. A log that is missing is not begun again before that either.
 * What it says of volumes and sessions that are out of service in this run (barred.ts) is carried: written into a log of its
 * own, which is not removed before the next start.
 * Payload of a point: length of the JSON part (u32, little-endian), JSON, then the encoded maps in the order of the sessions.
 * Source: data-safety 2.5 ("group record durable = commit point of all"); formats: docs/file-formats.md.
 */
import { assert } from "../../base/assert.ts";
import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import { STATE_LOG_FRAME_BYTES_MAX } from "../../base/limits.ts";
import { granuleCountOf } from "../../base/units.ts";
import { REGION_BITS_BYTES } from "../durable/activity-frames.ts";
import { parseJson } from "../durable/fields.ts";
import { FrameLog } from "../durable/frame-log.ts";
import type { ExpectedEnd, LogEnd } from "../durable/log-end.ts";
import { decodeMap, encodeMap } from "../durable/map-file.ts";
import { TEMPORARY_SUFFIX } from "../durable/replace-file.ts";
import { corruptFile, isDamage, type StateFiles } from "../durable/state-files.ts";
import type { Core } from "../map/core.ts";
import { PagedBitmap } from "../map/paged-bitmap.ts";
import { SESSIONS_DIRECTORY } from "./session-files.ts";
import { decodeSessionRecord, type SessionRecord } from "./session-record.ts";

/** What happened to the chain of one volume at a point. */
export interface VolumeSeal {
  readonly uid: string;
  /** Epoch that was open; 0 when tracking began with the point. */
  readonly sealedEpoch: number;
  readonly openedEpoch: number;
  readonly beginMs: number;
  /** Bits of the sealed epoch in the regions that were hot, 64 bytes each, as base64. */
  readonly hotBits: readonly { readonly region: number; readonly bits: string }[];
}

/** The logical content of a destination changed where the session's map is set, for those who track the destination. */
export interface LogicalChange {
  readonly uid: string;
  readonly epoch: number;
  readonly sessionId: string;
}

export interface PointRecord {
  readonly pointMs: number;
  readonly sessions: readonly SessionRecord[];
  readonly seals: readonly VolumeSeal[];
  readonly logicalChanges: readonly LogicalChange[];
}

/** A point as read back, with the maps that it has itself (owned by the reader). */
export interface RecoveredPoint extends PointRecord {
  readonly maps: ReadonlyMap<string, PagedBitmap>;
}

interface JsonPart extends PointRecord {
  /** Bytes of each map, FULL_MAP or MAP_IN_FILE. */
  readonly mapLengths: readonly number[];
}

const FULL_MAP = -1;
const MAP_IN_FILE = -2;
/** More than what says in which log this one is continued, less than any point. */
const CONTINUED_BYTES_MAX = 48;

/**
 * A map as a point has it. `full`: it says "everything", whose size would only cost time in the barrier. `in-file`: it is in the file
 * that the session's record names.
 */
export type PointMap = Uint8Array | "full" | "in-file";

/** `in-file` when the map takes more than `bytesMax`; the caller then writes the file. */
export function encodePointMap(map: PagedBitmap, bytesMax: number): PointMap {
  if (map.count === map.bitCount) return "full";
  return encodeMap(map, bytesMax) ?? "in-file";
}

/** What `open` found. `damage`: records may be missing from `points`. */
export interface FoundPoints {
  readonly log: PointsLog;
  readonly points: RecoveredPoint[];
  readonly damage: TidemarkError | undefined;
}

export class PointsLog {
  readonly #files: StateFiles;
  /** Undefined while the log is known to be missing. */
  #log: FrameLog | undefined;
  #number: number;
  #records: number;
  /** Logs before the one in use, not yet removed. */
  #older: number[];
  /** A log before the one in use that stays. */
  #carried: number | undefined;
  /** Logs that could not be read, until they are set aside. */
  #damaged: number[];
  /** Newest of the older logs when it does not name the one in use yet. */
  #unnamed: number | undefined;

  private constructor(
    files: StateFiles,
    log: FrameLog | undefined,
    found: { number: number; records: number; older: number[]; damaged: number[]; unnamed: number | undefined },
  ) {
    this.#files = files;
    this.#log = log;
    this.#number = found.number;
    this.#records = found.records;
    this.#older = found.older;
    this.#damaged = found.damaged;
    this.#unnamed = found.unnamed;
  }

  /** Opens the logs and reads their points, oldest first. SCHEMA_TOO_NEW, and what the disk may throw. */
  static async open(
    files: StateFiles,
    core: Core,
    ends: ReadonlyMap<string, ExpectedEnd> = new Map(),
  ): Promise<FoundPoints> {
    const names = await files.list("");
    for (const name of names) if (name.endsWith(TEMPORARY_SUFFIX)) await files.remove(name);
    const numbers = pointsLogNumbers(names);
    let used = Math.max(0, ...names.map(anyNumberOf));
    /** The newest log that should be there, and what the last of the older ones says. */
    let named = Math.max(0, ...[...ends.keys()].map(anyNumberOf));
    let lastNamed: number | undefined;
    const points: RecoveredPoint[] = [];
    const kept: number[] = [];
    const damaged: number[] = [];
    let newest: FrameLog | undefined;
    let newestNames: number | undefined;
    let damage = numbers.length === 0 ? await missingLog(files) : undefined;
    for (const number of numbers) {
      try {
        const read = await readLog(files, number, core, ends.get(pointsLogName(number)));
        if (newest) lastNamed = newestNames;
        await newest?.close();
        newest = read.log;
        newestNames = read.continuedIn;
        named = Math.max(named, read.continuedIn ?? 0);
        points.push(...read.points);
        kept.push(number);
      } catch (cause) {
        const error = asTidemarkError(cause);
        if (!isDamage(error)) throw error;
        damage ??= error;
        damaged.push(number);
      }
    }
    if (named > used) damage ??= newestMissing(named);
    used = Math.max(used, named);
    const inUse = newest && kept.at(-1) === used;
    if (inUse) kept.pop();
    else {
      await newest?.close();
      lastNamed = newestNames;
      used++;
    }
    const isMissing = damage !== undefined && numbers.length === 0;
    const log = inUse ? newest : isMissing ? undefined : await create(files, used);
    const unnamed = lastNamed === used ? undefined : kept.at(-1);
    const found = { number: used, records: points.length, older: kept, damaged, unnamed };
    const pointsLog = new PointsLog(files, log, found);
    // A kill came between the two; with damage it waits until what follows from that is durable.
    if (!damage) await pointsLog.#nameInUse();
    return { log: pointsLog, points, damage };
  }

  async #nameInUse(): Promise<void> {
    if (this.#unnamed === undefined) return;
    const log = await FrameLog.open(this.#files, pointsLogName(this.#unnamed), "box", "points", () => undefined);
    try {
      await log.appendDurable(encodeContinued(this.#number));
    } finally {
      await log.close();
    }
    this.#unnamed = undefined;
  }

  /** There should be one, and there is none. */
  get isMissing(): boolean {
    return this.#log === undefined;
  }

  /** What follows from the damage is durable elsewhere: until then every start has to find it again. */
  async setAsideDamaged(): Promise<void> {
    this.#log ??= await create(this.#files, this.#number);
    for (const number of this.#damaged)
      await this.#files.rename(pointsLogName(number), `${pointsLogName(number)}.damaged`);
    if (this.#damaged.length > 0) await this.#files.syncDirectory("");
    this.#damaged = [];
    await this.#nameInUse();
  }

  get records(): number {
    return this.#records;
  }

  /** Durable when it resolves: the point has happened. */
  async append(record: PointRecord, maps: readonly PointMap[]): Promise<void> {
    const log = this.#inUse();
    await log.append(encodePoint(record, maps));
    await log.sync();
    this.#records++;
  }

  /** From now on these points are in a log of their own, which stays; the others go with the next `reset`. */
  async carry(points: readonly RecoveredPoint[]): Promise<void> {
    if (points.length === 0) return;
    const payloads = distinctPayloads(points);
    const old = this.#inUse();
    const log = await create(this.#files, this.#number + 1);
    for (const payload of payloads) await log.append(payload);
    await log.sync();
    const next = await create(this.#files, this.#number + 2);
    for (const before of [log, old]) {
      await before.appendDurable(encodeContinued(this.#number + 2));
      await before.close();
    }
    this.#older.push(this.#number);
    this.#carried = this.#number + 1;
    this.#number += 2;
    this.#log = next;
  }

  #inUse(): FrameLog {
    assert(this.#log !== undefined, "the points log has begun");
    return this.#log;
  }

  /** The logs that a start would read, with the bytes of the one in use that are acknowledged. */
  get logs(): readonly { readonly path: string; readonly storedBytes: number | undefined }[] {
    const before = [...this.#older, ...(this.#carried === undefined ? [] : [this.#carried])];
    const older = before.map((number) => ({ path: pointsLogName(number), storedBytes: undefined }));
    return [...older, { path: pointsLogName(this.#number), storedBytes: this.#inUse().sizeBytes }];
  }

  /** Forgets all points: everything they say is durable elsewhere. After a failure the log goes on as it is. */
  async reset(): Promise<void> {
    if (this.#records > 0 || this.#older.length > 0) await this.renew();
  }

  /** As `reset`, but begins a new log in any case: the present one is damaged on the disk. */
  async renew(): Promise<void> {
    const next = await create(this.#files, this.#number + 1);
    const old = this.#inUse();
    try {
      await old.appendDurable(encodeContinued(this.#number + 1));
    } catch (error) {
      await next.abandon(); // it has never been in use, so that the next attempt may take its number
      throw error;
    }
    this.#older.push(this.#number);
    this.#log = next;
    this.#number++;
    this.#records = 0;
    await old.close();
    for (const number of this.#older) await this.#files.remove(pointsLogName(number));
    this.#older = [];
  }

  /** Where the log in use ends; after `close`, for good. */
  get logEnd(): { readonly path: string; readonly end: LogEnd } {
    return { path: pointsLogName(this.#number), end: this.#inUse().end };
  }

  async close(): Promise<void> {
    await this.#log?.close();
  }
}

/** A box that has sessions has had a points log since the first of them. */
export async function missingLog(files: StateFiles): Promise<TidemarkError | undefined> {
  const sessions = (await files.exists(SESSIONS_DIRECTORY)) ? await files.list(SESSIONS_DIRECTORY) : [];
  if (sessions.length === 0) return undefined;
  const path = "points-*.log";
  return new TidemarkError("PATH_NOT_FOUND", {
    message: `${path}: there is none, though there are copies`,
    hint: "put the file back if it was moved; otherwise run the copies that have failed again",
    metadata: { path },
  });
}

/** The newest log, as another one says or the last stop. */
export function newestMissing(number: number): TidemarkError {
  return corruptFile(pointsLogName(number), "it is missing, and it was in use");
}

/** Number of a points log, also of one that was set aside; 0 for other files. */
export function anyNumberOf(name: string): number {
  return Number(/^points-(\d+)\.log/.exec(name)?.[1] ?? 0);
}

/** Numbers of the logs among these names, oldest first. */
export function pointsLogNumbers(names: readonly string[]): number[] {
  const numbers = names.map((name) => Number(/^points-(\d+)\.log$/.exec(name)?.[1] ?? 0));
  return numbers.filter((number) => number > 0).sort((a, b) => a - b);
}

/** File of log `number`. */
export function pointsLogName(number: number): string {
  return `points-${number}.log`;
}

function encodePoint(record: PointRecord, maps: readonly PointMap[]): Uint8Array {
  const encoded = maps.filter((map) => typeof map !== "string");
  const lengthOf = (map: PointMap) => (map === "full" ? FULL_MAP : map === "in-file" ? MAP_IN_FILE : map.length);
  const part: JsonPart = { ...record, mapLengths: maps.map(lengthOf) };
  return Buffer.concat([encodeJsonPart(part), ...encoded]);
}

function encodeJsonPart(value: object): Uint8Array {
  const json = new TextEncoder().encode(JSON.stringify(value));
  const head = new Uint8Array(4);
  new DataView(head.buffer).setUint32(0, json.length, true);
  return Buffer.concat([head, json]);
}

function encodeContinued(number: number): Uint8Array {
  return encodeJsonPart({ continuedIn: number });
}

/** The log in which that of this payload is continued; undefined when it is a point, or nothing. */
export function decodeContinued(payload: Uint8Array): number | undefined {
  if (payload.length <= 4 || payload.length > CONTINUED_BYTES_MAX) return undefined;
  const number = (parseJson(payload.subarray(4)) as { continuedIn?: unknown } | null)?.continuedIn;
  return Number.isSafeInteger(number) && (number as number) > 0 ? (number as number) : undefined;
}

/** What was carried before may have been found twice: in its own log and in one that a kill has kept. */
function distinctPayloads(points: readonly RecoveredPoint[]): Uint8Array[] {
  const payloads: Uint8Array[] = [];
  for (const { maps, ...record } of points) {
    const inPoint = record.sessions.map(({ id }) => {
      const map = maps.get(id);
      return map ? encodePointMap(map, STATE_LOG_FRAME_BYTES_MAX) : "in-file";
    });
    const payload = encodePoint(record, inPoint);
    if (!payloads.some((other) => Buffer.compare(other, payload) === 0)) payloads.push(payload);
  }
  return payloads;
}

async function create(files: StateFiles, number: number): Promise<FrameLog> {
  const log = await FrameLog.create(files, pointsLogName(number), "box", "points", number);
  await files.syncDirectory("");
  return log;
}

async function readLog(
  files: StateFiles,
  number: number,
  core: Core,
  expected: ExpectedEnd | undefined,
): Promise<{ log: FrameLog; points: RecoveredPoint[]; continuedIn: number | undefined }> {
  const path = pointsLogName(number);
  const payloads: Uint8Array[] = [];
  const points: RecoveredPoint[] = [];
  let continuedIn: number | undefined;
  const onFrame = (payload: Uint8Array) => {
    const next = decodeContinued(payload);
    if (next === undefined) payloads.push(payload.slice());
    continuedIn = next ?? continuedIn;
  };
  const log = await FrameLog.find(files, path, "box", "points", onFrame, expected);
  try {
    for (const payload of payloads) points.push(decodePoint(path, payload, core));
    await log.cutTail();
    return { log, points, continuedIn };
  } catch (error) {
    for (const { maps } of points) for (const map of maps.values()) map.dispose();
    await log.abandon();
    throw error;
  }
}

/** One record of the log at `path`; the caller disposes its maps. METADATA_CORRUPT. */
export function decodePoint(path: string, payload: Uint8Array, core: Core): RecoveredPoint {
  const { part, mapsOffset } = decodeJsonPart(path, payload);
  const maps = new Map<string, PagedBitmap>();
  let offset = mapsOffset;
  try {
    part.sessions.forEach((session, index) => {
      const length = part.mapLengths[index] ?? 0;
      const granuleCount = granuleCountOf(session.source.lengthBytes);
      if (length === MAP_IN_FILE) return;
      if (length === FULL_MAP) {
        maps.set(session.id, new PagedBitmap(core, granuleCount, "full"));
        return;
      }
      maps.set(session.id, decodeMap(payload.subarray(offset, offset + length), granuleCount, core));
      offset += length;
    });
  } catch (cause) {
    for (const map of maps.values()) map.dispose();
    throw inFile(path, cause);
  }
  const { pointMs, sessions, seals, logicalChanges } = part;
  return { pointMs, sessions, seals, logicalChanges, maps };
}

function decodeJsonPart(path: string, payload: Uint8Array): { part: JsonPart; mapsOffset: number } {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  const jsonEnd = payload.length < 4 ? Number.POSITIVE_INFINITY : 4 + view.getUint32(0, true);
  if (jsonEnd > payload.length) throw corruptFile(path, "a point in it is shorter than it says");
  let value: unknown;
  try {
    value = parseJson(payload.subarray(4, jsonEnd));
  } catch {
    throw corruptFile(path, "a point in it is no JSON");
  }
  const part = value as JsonPart | null;
  if (part === null || !isPoint(part)) throw corruptFile(path, "a point in it makes no sense");
  try {
    return { part: { ...part, sessions: part.sessions.map(decodeSessionRecord) }, mapsOffset: jsonEnd };
  } catch (cause) {
    throw inFile(path, cause);
  }
}

/** All but the sessions, whose records have a check of their own. */
function isPoint({ pointMs, sessions, seals, logicalChanges, mapLengths }: JsonPart): boolean {
  if (!isWhole(pointMs) || ![sessions, seals, logicalChanges, mapLengths].every(Array.isArray)) return false;
  return (
    mapLengths.length === sessions.length &&
    mapLengths.every((length) => length === FULL_MAP || length === MAP_IN_FILE || isWhole(length)) &&
    seals.every(isSeal) &&
    logicalChanges.every(
      (change) =>
        typeof change?.uid === "string" && isWhole(change.epoch) && sessions.some(({ id }) => id === change.sessionId),
    )
  );
}

function isSeal(seal: VolumeSeal | null): boolean {
  if (typeof seal?.uid !== "string" || !isWhole(seal.sealedEpoch) || !isWhole(seal.openedEpoch)) return false;
  if (seal.openedEpoch <= seal.sealedEpoch || !isWhole(seal.beginMs) || !Array.isArray(seal.hotBits)) return false;
  return seal.hotBits.every(
    (hot) => isWhole(hot?.region) && hot.region < 2 ** 32 && typeof hot.bits === "string" && isRegionBits(hot.bits),
  );
}

function isRegionBits(base64: string): boolean {
  return Buffer.from(base64, "base64").length === REGION_BITS_BYTES;
}

function isWhole(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** Damage found by a decoder that does not know the file; everything else is as it was. */
function inFile(path: string, cause: unknown): unknown {
  const error = asTidemarkError(cause);
  return error.code === "METADATA_CORRUPT" ? corruptFile(path, error.message) : cause;
}
