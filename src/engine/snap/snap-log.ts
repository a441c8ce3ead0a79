/**
 * The log of a snap store: writes groups and checkpoints, in an order that survives a crash at any instant.
 *
 * Role: one step at a time (the store sees to that). Beside it `snap-content.ts` knows what is where.
 * Rules (data-safety 1.5):
 *   1. A group is written, then synced once; only then is it in `content`.
 *   2. A segment is given back by a checkpoint: what it held is durable elsewhere, then the checkpoint is, then it is free.
 *   3. A new incarnation is durable in both slots before any slot of the old one is used again.
 *   4. Space is promised before it is written to. Running out of it changes nothing.
 *   5. What a refused group or a crash has left behind the end of the log never becomes part of it: before the next group a
 *      checkpoint gets a number that no such frame names.
 */
import { assert } from "../../base/assert.ts";
import { encodeGroup, type GroupEntry, segmentsNeeded } from "./frame-group.ts";
import type { SnapCipher } from "./snap-cipher.ts";
import type { SnapContent } from "./snap-content.ts";
import { type SnapFile, snapOverflow } from "./snap-file.ts";
import {
  encodeCheckpoint,
  encodeMark,
  type FrameOrigin,
  type SnapCheckpoint,
  type SnapIdentity,
} from "./snap-format.ts";
import { MARK_PAGE, PAGE_BYTES, segmentPage, segmentsPage, tablePage } from "./snap-geometry.ts";

/** Where the log stands. */
export interface LogState {
  readonly checkpointSequence: number;
  readonly incarnation: number;
  readonly nextFrame: number;
  readonly chain: number;
}

export class SnapLog {
  readonly file: SnapFile;
  readonly identity: SnapIdentity;
  readonly #cipher: SnapCipher;
  readonly #content: SnapContent;
  #checkpointSequence: number;
  #incarnation: number;
  #nextFrame: number;
  #chain: number;
  /** The checkpoint says where the log ends. */
  #covered = false;
  /** Nothing lies behind the end of the log that could be taken for its continuation. */
  #tailClean = false;

  constructor(file: SnapFile, identity: SnapIdentity, cipher: SnapCipher, content: SnapContent, state: LogState) {
    this.file = file;
    this.identity = identity;
    this.#cipher = cipher;
    this.#content = content;
    this.#checkpointSequence = state.checkpointSequence;
    this.#incarnation = state.incarnation;
    this.#nextFrame = state.nextFrame;
    this.#chain = state.chain;
  }

  get incarnation(): number {
    return this.#incarnation;
  }

  get covered(): boolean {
    return this.#covered;
  }

  get #origin(): FrameOrigin {
    return { uuid: this.identity.uuid, incarnation: this.#incarnation };
  }

  /** Both slots of a new file, durable. */
  async writeFirst(): Promise<void> {
    await this.#checkpoint();
    await this.cover();
  }

  /** Durable, and in `content`, when it resolves. SNAP_OVERFLOW and what the file throws: nothing changed. */
  async append(entries: readonly GroupEntry[]): Promise<void> {
    const { segments } = this.#content;
    const { geometry } = this.identity;
    if (!this.#tailClean) await this.cover();
    const fresh = await this.#promise(segmentsNeeded(entries.length, segments.head, geometry));
    const start = {
      origin: this.#origin,
      checkpoint: this.#checkpointSequence,
      nextFrame: this.#nextFrame,
      chain: this.#chain,
      head: segments.head,
      fresh,
    };
    const group = encodeGroup(geometry, this.#cipher, start, entries);
    this.#tailClean = false;
    for (const { page, bytes } of group.writes) await this.file.write(page * PAGE_BYTES, bytes);
    await this.file.sync();
    this.#tailClean = true;
    this.#covered = false;
    for (const { segment, firstFrame } of group.opened) segments.use(segment, firstFrame);
    segments.head = group.head;
    this.#nextFrame = group.nextFrame;
    this.#chain = group.chain;
    for (const { entry, slot } of group.placed) this.#content.put(entry, slot);
  }

  /** Says that everything stored is durable, so that damage to the last frame is told from a torn tail. Nobody waits for it. */
  async mark(): Promise<void> {
    if (this.#covered) return;
    await this.file.write(MARK_PAGE * PAGE_BYTES, encodeMark(this.#origin, this.#nextFrame - 1));
  }

  /** Durable when it resolves: everything stored so far, without the segments that were given back. */
  async cover(): Promise<void> {
    await this.#checkpoint();
    this.#covered = true;
  }

  /** Segments whose granules have all moved are free when it resolves. */
  async giveBack(emptied: readonly number[]): Promise<void> {
    const { segments } = this.#content;
    const firstFrames = [...segments.firstFrames];
    for (const segment of emptied) firstFrames[segment] = 0;
    await this.#checkpoint({ firstFrames });
    this.#covered = true;
    for (const segment of emptied) segments.giveBack(segment);
  }

  /**
   * Empty when it resolves, durably. `heldHost` granules go on counting. What it throws before the first slot is durable has
   * changed nothing; afterwards the store is empty all the same.
   */
  async restart(heldHost: number): Promise<void> {
    const empty = { firstFrames: [], head: undefined, heldHost, incarnation: this.#incarnation + 1 };
    await this.#checkpoint(empty);
    this.#incarnation++;
    this.#content.clear();
    this.#content.heldHost = heldHost;
    this.#covered = true;
    await this.#checkpoint();
    // Whatever is left of the space would only be used again; what was promised is promised anew.
    this.#content.segments.allocated = 0;
    await this.file.truncate(segmentsPage(this.identity.geometry) * PAGE_BYTES);
  }

  /** Promises the space of `count` fresh segments, and of the head, whose space a crash may have taken away. */
  async #promise(count: number): Promise<readonly number[]> {
    const { segments } = this.#content;
    const { geometry } = this.identity;
    let fresh = segments.free(count);
    while (fresh.length < count) {
      const unpinned = segments.unpinned();
      if (unpinned === undefined) throw snapOverflow(this.identity.owner, "all its segments are in use");
      await unpinned;
      fresh = segments.free(count);
    }
    const head = segments.head === undefined ? [] : [segments.head.segment];
    const last = Math.max(-1, ...head, ...fresh);
    while (segments.allocated <= last) {
      const offsetBytes = segmentPage(geometry, segments.allocated) * PAGE_BYTES;
      await this.file.allocate(offsetBytes, geometry.segmentPages * PAGE_BYTES);
      segments.allocated++;
    }
    return fresh;
  }

  async #checkpoint(changed: Partial<SnapCheckpoint> = {}): Promise<void> {
    const { geometry } = this.identity;
    const sequence = this.#checkpointSequence + 1;
    const { page, table } = encodeCheckpoint(this.identity, {
      sequence,
      incarnation: this.#incarnation,
      nextFrame: this.#nextFrame,
      chain: this.#chain,
      head: this.#content.segments.head,
      heldHost: this.#content.heldHost,
      firstFrames: this.#content.segments.firstFrames,
      ...changed,
    });
    assert(this.#nextFrame > 0, "frames are numbered from 1");
    const slot = sequence % 2;
    this.#tailClean = false;
    await this.file.write(tablePage(geometry, slot) * PAGE_BYTES, table);
    await this.file.write(slot * PAGE_BYTES, page);
    await this.file.sync();
    this.#checkpointSequence = sequence;
    this.#tailClean = true;
  }
}
