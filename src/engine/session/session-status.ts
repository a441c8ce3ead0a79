/** What a session looks like from outside. */
import type { SessionStatus } from "../engine-api.ts";
import type { CopySession } from "./session.ts";

export interface EndOfSession {
  readonly phase: "completed" | "cancelled";
  readonly atMs: number;
}

/** `monotonicMs` is now; `ended` is given once the session is over. */
export function statusOf(session: CopySession, monotonicMs: number, ended?: EndOfSession): SessionStatus {
  const changed = session.changedSincePoint("both");
  const changedGranules = changed.count;
  changed.dispose();
  const phase = ended?.phase ?? (session.state === "failed" ? "failed" : session.copying ? "copying" : "tracking");
  return {
    id: session.id,
    source: session.source,
    destination: session.destination,
    kind: session.kind,
    phase,
    tracking: ended === undefined && session.tracking,
    pace: session.pace,
    createdMs: session.createdMs,
    pointMs: session.pointMs,
    endedMs: ended?.atMs,
    reason: session.reason,
    generation: session.generation,
    plannedGranules: session.plannedGranules,
    pendingGranules: session.pending.count,
    changedGranules,
    totalGranules: session.granuleCount,
    bytesPlanned: session.bytesPlanned,
    bytesCopied: session.bytesCopied,
    bytesZeroed: session.bytesZeroed,
    bytesCloned: session.bytesCloned,
    sourceEpoch: session.sourceEpoch,
    destinationEpoch: session.destinationEpoch,
    barrierMicroseconds: session.barrierMicroseconds,
    etaSeconds: etaSeconds(session, monotonicMs),
    failure: session.failure,
  };
}

function etaSeconds({ progress, pending, state }: CopySession, monotonicMs: number): number {
  const done = progress.granulesAtStart - pending.count;
  if (state !== "live" || done <= 0 || pending.count === 0) return 0;
  return Math.max(1, Math.round(((monotonicMs - progress.sinceMs) * pending.count) / done / 1000));
}
