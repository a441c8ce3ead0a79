/**
 * Reads a frame log from its beginning and decides where it ends.
 *
 * Rule (data-safety 1.8): the first bad frame ends the log. When nothing after it proves that it was durable once, it is a
 * torn tail, written but never acknowledged as durable, and may be cut off. When a later, valid frame of the same log says
 * that it was durable, it is corruption, and nothing is cut or skipped.
 * Memory: one window of the file, as large as the largest frame at most.
 */

import { AssertionError } from "../../base/assert.ts";
import { asTidemarkError } from "../../base/errors.ts";
import { FileWindow, WINDOW_BYTES } from "./file-window.ts";
import {
  decodeFrameHeader,
  decodeLogHeader,
  FRAME_HEADER_BYTES,
  FRAME_MAGIC,
  type FrameHeader,
  frameChecksum,
  LOG_HEADER_BYTES,
} from "./frame.ts";
import { type ExpectedEnd, requireEnd, requireFrame } from "./log-end.ts";
import { corruptFile, type StateFile } from "./state-files.ts";

const MAGIC = Buffer.from(FRAME_MAGIC);

export interface ReplayEnd {
  /** First byte after the last good frame. */
  readonly endBytes: number;
  readonly sequence: number;
  /** Sequence number of the last frame that carries a payload. */
  readonly lastDataSequence: number;
  /** Its checksum; that of the header when there is none. */
  readonly lastDataChecksum: number;
  readonly checksum: number;
  /** Length of the file; more than `endBytes` when there is a torn tail. */
  readonly fileBytes: number;
}

/**
 * Reads a whole log, its header included. Changes nothing: cutting off a torn tail is the caller's. METADATA_CORRUPT, also
 * when it lacks what is `expected`; SCHEMA_TOO_NEW.
 */
export async function readLog(
  file: StateFile,
  kind: string,
  ownerId: string,
  onFrame: (payload: Uint8Array, sequence: number) => void,
  expected?: ExpectedEnd,
): Promise<{ readonly number: number; readonly checksum: number; readonly end: ReplayEnd }> {
  const window = await FileWindow.over(file);
  const { number, checksum } = decodeLogHeader(file.path, await window.at(0, LOG_HEADER_BYTES), kind, ownerId);
  checkLogName(file.path, number);
  const end = await replayFrames(file, window, { logChecksum: checksum, onFrame, expected });
  requireEnd(file.path, expected, end);
  return { number, checksum, end };
}

/** A name of the form `<name>-<number>.log` must agree with the header. METADATA_CORRUPT. */
export function checkLogName(path: string, number: number): void {
  const named = /-(\d+)\.log$/.exec(path)?.[1];
  if (named === undefined || Number(named) === number) return;
  throw corruptFile(path, `holds log number ${number}`, { number: String(number) });
}

/** Gives each good frame to `onFrame`, in order. METADATA_CORRUPT names file and offset, also when `onFrame` cannot use it. */
async function replayFrames(
  file: StateFile,
  window: FileWindow,
  log: {
    readonly logChecksum: number;
    readonly onFrame: (payload: Uint8Array, sequence: number) => void;
    readonly expected: ExpectedEnd | undefined;
  },
): Promise<ReplayEnd> {
  const { fileBytes } = window;
  const { logChecksum, onFrame, expected } = log;
  let offset = LOG_HEADER_BYTES;
  let sequence = 0;
  let lastDataSequence = 0;
  let lastDataChecksum = logChecksum;
  let checksum = logChecksum;
  for (;;) {
    const frame = await readFrame(window, offset, logChecksum);
    if (frame === undefined || frame.header.sequence !== sequence + 1 || frame.header.previousChecksum !== checksum)
      break;
    sequence++;
    requireFrame(file.path, expected, { sequence, checksum: frame.header.checksum });
    if (frame.header.type === "data") {
      lastDataSequence = sequence;
      lastDataChecksum = frame.header.checksum;
      give(onFrame, frame.payload.slice(), { path: file.path, sequence, offset });
    }
    offset += FRAME_HEADER_BYTES + frame.payload.length;
    checksum = frame.header.checksum;
  }
  if (offset < fileBytes)
    await refuseLostFrame(file, window, { offset, fileBytes, sequence: sequence + 1, logChecksum });
  return { endBytes: offset, sequence, lastDataSequence, lastDataChecksum, checksum, fileBytes };
}

/** A frame is whole and its payload still makes no sense to whoever reads it: damage of this file, at this place. */
function give(
  onFrame: (payload: Uint8Array, sequence: number) => void,
  payload: Uint8Array,
  place: { readonly path: string; readonly sequence: number; readonly offset: number },
): void {
  try {
    onFrame(payload, place.sequence);
  } catch (cause) {
    const { code, message, detail } = asTidemarkError(cause);
    const known = detail.metadata?.["path"] === place.path || !["METADATA_CORRUPT", "INTERNAL"].includes(code);
    if (known || cause instanceof AssertionError) throw cause;
    const reason = cause instanceof Error ? cause.message : message;
    throw corruptFile(place.path, `frame ${place.sequence} at offset ${place.offset} cannot be used: ${reason}`, {
      offset: String(place.offset),
      sequence: String(place.sequence),
    });
  }
}

/** The frame at `offset` when it is whole; its place in the order is not looked at. */
async function readFrame(
  window: FileWindow,
  offset: number,
  logChecksum: number,
): Promise<{ header: FrameHeader; payload: Uint8Array } | undefined> {
  const header = decodeFrameHeader(await window.at(offset, FRAME_HEADER_BYTES));
  if (header === undefined) return undefined;
  const bytes = await window.at(offset, FRAME_HEADER_BYTES + header.payloadBytes);
  if (bytes.length < FRAME_HEADER_BYTES + header.payloadBytes) return undefined;
  const payload = bytes.subarray(FRAME_HEADER_BYTES);
  return frameChecksum(logChecksum, bytes, payload) === header.checksum ? { header, payload } : undefined;
}

/** Throws when a valid frame after the bad one says that the bad one was durable. */
async function refuseLostFrame(
  file: StateFile,
  window: FileWindow,
  bad: { offset: number; fileBytes: number; sequence: number; logChecksum: number },
): Promise<void> {
  for (let base = bad.offset + 1; base < bad.fileBytes; base += WINDOW_BYTES) {
    const piece = await file.read(base, WINDOW_BYTES + FRAME_HEADER_BYTES);
    const search = Buffer.from(piece.buffer, piece.byteOffset, piece.byteLength);
    for (let at = search.indexOf(MAGIC); at >= 0; at = search.indexOf(MAGIC, at + 1)) {
      const header = decodeFrameHeader(piece.subarray(at, at + FRAME_HEADER_BYTES));
      if (header === undefined || header.sequence <= bad.sequence || header.durableSequence < bad.sequence) continue;
      if ((await readFrame(window, base + at, bad.logChecksum)) === undefined) continue;
      throw corruptFile(
        file.path,
        `frame ${bad.sequence} at offset ${bad.offset} is damaged, and frame ${header.sequence} says that it was durable`,
        { offset: String(bad.offset), sequence: String(bad.sequence) },
      );
    }
  }
}
