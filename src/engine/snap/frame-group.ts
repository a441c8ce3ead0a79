/**
 * Granules that are stored with one sync: cut into frames, encrypted, and laid out in the head and in fresh segments.
 *
 * Role: from entries to the writes that store them; no I/O, nothing is changed.
 */
import { assert } from "../../base/assert.ts";
import { GRANULE_SIZE_BYTES } from "../../base/units.ts";
import { crc32c } from "../map/core.ts";
import type { Head } from "./segment-table.ts";
import type { SnapCipher } from "./snap-cipher.ts";
import { encodeFrameHeader, type FrameOrigin, type SnapClass, type SnapEntry } from "./snap-format.ts";
import { framePages, layOut, PAGE_BYTES, type SnapGeometry, segmentPage, slotOf } from "./snap-geometry.ts";

export interface GroupEntry {
  readonly granule: number;
  readonly class: SnapClass;
  /** 8 KiB, as the volume has them. */
  readonly data: Uint8Array;
}

export interface GroupStart {
  readonly origin: FrameOrigin;
  /** Number of the checkpoint in force. */
  readonly checkpoint: number;
  readonly nextFrame: number;
  readonly chain: number;
  readonly head: Head | undefined;
  /** Segments to go on in, in this order. */
  readonly fresh: readonly number[];
}

export interface EncodedGroup {
  readonly writes: readonly { readonly page: number; readonly bytes: Uint8Array }[];
  readonly placed: readonly { readonly entry: SnapEntry; readonly slot: number }[];
  readonly opened: readonly { readonly segment: number; readonly firstFrame: number }[];
  readonly nextFrame: number;
  readonly chain: number;
  readonly head: Head;
}

/** Fresh segments that a group of `granules` needs behind `head`. */
export function segmentsNeeded(granules: number, head: Head | undefined, { segmentPages }: SnapGeometry): number {
  let needed = 0;
  const pagesLeft = head === undefined ? 0 : segmentPages - head.page;
  for (const { opens } of layOut(granules, pagesLeft, segmentPages)) if (opens) needed++;
  return needed;
}

export function encodeGroup(
  geometry: SnapGeometry,
  cipher: SnapCipher,
  start: GroupStart,
  entries: readonly GroupEntry[],
): EncodedGroup {
  const pagesLeft = start.head === undefined ? 0 : geometry.segmentPages - start.head.page;
  const writes: { page: number; parts: Uint8Array[] }[] = [];
  const placed: { entry: SnapEntry; slot: number }[] = [];
  const opened: { segment: number; firstFrame: number }[] = [];
  let { nextFrame, chain, head } = start;
  let next = 0;
  for (const { granules, opens } of layOut(entries.length, pagesLeft, geometry.segmentPages)) {
    if (opens) {
      const segment = start.fresh[opened.length];
      assert(segment !== undefined, "there are as many fresh segments as the group needs");
      opened.push({ segment, firstFrame: nextFrame });
      head = { segment, page: 0 };
    }
    assert(head !== undefined, "a frame lies in a segment");
    const page = segmentPage(geometry, head.segment) + head.page;
    const bytes = new Uint8Array(framePages(granules) * PAGE_BYTES);
    const frame = { sequence: nextFrame, durable: start.nextFrame - 1, chain, page, checkpoint: start.checkpoint };
    const stored = putPayloads(bytes, cipher, page, entries.slice(next, next + granules));
    chain = encodeFrameHeader(bytes, start.origin, { ...frame, entries: stored });
    stored.forEach((entry, index) => {
      placed.push({ entry, slot: slotOf(page, index) });
    });
    const last = writes.at(-1);
    if (last !== undefined && !opens) last.parts.push(bytes);
    else writes.push({ page, parts: [bytes] });
    nextFrame++;
    next += granules;
    head = { segment: head.segment, page: head.page + framePages(granules) };
  }
  assert(head !== undefined, "a group is not empty");
  const joined = writes.map(({ page, parts }) => ({ page, bytes: parts.length === 1 ? parts[0]! : join(parts) }));
  return { writes: joined, placed, opened, nextFrame, chain, head };
}

function putPayloads(into: Uint8Array, cipher: SnapCipher, page: number, entries: readonly GroupEntry[]): SnapEntry[] {
  return entries.map((entry, index) => {
    assert(entry.data.length === GRANULE_SIZE_BYTES, "a granule is stored as a whole");
    const slot = slotOf(page, index);
    const stored = cipher.seal(slot, entry.data);
    into.set(stored, (slot - page) * PAGE_BYTES);
    return { granule: entry.granule, checksum: crc32c(stored), class: entry.class };
  });
}

function join(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
