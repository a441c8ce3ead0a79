/**
 * Activity log of one volume: which regions of 4 MiB may hold writes whose change bits are only in memory.
 *
 * Role: before the first write into a region the log says durably that the region is *hot*; after a crash the bits of hot
 * regions are taken as set. When slots run out, a region that was not used lately is *evicted*: its bits, then final until
 * it is hot again, go into the log.
 * A write: `isHot` (else `activate`, and ask again) → `enter` → set the bits in memory → write the data → `leave`.
 * `enter` and `leave` may be left out when all of that happens without waiting.
 *
 * How it works: one loop takes whoever waits, in order, as many as fit. For them it
 *   1. reserves region and slot of every region, before the first await [T];
 *   2. picks the regions to evict: least recently used, no write in flight [T], and no longer hot from here on;
 *   3. reads their bits, in the same turn [T];
 *   4. appends one frame with both, durably [T];
 *   5. gives the evicted slots away, makes the new regions hot and lets the waiting go on.
 * Invariants:
 *   1. A region that `isHot` calls hot is hot in the log, durably.
 *   2. Whoever entered a region keeps it hot until `leave`.
 *   3. At most `slots` regions are hot, but for a single request that needs more: it gets them once it is alone.
 *   4. Nobody waits for ever as long as everybody who entered leaves: requests are served in order, and regions that stand
 *      in the way of the first one take no new writes until it is served.
 *   5. Frames are in the log in the order in which things happened in memory.
 *   6. A log takes nothing but its start frame before the log in use says, durably and as its last frame, that it is continued in
 *      it. So a log that is missing is noticed, and one that nobody names was never in use.
 * Source: data-safety 1.3 (rules [T]); layout: docs/file-formats.md "Activity log".
 */
import { assert, endOnBug } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";
import { ACTIVITY_SLOTS, ACTIVITY_WAITERS_MAX } from "../../base/limits.ts";
import {
  type ActivityFrame,
  type ActivityReplay,
  ActivityReplayer,
  encodeActivityFrame,
  REGION_BITS_BYTES,
  type RegionBits,
} from "./activity-frames.ts";
import { FrameLog, readFoundLog } from "./frame-log.ts";
import type { ExpectedEnd, LogEnd } from "./log-end.ts";
import { type Region, RegionTable } from "./region-table.ts";
import { corruptFile, type StateFiles } from "./state-files.ts";

/** A waiting write gets so many turns to ask `isHot` before its regions may be evicted again; only fairness needs it. */
const GRACE_TURNS = 16;
/** Points that a full disk may keep from the log before it is given up. */
const UNWRITTEN_POINTS_MAX = 64;
const LOG_KIND = "volume";

export interface ActivityLogOptions {
  readonly files: StateFiles;
  /** Uid of the volume. */
  readonly ownerId: string;
  /** File of log `number`; a name ending in `-<number>.log` is checked against the content. */
  readonly path: (number: number) => string;
  /** The region's bits in the volume's open change map, REGION_BITS_BYTES bytes, which the log keeps. */
  readonly readRegionBits: (region: number) => Uint8Array;
  /** Regions that may be hot at once. */
  readonly slots?: number;
  /** What log `number` has to have when it is found. */
  readonly expected?: (number: number) => ExpectedEnd | undefined;
}

type Request =
  | { readonly type: "activate"; readonly first: number; readonly last: number; readonly settle: Settle }
  | { readonly type: "evict-all" | "sync"; readonly settle: Settle }
  | { readonly type: "checkpoint"; readonly number: number; readonly settle: Settle };

