/**
 * From the file of a snap store to what it holds.
 *
 * Algorithm:
 *   1. The checkpoint slot that is whole and has the higher number counts. It names every segment that was in use, and the
 *      frames before its `nextFrame` in them must all be there: anything else is corruption.
 *   2. From `nextFrame` on no segment has been given back, so the frames go on without a gap, each naming the one before: in the
 *      head as long as it has room, then in the unused segment whose first frame is the next one.
 *   3. The first frame that is missing or bad ends the log. If anything proves that it was durable once (a later frame, the
 *      mark, the checkpoint), it is corruption. Otherwise it is a torn tail: it was never acknowledged, and nothing after it was.
 *   4. Of frames that nothing proves durable the payloads are checked as well: power may have failed between the two.
 *   5. What is cut off need not be erased: every frame names the checkpoint that was in force, and before anything is appended
 *      behind a cut there is a new one (snap-log.ts, rule 5).
 * Changes nothing. Source: data-safety 1.5, 1.8.
 */

import { GRANULE_SIZE_BYTES } from "../../base/units.ts";
import { corruptFile, type StateFile } from "../durable/state-files.ts";
import { crc32c } from "../map/core.ts";
import type { SnapContent } from "./snap-content.ts";
import {
  decodeFrameHeader,
  decodeMark,
  decodeSlot,
  decodeTable,
  type FrameOrigin,
  MARK_BYTES,
  type SnapCheckpoint,
  type SnapFrame,
  type SnapIdentity,
} from "./snap-format.ts";
import {
  FRAME_PAGES_MIN,
  framePages,
  MARK_PAGE,
  PAGE_BYTES,
  type SnapGeometry,
  segmentPage,
  slotOf,
  TABLE_ENTRY_BYTES,
  tablePage,
} from "./snap-geometry.ts";

export interface FoundCheckpoint {
  readonly identity: SnapIdentity;
  readonly checkpoint: SnapCheckpoint;
  /** The other slot is damaged, stale, or of another incarnation: it is to be written anew before anything else. */
  readonly heal: boolean;
}

/** METADATA_CORRUPT when no slot is whole or the file is somebody else's; SCHEMA_TOO_NEW. */
export async function readCheckpoint(file: StateFile, owner: string): Promise<FoundCheckpoint> {
  const found: (FoundCheckpoint | undefined)[] = [];
  for (const index of [0, 1]) {
    const slot = decodeSlot(file.path, owner, index, await file.read(index * PAGE_BYTES, PAGE_BYTES));
    if (slot === undefined) continue;
    const { geometry } = slot.identity;
    const table = await file.read(tablePage(geometry, index) * PAGE_BYTES, geometry.segmentsMax * TABLE_ENTRY_BYTES);
    const checkpoint = decodeTable(slot, table);
    if (checkpoint !== undefined) found.push({ identity: slot.identity, checkpoint, heal: true });
  }
  const [first, second] = found;
  if (first === undefined) throw corruptFile(file.path, "both checkpoints of the snap store are damaged");
  if (second === undefined) return first;
  if (Buffer.compare(first.identity.uuid, second.identity.uuid) !== 0)
    throw corruptFile(file.path, "its checkpoints are of two stores");
  const [newer, older] = first.checkpoint.sequence > second.checkpoint.sequence ? [first, second] : [second, first];
  const inStep = newer.checkpoint.sequence === older.checkpoint.sequence + 1;
  return { ...newer, heal: !inStep || newer.checkpoint.incarnation !== older.checkpoint.incarnation };
}

/** Where the log ends. */
export interface SnapEnd {
  readonly nextFrame: number;
  readonly chain: number;
  /** The newest checkpoint that a frame names: newer than the one found when its slot was damaged. */
  readonly base: number;
}

/** Fills `content` (empty). METADATA_CORRUPT names the place; MEDIUM_ERROR. */
export function replay(file: StateFile, found: FoundCheckpoint, content: SnapContent): Promise<SnapEnd> {
  return new Replay(file, found, content).run();
}

class Replay {
  readonly #file: StateFile;
  readonly #origin: FrameOrigin;
  readonly #geometry: SnapGeometry;
  readonly #checkpoint: SnapCheckpoint;
  readonly #content: SnapContent;
  readonly #pages: PageReader;
  /** First frames found in segments that the checkpoint does not know. */
  #openings: Map<number, SnapFrame[]> | undefined;
  #nextFrame: number;
  #chain: number;
  /** No frame that goes on from here may have been written under an older checkpoint. */
  #base: number;
  /** The last frame that something proves to have been durable. */
  #durable: number;
  /** Read, in order, but not proved; bounded by what was written with one sync. */
  #unproved: SnapFrame[] = [];

  constructor(file: StateFile, { identity, checkpoint }: FoundCheckpoint, content: SnapContent) {
    this.#file = file;
    this.#origin = { uuid: identity.uuid, incarnation: checkpoint.incarnation };
    this.#geometry = identity.geometry;
    this.#checkpoint = checkpoint;
    this.#content = content;
    this.#pages = new PageReader(file);
    this.#nextFrame = checkpoint.nextFrame;
    this.#chain = checkpoint.chain;
    this.#base = checkpoint.sequence;
    this.#durable = checkpoint.nextFrame - 1;
  }

