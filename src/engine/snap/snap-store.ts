/**
 * Snap store: what one snap data volume holds, in an append-only file of checksummed frames.
 *
 * Role: keeps granules, finds them again, survives a crash at any instant. It knows no sessions: which granule is preserved
 * when, and in which order with the write that replaces it, is its caller's (`snap-chain.ts` has the rules).
 * How it works: appended granules wait in a queue; one writer takes what is there (bounded), writes it as frames, syncs once,
 * and only then is it found by `read` and acknowledged. Rewriting a granule is a new frame; the old slot is garbage, which the
 * writer compacts away when there is more of it than `segmentsFor` allows.
 * Invariants:
 *   1. An append that resolved is readable after any crash; one that did not is there as a whole or not at all, granule by granule.
 *   2. No slot is used again before what replaces it is durable: the granule elsewhere, or a new incarnation (invariant 26).
 *   3. SNAP_OVERFLOW leaves everything stored readable, and later appends may succeed. After any other failure of a write or
 *      sync nothing more is taken until the store is opened again.
 *   4. A granule is given out only if its checksum is right.
 * Memory: `SlotIndex` (32 bytes a granule at most), 16 bytes a segment, one bit a granule touched, one group of writes.
 * Layout: docs/file-formats.md "Snap store". Source: data-safety 1.5, 1.8; spec/11 "Snap Data Volume / Pool".
 */
import { assert, endOnBug } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";
import { SNAP_APPEND_GRANULES_MAX, SNAP_LIVE_GRANULES_MAX, SNAP_QUEUE_GRANULES_MAX } from "../../base/limits.ts";
import type { Random } from "../../base/ports.ts";
import { GRANULE_SIZE_BYTES } from "../../base/units.ts";
import { wasOutOfSpace } from "../durable/state-files.ts";
import { crc32c, loadCore } from "../map/core.ts";
import type { BitRun, PagedBitmap } from "../map/paged-bitmap.ts";
import { Mutex } from "../sync/mutex.ts";
import { badGranule, collectEmptiest } from "./compaction.ts";
import type { GroupEntry } from "./frame-group.ts";
import { cipherFor, cipherOf, type SnapCipher, type SnapKey } from "./snap-cipher.ts";
import { SnapContent } from "./snap-content.ts";
import { type SnapFile, snapFailure, snapOverflow } from "./snap-file.ts";
import { type SnapClass, UUID_BYTES } from "./snap-format.ts";
import {
  boundsFor,
  GROUP_GRANULES_MAX,
  geometryFor,
  PAGE_BYTES,
  type SnapBounds,
  segmentOf,
  segmentsPage,
} from "./snap-geometry.ts";
import { SnapLog } from "./snap-log.ts";
import { readCheckpoint, replay } from "./snap-recovery.ts";

/** Where a store takes its space from: its physical capacity and a pool (`snap-space.ts`). */
export interface SnapBudget {
  /** For granules that are about to be stored. SNAP_OVERFLOW: nothing was taken. */
  take(granuleCount: number, kind: SnapClass): void;
  /** They were not stored. */
  giveBack(granuleCount: number, kind: SnapClass): void;
  /** What a store holds that has been opened or emptied; never refused. */
  adopt(granules: Readonly<Record<SnapClass, number>>): void;
}

export interface SnapStoreOptions {
  /** Who the store belongs to (the volume's uid); at most 64 bytes. */
  readonly owner: string;
  readonly budget: SnapBudget;
  /** Present exactly when the store is encrypted. */
  readonly key?: SnapKey;
  /** Granules of one group; a simulator makes it small. */
  readonly groupGranulesMax?: number;
}

export interface SnapStoreCreation extends SnapStoreOptions {
  readonly granuleCount: number;
  readonly random: Random;
  readonly bounds?: SnapBounds;
}

export interface SnapWrite {
  readonly granule: number;
  /** 8 KiB; the store's until the append has ended. */
  readonly data: Uint8Array;
}

export interface SnapStoreFigures {
  /** Granules stored, by what consumed their space. */
  readonly copyGranules: number;
  readonly hostGranules: number;
  /** Granules of hosts from before the present incarnation, which count until the volume is initialised. */
  readonly heldHostGranules: number;
  readonly segmentsInUse: number;
  readonly segmentBytes: number;
  /** Bytes promised in the file. */
  readonly fileBytes: number;
  readonly memoryBytes: number;
  readonly incarnation: number;
}

interface Waiting {
  readonly writes: readonly SnapWrite[];
  readonly kind: SnapClass;
  readonly resolve: () => void;
  readonly reject: (error: TidemarkError) => void;
}

