/**
 * Bitmaps on disk: in a file of their own (`writeMap`, `readMap`) and inside a log frame (`encodeMap`, `decodeMap`).
 *
 * Role: only pages that are not empty are written; neighbouring full pages are one record.
 * Invariants:
 *   1. A map file appears complete and durable, or not at all.
 *   2. The checksum of each record is seeded with that of the record before, the first with that of the map's identity
 *      (kind, owner, generation, size): a page of another map, another generation or another place is never valid.
 *   3. What is read equals what was written, bit for bit, or METADATA_CORRUPT is thrown: never a part of it.
 *   4. Writing and reading hold about 1 MiB, whatever the size of the map.
 * Layout: docs/file-formats.md "Map file". Source: data-safety 1.8.
 */
import { assert } from "../../base/assert.ts";
import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import { STATE_OWNER_BYTES_MAX } from "../../base/limits.ts";
import { type Core, crc32c, loadCore } from "../map/core.ts";
import { BITMAP_BITS_MAX, PagedBitmap } from "../map/paged-bitmap.ts";
import { getText, getWhole, KIND_FIELD_BYTES, OWNER_FIELD_BYTES, putText, putWhole, viewOf } from "./fields.ts";
import { FileWindow } from "./file-window.ts";
import {
  countBits,
  decodePage,
  encodePage,
  FORM_CODES,
  formOf,
  PAGE_BITS,
  PAGE_BYTES,
  type PageForm,
} from "./map-pages.ts";
import { replaceFile } from "./replace-file.ts";
import { corruptFile, fileTooNew, type StateFile, type StateFiles } from "./state-files.ts";

/** What a map is; reading checks all of it. */
export interface MapHeader {
  /** What the map says, such as "pending" or "epoch"; at most 16 bytes. */
  readonly kind: string;
  /** Session id or volume uid. */
  readonly ownerId: string;
  /** Generation of the session, or epoch of the volume. */
  readonly generation: number;
  readonly bitCount: number;
}

export const MAP_VERSION = 1;
const MAP_MAGIC = "TMBITMAP";
const HEADER_BYTES = 512;
const HEADER = { magic: 0, version: 8, kind: 16, owner: 32, generation: 96, bitCount: 104, identityEnd: 112 };
const TOTALS = { setBits: 112, pages: 120, records: 128, checksum: HEADER_BYTES - 4 };
const RECORD_BYTES = 24;
const RECORD = { magic: 0, form: 4, firstPage: 8, pageCount: 12, payloadBytes: 16, checksum: 20 };
const TRAILER = { magic: 0, records: 8, checksum: 20 };
const RECORD_MAGIC = 0x47504d54;
const TRAILER_MAGIC = 0x44454d54;
const BUFFER_BYTES = 1024 * 1024;

assert(HEADER.owner + STATE_OWNER_BYTES_MAX <= HEADER.generation, "the owner ends before the generation");

/** One record: full pages in a row, or one page. */
interface PageRecord {
  readonly form: PageForm;
  readonly firstPage: number;
  readonly pageCount: number;
  readonly payload: Uint8Array;
}

interface Totals {
  setBits: number;
  pages: number;
  records: number;
}

const NO_PAYLOAD = new Uint8Array(0);

/** The records of a map, in order; counts into `totals` what it gives. */
function* recordsOf(bitmap: PagedBitmap, totals: Totals): IterableIterator<PageRecord> {
  let firstFull = 0;
  let fullCount = 0;
  const lastPageBits = bitmap.bitCount % PAGE_BITS || PAGE_BITS;
  const pageTotal = Math.ceil(bitmap.bitCount / PAGE_BITS);
  for (const page of bitmap.pages()) {
    totals.pages++;
    if (fullCount > 0 && (page.state !== "full" || page.index !== firstFull + fullCount)) {
      totals.records++;
      yield { form: "full", firstPage: firstFull, pageCount: fullCount, payload: NO_PAYLOAD };
      fullCount = 0;
    }
    if (page.state === "full") {
      if (fullCount === 0) firstFull = page.index;
      fullCount++;
      totals.setBits += page.index === pageTotal - 1 ? lastPageBits : PAGE_BITS;
      continue;
    }
    assert(page.bytes !== undefined, "a mixed page has its bits");
    totals.setBits += countBits(page.bytes);
    totals.records++;
    yield { ...encodePage(page.bytes), firstPage: page.index, pageCount: 1 };
  }
  if (fullCount === 0) return;
  totals.records++;
  yield { form: "full", firstPage: firstFull, pageCount: fullCount, payload: NO_PAYLOAD };
}

