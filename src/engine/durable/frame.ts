/**
 * Bytes of a frame log: the file header and one frame.
 *
 * Role: encodes and checks; no I/O.
 * Invariants:
 *   1. The checksum of a frame is seeded with that of its file header, so a frame of another log is never valid here.
 *   2. A frame names the checksum of the one before, so frames can neither be missing nor change places.
 * Layout: docs/file-formats.md "Frame log".
 */
import { assert } from "../../base/assert.ts";
import { STATE_LOG_FRAME_BYTES_MAX, STATE_OWNER_BYTES_MAX } from "../../base/limits.ts";
import { crc32c } from "../map/core.ts";
import { getText, getWhole, KIND_FIELD_BYTES, OWNER_FIELD_BYTES, putText, putWhole, viewOf } from "./fields.ts";
import { corruptFile, fileTooNew } from "./state-files.ts";

export const LOG_HEADER_BYTES = 4096;
export const FRAME_HEADER_BYTES = 40;
export const LOG_VERSION = 1;
const LOG_MAGIC = "TMFRAMES";
const HEADER = { magic: 0, version: 8, kind: 16, owner: 32, number: 96, checksum: LOG_HEADER_BYTES - 4 };
const FRAME = { magic: 0, type: 4, length: 8, previous: 12, sequence: 16, durable: 24, checksum: 32 };
/** First bytes of every frame. */
export const FRAME_MAGIC = new Uint8Array([0x54, 0x4d, 0x46, 0xa7]);

assert(HEADER.owner + STATE_OWNER_BYTES_MAX <= HEADER.number, "the owner ends before the log number");

/** `data` carries the caller's payload; `mark` only says what is durable. */
export type FrameType = "data" | "mark";
const TYPE_CODES: Record<FrameType, number> = { data: 1, mark: 2 };

export interface LogIdentity {
  /** What owns the log: "volume", "session", "box"; at most 16 bytes. */
  readonly kind: string;
  readonly ownerId: string;
  readonly number: number;
}

export interface FrameHeader {
  readonly type: FrameType;
  readonly payloadBytes: number;
  readonly previousChecksum: number;
  readonly sequence: number;
  /** The last sequence number known to be durable when this frame was written. */
  readonly durableSequence: number;
  readonly checksum: number;
}

export function encodeLogHeader(identity: LogIdentity): { bytes: Uint8Array; checksum: number } {
  const bytes = new Uint8Array(LOG_HEADER_BYTES);
  const view = viewOf(bytes);
  putText(bytes, HEADER.magic, 8, LOG_MAGIC);
  view.setUint16(HEADER.version, LOG_VERSION, true);
  putText(bytes, HEADER.kind, KIND_FIELD_BYTES, identity.kind);
  putText(bytes, HEADER.owner, OWNER_FIELD_BYTES, identity.ownerId);
  putWhole(view, HEADER.number, identity.number);
  const checksum = crc32c(bytes.subarray(0, HEADER.checksum));
  view.setUint32(HEADER.checksum, checksum, true);
  return { bytes, checksum };
}

/** METADATA_CORRUPT when it is damaged or of another owner; SCHEMA_TOO_NEW. */
export function decodeLogHeader(
  path: string,
  bytes: Uint8Array,
  kind: string,
  ownerId: string,
): { number: number; checksum: number } {
  const view = viewOf(bytes);
  const whole = bytes.length === LOG_HEADER_BYTES && getText(bytes, HEADER.magic, 8) === LOG_MAGIC;
  if (!whole || view.getUint32(HEADER.checksum, true) !== crc32c(bytes.subarray(0, HEADER.checksum)))
    throw corruptFile(path, "the header of the log is damaged", { offset: "0" });
  const version = view.getUint16(HEADER.version, true);
  if (version > LOG_VERSION) throw fileTooNew(path, version, LOG_VERSION);
  const foundKind = getText(bytes, HEADER.kind, KIND_FIELD_BYTES);
  const foundOwner = getText(bytes, HEADER.owner, OWNER_FIELD_BYTES);
  if (foundKind !== kind || foundOwner !== ownerId) {
    throw corruptFile(path, `belongs to ${foundKind} ${foundOwner}, not to ${kind} ${ownerId}`, {
      belongsTo: `${foundKind} ${foundOwner}`,
    });
  }
  return { number: getWhole(view, HEADER.number), checksum: view.getUint32(HEADER.checksum, true) };
}

/** Writes the frame into `into` at `at`, payload included; returns its checksum. */
export function encodeFrame(
  into: Uint8Array,
  at: number,
  logChecksum: number,
  frame: Omit<FrameHeader, "checksum" | "payloadBytes">,
  payload: Uint8Array,
): number {
  const head = into.subarray(at, at + FRAME_HEADER_BYTES);
  const view = viewOf(head);
  head.fill(0);
  head.set(FRAME_MAGIC, FRAME.magic);
  view.setUint8(FRAME.type, TYPE_CODES[frame.type]);
  view.setUint32(FRAME.length, payload.length, true);
  view.setUint32(FRAME.previous, frame.previousChecksum, true);
  putWhole(view, FRAME.sequence, frame.sequence);
  putWhole(view, FRAME.durable, frame.durableSequence);
  into.set(payload, at + FRAME_HEADER_BYTES);
  const checksum = frameChecksum(logChecksum, head, payload);
  view.setUint32(FRAME.checksum, checksum, true);
  return checksum;
}

/** The header of a frame as far as it makes sense; the checksum is still to be compared. undefined: no frame. */
export function decodeFrameHeader(head: Uint8Array): FrameHeader | undefined {
  if (head.length < FRAME_HEADER_BYTES || FRAME_MAGIC.some((byte, index) => head[index] !== byte)) return undefined;
  const view = viewOf(head);
  const type = view.getUint8(FRAME.type) === TYPE_CODES.data ? "data" : "mark";
  const rest = [5, 6, 7, 36, 37, 38, 39].every((at) => head[at] === 0);
  const payloadBytes = view.getUint32(FRAME.length, true);
  const sequence = getWhole(view, FRAME.sequence);
  const durableSequence = getWhole(view, FRAME.durable);
  if (view.getUint8(FRAME.type) !== TYPE_CODES[type] || !rest || payloadBytes > STATE_LOG_FRAME_BYTES_MAX)
    return undefined;
  if (!(sequence > 0) || !(durableSequence < sequence) || (type === "mark" && payloadBytes > 0)) return undefined;
  const previousChecksum = view.getUint32(FRAME.previous, true);
  return {
    type,
    payloadBytes,
    previousChecksum,
    sequence,
    durableSequence,
    checksum: view.getUint32(FRAME.checksum, true),
  };
}

/** Checksum of a frame: its header up to the checksum field, then its payload, seeded with the log's own. */
export function frameChecksum(logChecksum: number, head: Uint8Array, payload: Uint8Array): number {
  return crc32c(payload, crc32c(head.subarray(0, FRAME.checksum), logChecksum));
}