  async run(): Promise<SnapEnd> {
    this.#content.heldHost = this.#checkpoint.heldHost;
    await this.#readCovered();
    this.#durable = Math.max(this.#durable, await this.#readMark());
    await this.#readTail();
    const end = await this.#settleTail();
    const fileBytes = await this.#file.size();
    const { segments } = this.#content;
    const whole = Math.floor((fileBytes / PAGE_BYTES - segmentPage(this.#geometry, 0)) / this.#geometry.segmentPages);
    segments.allocated = Math.min(Math.max(0, whole), this.#geometry.segmentsMax);
    return end;
  }

  /** Step 1: what the checkpoint covers. */
  async #readCovered(): Promise<void> {
    const { firstFrames, head } = this.#checkpoint;
    const used = firstFrames.map((first, segment) => ({ first, segment })).filter(({ first }) => first > 0);
    used.sort((a, b) => a.first - b.first);
    if (head !== undefined && used.at(-1)?.segment !== head.segment)
      throw corruptFile(
        this.#file.path,
        `the newest segment is not the one that the checkpoint names (${head.segment})`,
      );
    for (const { first, segment } of used) {
      this.#content.segments.use(segment, first);
      await this.#readCoveredSegment(segment, first);
    }
    this.#content.segments.head = head;
  }

  async #readCoveredSegment(segment: number, first: number): Promise<void> {
    const begin = segmentPage(this.#geometry, segment);
    const { head, nextFrame } = this.#checkpoint;
    const end = segment === head?.segment ? head.page : this.#geometry.segmentPages;
    let sequence = first;
    let chain: number | undefined;
    let page = 0;
    while (segment === head?.segment ? page < end : page + FRAME_PAGES_MIN <= end) {
      const frame = await this.#frameAt(begin + page);
      const fits = frame?.sequence === sequence && (chain === undefined || frame.chain === chain);
      if (frame === undefined || !fits || sequence >= nextFrame || page + framePages(frame.entries.length) > end)
        throw this.#lost(sequence, begin + page);
      this.#apply(frame);
      page += framePages(frame.entries.length);
      chain = frame.checksum;
      sequence++;
    }
    const last = segment === head?.segment && (sequence !== nextFrame || chain !== this.#checkpoint.chain);
    if (last) throw this.#lost(nextFrame - 1, begin + page);
  }

  /** Step 2: what was written since. */
  async #readTail(): Promise<void> {
    const { segments } = this.#content;
    for (;;) {
      let frame: SnapFrame | undefined;
      const inHead = segments.pagesLeft >= FRAME_PAGES_MIN;
      if (segments.head !== undefined && inHead)
        frame = await this.#frameAt(segmentPage(this.#geometry, segments.head.segment) + segments.head.page);
      else frame = this.#newest((await this.#findOpenings()).get(this.#nextFrame));
      if (frame === undefined || !this.#continues(frame)) return;
      const segment = inHead && segments.head ? segments.head.segment : this.#segmentOf(frame);
      const page = frame.page - segmentPage(this.#geometry, segment) + framePages(frame.entries.length);
      if (page > this.#geometry.segmentPages) return;
      this.#durable = Math.max(this.#durable, frame.durable);
      this.#unproved.push(frame);
      segments.head = { segment, page };
      this.#nextFrame++;
      this.#chain = frame.checksum;
      this.#base = frame.checkpoint;
      this.#applyProved();
    }
  }

  #continues(frame: SnapFrame): boolean {
    return frame.sequence === this.#nextFrame && frame.chain === this.#chain && frame.checkpoint >= this.#base;
  }

  /** The older ones were left behind by a crash or by a lack of space. */
  #newest(frames: readonly SnapFrame[] = []): SnapFrame | undefined {
    const fitting = frames.filter((frame) => this.#continues(frame));
    return fitting.sort((a, b) => b.checkpoint - a.checkpoint)[0];
  }

  /** Steps 3 and 4: where the log really ends. */
  async #settleTail(): Promise<SnapEnd> {
    this.#applyProved();
    if (this.#nextFrame <= this.#durable || (await this.#isProvedLater())) {
      const { head } = this.#content.segments;
      throw this.#lost(this.#nextFrame, head ? segmentPage(this.#geometry, head.segment) + head.page : undefined);
    }
    for (const frame of this.#unproved) {
      if (!(await this.#payloadsWhole(frame))) {
        this.#cutBefore(frame);
        break;
      }
      this.#apply(frame);
      this.#use(frame);
    }
    return { nextFrame: this.#nextFrame, chain: this.#chain, base: this.#base };
  }

  #applyProved(): void {
    while (this.#unproved[0] !== undefined && this.#unproved[0].sequence <= this.#durable) {
      const frame = this.#unproved.shift() as SnapFrame;
      this.#apply(frame);
      this.#use(frame);
    }
  }

  /** Its segment is in use from its first frame on. */
  #use(frame: SnapFrame): void {
    const segment = this.#segmentOf(frame);
    if (this.#content.segments.firstFrame(segment) === 0) this.#content.segments.use(segment, frame.sequence);
  }

  /** The frame, and what was read after it, has never been acknowledged. */
  #cutBefore(frame: SnapFrame): void {
    const { segments } = this.#content;
    const segment = this.#segmentOf(frame);
    const page = frame.page - segmentPage(this.#geometry, segment);
    const opens = segments.firstFrame(segment) === 0;
    // The segment before is full then; where its frames end does not matter.
    segments.head = opens ? undefined : { segment, page };
    this.#nextFrame = frame.sequence;
    this.#chain = frame.chain;
  }

  #apply(frame: SnapFrame): void {
    frame.entries.forEach((entry, index) => {
      this.#content.put(entry, slotOf(frame.page, index));
    });
  }

  async #payloadsWhole(frame: SnapFrame): Promise<boolean> {
    for (const [index, { checksum }] of frame.entries.entries()) {
      const stored = await this.#file.read(slotOf(frame.page, index) * PAGE_BYTES, GRANULE_SIZE_BYTES);
      if (stored.length < GRANULE_SIZE_BYTES || crc32c(stored) !== checksum) return false;
    }
    return true;
  }

  async #readMark(): Promise<number> {
    return decodeMark(await this.#file.read(MARK_PAGE * PAGE_BYTES, MARK_BYTES), this.#origin);
  }

  /** The first frames of segments that are not known to be in use. */
  async #findOpenings(): Promise<Map<number, SnapFrame[]>> {
    if (this.#openings !== undefined) return this.#openings;
    const openings = new Map<number, SnapFrame[]>();
    for (let segment = 0; segment < this.#geometry.segmentsMax; segment++) {
      if (this.#checkpoint.firstFrames[segment] !== 0) continue;
      const page = segmentPage(this.#geometry, segment);
      const bytes = await this.#file.read(page * PAGE_BYTES, PAGE_BYTES);
      if (bytes.length === 0) break; // behind the end of the file
      const frame = decodeFrameHeader(bytes, this.#origin, page, this.#geometry.granuleCount);
      if (frame === undefined || frame.sequence < this.#checkpoint.nextFrame) continue;
      openings.set(frame.sequence, [...(openings.get(frame.sequence) ?? []), frame]);
    }
    this.#openings = openings;
    return openings;
  }

  /** Whether any whole frame says that the one that is missing was durable. */
  async #isProvedLater(): Promise<boolean> {
    const { segments } = this.#content;
    const { segmentPages } = this.#geometry;
    const rest: { from: number; to: number }[] = [];
    for (let segment = 0; segment < this.#geometry.segmentsMax; segment++) {
      const begin = segmentPage(this.#geometry, segment);
      const isHead = segment === segments.head?.segment;
      if (segments.firstFrame(segment) === 0 || isHead)
        rest.push({ from: begin + (isHead ? (segments.head?.page ?? 0) : 0), to: begin + segmentPages });
    }
    const fileBytes = await this.#file.size();
    for (const { from, to } of rest)
      for (let page = from; page < to && page * PAGE_BYTES < fileBytes; page++) {
        const frame = await this.#frameAt(page);
        if (frame && frame.sequence > this.#nextFrame && frame.durable >= this.#nextFrame) return true;
      }
    return false;
  }

  #segmentOf(frame: SnapFrame): number {
    return Math.floor((frame.page - segmentPage(this.#geometry, 0)) / this.#geometry.segmentPages);
  }

  async #frameAt(page: number): Promise<SnapFrame | undefined> {
    const bytes = await this.#pages.at(page);
    return decodeFrameHeader(bytes, this.#origin, page, this.#geometry.granuleCount);
  }

  #lost(sequence: number, page: number | undefined): Error {
    const offset = page === undefined ? "an unknown place" : `offset ${page * PAGE_BYTES}`;
    return corruptFile(this.#file.path, `frame ${sequence} at ${offset} is damaged or missing, and was durable`, {
      sequence: String(sequence),
      ...(page === undefined ? {} : { offset: String(page * PAGE_BYTES) }),
    });
  }
}

/** Reads pages in ascending order: in large pieces while they are close together, one by one otherwise. */
class PageReader {
  readonly #file: StateFile;
  #first = 0;
  #bytes: Uint8Array = new Uint8Array(0);

  constructor(file: StateFile) {
    this.#file = file;
  }

  /** Valid until the next call; shorter where the file ends. */
  async at(page: number): Promise<Uint8Array> {
    const skip = (page - this.#first) * PAGE_BYTES;
    if (skip < 0 || skip + PAGE_BYTES > this.#bytes.length) {
      const near = skip >= 0 && skip < this.#bytes.length + NEAR_BYTES;
      this.#bytes = await this.#file.read(page * PAGE_BYTES, near ? WINDOW_BYTES : PAGE_BYTES);
      this.#first = page;
      return this.#bytes.subarray(0, PAGE_BYTES);
    }
    return this.#bytes.subarray(skip, skip + PAGE_BYTES);
  }
}

const NEAR_BYTES = 64 * 1024;
const WINDOW_BYTES = 256 * 1024;