/** Adds a record that was read; undefined, or what is wrong with it. `nextPage`: the first page that may come. */
function addRecord(bitmap: PagedBitmap, record: PageRecord, nextPage: number): string | undefined {
  const { form, firstPage, pageCount, payload } = record;
  const pageTotal = Math.ceil(bitmap.bitCount / PAGE_BITS);
  if (firstPage < nextPage || pageCount < 1 || firstPage + pageCount > pageTotal)
    return "is out of order or out of range";
  if (form === "full") {
    if (payload.length > 0) return "has a payload though it is full";
    const first = firstPage * PAGE_BITS;
    bitmap.setRange(first, Math.min(pageCount * PAGE_BITS, bitmap.bitCount - first));
    return undefined;
  }
  const bits = pageCount === 1 ? decodePage(form, payload) : undefined;
  if (bits === undefined) return "has an impossible encoding";
  try {
    bitmap.loadPage(firstPage, bits);
  } catch (error) {
    if (asTidemarkError(error).code !== "METADATA_CORRUPT") throw error;
    return "has bits past the end of the map";
  }
  return undefined;
}

// --- a file of its own -------------------------------------------------------------------------------------------------

/**
 * Writes `bitmap`, which must not change meanwhile, under `path`; durable when it resolves. An older file of that name is
 * replaced. METADATA_WRITE_FAILED: the older file is as it was.
 */
export async function writeMap(
  files: StateFiles,
  path: string,
  header: MapHeader,
  bitmap: PagedBitmap,
): Promise<{ bytes: number }> {
  await loadCore();
  assert(header.bitCount === bitmap.bitCount, "the header is that of the map");
  let bytes = 0;
  const file = await replaceFile(files, path, async (fresh) => {
    bytes = await writeAll(fresh, header, bitmap);
  });
  await file.close();
  return { bytes };
}

async function writeAll(file: StateFile, header: MapHeader, bitmap: PagedBitmap): Promise<number> {
  // A small map takes little: making a large buffer costs more than writing the map.
  const pageTotal = Math.ceil(bitmap.bitCount / PAGE_BITS);
  const buffer = new Uint8Array(Math.min(BUFFER_BYTES, (pageTotal + 1) * (RECORD_BYTES + PAGE_BYTES)));
  const totals: Totals = { setBits: 0, pages: 0, records: 0 };
  let used = 0;
  let offset = HEADER_BYTES;
  let checksum = crc32c(encodeIdentity(header).subarray(0, HEADER.identityEnd));
  const flush = async () => {
    await file.write(offset, buffer.subarray(0, used));
    offset += used;
    used = 0;
  };
  for (const record of recordsOf(bitmap, totals)) {
    if (used + RECORD_BYTES + record.payload.length > buffer.length) await flush();
    const head = buffer.subarray(used, used + RECORD_BYTES);
    const view = viewOf(head);
    head.fill(0);
    view.setUint32(RECORD.magic, RECORD_MAGIC, true);
    view.setUint8(RECORD.form, FORM_CODES[record.form]);
    view.setUint32(RECORD.firstPage, record.firstPage, true);
    view.setUint32(RECORD.pageCount, record.pageCount, true);
    view.setUint32(RECORD.payloadBytes, record.payload.length, true);
    checksum = crc32c(record.payload, crc32c(head.subarray(0, RECORD.checksum), checksum));
    view.setUint32(RECORD.checksum, checksum, true);
    buffer.set(record.payload, used + RECORD_BYTES);
    used += RECORD_BYTES + record.payload.length;
  }
  if (used + RECORD_BYTES > buffer.length) await flush();
  buffer.set(encodeTrailer(totals, checksum), used);
  used += RECORD_BYTES;
  await flush();
  assert(totals.setBits === bitmap.count, "the map did not change while it was written");
  await file.write(0, encodeHeader(header, totals));
  return offset;
}

