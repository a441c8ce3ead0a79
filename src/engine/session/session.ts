/**
 * Copy session: one source extent copied to one destination extent as of one instant.
 *
 * Role: the maps of the session and the copying of granules on demand. The background copier (copier.ts) and the write and
 * read paths (volume/volume.ts) call it; points (point.ts) give it a new generation.
 * Invariants:
 *   1. A granule is exactly one of: pending (destination lacks it), uncommitted (copied, not yet durable), present.
 *   2. A pending granule of the source is unchanged since the point: every host write copies it first.
 *   3. A granule is recorded as copied only after a sync of the destination that began after its data was written.
 *   4. "Complete" is computed: nothing pending, nothing uncommitted.
 * Source: spec/11 "I/O rules per session"; data-safety 1.4.
 */
import { assert, endOnBug } from "../../base/assert.ts";
import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import type { MoveResult } from "../../base/ports.ts";
import { granuleCountOf } from "../../base/units.ts";
import type { CopyFailure, ExtentRef, SessionStatus } from "../engine-api.ts";
import { PagedBitmap } from "../map/paged-bitmap.ts";
import type { EnginePorts } from "../ports.ts";
import { Mutex } from "../sync/mutex.ts";
import { RangeLock } from "../sync/range-lock.ts";
import { type EpochTrust, leastTrust } from "../volume/change-chain.ts";
import { saysGone, type Volume } from "../volume/volume.ts";
import { CommitQueue } from "./commit-queue.ts";
import { moveNow } from "./demand-copy.ts";
import { bytesOfGranules, type GranuleRun, granulesDone, granulesOfSide, moveRun } from "./extents.ts";
import type { SessionFiles } from "./session-files.ts";
import { factsOf, type SessionFacts, type SessionRecord } from "./session-record.ts";
import { type EndOfSession, statusOf } from "./session-status.ts";
import type { SessionState } from "./transitions.ts";

type Changing<T> = { -readonly [Field in keyof T]: T[Field] };

const NOTHING_MOVED = { bytesCopied: 0, bytesZeroed: 0, bytesCloned: 0 };

/** What a session tells its owner. */
export interface SessionOwner {
  /** Phase or progress changed. */
  changed(session: CopySession): void;
  /** The last granule is copied and durable. */
  copied(session: CopySession): void;
  /** Something did not work, at no cost; somebody should look. */
  trouble(error: unknown): void;
}

export class CopySession {
  readonly id: string;
  readonly sourceVolume: Volume;
  readonly destinationVolume: Volume;
  readonly lock = new RangeLock();
  readonly commits: CommitQueue;
  readonly files: SessionFiles;
  /** What is kept durably, as of now; `record` adds the names of the files. */
  readonly facts: Changing<SessionFacts>;
  state: "live" | "failed" | "ended" = "live";
  pending: PagedBitmap;
  readonly uncommitted: PagedBitmap;
  /** For the estimate of the remaining time. */
  readonly progress = { sinceMs: 0, granulesAtStart: 0 };
  readonly #ports: EnginePorts;
  readonly #owner: SessionOwner;
  /** Orders checkpoints, commit rounds and state changes on the session's files. */
  readonly durable = new Mutex();
  #failing: Promise<void> | undefined;

