/**
 * Bytes of a snap store: checkpoint slots, the mark, frame headers.
 *
 * Role: encodes and checks; no I/O.
 * Invariants:
 *   1. Every page names its store (uuid), its incarnation and its own place: a page of another store, of an older content of the
 *      store, or from another place is never valid.
 *   2. A frame names the checksum of the frame before, so frames can neither be missing nor change places; and the checkpoint in
 *      force, so what a crash has left behind the end of the log is never taken for its continuation.
 *   3. A header carries the checksum of each of its payloads as they are stored (encrypted, if the store is).
 * Layout: docs/file-formats.md "Snap store".
 */
import { assert } from "../../base/assert.ts";
import { STATE_OWNER_BYTES_MAX } from "../../base/limits.ts";
import { getText, getWhole, OWNER_FIELD_BYTES, putText, putWhole, viewOf } from "../durable/fields.ts";
import { corruptFile, fileTooNew } from "../durable/state-files.ts";
import { crc32c } from "../map/core.ts";
import { FRAME_GRANULES_MAX, isPossible, PAGE_BYTES, type SnapGeometry, TABLE_ENTRY_BYTES } from "./snap-geometry.ts";

export const SNAP_VERSION = 1;
export const UUID_BYTES = 16;
export const VERIFIER_BYTES = 32;
export const MARK_BYTES = 512;
const CHECKSUM_AT = PAGE_BYTES - 4;
const SLOT_MAGIC = "TMSNAPS\n";
const FRAME_MAGIC = "TMSNAPF\n";
const MARK_MAGIC = "TMSNAPM\n";
const NO_SEGMENT = 0xffffffff;

const SLOT = {
  magic: 0,
  version: 8,
  cipher: 10,
  index: 12,
  sequence: 16,
  incarnation: 24,
  uuid: 32,
  verifier: 48,
  owner: 80,
  segmentPages: 144,
  segmentsMax: 152,
  granuleCount: 160,
  nextFrame: 168,
  chain: 176,
  headSegment: 180,
  headPage: 184,
  heldHost: 192,
  tableChecksum: 200,
};
const FRAME = {
  magic: 0,
  version: 8,
  entries: 10,
  chain: 12,
  uuid: 16,
  incarnation: 32,
  sequence: 40,
  durable: 48,
  page: 56,
  checkpoint: 64,
  entry: 72,
};
const ENTRY = { granule: 0, checksum: 8, class: 12, bytes: 16 };
const MARK = { magic: 0, uuid: 8, incarnation: 24, durable: 32, checksum: MARK_BYTES - 4 };

assert(SLOT.owner + STATE_OWNER_BYTES_MAX <= SLOT.segmentPages, "the owner ends before the geometry");
assert(FRAME.entry + FRAME_GRANULES_MAX * ENTRY.bytes <= CHECKSUM_AT, "all entries fit into a header");

export type SnapCipherName = "none" | "aes-256-xts";
const CIPHER_CODES: Record<SnapCipherName, number> = { none: 0, "aes-256-xts": 1 };

/** Why a granule takes space: an update while a session runs, or a host's write while none does (spec/11, spec/41 14.8). */
export type SnapClass = "copy" | "host";
const CLASS_CODES: Record<SnapClass, number> = { copy: 1, host: 2 };

/** What never changes of a store. */
export interface SnapIdentity {
  /** Who it belongs to; at most 64 bytes. */
  readonly owner: string;
  readonly uuid: Uint8Array;
  readonly cipher: SnapCipherName;
  readonly verifier: Uint8Array;
  readonly geometry: SnapGeometry;
}

/** The state from which a replay starts. */
export interface SnapCheckpoint {
  readonly sequence: number;
  readonly incarnation: number;
  /** Number of the first frame that is not covered. */
  readonly nextFrame: number;
  /** Checksum of the frame before it. */
  readonly chain: number;
  /** Where it will be written, unless the segment is full. */
  readonly head: { readonly segment: number; readonly page: number } | undefined;
  /** Granules that hosts had written before the present incarnation and that still count. */
  readonly heldHost: number;
  /** Of each segment the number of its first frame; 0: not in use. */
  readonly firstFrames: readonly number[];
}

