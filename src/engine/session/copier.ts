/**
 * The background copier: takes pending granules of all copying sessions in ascending order and has them moved.
 *
 * Role: chooses what to copy next, under the gates of both volumes and the session's lock; decides nothing else.
 * Algorithm of a lane (two a session, so that one is moved while the next is chosen):
 *   1. enter the gates of source and destination; wait while a point holds one of them;
 *   2. take the next pending runs after the cursor: small runs together, or one long one, at most COPY_JOB_BYTES_MAX of
 *      data; the longer, the sparser data was in the job before; what somebody else has locked is passed over;
 *   3. lock their hull; bring granules in from upstream if the source is itself a destination;
 *   4. move; mark what is done; let a commit round follow;
 *   5. leave, and rest for the part of the time that the pace gives away.
 * Demand goes first: a host that waits copies its granules itself (session.copy). A job ends early when a host waits for a
 * granule of its hull, when a point closes a gate, and when the copying is stopped; what it leaves stays pending.
 * A volume that is away pauses the copying; `start` goes on with it when the volume is back.
 */

import { assert } from "../../base/assert.ts";
import {
  COPIER_LANES,
  COPY_JOB_BYTES_MAX,
  COPY_JOB_BYTES_SMALL,
  COPY_JOB_RUNS_MAX,
  COPY_JOB_SPAN_BYTES_MAX,
  PACE_MAX,
} from "../../base/limits.ts";
import type { MoveResult } from "../../base/ports.ts";
import { GRANULE_SIZE_BYTES, MiB } from "../../base/units.ts";
import { wasOutOfSpace } from "../durable/state-files.ts";
import type { EnginePorts } from "../ports.ts";
import { bytesOfRun, type GranuleRun, granulesDone, moveRun } from "./extents.ts";
import type { CopySession } from "./session.ts";

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
  /** Jobs under way; aborted, they end early. */
  readonly jobs: Set<AbortController>;
  cursor: number;
  /** How far a job may reach over holes and shared extents; a job of nothing but data is shorter. */
  spanBytes: number;
  /** A volume is away. */
  paused: boolean;
  lastCommitMs: number;
  /** `session.facts.bytesCopied` when the last commit round began. */
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
      known.spanBytes = 0;
      known.paused = false;
      known.committedBytes = 0;
      return;
    }
    const work: Work = {
      session,
      stop: new AbortController(),
      lanes: [],
      jobs: new Set(),
      cursor: 0,
      spanBytes: 0,
      paused: false,
      lastCommitMs: this.#ports.clock.monotonicMs(),
      committedBytes: session.facts.bytesCopied,
    };
    this.#work.set(session, work);
    const gates = [session.sourceVolume.gate, session.destinationVolume.gate];
    const forget = gates.map((gate) => gate.onClosing(() => hurry(work)));
    for (let lane = 0; lane < COPIER_LANES; lane++) work.lanes.push(this.#lane(work));
    void Promise.all(work.lanes).then(() => {
      for (const end of forget) end();
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
    hurry(work);
    await Promise.all(work.lanes);
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
        // There may be room again: what is copied and not recorded waits for the next round, and nobody needs it now.
        if (wasOutOfSpace(error)) {
          await this.#ports.clock.sleep(RETRY_AFTER_MS, signal);
          continue;
        }
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
      let taken: { readonly released: Promise<void> } | undefined;
      await this.#enterGates(session);
      try {
        if (signal.aborted || session.state !== "live") return;
        taken = await this.#job(work);
      } finally {
        session.sourceVolume.gate.leave();
        session.destinationVolume.gate.leave();
      }
      if (taken) await taken.released;
      else await this.#afterJob(work, startedMs);
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

  /** One job. When others work on all that is left: what to wait for before looking again. */
  async #job(work: Work): Promise<{ readonly released: Promise<void> } | undefined> {
    const { session } = work;
    // A gate that closed before the job was known would not end it.
    if (!session.sourceVolume.gate.isOpen || !session.destinationVolume.gate.isOpen) return undefined;
    const runs = chooseRuns(session, work);
    const [first, last] = [runs[0], runs.at(-1)];
    if (!first || !last) return session.pending.count > 0 ? { released: session.lock.released() } : undefined;
    const hull = { first: first.first, count: last.first + last.count - first.first };
    work.cursor = hull.first + hull.count;
    const job = new AbortController();
    const handle = session.lock.tryAcquire(hull.first, hull.count, () => job.abort());
    assert(handle !== undefined, "what was chosen is free");
    work.jobs.add(job);
    try {
      await this.#moveRuns(work, runs, job.signal);
    } finally {
      work.jobs.delete(job);
      session.lock.release(handle);
    }
    return undefined;
  }

  async #moveRuns(work: Work, runs: readonly GranuleRun[], stop: AbortSignal): Promise<void> {
    const { session } = work;
    const { generation } = session;
    const moves = runs.map((run) => moveRun(run, session.source, session.destination));
    if (session.sourceVolume.entering.length > 0)
      for (const move of moves) await session.sourceVolume.ensurePresent(move.fromOffsetBytes, move.lengthBytes);
    const from = session.sourceVolume.requireDevice();
    const to = session.destinationVolume.requireDevice();
    const result = await this.#ports.mover.move(from, to, moves, { budgetBytes: jobBytes(session), stop });
    if (generation !== session.generation || session.state !== "live") return;
    session.destinationVolume.requireDevice(); // what a device that has failed meanwhile took over may be lost
    const last = runs.at(-1);
    const endOfDone = markDone(session, runs, result);
    if (last && endOfDone < last.first + last.count) work.cursor = Math.min(work.cursor, endOfDone);
    adaptSpan(work, result);
  }

  async #afterJob(work: Work, startedMs: number): Promise<void> {
    const { session } = work;
    const nowMs = this.#ports.clock.monotonicMs();
    // Holes cost nothing to copy again; only what was written counts.
    const uncommittedBytes = session.facts.bytesCopied - work.committedBytes;
    if (uncommittedBytes >= COMMIT_BYTES || nowMs - work.lastCommitMs >= COMMIT_AFTER_MS) {
      work.lastCommitMs = nowMs;
      work.committedBytes = session.facts.bytesCopied;
      const round = session.commits.flush();
      if (uncommittedBytes >= UNCOMMITTED_BYTES_MAX) await round;
      else round.catch((error: unknown) => failBehind(session, error));
    }
    if (session.facts.pace >= PACE_MAX) return;
    const restMs = ((nowMs - startedMs) * (PACE_MAX - session.facts.pace)) / session.facts.pace;
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
  if (!session.unavailability(error) && !wasOutOfSpace(error)) await session.fail(error).catch(() => undefined);
}

