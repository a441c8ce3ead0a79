/**
 * The points log of the box: one record a point, durable before the gates open. It is the commit of all sessions and
 * epochs of the point together: all or none.
 *
 * Files: `points-<n>.log`; the highest number is in use. A record is needed until every session of it has a checkpoint of
 * its own and every activity log has its seal durably; then a new log is begun and the old one removed.
 * Payload: length of the JSON part (u32, little-endian), JSON, then the encoded maps in the order of the sessions.
 * Source: data-safety 2.5 ("group record durable = commit point of all"); formats: docs/file-formats.md.
 */
import { TidemarkError } from "../../base/errors.ts";
import { granuleCountOf } from "../../base/units.ts";
import { FrameLog } from "../durable/frame-log.ts";
import { decodeMap, encodeMap } from "../durable/map-file.ts";
import type { StateFiles } from "../durable/state-files.ts";
import type { Core } from "../map/core.ts";
import { PagedBitmap } from "../map/paged-bitmap.ts";
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

/** A point as read back, with the map of each session (owned by the reader). */
export interface RecoveredPoint extends PointRecord {
  readonly maps: ReadonlyMap<string, PagedBitmap>;
}

interface JsonPart extends PointRecord {
  /** Bytes of each map; FULL_MAP for one that says "everything", whose size would only cost time in the barrier. */
  readonly mapLengths: readonly number[];
}

const FULL_MAP = -1;

export class PointsLog {
  readonly #files: StateFiles;
  #log: FrameLog;
  #number: number;
  #records: number;

  private constructor(files: StateFiles, log: FrameLog, number: number, records: number) {
    this.#files = files;
    this.#log = log;
    this.#number = number;
    this.#records = records;
  }

  /** Opens the newest log and reads its points, oldest first. */
  static async open(files: StateFiles, core: Core): Promise<{ log: PointsLog; points: RecoveredPoint[] }> {
    const numbers = (await files.list(""))
      .map((name) => Number(/^points-(\d+)\.log$/.exec(name)?.[1] ?? 0))
      .filter((number) => number > 0)
      .sort((a, b) => a - b);
    const newest = numbers.at(-1);
    if (newest === undefined) return { log: new PointsLog(files, await create(files, 1), 1, 0), points: [] };
    const payloads: Uint8Array[] = [];
    const frames = await FrameLog.open(files, nameOf(newest), "box", "points", (payload) => {
      payloads.push(payload.slice());
    });
    for (const number of numbers.slice(0, -1)) await files.remove(nameOf(number));
    const points = payloads.map((payload) => decodePoint(payload, core));
    return { log: new PointsLog(files, frames, newest, points.length), points };
  }

  get records(): number {
    return this.#records;
  }

  /** Durable when it resolves: the point has happened. */
  async append(record: PointRecord, maps: readonly PagedBitmap[]): Promise<void> {
    const encoded = maps.map((map) => (map.count === map.bitCount ? undefined : encodeMap(map)));
    const part: JsonPart = { ...record, mapLengths: encoded.map((bytes) => bytes?.length ?? FULL_MAP) };
    const json = new TextEncoder().encode(JSON.stringify(part));
    const head = new Uint8Array(4);
    new DataView(head.buffer).setUint32(0, json.length, true);
    await this.#log.append(Buffer.concat([head, json, ...encoded.filter((bytes) => bytes !== undefined)]));
    await this.#log.sync();
    this.#records++;
  }

  /** Forgets all points: everything they say is durable elsewhere. */
  async reset(): Promise<void> {
    if (this.#records === 0) return;
    const old = this.#log;
    const oldNumber = this.#number;
    this.#log = await create(this.#files, oldNumber + 1);
    this.#number = oldNumber + 1;
    this.#records = 0;
    await old.close();
    await this.#files.remove(nameOf(oldNumber));
  }

  close(): Promise<void> {
    return this.#log.close();
  }
}

function nameOf(number: number): string {
  return `points-${number}.log`;
}

async function create(files: StateFiles, number: number): Promise<FrameLog> {
  const log = await FrameLog.create(files, nameOf(number), "box", "points", number);
  await files.syncDirectory("");
  return log;
}

function decodePoint(payload: Uint8Array, core: Core): RecoveredPoint {
  const bytes = Buffer.from(payload.buffer, payload.byteOffset, payload.byteLength);
  const jsonEnd = 4 + bytes.readUInt32LE(0);
  if (jsonEnd > bytes.length)
    throw new TidemarkError("METADATA_CORRUPT", {
      message: "points log: a record is shorter than it says",
      hint: "keep the state directory as it is and report this",
    });
  const part = JSON.parse(bytes.toString("utf8", 4, jsonEnd)) as JsonPart;
  const maps = new Map<string, PagedBitmap>();
  let offset = jsonEnd;
  const sessions = part.sessions.map(decodeSessionRecord);
  sessions.forEach((session, index) => {
    const length = part.mapLengths[index] ?? 0;
    const granuleCount = granuleCountOf(session.source.lengthBytes);
    if (length === FULL_MAP) {
      maps.set(session.id, new PagedBitmap(core, granuleCount, "full"));
      return;
    }
    maps.set(session.id, decodeMap(payload.subarray(offset, offset + length), granuleCount, core));
    offset += length;
  });
  return { pointMs: part.pointMs, sessions, seals: part.seals, logicalChanges: part.logicalChanges, maps };
}
