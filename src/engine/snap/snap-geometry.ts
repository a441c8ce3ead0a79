/**
 * Where things lie in the file of a snap store; arithmetic only.
 *
 * Everything is counted in pages of 4 KiB. A granule's bytes take two of them and begin at a *slot*: the number of their first
 * page in the file. Frames never cross the end of a segment, and a segment is full when a frame of one granule has no room.
 * Bounds:
 *   1. Without rewrites a segment holds at least `singles` granules, whatever the size of the appends.
 *   2. Compaction begins when the segments in use could hold more than `keep` granules each: so the file never takes more than
 *      `segmentsFor(live)` segments, and what one group and one round of compaction need meanwhile.
 * Layout: docs/file-formats.md "Snap store".
 */
import { assert } from "../../base/assert.ts";
import { SNAP_LIVE_GRANULES_MAX } from "../../base/limits.ts";
import { GRANULE_SIZE_BYTES, KiB, MiB } from "../../base/units.ts";

export const PAGE_BYTES = 4 * KiB;
export const PAYLOAD_PAGES = GRANULE_SIZE_BYTES / PAGE_BYTES;
export const FRAME_GRANULES_MAX = 60;
/** Pages of the smallest frame. */
export const FRAME_PAGES_MIN = 1 + PAYLOAD_PAGES;
/** The table of segments is written as a whole: with so many it has 128 KiB. */
const SEGMENTS_WANTED_MAX = 16_384;
const SEGMENTS_LIMIT = 262_144;
/** Segments that may be in use beyond what the granules need, so that small stores are not compacted all the time. */
const SEGMENTS_SLACK = 4;
/** Segments that wait for a reader to leave them before they are used again. */
const SEGMENTS_READ = 16;
/** Slots are kept in 30 bits. */
const PAGES_MAX = 2 ** 30;

/** Sizes that a simulator makes small, so that a small world reaches the bounds. */
export interface SnapBounds {
  readonly segmentBytes: number;
  /** Granules stored with one sync, and moved in one round of compaction. */
  readonly groupGranulesMax: number;
}

export interface SnapGeometry {
  readonly segmentPages: number;
  readonly segmentsMax: number;
  readonly granuleCount: number;
}

export const GROUP_GRANULES_MAX = 8 * FRAME_GRANULES_MAX;

/** The bounds of a store for `granuleCount` granules: segments of 1 MiB, larger when the table would be long. */
export function boundsFor(granuleCount: number): SnapBounds {
  for (let segmentBytes = MiB; ; segmentBytes *= 2) {
    const bounds = { segmentBytes, groupGranulesMax: GROUP_GRANULES_MAX };
    if (geometryFor(granuleCount, bounds).segmentsMax <= SEGMENTS_WANTED_MAX) return bounds;
  }
}

export function geometryFor(granuleCount: number, bounds: SnapBounds): SnapGeometry {
  const segmentPages = bounds.segmentBytes / PAGE_BYTES;
  assert(Number.isInteger(segmentPages) && segmentPages > FRAME_PAGES_MIN, "a segment is whole pages");
  const live = Math.min(granuleCount, SNAP_LIVE_GRANULES_MAX);
  const busy = 2 * (Math.ceil(bounds.groupGranulesMax / packedIn(segmentPages)) + 1);
  const segmentsMax = segmentsFor(live, segmentPages) + busy + SEGMENTS_READ;
  return { segmentPages, segmentsMax, granuleCount };
}

/** What a file says of itself makes sense. */
export function isPossible({ segmentPages, segmentsMax, granuleCount }: SnapGeometry): boolean {
  const whole = [segmentPages, segmentsMax, granuleCount].every((value) => Number.isSafeInteger(value) && value > 0);
  if (!whole || segmentPages <= FRAME_PAGES_MIN || segmentsMax > SEGMENTS_LIMIT) return false;
  return segmentPages * segmentsMax + 1024 < PAGES_MAX;
}

/** Granules that a segment holds when every frame is as large as it may be. */
function packedIn(segmentPages: number): number {
  let granules = 0;
  for (const frame of layOut(segmentPages, segmentPages, segmentPages)) {
    if (frame.opens) break;
    granules += frame.granules;
  }
  return granules;
}

/** Segments in use at most for `live` granules; more are compacted. */
export function segmentsFor(live: number, segmentPages: number): number {
  const singles = Math.floor(segmentPages / FRAME_PAGES_MIN);
  const keep = singles - Math.ceil(singles / 16);
  return Math.floor(live / Math.max(1, keep)) + SEGMENTS_SLACK;
}

export interface PlannedFrame {
  readonly granules: number;
  /** It is the first of another segment. */
  readonly opens: boolean;
}

/** Cuts `granules` into frames that fill what is left of the head segment, then others. */
export function* layOut(granules: number, pagesLeft: number, segmentPages: number): IterableIterator<PlannedFrame> {
  let left = pagesLeft;
  for (let rest = granules; rest > 0; ) {
    const opens = left < FRAME_PAGES_MIN;
    if (opens) left = segmentPages;
    const here = Math.min(rest, FRAME_GRANULES_MAX, Math.floor((left - 1) / PAYLOAD_PAGES));
    yield { granules: here, opens };
    left -= framePages(here);
    rest -= here;
  }
}

export function framePages(granules: number): number {
  return 1 + PAYLOAD_PAGES * granules;
}

// --- places ----------------------------------------------------------------------------------------------------------

/** Pages 0 and 1 are the slots' headers, then comes the mark, then the tables of slot 0 and slot 1. */
export const MARK_PAGE = 2;
const TABLES_PAGE = 3;
export const TABLE_ENTRY_BYTES = 8;

export function tablePages({ segmentsMax }: SnapGeometry): number {
  return Math.ceil((segmentsMax * TABLE_ENTRY_BYTES) / PAGE_BYTES);
}

export function tablePage(geometry: SnapGeometry, slot: number): number {
  return TABLES_PAGE + slot * tablePages(geometry);
}

/** First page of the first segment. */
export function segmentsPage(geometry: SnapGeometry): number {
  return TABLES_PAGE + 2 * tablePages(geometry);
}

export function segmentPage(geometry: SnapGeometry, segment: number): number {
  return segmentsPage(geometry) + segment * geometry.segmentPages;
}

export function segmentOf(geometry: SnapGeometry, page: number): number {
  return Math.floor((page - segmentsPage(geometry)) / geometry.segmentPages);
}

/** The slot of payload `index` of the frame at `page`. */
export function slotOf(page: number, index: number): number {
  return page + 1 + PAYLOAD_PAGES * index;
}