export interface SnapEntry {
  readonly granule: number;
  readonly checksum: number;
  readonly class: SnapClass;
}

export interface SnapFrame {
  readonly sequence: number;
  /** The last frame known to be durable when this one was written. */
  readonly durable: number;
  readonly chain: number;
  readonly page: number;
  /** The checkpoint in force. */
  readonly checkpoint: number;
  readonly entries: readonly SnapEntry[];
  readonly checksum: number;
}

// --- checkpoint slots ------------------------------------------------------------------------------------------------

export function encodeCheckpoint(
  identity: SnapIdentity,
  checkpoint: SnapCheckpoint,
): { page: Uint8Array; table: Uint8Array } {
  const { geometry } = identity;
  const table = new Uint8Array(geometry.segmentsMax * TABLE_ENTRY_BYTES);
  const tableView = viewOf(table);
  checkpoint.firstFrames.forEach((first, segment) => {
    putWhole(tableView, segment * TABLE_ENTRY_BYTES, first);
  });
  const page = new Uint8Array(PAGE_BYTES);
  const view = viewOf(page);
  putText(page, SLOT.magic, 8, SLOT_MAGIC);
  view.setUint16(SLOT.version, SNAP_VERSION, true);
  view.setUint16(SLOT.cipher, CIPHER_CODES[identity.cipher], true);
  view.setUint32(SLOT.index, checkpoint.sequence % 2, true);
  putWhole(view, SLOT.sequence, checkpoint.sequence);
  putWhole(view, SLOT.incarnation, checkpoint.incarnation);
  page.set(identity.uuid, SLOT.uuid);
  page.set(identity.verifier, SLOT.verifier);
  putText(page, SLOT.owner, OWNER_FIELD_BYTES, identity.owner);
  putWhole(view, SLOT.segmentPages, geometry.segmentPages);
  putWhole(view, SLOT.segmentsMax, geometry.segmentsMax);
  putWhole(view, SLOT.granuleCount, geometry.granuleCount);
  putWhole(view, SLOT.nextFrame, checkpoint.nextFrame);
  view.setUint32(SLOT.chain, checkpoint.chain, true);
  view.setUint32(SLOT.headSegment, checkpoint.head?.segment ?? NO_SEGMENT, true);
  putWhole(view, SLOT.headPage, checkpoint.head?.page ?? 0);
  putWhole(view, SLOT.heldHost, checkpoint.heldHost);
  view.setUint32(SLOT.tableChecksum, crc32c(table), true);
  view.setUint32(CHECKSUM_AT, crc32c(page.subarray(0, CHECKSUM_AT)), true);
  return { page, table };
}

export interface FoundSlot {
  readonly identity: SnapIdentity;
  /** Without its table. */
  readonly checkpoint: Omit<SnapCheckpoint, "firstFrames">;
  readonly tableChecksum: number;
}

