/**
 * Compaction: moves what is live in the emptiest segments into new frames, so that the segments can be given back.
 *
 * Algorithm, one round:
 *   1. Choose the emptiest segments that together hold no more than one group.
 *   2. Read what is live in them, check it, and append it as any group; it is durable then.
 *   3. Give the segments back with one checkpoint.
 * A granule that cannot be read, or whose checksum is wrong, stays where it is, so that it is reported by whoever reads it: its
 * segment is never chosen again. Nothing else is appended meanwhile (the store sees to that); reads go on.
 * Cost: a round that frees segments holding f of what they could moves f/(1-f) granules for each one gained.
 */
import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import { GRANULE_SIZE_BYTES } from "../../base/units.ts";
import { corruptFile, type StateFile } from "../durable/state-files.ts";
import { crc32c } from "../map/core.ts";
import type { GroupEntry } from "./frame-group.ts";
import type { SnapCipher } from "./snap-cipher.ts";
import type { SnapContent } from "./snap-content.ts";
import { decodeFrameHeader, type FrameOrigin, type SnapFrame } from "./snap-format.ts";
import { FRAME_PAGES_MIN, framePages, PAGE_BYTES, type SnapGeometry, segmentPage, slotOf } from "./snap-geometry.ts";

/** Where to read, and how. */
export interface CompactionSource {
  readonly file: StateFile;
  readonly geometry: SnapGeometry;
  readonly origin: FrameOrigin;
  readonly cipher: SnapCipher;
  readonly content: SnapContent;
}

/** Steps 1 and the first half of 2: the segments that can be emptied, and what is live in them. */
export async function collectEmptiest(
  source: CompactionSource,
  granulesMax: number,
): Promise<{ readonly segments: readonly number[]; readonly live: readonly GroupEntry[] }> {
  const segments: number[] = [];
  const live: GroupEntry[] = [];
  for (const segment of source.content.segments.emptiest(granulesMax)) {
    try {
      live.push(...(await liveOf(source, segment)));
      segments.push(segment);
    } catch (error) {
      if (!isDamage(error)) throw error;
      source.content.segments.setStuck(segment);
    }
  }
  return { segments, live };
}

function isDamage(error: unknown): boolean {
  return ["METADATA_CORRUPT", "MEDIUM_ERROR"].includes(asTidemarkError(error).code);
}

async function liveOf(source: CompactionSource, segment: number): Promise<GroupEntry[]> {
  const { file, geometry, origin, content } = source;
  const live: GroupEntry[] = [];
  if (content.segments.liveIn(segment) === 0) return live;
  const begin = segmentPage(geometry, segment);
  let sequence = content.segments.firstFrame(segment);
  for (let page = 0; page + FRAME_PAGES_MIN <= geometry.segmentPages; ) {
    const bytes = await file.read((begin + page) * PAGE_BYTES, PAGE_BYTES);
    const frame = decodeFrameHeader(bytes, origin, begin + page, geometry.granuleCount);
    if (frame?.sequence !== sequence)
      throw corruptFile(file.path, `frame ${sequence} at offset ${(begin + page) * PAGE_BYTES} is damaged`);
    live.push(...(await liveOfFrame(source, frame)));
    page += framePages(frame.entries.length);
    sequence++;
  }
  return live;
}

async function liveOfFrame({ file, cipher, content }: CompactionSource, frame: SnapFrame): Promise<GroupEntry[]> {
  const here = frame.entries.flatMap((entry, index) => {
    const slot = slotOf(frame.page, index);
    const current = content.index.get(entry.granule);
    return current?.slot === slot ? [{ granule: entry.granule, slot, current }] : [];
  });
  const [first, last] = [here[0], here.at(-1)];
  if (first === undefined || last === undefined) return [];
  const lengthBytes = (last.slot - first.slot) * PAGE_BYTES + GRANULE_SIZE_BYTES;
  const bytes = await file.read(first.slot * PAGE_BYTES, lengthBytes);
  return here.map(({ granule, slot, current }) => {
    const at = (slot - first.slot) * PAGE_BYTES;
    const stored = bytes.subarray(at, at + GRANULE_SIZE_BYTES);
    if (stored.length < GRANULE_SIZE_BYTES || crc32c(stored) !== current.checksum)
      throw badGranule(file.path, granule, slot);
    return { granule, class: current.class, data: cipher.open(slot, stored) };
  });
}

/** What is stored of a granule is not what was written. */
export function badGranule(path: string, granule: number, slot: number): TidemarkError {
  return new TidemarkError("MEDIUM_ERROR", {
    message: `${path}: what is stored of granule ${granule} at offset ${slot * PAGE_BYTES} is damaged`,
    hint: "check the disk below the snap data volume; the granule is lost in the copy that is kept there",
    metadata: {
      path,
      granule: String(granule),
      offsetBytes: String(slot * PAGE_BYTES),
      lengthBytes: String(GRANULE_SIZE_BYTES),
    },
  });
}
