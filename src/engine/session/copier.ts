/**
 * The background copier: takes pending granules of all copying sessions in ascending order and has them moved.
 *
 * Role: chooses what to copy next, under the gates of both volumes and the session's lock; decides nothing else.
 * Algorithm of a lane (two a session, so that one is moved while the next is chosen):
 *   1. enter the gates of source and destination; wait while a point holds one of them;
 *   2. take the next pending runs after the cursor: small runs together, or one long one, at most COPY_JOB_BYTES_MAX of
 *      data; as long as nothing but holes or shared extents is met, the span of a job doubles;
 *   3. lock their hull; bring granules in from upstream if the source is itself a destination;
 *   4. move; mark what is done; let a commit round follow;
 *   5. leave, and rest for the part of the time that the pace gives away.
 * Demand goes first: a host that waits copies its granules itself (session.copy).
 * A volume that is away pauses the copying; `start` goes on with it when the volume is back.
 */

import { COPY_JOB_BYTES_MAX, COPY_JOB_RUNS_MAX, COPY_JOB_SPAN_BYTES_MAX, PACE_MAX } from "../../base/limits.ts";
import type { MoveResult, MoveRun } from "../../base/ports.ts";
import { GRANULE_SIZE_BYTES, MiB } from "../../base/units.ts";
import type { EnginePorts } from "../ports.ts";
import { bytesOfRun, type GranuleRun, granulesDone, moveRun } from "./extents.ts";
import type { CopySession } from "./session.ts";

const LANES = 2;
/** A commit round begins after this much, so that little is copied again after a crash and syncs stay short. */
const COMMIT_BYTES = 256 * MiB;
const COMMIT_AFTER_MS = 1000;
/** When neither the copy nor its failure could be made durable. */
const RETRY_AFTER_MS = 5000;
/** Beyond this the copier waits for the commit: a slow destination must not collect unbounded uncommitted data. */
const UNCOMMITTED_BYTES_MAX = 1024 * MiB;

interface Work {
  readonly session: CopySession;
  readonly stop: AbortController;
  readonly lanes: Promise<void>[];
  cursor: number;
  spanBytes: number;
  /** A volume is away. */
  paused: boolean;
  lastCommitMs: number;
  /** `session.bytesCopied` when the last commit round began. */
  committedBytes: number;
}

export class Copier {
  readonly #ports: EnginePorts;
  readonly #work = new Map<CopySession, Work>();

  constructor(ports: EnginePorts) {
    this.#ports = ports;
  }

  /** Begins, or goes on, copying a session. Idempotent. */
  start(session: CopySession): void {
    const known = this.#work.get(session);
    if (known) {
      known.cursor = 0;
      known.spanBytes = COPY_JOB_BYTES_MAX;
      known.paused = false;
      known.committedBytes = 0;
      return;
    }
    const work: Work = {
      session,
      stop: new AbortController(),
      lanes: [],
      cursor: 0,
      spanBytes: COPY_JOB_BYTES_MAX,
      paused: false,
      lastCommitMs: this.#ports.clock.monotonicMs(),
      committedBytes: session.bytesCopied,
    };
    this.#work.set(session, work);
    for (let lane = 0; lane < LANES; lane++) work.lanes.push(this.#lane(work));
    void Promise.all(work.lanes).then(() => {
      if (this.#work.get(session) === work) this.#work.delete(session);
      // A point, or a volume that came back, may have given the session new work while the lanes were ending.
      if (!work.stop.signal.aborted && !work.paused && session.state === "live" && session.pending.count > 0)
        this.start(session);
    });
  }

  /** Ends the copying of one session; resolves when none of its granules is under way. */
  async stop(session: CopySession): Promise<void> {
    const work = this.#work.get(session);
    if (!work) return;
    work.stop.abort();
    await Promise.all(work.lanes);
  }

  async stopAll(): Promise<void> {
    await Promise.all([...this.#work.keys()].map((session) => this.stop(session)));
  }

  async #lane(work: Work): Promise<void> {
    const { session } = work;
    const { signal } = work.stop;
    while (!signal.aborted && session.state === "live") {
      try {
        await this.#copyPending(work);
        await session.commits.flush();
        if (session.pending.count === 0) return;
      } catch (error) {
        if (session.unavailability(error)) return await pause(work);
        const failed = await session.fail(error).then(
          () => true,
          () => false,
        );
        // Not even the failure could be made durable: nothing may go uncovered, so the session stays and is tried again.
        if (!failed) await this.#ports.clock.sleep(RETRY_AFTER_MS, signal);
      }
    }
  }

  async #copyPending(work: Work): Promise<void> {
    const { session } = work;
    const { signal } = work.stop;
    while (!signal.aborted && session.state === "live" && session.pending.count > 0) {
      const startedMs = this.#ports.clock.monotonicMs();
      await this.#enterGates(session);
      try {
        if (signal.aborted || session.state !== "live") return;
        if (!(await this.#job(work))) break;
      } finally {
        session.sourceVolume.gate.leave();
        session.destinationVolume.gate.leave();
      }
      await this.#afterJob(work, startedMs);
    }
  }

  async #enterGates(session: CopySession): Promise<void> {
    const source = session.sourceVolume.gate;
    const destination = session.destinationVolume.gate;
    for (;;) {
      if (source.tryEnter()) {
        if (destination.tryEnter()) return;
        source.leave(); // never hold one while waiting for the other
      }
      await source.opened();
      await destination.opened();
    }
  }

  /** One job; false when nothing is left to choose. */
  async #job(work: Work): Promise<boolean> {
    const { session } = work;
    const runs = chooseRuns(session, work);
    const first = runs[0];
    const last = runs.at(-1);
    if (!first || !last) return false;
    const hull = { first: first.first, count: last.first + last.count - first.first };
    work.cursor = hull.first + hull.count;
    const handle =
      session.lock.tryAcquire(hull.first, hull.count) ?? (await session.lock.acquire(hull.first, hull.count));
    try {
      if (session.state !== "live") return false;
      const { generation } = session;
      // While waiting for the lock a host may have copied some of them.
      const pending = runs.flatMap((run) => session.pendingRuns(run));
      if (pending.length === 0) return true;
      const moves = pending.map((run) => moveRun(run, session.source, session.destination));
      if (session.sourceVolume.entering.length > 0)
        for (const move of moves) await session.sourceVolume.ensurePresent(move.fromOffsetBytes, move.lengthBytes);
      const result = await this.#move(session, moves);
      if (generation !== session.generation || session.state !== "live") return true;
      session.destinationVolume.requireDevice(); // what a device that has failed meanwhile took over may be lost
      const endOfDone = markDone(session, pending, result);
      if (endOfDone < hull.first + hull.count) work.cursor = Math.min(work.cursor, endOfDone);
      adaptSpan(work, result);
      return true;
    } finally {
      session.lock.release(handle);
    }
  }

  #move(session: CopySession, moves: readonly MoveRun[]): Promise<MoveResult> {
    const from = session.sourceVolume.requireDevice();
    const to = session.destinationVolume.requireDevice();
    return this.#ports.mover.move(from, to, moves, { budgetBytes: COPY_JOB_BYTES_MAX });
  }

  async #afterJob(work: Work, startedMs: number): Promise<void> {
    const { session } = work;
    const nowMs = this.#ports.clock.monotonicMs();
    // Holes cost nothing to copy again; only what was written counts.
    const uncommittedBytes = session.bytesCopied - work.committedBytes;
    if (uncommittedBytes >= COMMIT_BYTES || nowMs - work.lastCommitMs >= COMMIT_AFTER_MS) {
      work.lastCommitMs = nowMs;
      work.committedBytes = session.bytesCopied;
      const round = session.commits.flush();
      if (uncommittedBytes >= UNCOMMITTED_BYTES_MAX) await round;
      else round.catch((error: unknown) => failBehind(session, error));
    }
    if (session.pace >= PACE_MAX) return;
    const restMs = ((nowMs - startedMs) * (PACE_MAX - session.pace)) / session.pace;
    await this.#ports.clock.sleep(restMs, work.stop.signal);
  }
}