interface Settle {
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** What one turn of the loop writes. */
interface Batch {
  readonly served: Request[];
  readonly activated: Region[];
  readonly victims: Region[];
}

/** A point that happened in memory and is to be in the log before anything that happens later. */
interface UnwrittenPoint {
  readonly openedEpoch: number;
  readonly payload: Uint8Array;
  /** Cleared once the caller has its answer; a refused point is tried again. */
  settle: Settle | undefined;
}

export class ActivityLog {
  readonly #options: ActivityLogOptions;
  readonly #table: RegionTable;
  #log: FrameLog;
  /** In memory; the log may not have all points yet. */
  #openEpoch: number;
  #loggedEpoch: number;
  #queue: Request[] = [];
  #loop: Promise<void> | undefined;
  #wakeLoop: (() => void) | undefined;
  /** In order. Not empty after a failure: nothing else is written before them. */
  #points: UnwrittenPoint[] = [];
  #failure: unknown;
  #closed = false;

  private constructor(options: ActivityLogOptions, log: FrameLog, openEpoch: number, hotRegions: Iterable<number>) {
    this.#options = options;
    this.#table = new RegionTable(options.slots ?? ACTIVITY_SLOTS, hotRegions, () => this.#wakeLoop?.());
    this.#log = log;
    this.#openEpoch = openEpoch;
    this.#loggedEpoch = openEpoch;
  }

  /** A new log without hot regions, durable when it resolves. */
  static async create(options: ActivityLogOptions, number: number, openEpoch: number): Promise<ActivityLog> {
    const start = encodeActivityFrame({ type: "start", openEpoch, hotRegions: [] });
    const log = await FrameLog.create(options.files, options.path(number), LOG_KIND, options.ownerId, number, start);
    return new ActivityLog(options, log, openEpoch, []);
  }

  /**
   * Replays the logs of `numbers`, which ascend: the one of the last durable checkpoint, and those that are there since. Goes
   * on writing to the last one that was in use, with its regions still hot. Before the first write the caller adds to the checkpoint's maps what `replay`
   * says, all granules of the hot regions included. PATH_NOT_FOUND, METADATA_CORRUPT, SCHEMA_TOO_NEW.
   */
  static async open(
    options: ActivityLogOptions,
    numbers: readonly number[],
  ): Promise<{ log: ActivityLog; replay: ActivityReplay }> {
    const found = await ActivityLog.find(options, numbers);
    await found.log.cutTail();
    return found;
  }

  /** As `open`, and changes nothing: `cutTail` comes before anything is asked of it, or `abandon` instead of `close`. */
  static async find(
    options: ActivityLogOptions,
    numbers: readonly number[],
  ): Promise<{ log: ActivityLog; replay: ActivityReplay }> {
    const { files, path, ownerId, expected } = options;
    const [first] = numbers;
    assert(first !== undefined, "at least one log");
    const replayer = new ActivityReplayer();
    let log: FrameLog | undefined;
    let next: number | undefined = first;
    try {
      for (const number of numbers) {
        if (number !== next) {
          await requireUnused(options, number);
          continue;
        }
        await log?.abandon(); // an older log takes nothing more, so that a torn tail may stay
        const add = (payload: Uint8Array) => replayer.add(path(number), payload);
        log = await FrameLog.find(files, path(number), LOG_KIND, ownerId, add, expected?.(number));
        if (!replayer.started) throw corruptFile(path(number), "is empty");
        if (number !== first && replayer.continuedIn === number) throw corruptFile(path(number), "is empty");
        next = replayer.continuedIn;
      }
      if (next !== undefined) throw corruptFile(path(next), "is missing; the log before it is continued in it");
      assert(log !== undefined, "the last log is open");
      const replay = replayer.result();
      return { log: new ActivityLog(options, log, replay.openEpoch, replay.hotRegions), replay };
    } catch (error) {
      await log?.abandon();
      throw error;
    }
  }

  /** As FrameLog.cutTail. */
  cutTail(): Promise<void> {
    return this.#log.cutTail();
  }

  /** As FrameLog.abandon. */
  async abandon(): Promise<void> {
    this.#closed = true;
    await this.#log.abandon();
  }

  /** As FrameLog.end. */
  get end(): LogEnd {
    return this.#log.end;
  }