/** What a reader expects of a map; a size that is not known is taken from the file. */
export type ExpectedMap = Omit<MapHeader, "bitCount"> & { readonly bitCount: number | undefined };

/**
 * Reads all of a map as `readMap` does and keeps nothing of it: one page of memory, whatever the size. Syncs nothing.
 * Throws what `readMap` throws.
 */
export async function verifyMap(files: StateFiles, path: string, expected: ExpectedMap, core: Core): Promise<void> {
  await loadCore();
  const file = await files.open(path, { create: "must-exist" });
  try {
    const window = await FileWindow.over(file);
    const head = Uint8Array.from(await window.at(0, HEADER_BYTES));
    const { bitCount, totals } = decodeHeader(path, head, expected);
    const page = new PagedBitmap(core, bitCount, "empty");
    try {
      let setBits = 0;
      await readRecords(
        path,
        window,
        page,
        totals,
        crc32c(head.subarray(0, HEADER.identityEnd)),
        ({ firstPage, pageCount }) => {
          const first = firstPage * PAGE_BITS;
          setBits += page.clearRange(first, Math.min(pageCount * PAGE_BITS, bitCount - first));
        },
      );
      requireSetBits(path, setBits, totals);
    } finally {
      page.dispose();
    }
  } finally {
    await file.close();
  }
}

/**
 * Reads a map; the caller disposes it. A map has its name only once it is durable, so nothing is synced. PATH_NOT_FOUND; METADATA_CORRUPT names the file
 * and, where it can be told, the page; SCHEMA_TOO_NEW; MEMORY_EXHAUSTED.
 */
export async function readMap(files: StateFiles, path: string, expected: MapHeader, core: Core): Promise<PagedBitmap> {
  await loadCore();
  const file = await files.open(path, { create: "must-exist" });
  const bitmap = new PagedBitmap(core, expected.bitCount, "empty");
  try {
    const window = await FileWindow.over(file);
    const head = Uint8Array.from(await window.at(0, HEADER_BYTES));
    const { totals } = decodeHeader(path, head, expected);
    await readRecords(path, window, bitmap, totals, crc32c(head.subarray(0, HEADER.identityEnd)));
    requireSetBits(path, bitmap.count, totals);
    return bitmap;
  } catch (error) {
    bitmap.dispose();
    throw error;
  } finally {
    await file.close();
  }
}

function requireSetBits(path: string, setBits: number, totals: Totals): void {
  if (setBits === totals.setBits) return;
  throw corruptFile(path, `has ${setBits} set bits; its header says ${totals.setBits}`);
}

/** Adds each record to `bitmap`, then calls `added`. */
async function readRecords(
  path: string,
  window: FileWindow,
  bitmap: PagedBitmap,
  totals: Totals,
  identity: number,
  added: (record: PageRecord) => void = () => undefined,
): Promise<void> {
  const { fileBytes } = window;
  let offset = HEADER_BYTES;
  let checksum = identity;
  let nextPage = 0;
  let pages = 0;
  for (let index = 0; index < totals.records; index++) {
    const damaged = (page: number, what: string) =>
      corruptFile(path, `page ${page} of the map ${what}`, { page: String(page), offset: String(offset) });
    const head = await window.at(offset, RECORD_BYTES);
    if (head.length < RECORD_BYTES) throw damaged(nextPage, "or one after it is missing: the file is too short");
    const view = viewOf(head);
    const form = formOf(view.getUint8(RECORD.form));
    const payloadBytes = view.getUint32(RECORD.payloadBytes, true);
    if (view.getUint32(RECORD.magic, true) !== RECORD_MAGIC || form === undefined || payloadBytes > PAGE_BYTES)
      throw damaged(nextPage, "or one after it is damaged: no record begins here");
    const record = await window.at(offset, RECORD_BYTES + payloadBytes);
    const payload = record.subarray(RECORD_BYTES);
    const firstPage = viewOf(record).getUint32(RECORD.firstPage, true);
    const pageCount = viewOf(record).getUint32(RECORD.pageCount, true);
    checksum = crc32c(payload, crc32c(record.subarray(0, RECORD.checksum), checksum));
    if (payload.length < payloadBytes || viewOf(record).getUint32(RECORD.checksum, true) !== checksum)
      throw damaged(firstPage, "is damaged, or is of another map");
    const pageRecord: PageRecord = { form, firstPage, pageCount, payload };
    const wrong = addRecord(bitmap, pageRecord, nextPage);
    if (wrong) throw damaged(firstPage, wrong);
    added(pageRecord);
    nextPage = firstPage + pageCount;
    pages += pageCount;
    offset += RECORD_BYTES + payloadBytes;
  }
  const trailer = await window.at(offset, RECORD_BYTES);
  const expected = encodeTrailer({ ...totals, pages }, checksum);
  if (Buffer.compare(trailer, expected) !== 0 || pages !== totals.pages)
    throw corruptFile(path, "the end of the map is damaged or missing", { offset: String(offset) });
  if (fileBytes !== offset + RECORD_BYTES)
    throw corruptFile(path, `is ${fileBytes} bytes long instead of ${offset + RECORD_BYTES}`, {
      offset: String(offset),
    });
}