export class SnapStore {
  readonly owner: string;
  readonly granuleCount: number;
  readonly #file: SnapFile;
  readonly #log: SnapLog;
  readonly #content: SnapContent;
  readonly #cipher: SnapCipher;
  readonly #budget: SnapBudget;
  readonly #groupGranulesMax: number;
  /** One group, round of compaction or reset at a time. */
  readonly #turn = new Mutex();
  #queue: Waiting[] = [];
  #queuedGranules = 0;
  #writing: Promise<void> | undefined;
  #failure: TidemarkError | undefined;
  #closing: Promise<void> | undefined;

  private constructor(log: SnapLog, content: SnapContent, cipher: SnapCipher, options: SnapStoreOptions) {
    this.owner = options.owner;
    this.granuleCount = log.identity.geometry.granuleCount;
    this.#file = log.file;
    this.#log = log;
    this.#content = content;
    this.#cipher = cipher;
    this.#budget = options.budget;
    this.#groupGranulesMax = options.groupGranulesMax ?? GROUP_GRANULES_MAX;
    this.#adopt();
  }

  /**
   * A new store in an empty file, durable when it resolves; that the file's name is, the caller sees to. It owns the file from
   * then on. PATH_EXISTS when the file is not empty; NO_SPACE; MEDIUM_ERROR.
   */
  static async create(file: SnapFile, options: SnapStoreCreation): Promise<SnapStore> {
    await loadCore();
    const { owner, granuleCount } = options;
    if ((await file.size()) > 0)
      throw new TidemarkError("PATH_EXISTS", { message: `${file.path} is not empty`, metadata: { path: file.path } });
    const bounds = options.bounds ?? boundsFor(granuleCount);
    const geometry = geometryFor(granuleCount, bounds);
    const uuid = options.random.bytes(UUID_BYTES);
    const cipher = cipherFor(options.key, uuid);
    const identity = { owner, uuid, cipher: cipher.name, verifier: cipher.verifier, geometry };
    const content = new SnapContent(geometry);
    const log = new SnapLog(file, identity, cipher, content, {
      checkpointSequence: 0,
      incarnation: 1,
      nextFrame: 1,
      chain: crc32c(uuid),
    });
    try {
      await file.allocate(0, segmentsPage(geometry) * PAGE_BYTES);
      await log.writeFirst();
    } catch (cause) {
      content.dispose();
      const { error } = snapFailure(owner, cause);
      if (error.code !== "SNAP_OVERFLOW") throw error;
      throw new TidemarkError(
        "NO_SPACE",
        {
          message: `there is no room for ${file.path}`,
          hint: "free space on the file system that holds it, then repeat",
        },
        { cause },
      );
    }
    return new SnapStore(log, content, cipher, { groupGranulesMax: bounds.groupGranulesMax, ...options });
  }

  /**
   * What the file holds, made durable before it is acted on (data-safety 1.10). KEY_INVALID before anything but the first pages
   * was read; METADATA_CORRUPT names file and place, and nothing of the store may be used then; MEDIUM_ERROR; SCHEMA_TOO_NEW.
   */
  static async open(file: SnapFile, options: SnapStoreOptions): Promise<SnapStore> {
    await loadCore();
    const { owner, key } = options;
    let content: SnapContent | undefined;
    try {
      await file.sync();
      const found = await readCheckpoint(file, owner);
      const cipher = cipherOf(found.identity, key);
      content = new SnapContent(found.identity.geometry);
      const { nextFrame, chain, base } = await replay(file, found, content);
      const { sequence, incarnation } = found.checkpoint;
      // The next one goes into the other slot, and has a number that no frame has named.
      const checkpointSequence = sequence + 2 * Math.ceil((base - sequence) / 2);
      const state = { checkpointSequence, incarnation, nextFrame, chain };
      const log = new SnapLog(file, found.identity, cipher, content, state);
      if (found.heal) await log.cover();
      return new SnapStore(log, content, cipher, options);
    } catch (error) {
      content?.dispose();
      throw snapFailure(owner, error).error;
    }
  }

  /** Why nothing more is taken; undefined while all is well. */
  get failure(): TidemarkError | undefined {
    return this.#failure;
  }

  /** Whether the granule is stored. O(1), no I/O. */
  holds(granule: number): boolean {
    return this.#content.index.has(granule);
  }

  /** How the granule is kept, or undefined. */
  lookup(granule: number): { readonly offsetBytes: number; readonly class: SnapClass } | undefined {
    const entry = this.#content.index.get(granule);
    return entry && { offsetBytes: entry.slot * PAGE_BYTES, class: entry.class };
  }

  /** The next run of granules in `[from, limit)` that may be stored; when memory was exhausted it may say more than is so. */
  nextHeld(from: number, limit: number): BitRun | undefined {
    return this.#content.held.nextRun(from, limit);
  }