/** undefined: damaged. METADATA_CORRUPT when it is whole but somebody else's; SCHEMA_TOO_NEW. */
export function decodeSlot(path: string, owner: string, index: number, page: Uint8Array): FoundSlot | undefined {
  if (page.length !== PAGE_BYTES || getText(page, SLOT.magic, 8) !== SLOT_MAGIC) return undefined;
  const view = viewOf(page);
  if (view.getUint32(CHECKSUM_AT, true) !== crc32c(page.subarray(0, CHECKSUM_AT))) return undefined;
  const version = view.getUint16(SLOT.version, true);
  if (version > SNAP_VERSION) throw fileTooNew(path, version, SNAP_VERSION);
  const found = getText(page, SLOT.owner, OWNER_FIELD_BYTES);
  if (found !== owner) throw corruptFile(path, `belongs to ${found}, not to ${owner}`, { belongsTo: String(found) });
  const cipher = keyOf(CIPHER_CODES, view.getUint16(SLOT.cipher, true));
  const sequence = getWhole(view, SLOT.sequence);
  const geometry = {
    segmentPages: getWhole(view, SLOT.segmentPages),
    segmentsMax: getWhole(view, SLOT.segmentsMax),
    granuleCount: getWhole(view, SLOT.granuleCount),
  };
  const placed = view.getUint32(SLOT.index, true) === index && sequence > 0 && sequence % 2 === index;
  if (cipher === undefined || !placed || !isPossible(geometry)) return undefined;
  const segment = view.getUint32(SLOT.headSegment, true);
  const headPage = getWhole(view, SLOT.headPage);
  const head = segment === NO_SEGMENT ? undefined : { segment, page: headPage };
  if (head && (segment >= geometry.segmentsMax || !(headPage <= geometry.segmentPages))) return undefined;
  const checkpoint = {
    sequence,
    incarnation: getWhole(view, SLOT.incarnation),
    nextFrame: getWhole(view, SLOT.nextFrame),
    chain: view.getUint32(SLOT.chain, true),
    head,
    heldHost: getWhole(view, SLOT.heldHost),
  };
  if (!(checkpoint.incarnation > 0 && checkpoint.nextFrame > 0 && checkpoint.heldHost >= 0)) return undefined;
  const uuid = page.slice(SLOT.uuid, SLOT.uuid + UUID_BYTES);
  const verifier = page.slice(SLOT.verifier, SLOT.verifier + VERIFIER_BYTES);
  const identity = { owner, uuid, cipher, verifier, geometry };
  return { identity, checkpoint, tableChecksum: view.getUint32(SLOT.tableChecksum, true) };
}

/** undefined: damaged, or not the table of that slot. */
export function decodeTable(slot: FoundSlot, table: Uint8Array): SnapCheckpoint | undefined {
  const { segmentsMax } = slot.identity.geometry;
  if (table.length !== segmentsMax * TABLE_ENTRY_BYTES || crc32c(table) !== slot.tableChecksum) return undefined;
  const view = viewOf(table);
  const firstFrames = Array.from({ length: segmentsMax }, (_, segment) => getWhole(view, segment * TABLE_ENTRY_BYTES));
  if (firstFrames.some((first) => !(first >= 0 && first < slot.checkpoint.nextFrame))) return undefined;
  return { ...slot.checkpoint, firstFrames };
}

// --- frames ----------------------------------------------------------------------------------------------------------

/** What the frames of one incarnation have in common. */
export interface FrameOrigin {
  readonly uuid: Uint8Array;
  readonly incarnation: number;
}

/** Writes the header into the first page of `into`; returns its checksum. */
export function encodeFrameHeader(into: Uint8Array, origin: FrameOrigin, frame: Omit<SnapFrame, "checksum">): number {
  const { entries } = frame;
  assert(entries.length > 0 && entries.length <= FRAME_GRANULES_MAX, "a frame has 1 to 60 granules");
  const page = into.subarray(0, PAGE_BYTES);
  const view = viewOf(page);
  page.fill(0);
  putText(page, FRAME.magic, 8, FRAME_MAGIC);
  view.setUint16(FRAME.version, SNAP_VERSION, true);
  view.setUint16(FRAME.entries, entries.length, true);
  view.setUint32(FRAME.chain, frame.chain, true);
  page.set(origin.uuid, FRAME.uuid);
  putWhole(view, FRAME.incarnation, origin.incarnation);
  putWhole(view, FRAME.sequence, frame.sequence);
  putWhole(view, FRAME.durable, frame.durable);
  putWhole(view, FRAME.page, frame.page);
  putWhole(view, FRAME.checkpoint, frame.checkpoint);
  entries.forEach((entry, index) => {
    const at = FRAME.entry + index * ENTRY.bytes;
    putWhole(view, at + ENTRY.granule, entry.granule);
    view.setUint32(at + ENTRY.checksum, entry.checksum, true);
    view.setUint8(at + ENTRY.class, CLASS_CODES[entry.class]);
  });
  const checksum = crc32c(page.subarray(0, CHECKSUM_AT));
  view.setUint32(CHECKSUM_AT, checksum, true);
  return checksum;
}