function hurry(work: Work): void {
  for (const job of work.jobs) job.abort();
}

/** True when the source itself still lacks something: that is brought in for the whole job, whatever is done of it then. */
function asksUpstream(session: CopySession): boolean {
  return session.sourceVolume.entering.some((upstream) => upstream.unfinished);
}

function jobBytes(session: CopySession): number {
  return session.facts.pace < PACE_MAX || asksUpstream(session) ? COPY_JOB_BYTES_SMALL : COPY_JOB_BYTES_MAX;
}

/** The next pending runs after the cursor, wrapping around once, of those that nobody has locked or waits for. */
function chooseRuns(session: CopySession, work: Work): GranuleRun[] {
  const dataBytes = jobBytes(session);
  const spanBytes = asksUpstream(session) ? dataBytes : Math.max(dataBytes, work.spanBytes);
  for (const from of work.cursor === 0 ? [0] : [work.cursor, 0]) {
    const end = session.granuleCount;
    for (
      let free = session.lock.nextFree(from, end);
      free;
      free = session.lock.nextFree(free.first + free.count, end)
    ) {
      const runs = runsWithin(session, free, dataBytes, spanBytes);
      if (runs.length > 0) return runs;
    }
  }
  return [];
}

/** The first pending runs of a stretch: one long one, or small ones together. */
function runsWithin(session: CopySession, stretch: GranuleRun, dataBytes: number, spanBytes: number): GranuleRun[] {
  const dataGranules = dataBytes / GRANULE_SIZE_BYTES;
  const end = stretch.first + stretch.count;
  const first = session.pending.nextRun(stretch.first, end);
  if (!first) return [];
  if (first.count >= dataGranules)
    return [{ first: first.first, count: Math.min(first.count, spanBytes / GRANULE_SIZE_BYTES) }];
  const runs = [first];
  const hullEnd = Math.min(end, first.first + COPY_JOB_SPAN_BYTES_MAX / GRANULE_SIZE_BYTES);
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

/** So long a span that it holds the data of one job, as dense as the data was in this one; at most doubled at a time. */
function adaptSpan(work: Work, result: MoveResult): void {
  if (result.doneBytes === 0) return;
  const dataBytes = jobBytes(work.session);
  const dataShare = result.copiedBytes / result.doneBytes;
  const wanted = dataShare > 0 ? dataBytes / dataShare : COPY_JOB_SPAN_BYTES_MAX;
  const spanBytes = Math.min(wanted, Math.max(work.spanBytes, dataBytes) * 2, COPY_JOB_SPAN_BYTES_MAX);
  work.spanBytes = Math.floor(spanBytes / MiB) * MiB;
}
