/**
 * Fields of binary headers: little-endian whole numbers up to 2^53 and fixed-width text padded with zeros.
 *
 * Role: the few encodings that every format of this folder shares. Layouts: docs/file-formats.md.
 */
import { assert } from "../../base/assert.ts";
import { STATE_OWNER_BYTES_MAX } from "../../base/limits.ts";

export const OWNER_FIELD_BYTES = STATE_OWNER_BYTES_MAX;
export const KIND_FIELD_BYTES = 16;

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true });

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** An unsigned 64-bit field that holds a safe integer. */
export function putWhole(view: DataView, at: number, value: number): void {
  assert(Number.isSafeInteger(value) && value >= 0, "a whole number of at most 53 bits");
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

/** NaN when the field holds no safe integer; only damage makes that. */
export function getWhole(view: DataView, at: number): number {
  const value = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
  return Number.isSafeInteger(value) ? value : Number.NaN;
}

/** `text` as UTF-8, 1 to `width` bytes without NUL, padded with zeros. */
export function putText(bytes: Uint8Array, at: number, width: number, text: string): void {
  const encoded = encoder.encode(text);
  assert(encoded.length > 0 && encoded.length <= width, `"${text}" takes 1 to ${width} bytes`);
  assert(!encoded.includes(0), "text has no NUL");
  bytes.fill(0, at, at + width);
  bytes.set(encoded, at);
}

/** undefined when the field holds no such text; only damage makes that. */
export function getText(bytes: Uint8Array, at: number, width: number): string | undefined {
  const field = bytes.subarray(at, at + width);
  const end = field.indexOf(0);
  const text = end < 0 ? field : field.subarray(0, end);
  if (text.length === 0 || field.subarray(text.length).some((byte) => byte !== 0)) return undefined;
  try {
    return decoder.decode(text);
  } catch {
    return undefined;
  }
}

/** Parses UTF-8 JSON; throws on either kind of damage. */
export function parseJson(bytes: Uint8Array): unknown {
  return JSON.parse(decoder.decode(bytes));
}

export function encodeJson(value: unknown): Uint8Array {
  return encoder.encode(JSON.stringify(value));
}