  /** Adds what is stored to `target` (as many bits as the store has granules). */
  unionHeld(target: PagedBitmap): void {
    target.union(this.#content.held);
  }

  get figures(): SnapStoreFigures {
    const { index, segments, live, heldHost } = this.#content;
    const { geometry } = this.#log.identity;
    return {
      copyGranules: live.copy,
      hostGranules: live.host,
      heldHostGranules: heldHost,
      segmentsInUse: segments.inUse,
      segmentBytes: geometry.segmentPages * PAGE_BYTES,
      fileBytes: (segmentsPage(geometry) + segments.allocated * geometry.segmentPages) * PAGE_BYTES,
      memoryBytes: index.memoryBytes,
      incarnation: this.#log.incarnation,
    };
  }

  /**
   * The granule's 8 KiB; false when it is not stored. MEDIUM_ERROR when what is stored is damaged or cannot be read.
   */
  async read(granule: number, into: Uint8Array): Promise<boolean> {
    assert(into.length === GRANULE_SIZE_BYTES, "a granule is read as a whole");
    const found = await this.#readStored(granule);
    if (found === undefined) return false;
    into.set(this.#cipher.open(found.slot, found.stored));
    return true;
  }

  /** For a scrub: whether the granule is stored; its checksum has been compared. Throws as `read`. */
  async check(granule: number): Promise<boolean> {
    return (await this.#readStored(granule)) !== undefined;
  }

  async #readStored(granule: number): Promise<{ readonly slot: number; readonly stored: Uint8Array } | undefined> {
    const entry = this.#content.index.get(granule);
    if (entry === undefined) return undefined;
    const { slot, checksum } = entry;
    const { incarnation } = this.#log;
    const unpin = this.#content.segments.pin(segmentOf(this.#log.identity.geometry, slot));
    let stored: Uint8Array;
    try {
      stored = await this.#file.read(slot * PAGE_BYTES, GRANULE_SIZE_BYTES);
    } finally {
      unpin();
    }
    if (incarnation !== this.#log.incarnation) return undefined; // emptied meanwhile
    if (stored.length < GRANULE_SIZE_BYTES || crc32c(stored) !== checksum)
      throw badGranule(this.#file.path, granule, slot);
    return { slot, stored };
  }

  /**
   * Durable, and found by `read`, when it resolves. Granules of one append are stored together unless they need more than one
   * group; of two appends of one granule the later call counts. SNAP_OVERFLOW: nothing of it counts, see invariant 3.
   * LIMIT_EXCEEDED: too much is waiting. COPY_STATE: the store was emptied meanwhile. MEDIUM_ERROR, DEVICE_GONE: final.
   */
  append(writes: readonly SnapWrite[], kind: SnapClass): Promise<void> {
    assert(this.#closing === undefined, `the snap store of ${this.owner} is open`);
    assert(
      writes.length > 0 && writes.length <= SNAP_APPEND_GRANULES_MAX,
      "an append has a bounded number of granules",
    );
    for (const { granule, data } of writes) {
      assert(
        Number.isSafeInteger(granule) && granule >= 0 && granule < this.granuleCount,
        "the granule lies in the volume",
      );
      assert(data.length === GRANULE_SIZE_BYTES, "a granule is stored as a whole");
    }
    if (this.#failure) return Promise.reject(this.#failure);
    if (this.#queuedGranules + writes.length > SNAP_QUEUE_GRANULES_MAX) return Promise.reject(this.#tooMuch());
    this.#queuedGranules += writes.length;
    const stored = new Promise<void>((resolve, reject) => {
      this.#queue.push({ writes, kind, resolve, reject });
    });
    this.#writing ??= this.#writeQueue();
    return stored;
  }

  /**
   * Empties the store: durable when it resolves, and its space is given back to the file system. `host` "keep": what hosts had
   * written still counts as used, as it does when a session starts; "release": the volume is initialised. Appends that wait are
   * refused (COPY_STATE). Reads that are under way find nothing. Throws as `append`; then only a new opening says what holds.
   */
  reset({ host }: { host: "keep" | "release" }): Promise<void> {
    assert(this.#closing === undefined, `the snap store of ${this.owner} is open`);
    const refused = this.#takeAll();
    const error = new TidemarkError("COPY_STATE", {
      message: `the snap data volume ${this.owner} was emptied meanwhile`,
    });
    for (const { reject } of refused) reject(error);
    return this.#turn.run(async () => {
      if (this.#failure) throw this.#failure;
      const { live, heldHost } = this.#content;
      try {
        await this.#log.restart(host === "keep" ? live.host + heldHost : 0);
      } catch (cause) {
        // Even for want of space: whether the new incarnation counts, only an opening can say.
        throw this.#failForGood(cause);
      } finally {
        this.#adopt();
      }
    });
  }

  /** Ends after what waits has been stored; then a replay starts here. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    try {
      await this.#writing;
      await this.#turn.run(async () => {
        if (this.#failure || this.#log.covered) return;
        await this.#log.cover().catch((error: unknown) => {
          // Without the checkpoint the next opening replays more; nothing is lost.
          if (!wasOutOfSpace(error)) throw snapFailure(this.owner, error).error;
        });
      });
    } finally {
      await this.#file.close();
      this.#content.dispose();
    }
  }

  async #writeQueue(): Promise<void> {
    // Whoever appends in the same turn goes with the first group.
    await Promise.resolve();
    while (this.#queue.length > 0) await this.#turn.run(() => this.#writeGroup());
    this.#writing = undefined;
  }

  async #writeGroup(): Promise<void> {
    const { accepted, entries } = this.#takeGroup();
    if (entries.length === 0) return;
    try {
      await this.#log.append(entries);
    } catch (cause) {
      for (const { kind, fresh } of accepted) this.#budget.giveBack(fresh, kind);
      const error = this.#fail(cause);
      for (const { reject } of accepted) reject(error);
      return;
    }
    for (const { resolve } of accepted) resolve();
    try {
      await this.#compact();
      if (this.#queue.length === 0) await this.#log.mark();
    } catch (cause) {
      // Room that compaction or the mark did not get is only missed; anything else is met by the next append.
      if (!wasOutOfSpace(cause)) this.#fail(cause);
    }
  }

  /** What is stored next: as many appends as make a group, without those that the budget refuses. */
  #takeGroup(): { accepted: (Waiting & { readonly fresh: number })[]; entries: GroupEntry[] } {
    const accepted: (Waiting & { readonly fresh: number })[] = [];
    const entries: GroupEntry[] = [];
    const classes = new Map<number, SnapClass>();
    while (this.#queue[0] !== undefined) {
      const waiting = this.#queue[0];
      if (entries.length > 0 && entries.length + waiting.writes.length > this.#groupGranulesMax) break;
      this.#queue.shift();
      this.#queuedGranules -= waiting.writes.length;
      const mine = new Map<number, SnapClass>();
      for (const { granule } of waiting.writes)
        if (!this.holds(granule) && !classes.has(granule)) mine.set(granule, waiting.kind);
      try {
        this.#takeSpace(mine.size, classes.size, waiting.kind);
      } catch (error) {
        waiting.reject(snapFailure(this.owner, error).error);
        continue;
      }
      for (const [granule, kind] of mine) classes.set(granule, kind);
      accepted.push({ ...waiting, fresh: mine.size });
      for (const { granule, data } of waiting.writes) {
        const kind = this.#content.index.get(granule)?.class ?? classes.get(granule) ?? waiting.kind;
        entries.push({ granule, class: kind, data });
      }
    }
    return { accepted, entries };
  }

  #takeSpace(fresh: number, freshBefore: number, kind: SnapClass): void {
    if (fresh === 0) return;
    if (this.#content.index.size + freshBefore + fresh > SNAP_LIVE_GRANULES_MAX)
      throw snapOverflow(this.owner, `it holds ${SNAP_LIVE_GRANULES_MAX} granules, which is the most`);
    this.#budget.take(fresh, kind);
  }

  async #compact(): Promise<void> {
    const { segments, index } = this.#content;
    const { identity } = this.#log;
    while (segments.exceeds(index.size)) {
      const origin = { uuid: identity.uuid, incarnation: this.#log.incarnation };
      const source = {
        file: this.#file,
        geometry: identity.geometry,
        origin,
        cipher: this.#cipher,
        content: this.#content,
      };
      const found = await collectEmptiest(source, this.#groupGranulesMax);
      if (found.live.length > 0) await this.#log.append(found.live);
      if (found.segments.length > 0) await this.#log.giveBack(found.segments);
    }
  }

  #adopt(): void {
    const { live, heldHost } = this.#content;
    this.#budget.adopt({ copy: live.copy, host: live.host + heldHost });
  }

  /** The error for callers; after a final one nothing more is taken. */
  #fail(cause: unknown): TidemarkError {
    const { error, final } = snapFailure(this.owner, cause);
    return final ? this.#failForGood(cause) : error;
  }

  #failForGood(cause: unknown): TidemarkError {
    endOnBug(cause);
    const { error } = snapFailure(this.owner, cause);
    this.#failure ??= error;
    for (const { reject } of this.#takeAll()) reject(error);
    return error;
  }

  #takeAll(): Waiting[] {
    this.#queuedGranules = 0;
    return this.#queue.splice(0);
  }

  #tooMuch(): TidemarkError {
    return new TidemarkError("LIMIT_EXCEEDED", {
      message: `too much is waiting to be stored in snap data volume ${this.owner}`,
      hint: "the disk below it is too slow for this load; try again",
      metadata: { owner: this.owner },
    });
  }
}