function encodeIdentity(header: MapHeader): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = viewOf(bytes);
  putText(bytes, HEADER.magic, 8, MAP_MAGIC);
  view.setUint16(HEADER.version, MAP_VERSION, true);
  putText(bytes, HEADER.kind, KIND_FIELD_BYTES, header.kind);
  putText(bytes, HEADER.owner, OWNER_FIELD_BYTES, header.ownerId);
  putWhole(view, HEADER.generation, header.generation);
  putWhole(view, HEADER.bitCount, header.bitCount);
  return bytes;
}

function encodeHeader(header: MapHeader, totals: Totals): Uint8Array {
  const bytes = encodeIdentity(header);
  const view = viewOf(bytes);
  putWhole(view, TOTALS.setBits, totals.setBits);
  putWhole(view, TOTALS.pages, totals.pages);
  putWhole(view, TOTALS.records, totals.records);
  view.setUint32(TOTALS.checksum, crc32c(bytes.subarray(0, TOTALS.checksum)), true);
  return bytes;
}

function decodeHeader(
  path: string,
  bytes: Uint8Array,
  expected: ExpectedMap,
): { readonly bitCount: number; readonly totals: Totals } {
  const view = viewOf(bytes);
  const whole = bytes.length === HEADER_BYTES && getText(bytes, HEADER.magic, 8) === MAP_MAGIC;
  if (!whole || view.getUint32(TOTALS.checksum, true) !== crc32c(bytes.subarray(0, TOTALS.checksum)))
    throw corruptFile(path, "the header of the map is damaged", { offset: "0" });
  const version = view.getUint16(HEADER.version, true);
  if (version > MAP_VERSION) throw fileTooNew(path, version, MAP_VERSION);
  const found = {
    kind: getText(bytes, HEADER.kind, KIND_FIELD_BYTES),
    ownerId: getText(bytes, HEADER.owner, OWNER_FIELD_BYTES),
    generation: getWhole(view, HEADER.generation),
    bitCount: getWhole(view, HEADER.bitCount),
  };
  for (const name of ["kind", "ownerId", "generation", "bitCount"] as const) {
    if (found[name] === expected[name] || (name === "bitCount" && expected.bitCount === undefined)) continue;
    throw corruptFile(path, `belongs to another map: ${name} is ${found[name]}, not ${expected[name]}`, {
      belongsTo: `${found.kind} ${found.ownerId} generation ${found.generation}`,
    });
  }
  const totals = {
    setBits: getWhole(view, TOTALS.setBits),
    pages: getWhole(view, TOTALS.pages),
    records: getWhole(view, TOTALS.records),
  };
  const possible = found.bitCount > 0 && found.bitCount <= BITMAP_BITS_MAX && !Object.values(totals).some(Number.isNaN);
  if (!possible) throw corruptFile(path, "the header of the map makes no sense", { offset: "0" });
  return { bitCount: found.bitCount, totals };
}

function encodeTrailer(totals: Totals, checksum: number): Uint8Array {
  const bytes = new Uint8Array(RECORD_BYTES);
  const view = viewOf(bytes);
  view.setUint32(TRAILER.magic, TRAILER_MAGIC, true);
  putWhole(view, TRAILER.records, totals.records);
  view.setUint32(TRAILER.checksum, crc32c(bytes.subarray(0, TRAILER.checksum), checksum), true);
  return bytes;
}

