/**
 * Ended sessions: what a session was when it ended, kept until the domain has recorded it.
 *
 * Without it a kill between the end and its record would leave a copy that has vanished: nobody could say whether its
 * destination is complete. The superblock keeps it (state `ended`, with `end`); maps and logs go at once, superblock and
 * directory when the domain has confirmed (`forget`). A confirmation that gets lost is asked for again at the next start.
 * Bound: SESSIONS_MAX together with the live ones (session-set.ts).
 */
import { granuleCountOf } from "../../base/units.ts";
import type { StateFiles } from "../durable/state-files.ts";
import type { EndedSession, SessionStatus } from "../engine-api.ts";
import { removeSessionDirectory } from "./session-files.ts";
import { factsOf, type SessionEnd, type SessionRecord } from "./session-record.ts";

/** What the superblock has to keep of the last status beside the record itself. */
export function endOf({ session, destinationUsable }: EndedSession): SessionEnd {
  return {
    phase: session.phase === "completed" ? "completed" : "cancelled",
    atMs: session.endedMs ?? session.pointMs,
    pendingGranules: session.pendingGranules,
    changedGranules: session.changedGranules,
    destinationUsable,
  };
}

export class EndedSessions {
  readonly #files: StateFiles;
  readonly #ended = new Map<string, EndedSession>();

  constructor(files: StateFiles) {
    this.#files = files;
  }

  get size(): number {
    return this.#ended.size;
  }

  list(): EndedSession[] {
    return [...this.#ended.values()];
  }

  /** A session that has just ended: durably, by its superblock. */
  add(ended: EndedSession): void {
    this.#ended.set(ended.session.id, ended);
  }

  /** A session that is found ended at start. False when nothing is known of its end: then there is nothing to keep. */
  adopt(record: SessionRecord): boolean {
    const { end } = record;
    if (end === undefined) return false;
    this.add({ session: statusOf(record, end), destinationUsable: end.destinationUsable });
    return true;
  }

  /** Its end is recorded elsewhere: removes what is left. Idempotent; not at the same time as `retire` of its files. */
  async forget(id: string): Promise<void> {
    if (!this.#ended.has(id)) return;
    await removeSessionDirectory(this.#files, id);
    this.#ended.delete(id);
  }
}

function statusOf(record: SessionRecord, end: SessionEnd): SessionStatus {
  return {
    ...factsOf(record),
    phase: end.phase,
    tracking: false,
    endedMs: end.atMs,
    pendingGranules: end.pendingGranules,
    changedGranules: end.changedGranules,
    totalGranules: granuleCountOf(record.source.lengthBytes),
    etaSeconds: 0,
  };
}