  /** As FrameLog.durableFrames. */
  get durableFrames(): number {
    return this.#log.durableFrames;
  }

  /** Number of the log in use. */
  get number(): number {
    return this.#log.number;
  }

  /** Length of the log in use; beyond ACTIVITY_LOG_CHECKPOINT_BYTES a checkpoint is worth it. */
  get sizeBytes(): number {
    return this.#log.sizeBytes;
  }

  get hotCount(): number {
    return this.#table.size;
  }

  /** Regions that are hot or about to become or cease to be so. */
  get hotRegions(): readonly number[] {
    return this.#table.numbers();
  }

  /** Whether all regions are hot; counts as their use. True holds until the caller's next await, longer after `enter`. */
  isHot(firstRegion: number, lastRegion: number): boolean {
    return this.#table.isHot(firstRegion, lastRegion);
  }

  /**
   * Resolves when all regions are durably hot; the caller asks `isHot` again, in a loop, before it goes on. The caller has
   * entered no region meanwhile. METADATA_WRITE_FAILED; LIMIT_EXCEEDED when too many wait.
   */
  activate(firstRegion: number, lastRegion: number): Promise<void> {
    assert(firstRegion >= 0 && firstRegion <= lastRegion && lastRegion < 2 ** 32, "a range of regions");
    return this.#request((settle) => ({ type: "activate", first: firstRegion, last: lastRegion, settle }));
  }

  /** A write into these regions begins; they are hot, as `isHot` said in this turn. */
  enter(firstRegion: number, lastRegion: number): void {
    this.#table.enter(firstRegion, lastRegion);
  }

  /** The write has ended, well or badly. */
  leave(firstRegion: number, lastRegion: number): void {
    this.#table.leave(firstRegion, lastRegion);
  }

  /**
   * Bits of all hot regions that have any, for the record of a point: taken with the gates closed, before the map is sealed
   * (`readRegionBits` reads the open map by default).
   */
  hotBits(readRegionBits: (region: number) => Uint8Array = this.#options.readRegionBits): RegionBits[] {
    const found: RegionBits[] = [];
    for (const region of this.#table.numbers()) {
      const bits = readRegionBits(region);
      if (bits.some((byte) => byte !== 0)) found.push({ region, bits });
    }
    return found;
  }

