/**
 * How one page of a bitmap (32,768 bits, 4,096 bytes) is written: not at all when empty, by its number when full, else as a
 * list of runs of set bits when that is shorter than the bits themselves.
 *
 * Role: shared by map files and by maps inside log frames. No I/O.
 * Layout: docs/file-formats.md "Map page".
 */
import { assert } from "../../base/assert.ts";
import { viewOf } from "./fields.ts";

export const PAGE_BITS = 32_768;
export const PAGE_BYTES = PAGE_BITS / 8;
/** First bit and last bit of a run, 16 bits each. */
const RUN_BYTES = 4;
/** A list this long is no shorter than the bits. */
const RUNS_MAX = PAGE_BYTES / RUN_BYTES - 1;

export type PageForm = "full" | "bits" | "runs";
export const FORM_CODES: Record<PageForm, number> = { full: 1, bits: 2, runs: 3 };

export function formOf(code: number): PageForm | undefined {
  if (code === FORM_CODES.full) return "full";
  if (code === FORM_CODES.bits) return "bits";
  return code === FORM_CODES.runs ? "runs" : undefined;
}

/** `bits` belongs to the caller; the result may be `bits` itself. */
export function encodePage(bits: Uint8Array): { form: "bits" | "runs"; payload: Uint8Array } {
  assert(bits.length === PAGE_BYTES, "a page has 4096 bytes");
  const runs = runsOf(bits);
  return runs === undefined ? { form: "bits", payload: bits } : { form: "runs", payload: runs };
}

/** undefined: the payload is not what `encodePage` makes. */
export function decodePage(form: "bits" | "runs", payload: Uint8Array): Uint8Array | undefined {
  if (form === "bits") return payload.length === PAGE_BYTES ? payload : undefined;
  if (payload.length % RUN_BYTES !== 0 || payload.length > RUNS_MAX * RUN_BYTES) return undefined;
  const view = viewOf(payload);
  const bits = new Uint8Array(PAGE_BYTES);
  let next = 0;
  for (let at = 0; at < payload.length; at += RUN_BYTES) {
    const first = view.getUint16(at, true);
    const last = view.getUint16(at + 2, true);
    // Runs are in order and do not touch, so that a page has one form only.
    if (first < next || last < first || last >= PAGE_BITS || (at > 0 && first === next)) return undefined;
    setBits(bits, first, last);
    next = last + 1;
  }
  return bits;
}

/** Set bits of a page. */
export function countBits(bits: Uint8Array): number {
  const view = viewOf(bits);
  let count = 0;
  for (let at = 0; at < bits.length; at += 4) {
    let word = view.getUint32(at, true);
    word -= (word >>> 1) & 0x55555555;
    word = (word & 0x33333333) + ((word >>> 2) & 0x33333333);
    count += Math.imul((word + (word >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
  }
  return count;
}

function setBits(bits: Uint8Array, first: number, last: number): void {
  const firstByte = first >>> 3;
  const lastByte = last >>> 3;
  const head = (0xff << (first & 7)) & 0xff;
  const tail = 0xff >>> (7 - (last & 7));
  if (firstByte === lastByte) {
    bits[firstByte] = (bits[firstByte] as number) | (head & tail);
    return;
  }
  bits[firstByte] = (bits[firstByte] as number) | head;
  bits.fill(0xff, firstByte + 1, lastByte);
  bits[lastByte] = (bits[lastByte] as number) | tail;
}

/** The list of runs, or undefined when it would be longer than the bits. */
function runsOf(bits: Uint8Array): Uint8Array | undefined {
  const view = viewOf(bits);
  const found = new Uint16Array(RUNS_MAX * 2);
  let length = 0;
  let inside = false;
  for (let at = 0; at < PAGE_BYTES; at += 4) {
    const word = view.getUint32(at, true);
    if (word === (inside ? 0xffffffff : 0)) continue;
    // A bit of `edges` is set where a bit differs from the one before it.
    let edges = (word ^ ((word << 1) | (inside ? 1 : 0))) >>> 0;
    while (edges !== 0) {
      const bit = 31 - Math.clz32(edges & -edges);
      if (!inside && length === RUNS_MAX * 2) return undefined;
      found[length++] = at * 8 + bit - (inside ? 1 : 0);
      inside = !inside;
      edges &= edges - 1;
    }
  }
  if (inside) found[length++] = PAGE_BITS - 1;
  const payload = new Uint8Array(length * 2);
  const out = viewOf(payload);
  for (let index = 0; index < length; index++) out.setUint16(index * 2, found[index] as number, true);
  return payload;
}
