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
    ...session.facts,
    phase,
    tracking: ended === undefined && session.tracking,
    endedMs: ended?.atMs,
    pendingGranules: session.pending.count,
    changedGranules,
    totalGranules: session.granuleCount,
    etaSeconds: etaSeconds(session, monotonicMs),
  };
}

function etaSeconds({ progress, pending, state }: CopySession, monotonicMs: number): number {
  const done = progress.granulesAtStart - pending.count;
  if (state !== "live" || done <= 0 || pending.count === 0) return 0;
  return Math.max(1, Math.round(((monotonicMs - progress.sinceMs) * pending.count) / done / 1000));
}