  constructor(options: {
    record: SessionRecord;
    source: Volume;
    destination: Volume;
    pending: PagedBitmap;
    files: SessionFiles;
    ports: EnginePorts;
    owner: SessionOwner;
  }) {
    const { record } = options;
    this.id = record.id;
    this.sourceVolume = options.source;
    this.destinationVolume = options.destination;
    this.files = options.files;
    this.#ports = options.ports;
    this.#owner = options.owner;
    this.facts = factsOf(record);
    if (record.state === "failed") {
      this.state = "failed";
      // A failed session holds no epochs, whatever its record says.
      Object.assign(this.facts, { tracking: false, sourceEpoch: 0, destinationEpoch: 0 });
    }
    this.pending = options.pending;
    this.uncommitted = new PagedBitmap(options.ports.core, this.granuleCount, "empty");
    this.commits = new CommitQueue((runs) => this.#commitRound(runs));
    this.files.onTrouble = (error) => options.owner.trouble(error);
    this.startProgress();
  }

  get source(): ExtentRef {
    return this.facts.source;
  }

  get destination(): ExtentRef {
    return this.facts.destination;
  }

  get tracking(): boolean {
    return this.facts.tracking;
  }

  get generation(): number {
    return this.facts.generation;
  }

  get lengthBytes(): number {
    return this.facts.source.lengthBytes;
  }

  get granuleCount(): number {
    return granuleCountOf(this.facts.source.lengthBytes);
  }

  get unfinished(): boolean {
    return this.pending.count > 0 || this.uncommitted.count > 0;
  }

  get copying(): boolean {
    return this.state === "live" && (this.unfinished || !this.facts.tracking);
  }

  /** State in the words of the transition table. */
  get tableState(): SessionState {
    if (this.state === "ended") return "none";
    if (this.state === "failed") return this.facts.kind === "opc" ? "opc-failed" : "quick-failed";
    if (!this.facts.tracking) return "opc-copying";
    return this.unfinished ? "quick-copying" : "quick-tracking";
  }

  /** Granules of this session that bytes of the source touch. */
  atSource(offsetBytes: number, lengthBytes: number): GranuleRun | undefined {
    return granulesOfSide(this.facts.source, offsetBytes, lengthBytes);
  }

  /** Granules of this session that bytes of the destination touch. */
  atDestination(offsetBytes: number, lengthBytes: number): GranuleRun | undefined {
    return granulesOfSide(this.facts.destination, offsetBytes, lengthBytes);
  }

  /** True when a host write to these granules, on either side, must wait for a copy or its record. */
  blocksWrite(run: GranuleRun): boolean {
    if (this.state === "ended") return false;
    return this.pending.anySet(run.first, run.count) || this.uncommitted.anySet(run.first, run.count);
  }

  /** True when the destination does not have all of these granules yet. */
  lacks(run: GranuleRun): boolean {
    if (this.state === "ended") return false;
    return this.pending.anySet(run.first, run.count);
  }

  /**
   * Brings the pending granules of `run` to the destination, ahead of the background copy.
   * `until: "present"`: they can be read there; `"durable"`: either side may be overwritten.
   * Throws MEDIUM_ERROR after the session has durably failed. VOLUME_UNAVAILABLE ends this request only: nothing is lost,
   * and the session goes on when the volume is back.
   */
  async copy(run: GranuleRun, until: "present" | "durable"): Promise<void> {
    try {
      for (;;) {
        while (this.state === "live" && this.lacks(run)) await this.#copyLocked(run);
        if (until === "present" || this.state !== "live") break;
        if (!this.uncommitted.anySet(run.first, run.count)) break;
        // Afterwards the granules may be pending again: the destination may have lost them meanwhile.
        await this.commits.flush();
      }
    } catch (error) {
      await this.#failUnlessUnavailable(error);
    }
    this.#requireLive();
  }

  async #failUnlessUnavailable(error: unknown): Promise<void> {
    const unavailable = this.unavailability(error);
    if (unavailable) throw unavailable;
    await this.fail(error);
  }

  /** VOLUME_UNAVAILABLE when `error` says no more than that a volume is away, so that the session need not fail. */
  unavailability(error: unknown): TidemarkError | undefined {
    const { code, detail } = asTidemarkError(error);
    if (code === "VOLUME_UNAVAILABLE") return asTidemarkError(error);
    if (!saysGone(error)) return undefined;
    const side = detail.metadata?.["side"];
    if (side === "source") this.sourceVolume.fail(error);
    if (side === "destination") this.destinationVolume.fail(error);
    return this.sourceVolume.unavailable ?? this.destinationVolume.unavailable;
  }

  /**
   * The destination may have lost what it had not made durable: that is pending again, and a session that relied on it
   * fails (data-safety 1.2).
   */
  destinationLost(cause: unknown): void {
    if (this.state === "ended" || this.uncommitted.count === 0) return;
    this.pending.union(this.uncommitted);
    this.uncommitted.clear();
    this.commits.discard();
    // If that cannot be made durable nothing is wrong yet: its files say, too, that it lacks these granules.
    this.fail(cause).catch(() => undefined);
  }