/** What has been copied is made durable all the same where the destination can: it may be the source that is away. */
async function pause(work: Work): Promise<void> {
  work.paused = true;
  // If it cannot, the granules are pending again, and the session has failed if it relied on them.
  await work.session.commitAll().catch(() => undefined);
}

/** For a round that nobody waits for; the lanes meet again what could not be made durable (see #lane). */
async function failBehind(session: CopySession, error: unknown): Promise<void> {
  if (!session.unavailability(error)) await session.fail(error).catch(() => undefined);
}

/** The next runs after the cursor, wrapping around once. */
function chooseRuns(session: CopySession, work: Work): GranuleRun[] {
  // What the source itself still lacks is brought in for the whole job, whatever is done of it then.
  const cascade = session.sourceVolume.entering.some((upstream) => upstream.unfinished);
  const spanBytes = cascade ? COPY_JOB_BYTES_MAX : work.spanBytes;
  const runs = runsFrom(session, work.cursor, spanBytes);
  if (runs.length > 0 || work.cursor === 0) return runs;
  work.cursor = 0;
  return runsFrom(session, 0, spanBytes);
}

function runsFrom(session: CopySession, from: number, spanBytes: number): GranuleRun[] {
  const spanGranules = spanBytes / GRANULE_SIZE_BYTES;
  const dataGranules = COPY_JOB_BYTES_MAX / GRANULE_SIZE_BYTES;
  const first = session.pending.nextRun(from, session.granuleCount);
  if (!first) return [];
  if (first.count >= dataGranules) return [{ first: first.first, count: Math.min(first.count, spanGranules) }];
  const runs = [first];
  const hullEnd = Math.min(session.granuleCount, first.first + COPY_JOB_SPAN_BYTES_MAX / GRANULE_SIZE_BYTES);
  for (let granules = first.count, at = first.first + first.count; runs.length < COPY_JOB_RUNS_MAX; ) {
    const next = session.pending.nextRun(at, hullEnd);
    if (!next || granules + next.count > dataGranules) break;
    runs.push(next);
    granules += next.count;
    at = next.first + next.count;
  }
  return runs;
}

/** Marks the granules that `result` finished; returns the granule after the last of them. */
function markDone(session: CopySession, runs: readonly GranuleRun[], result: MoveResult): number {
  let leftBytes = result.doneBytes;
  let end = runs[0]?.first ?? 0;
  for (const run of runs) {
    const { lengthBytes } = bytesOfRun(run, session.lengthBytes);
    const count = granulesDone(run, leftBytes, session.lengthBytes);
    if (count > 0) session.markGranulesCopied({ first: run.first, count });
    if (count > 0) end = run.first + count;
    leftBytes -= lengthBytes;
    if (leftBytes < 0) break;
  }
  session.addMoved(result);
  return end;
}

function adaptSpan(work: Work, result: MoveResult): void {
  if (result.copiedBytes > 0) work.spanBytes = COPY_JOB_BYTES_MAX;
  else work.spanBytes = Math.min(COPY_JOB_SPAN_BYTES_MAX, work.spanBytes * 2);
}