// --- inside a log frame ------------------------------------------------------------------------------------------------

const EMBEDDED_HEAD_BYTES = 16;
const EMBEDDED_RECORD_BYTES = 12;
const EMBEDDED_VERSION = 1;

/**
 * A map as bytes for a log frame, which protects them with its checksum. Undefined when it would take more than `bytesMax`: use a
 * file.
 */
export function encodeMap(bitmap: PagedBitmap, bytesMax: number): Uint8Array | undefined {
  const totals: Totals = { setBits: 0, pages: 0, records: 0 };
  const pieces: Uint8Array[] = [];
  let bytes = EMBEDDED_HEAD_BYTES;
  for (const record of recordsOf(bitmap, totals)) {
    const head = new Uint8Array(EMBEDDED_RECORD_BYTES);
    const view = viewOf(head);
    view.setUint32(0, FORM_CODES[record.form], true);
    view.setUint32(4, record.firstPage, true);
    view.setUint32(8, record.form === "full" ? record.pageCount : record.payload.length, true);
    pieces.push(head, record.payload);
    bytes += EMBEDDED_RECORD_BYTES + record.payload.length;
    if (bytes > bytesMax) return undefined;
  }
  const head = new Uint8Array(EMBEDDED_HEAD_BYTES);
  const view = viewOf(head);
  view.setUint32(0, EMBEDDED_VERSION, true);
  view.setUint32(4, totals.records, true);
  putWhole(view, 8, bitmap.bitCount);
  const encoded = new Uint8Array(bytes);
  encoded.set(head);
  let at = EMBEDDED_HEAD_BYTES;
  for (const piece of pieces) {
    encoded.set(piece, at);
    at += piece.length;
  }
  return encoded;
}

/** Back from `encodeMap`; the caller disposes the map. METADATA_CORRUPT (the caller knows the file), MEMORY_EXHAUSTED. */
export function decodeMap(bytes: Uint8Array, bitCount: number, core: Core): PagedBitmap {
  if (bytes.length < EMBEDDED_HEAD_BYTES) throw corruptMap("is too short");
  const view = viewOf(bytes);
  const version = view.getUint32(0, true);
  if (version > EMBEDDED_VERSION) throw fileTooNew("a map inside a log", version, EMBEDDED_VERSION);
  if (version !== EMBEDDED_VERSION) throw corruptMap("has no known format");
  const foundBits = getWhole(view, 8);
  if (foundBits !== bitCount) throw corruptMap(`has ${foundBits} bits instead of ${bitCount}`);
  const bitmap = new PagedBitmap(core, bitCount, "empty");
  try {
    let nextPage = 0;
    let at = EMBEDDED_HEAD_BYTES;
    for (let left = view.getUint32(4, true); left > 0; left--) {
      if (at + EMBEDDED_RECORD_BYTES > bytes.length) throw corruptMap("is too short");
      const form = formOf(view.getUint32(at, true));
      const firstPage = view.getUint32(at + 4, true);
      const size = view.getUint32(at + 8, true);
      if (form === undefined) throw corruptMap(`has an unknown page form after page ${nextPage}`);
      const pageCount = form === "full" ? size : 1;
      const payload = bytes.subarray(
        at + EMBEDDED_RECORD_BYTES,
        at + EMBEDDED_RECORD_BYTES + (form === "full" ? 0 : size),
      );
      if (form !== "full" && payload.length !== size) throw corruptMap("is too short");
      const wrong = addRecord(bitmap, { form, firstPage, pageCount, payload }, nextPage);
      if (wrong) throw corruptMap(`: page ${firstPage} ${wrong}`);
      nextPage = firstPage + pageCount;
      at += EMBEDDED_RECORD_BYTES + payload.length;
    }
    if (at !== bytes.length) throw corruptMap("has bytes after its end");
    return bitmap;
  } catch (error) {
    bitmap.dispose();
    throw error;
  }
}

function corruptMap(what: string): TidemarkError {
  return new TidemarkError("METADATA_CORRUPT", {
    message: `a map inside a log ${what}`,
    hint: "keep a copy of the state directory, then run `tidemark fsck`; volume data is not touched by this",
  });
}