/** The header at `page` of the file when it is whole and of this incarnation; its place in the order is not looked at. */
export function decodeFrameHeader(
  bytes: Uint8Array,
  origin: FrameOrigin,
  page: number,
  granuleCount: number,
): SnapFrame | undefined {
  if (bytes.length < PAGE_BYTES || getText(bytes, FRAME.magic, 8) !== FRAME_MAGIC) return undefined;
  const view = viewOf(bytes);
  const checksum = view.getUint32(CHECKSUM_AT, true);
  if (checksum !== crc32c(bytes.subarray(0, CHECKSUM_AT)) || view.getUint16(FRAME.version, true) !== SNAP_VERSION)
    return undefined;
  const ours = origin.uuid.every((byte, index) => bytes[FRAME.uuid + index] === byte);
  if (!ours || getWhole(view, FRAME.incarnation) !== origin.incarnation || getWhole(view, FRAME.page) !== page)
    return undefined;
  const sequence = getWhole(view, FRAME.sequence);
  const durable = getWhole(view, FRAME.durable);
  const checkpoint = getWhole(view, FRAME.checkpoint);
  const count = view.getUint16(FRAME.entries, true);
  if (!(sequence > 0 && durable < sequence && checkpoint > 0) || count === 0 || count > FRAME_GRANULES_MAX)
    return undefined;
  const entries: SnapEntry[] = [];
  for (let index = 0; index < count; index++) {
    const at = FRAME.entry + index * ENTRY.bytes;
    const granule = getWhole(view, at + ENTRY.granule);
    const kind = keyOf(CLASS_CODES, view.getUint8(at + ENTRY.class));
    if (kind === undefined || !(granule < granuleCount)) return undefined;
    entries.push({ granule, checksum: view.getUint32(at + ENTRY.checksum, true), class: kind });
  }
  const chain = view.getUint32(FRAME.chain, true);
  return { sequence, durable, chain, page, checkpoint, entries, checksum };
}

// --- the mark --------------------------------------------------------------------------------------------------------

/** Says that frame `durable` and all before it are durable; written after a sync when nothing else follows. */
export function encodeMark(origin: FrameOrigin, durable: number): Uint8Array {
  const mark = new Uint8Array(MARK_BYTES);
  const view = viewOf(mark);
  putText(mark, MARK.magic, 8, MARK_MAGIC);
  mark.set(origin.uuid, MARK.uuid);
  putWhole(view, MARK.incarnation, origin.incarnation);
  putWhole(view, MARK.durable, durable);
  view.setUint32(MARK.checksum, crc32c(mark.subarray(0, MARK.checksum)), true);
  return mark;
}

/** The number it names; 0 when it is damaged or of another incarnation, which proves nothing. */
export function decodeMark(mark: Uint8Array, origin: FrameOrigin): number {
  if (mark.length !== MARK_BYTES || getText(mark, MARK.magic, 8) !== MARK_MAGIC) return 0;
  const view = viewOf(mark);
  if (view.getUint32(MARK.checksum, true) !== crc32c(mark.subarray(0, MARK.checksum))) return 0;
  const ours = origin.uuid.every((byte, index) => mark[MARK.uuid + index] === byte);
  const durable = getWhole(view, MARK.durable);
  return ours && getWhole(view, MARK.incarnation) === origin.incarnation && durable >= 0 ? durable : 0;
}

function keyOf<K extends string>(codes: Record<K, number>, code: number): K | undefined {
  return (Object.keys(codes) as K[]).find((key) => codes[key] === code);
}