  #requireLive(): void {
    if (this.state !== "failed") return;
    throw new TidemarkError("MEDIUM_ERROR", {
      message: `copy ${this.id} failed: ${this.facts.failure?.message ?? "unknown cause"}`,
      hint: `start copy ${this.id} again or cancel it`,
      metadata: { copy: this.id, cause: this.facts.failure?.cause ?? "OTHER" },
    });
  }

  async #copyLocked(run: GranuleRun): Promise<void> {
    const handle = await this.lock.acquire(run.first, run.count);
    try {
      if (this.state !== "live") return; // it may have ended or failed meanwhile
      const { generation } = this.facts;
      for (const part of this.pendingRuns(run)) {
        this.sourceVolume.requireDevice();
        const move = moveRun(part, this.facts.source, this.facts.destination);
        await this.sourceVolume.ensurePresent(move.fromOffsetBytes, move.lengthBytes);
        const [from, to] = [this.sourceVolume.requireDevice(), this.destinationVolume.requireDevice()];
        const result = await moveNow(this.#ports.mover, from, to, move);
        if (generation !== this.facts.generation || this.state !== "live") return;
        this.destinationVolume.requireDevice(); // what a device that has failed meanwhile took over may be lost
        this.markCopied(part, result);
      }
    } finally {
      this.lock.release(handle);
    }
  }

  pendingRuns(run: GranuleRun): GranuleRun[] {
    const runs: GranuleRun[] = [];
    const end = run.first + run.count;
    for (let from = run.first; from < end; ) {
      const next = this.pending.nextRun(from, end);
      if (!next) break;
      runs.push(next);
      from = next.first + next.count;
    }
    return runs;
  }

  /** The data of `run` has been written to the destination (as far as `result` says); its record follows. */
  markCopied(run: GranuleRun, result: MoveResult): void {
    const count = granulesDone(run, result.doneBytes, this.lengthBytes);
    if (count > 0) this.markGranulesCopied({ first: run.first, count });
    this.addMoved(result);
  }

  markGranulesCopied(run: GranuleRun): void {
    const cleared = this.pending.clearRange(run.first, run.count);
    assert(cleared === run.count, "a granule is copied once");
    this.uncommitted.setRange(run.first, run.count);
    this.commits.add(run);
  }

  addMoved(result: MoveResult): void {
    this.facts.bytesCopied += result.copiedBytes;
    this.facts.bytesZeroed += result.zeroedBytes;
    this.facts.bytesCloned += result.clonedBytes;
    this.#owner.changed(this);
  }

  /** The sync goes without `durable`: a destination that stalls must not hold up who manages the session. */
  async #commitRound(runs: readonly GranuleRun[]): Promise<void> {
    const { generation } = this.facts;
    const over = () => this.state !== "live" || generation !== this.facts.generation;
    if (over()) return;
    await this.destinationVolume.flush();
    await this.durable.run(async () => {
      if (over()) return;
      await this.files.appendCopied(generation, runs);
      if (over()) return;
      for (const run of runs) this.uncommitted.clearRange(run.first, run.count);
    });
    if (!over() && !this.unfinished) this.#owner.copied(this);
  }

  /** Resolves when everything copied before the call is durable, or the session has failed. VOLUME_UNAVAILABLE. */
  async commitCopied(): Promise<void> {
    try {
      if (this.state === "live") await this.commits.flush();
    } catch (error) {
      await this.#failUnlessUnavailable(error);
    }
  }

  /** Resolves when nothing copied is left that is not durable, or the session has failed. Nobody copies meanwhile. VOLUME_UNAVAILABLE. */
  async commitAll(): Promise<void> {
    try {
      while (this.state === "live" && this.uncommitted.count > 0) await this.commits.flush();
    } catch (error) {
      await this.#failUnlessUnavailable(error);
    }
  }

  /**
   * Ends copying because of an error: durably first, then in memory, so that no write goes uncovered before.
   * Resolves when durable; a second caller waits for the first. Throws METADATA_WRITE_FAILED.
   */
  fail(cause: unknown): Promise<void> {
    endOnBug(cause);
    if (this.state !== "live") return Promise.resolve();
    this.#failing ??= this.#doFail(cause).finally(() => {
      this.#failing = undefined;
    });
    return this.#failing;
  }

  async #doFail(cause: unknown): Promise<void> {
    const error = asTidemarkError(cause);
    const failure = { cause: failureOf(error), message: error.detail.message };
    await this.durable.run(async () => {
      if (this.state !== "live") return;
      const record = { ...this.record(), tracking: false, sourceEpoch: 0, destinationEpoch: 0 };
      await this.files.checkpoint({ ...record, state: "failed", failure }, this.missing());
      this.facts.failure = failure;
      this.state = "failed";
      this.releaseEpochs();
    });
    this.#owner.changed(this);
  }

  /** Takes over a new generation that is durable in the points log. The caller holds the gates and `durable`. */
  newGeneration(record: SessionRecord, pending: PagedBitmap): void {
    this.sourceVolume.chain.release(this.facts.sourceEpoch, this.id);
    this.destinationVolume.chain.release(this.facts.destinationEpoch, this.id);
    this.pending.dispose();
    this.pending = pending;
    this.uncommitted.clear();
    this.commits.discard();
    this.state = "live";
    const { createdMs, barrierMicroseconds } = this.facts;
    Object.assign(this.facts, factsOf(record), NOTHING_MOVED, { createdMs, barrierMicroseconds, failure: undefined });
    this.startProgress();
  }

  /** How far the maps that the next difference is made of can be trusted. */
  get trust(): EpochTrust {
    if (!this.facts.tracking) return "exact";
    const source = this.sourceVolume.chain.between(this.facts.sourceEpoch, 0);
    const destination = this.destinationVolume.chain.between(this.facts.destinationEpoch, 0);
    return [...source, ...destination].reduce<EpochTrust>((trust, epoch) => leastTrust(trust, epoch.trust), "exact");
  }

  /** Goes on as OPC; durable before the epochs are let go. */
  stopTracking(): Promise<void> {
    return this.durable.run(async () => {
      if (this.state !== "live") return;
      const record: SessionRecord = {
        ...this.record(),
        kind: "opc",
        tracking: false,
        sourceEpoch: 0,
        destinationEpoch: 0,
      };
      await this.files.checkpoint(record, this.missing());
      this.facts.kind = "opc";
      this.releaseEpochs();
    });
  }

  /** Keeps the epochs that began at the point. */
  holdEpochs(): void {
    if (!this.facts.tracking || this.state !== "live") return;
    this.sourceVolume.chain.hold(this.facts.sourceEpoch, this.id);
    this.destinationVolume.chain.hold(this.facts.destinationEpoch, this.id);
  }

  /** Lets go of the epochs; the session no longer tracks. */
  releaseEpochs(): void {
    this.sourceVolume.chain.release(this.facts.sourceEpoch, this.id);
    this.destinationVolume.chain.release(this.facts.destinationEpoch, this.id);
    this.sourceVolume.chain.prune();
    this.destinationVolume.chain.prune();
    this.facts.sourceEpoch = 0;
    this.facts.destinationEpoch = 0;
    this.facts.tracking = false;
  }

  /** A new map of the granules the destination durably lacks. The caller disposes it. */
  missing(): PagedBitmap {
    const map = this.pending.clone();
    map.union(this.uncommitted);
    return map;
  }

  /** Durable before it shows. */
  setPace(pace: number): Promise<void> {
    return this.durable.run(async () => {
      if (this.state === "ended") return;
      await this.files.checkpoint({ ...this.record(), pace }, this.missing());
      this.facts.pace = pace;
    });
  }

  /** Writes the present state to the session's own files. */
  checkpoint(): Promise<void> {
    return this.durable.run(async () => {
      if (this.state === "ended") return;
      await this.files.checkpoint(this.record(), this.missing());
    });
  }

  /** Granules changed on either side since the point, as a new map that the caller disposes. */
  changedSincePoint(side: "source" | "destination" | "both"): PagedBitmap {
    const map = new PagedBitmap(this.#ports.core, this.granuleCount, "empty");
    if (!this.facts.tracking) return map;
    if (side !== "destination") this.sourceVolume.unionChanged(map, this.facts.source, this.facts.sourceEpoch);
    if (side !== "source")
      this.destinationVolume.unionChanged(map, this.facts.destination, this.facts.destinationEpoch);
    return map;
  }

  bytesOf(map: PagedBitmap): number {
    return bytesOfGranules(map.count, map.count > 0 && map.test(this.granuleCount - 1), this.lengthBytes);
  }

  startProgress(): void {
    this.progress.sinceMs = this.#ports.clock.monotonicMs();
    this.progress.granulesAtStart = this.pending.count;
  }

  record(): SessionRecord {
    return { ...this.facts, state: this.state, mapFile: this.files.mapFile, logFile: this.files.logFile };
  }

  /** `ended` is given once the session is over. */
  status(ended?: EndOfSession): SessionStatus {
    return statusOf(this, this.#ports.clock.monotonicMs(), ended);
  }

  dispose(): void {
    this.pending.dispose();
    this.uncommitted.dispose();
  }
}

/** A bad sector is one of the source, also when it is met through the copy that owes the source its content. */
function failureOf(error: TidemarkError): CopyFailure {
  if (error.code === "NO_SPACE") return "OVERFLOW";
  const { side, cause } = error.detail.metadata ?? {};
  return error.code === "MEDIUM_ERROR" && (side === "source" || cause === "BAD_SECTOR") ? "BAD_SECTOR" : "OTHER";
}