  /**
   * Notes a point: `sealedEpoch` has ended with these bits in the hot regions (`hotBits`), `openedEpoch` begins empty. Called
   * in the turn in which the volume changes its open map. Stored when it resolves, durable after `sync` or any later
   * `activate`: if a crash loses it, no region has become hot since, so both epochs are widened by the hot regions.
   * METADATA_WRITE_FAILED: the point stands in memory and is written before anything else, or nothing is.
   */
  point(point: { sealedEpoch: number; openedEpoch: number; hotBits: readonly RegionBits[] }): Promise<void> {
    assert(!this.#closed, "the activity log is open");
    assert(point.sealedEpoch === this.#openEpoch, "the open epoch is sealed");
    assert(point.openedEpoch > point.sealedEpoch, "epochs ascend");
    this.#openEpoch = point.openedEpoch;
    const payload = encodeActivityFrame({ type: "point", ...point });
    return new Promise((resolve, reject) => {
      this.#points.push({ openedEpoch: point.openedEpoch, payload, settle: { resolve, reject } });
      this.#wakeLoop?.();
      this.#loop ??= this.#run();
    });
  }

  /** Every point noted before is durable when it resolves. */
  sync(): Promise<void> {
    return this.#request((settle) => ({ type: "sync", settle }));
  }

  /**
   * Begins log `number`, which lists the hot regions; resolves when it is durable and in use. The caller then writes the open
   * map (its content now or later), makes durable that map and log belong together, and removes the older log. Until
   * then recovery needs the old map and both logs. No number is given twice, also when it fails: the new log may be left, and the
   * old one is in use as long as it does not name it.
   */
  checkpoint(number: number): Promise<void> {
    assert(number > this.#log.number, "log numbers ascend");
    return this.#request((settle) => ({ type: "checkpoint", number, settle }));
  }

  /**
   * Evicts every region, durably: a clean stop. Waits for writes in flight. Afterwards checkpoint and log give the map
   * exactly.
   */
  evictAll(): Promise<void> {
    return this.#request((settle) => ({ type: "evict-all", settle }));
  }

  /** Waits for the loop, makes the log durable and closes it. Regions stay hot on disk; see `evictAll`. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#loop;
    await this.#log.close();
  }

  // --- the loop ----------------------------------------------------------------------------------------------------------

  #request(make: (settle: Settle) => Request): Promise<void> {
    assert(!this.#closed, "the activity log is open");
    if (this.#queue.length >= ACTIVITY_WAITERS_MAX) {
      return Promise.reject(
        new TidemarkError("LIMIT_EXCEEDED", {
          message: "too many writes wait for the activity log",
          hint: "the disk under the state directory is too slow for this load; lower the number of requests in flight",
        }),
      );
    }
    return new Promise<void>((resolve, reject) => {
      this.#queue.push(make({ resolve, reject }));
      this.#loop ??= this.#run();
    });
  }

  async #run(): Promise<void> {
    // Whoever asks in the same turn is served by the first frame.
    await Promise.resolve();
    while (this.#queue.length > 0 || this.#points.some((point) => point.settle !== undefined)) {
      if (!(await this.#writePoints())) continue;
      const head = this.#queue[0];
      if (head === undefined) continue;
      if (head.type === "activate" || head.type === "evict-all") {
        const batch = this.#reserve();
        if (batch) await this.#commit(batch);
        else await this.#anyLeave();
        continue;
      }
      this.#queue.shift();
      const work = head.type === "checkpoint" ? this.#changeLog(head.number) : this.#log.sync();
      await work.then(head.settle.resolve, head.settle.reject);
    }
    this.#loop = undefined;
  }

  /** Invariant 5: points come first. False, and all who wait are refused, when they cannot be written. */
  async #writePoints(): Promise<boolean> {
    try {
      if (this.#points.length > UNWRITTEN_POINTS_MAX) this.#failure ??= this.#tooManyPoints();
      if (this.#failure) throw this.#failure;
      for (let point = this.#points[0]; point !== undefined; point = this.#points[0]) {
        await this.#log.append(point.payload);
        this.#loggedEpoch = point.openedEpoch;
        this.#points.shift();
        point.settle?.resolve();
      }
      return true;
    } catch (error) {
      for (const point of this.#points) {
        point.settle?.reject(error);
        point.settle = undefined;
      }
      for (const { settle } of this.#queue.splice(0)) settle.reject(error);
      return false;
    }
  }

  #tooManyPoints(): TidemarkError {
    return new TidemarkError("METADATA_WRITE_FAILED", {
      message: `${this.#log.path} is out of use: it could not be written for ${UNWRITTEN_POINTS_MAX} points`,
      hint: "make room on the file system that holds the state directory, then restart tidemarkd",
      metadata: { path: this.#log.path, operation: "write", systemCode: "ENOSPC" },
    });
  }

  /** Steps 1 and 2 for as many requests as fit; undefined when the first one has to wait for somebody to leave. */
  #reserve(): Batch | undefined {
    const table = this.#table;
    table.undrain();
    const served: Request[] = [];
    const activated: Region[] = [];
    for (const request of this.#queue) {
      if (request.type === "evict-all" && served.length === 0) return this.#reserveAll(request);
      if (request.type !== "activate" || !table.fits(request.first, request.last)) break;
      activated.push(...table.reserve(request.first, request.last));
      served.push(request);
    }
    if (served.length === 0) {
      const first = this.#queue[0];
      assert(first?.type === "activate", "an activation waits");
      table.drainFor(first.first, first.last);
      return undefined;
    }
    this.#queue.splice(0, served.length);
    return { served, activated, victims: table.takeVictims(table.size - table.slots) };
  }

  #reserveAll(request: Request): Batch | undefined {
    if (this.#table.pinned > 0) {
      this.#table.drainAll();
      return undefined;
    }
    this.#queue.shift();
    return { served: [request], activated: [], victims: this.#table.takeVictims(this.#table.size) };
  }

  /** Steps 3 to 5. */
  async #commit(batch: Batch): Promise<void> {
    const { served, activated, victims } = batch;
    if (activated.length > 0 || victims.length > 0) {
      // No await between here and `append`: the bits are those of this place in the log.
      const evicted = victims.map(({ region }) => ({ region, bits: this.#bitsOf(region) }));
      const frame: ActivityFrame = { type: "activate", activated: activated.map(({ region }) => region), evicted };
      try {
        await this.#log.appendDurable(encodeActivityFrame(frame));
      } catch (error) {
        this.#undo(batch, error);
        return;
      }
      this.#table.remove(victims);
      this.#table.makeHot(activated);
    }
    for (const { settle } of served) settle.resolve();
    for (let turn = 0; turn < GRACE_TURNS; turn++) await Promise.resolve();
    this.#unpinServed(served);
  }

  /**
   * The frame is not in the log: everything is as before. If the log has failed for good, only a replay can say whether the
   * frame is there: the victims take no more writes, and nothing is ever activated.
   */
  #undo({ served, activated, victims }: Batch, error: unknown): void {
    this.#unpinServed(served);
    this.#table.remove(activated);
    if (!this.#log.failed) this.#table.makeHot(victims);
    for (const { settle } of served) settle.reject(error);
  }

  #unpinServed(served: readonly Request[]): void {
    for (const request of served) if (request.type === "activate") this.leave(request.first, request.last);
  }

  #bitsOf(region: number): Uint8Array {
    const bits = this.#options.readRegionBits(region);
    assert(bits.length === REGION_BITS_BYTES, "a region has 64 bytes of bits");
    return bits;
  }

  /**
   * Nothing is written and no region changes its state meanwhile, for the loop is here: what the new log begins with is
   * where the old one ends. Invariant 6: first the new log, then its name in the old one, then its use.
   */
  async #changeLog(number: number): Promise<void> {
    const { files, ownerId, path } = this.#options;
    const old = this.#log;
    await old.sync();
    const start = encodeActivityFrame({
      type: "start",
      openEpoch: this.#loggedEpoch,
      hotRegions: this.#table.numbers(),
    });
    const making = FrameLog.create(files, path(number), LOG_KIND, ownerId, number, start);
    const next = await making.catch(async (error: unknown) => {
      await files.remove(path(number)).catch(endOnBug); // to give the room back: nobody names it
      throw error;
    });
    try {
      await old.appendDurable(encodeActivityFrame({ type: "continued", number }));
    } catch (error) {
      await next.abandon();
      throw error;
    }
    this.#log = next;
    await old.close();
  }

  #anyLeave(): Promise<void> {
    return new Promise((resolve) => {
      this.#wakeLoop = () => {
        this.#wakeLoop = undefined;
        resolve();
      };
    });
  }
}

/** No log names it: it may be left from a checkpoint that failed, and then it was never in use. METADATA_CORRUPT. */
async function requireUnused({ files, path, ownerId }: ActivityLogOptions, number: number): Promise<void> {
  let frames = 0;
  await readFoundLog(files, path(number), LOG_KIND, ownerId, () => {
    frames++;
  });
  if (frames > 1) throw corruptFile(path(number), USED_AND_NOT_NAMED);
}

/** Says of a log that holds more than its start frame that the log before it has lost its end. */
export const USED_AND_NOT_NAMED = "was in use, and the log before it does not say so: the end of that one is lost";
