/**
 * Rows of copies that exist: which sessions there have to be, and what a start makes of them.
 *
 * The engine's session files are the authority (data-safety §1.9). A row is written with the events of points and phases and
 * goes with that of the end; all it is needed for is this comparison. A session without a row is there: its point was fired
 * and not recorded any more. A row that differs is put right. A row without a session is remembered as ended, its
 * destination not usable: nobody can say what it holds.
 */
import type { ExtentRef, SessionStatus } from "../engine/engine-api.ts";
import type { CopyRow, EndedCopyRow } from "../store/rows.ts";
import type { Change } from "../store/store.ts";
import { adoptedEvent, correctedEvent, lostEvent, phaseEvent } from "./copy-events.ts";
import type { NewEvent } from "./journal.ts";
import { copyId, parseCopyId } from "./names.ts";

/** What belongs together in one commit. */
export interface Correction {
  readonly changes: readonly Change[];
  readonly events: readonly NewEvent[];
  /** A copy that turns out to have ended. */
  readonly ended?: EndedCopyRow;
}

export function rowOf(session: SessionStatus): CopyRow {
  const { source, destination, kind, phase, createdMs, pointMs, generation } = session;
  return { number: parseCopyId(session.id) ?? 0, source, destination, kind, phase, createdMs, pointMs, generation };
}

/** Corrections, each complete in itself. `ended`: what is recorded as ended, what the engine has just told included. */
export function compareRows(
  rows: readonly CopyRow[],
  sessions: readonly SessionStatus[],
  ended: ReadonlyMap<number, EndedCopyRow>,
  nowMs: number,
): Correction[] {
  const byNumber = new Map(rows.map((row) => [row.number, row]));
  const corrections: Correction[] = [];
  for (const session of sessions) {
    const now = rowOf(session);
    const row = byNumber.get(now.number);
    byNumber.delete(now.number);
    const put: Change = { table: "copies", put: now };
    const wrongEnd = ended.get(now.number);
    if (wrongEnd !== undefined)
      corrections.push({
        changes: [put, { table: "ended-copies", remove: now.number }],
        events: [correctedEvent(session, `it was recorded as ${wrongEnd.phase}, but it exists`)],
      });
    else if (row === undefined) corrections.push({ changes: [put], events: [adoptedEvent(session)] });
    else {
      const what = differences(row, now);
      if (what !== "") corrections.push({ changes: [put], events: [correctedEvent(session, what)] });
      else if (row.phase !== now.phase) corrections.push({ changes: [put], events: phaseEvents(session) });
    }
  }
  for (const row of byNumber.values()) {
    const removal: Change = { table: "copies", remove: row.number };
    // Its end is recorded; only the row was left, by a program that did not know such rows.
    if (ended.has(row.number)) corrections.push({ changes: [removal], events: [] });
    else {
      const lost = lostRow(row, nowMs);
      const changes: Change[] = [removal, { table: "ended-copies", put: lost }];
      corrections.push({ changes, events: [lostEvent(row)], ended: lost });
    }
  }
  return corrections;
}

/** What they say together, in parts that are committed at once. */
export function joined(corrections: readonly Correction[], partSize: number): Pick<Correction, "changes" | "events">[] {
  const parts: Pick<Correction, "changes" | "events">[] = [];
  for (let at = 0; at < corrections.length; at += partSize) {
    const some = corrections.slice(at, at + partSize);
    parts.push({ changes: some.flatMap((one) => one.changes), events: some.flatMap((one) => one.events) });
  }
  return parts;
}

/** A change of phase between the last record and the end of the daemon: its event was not recorded. */
function phaseEvents(session: SessionStatus): NewEvent[] {
  const event = phaseEvent(undefined, session);
  return event === undefined ? [] : [event];
}

/** What of a row is not so; empty when all of it is. */
function differences(row: CopyRow, now: CopyRow): string {
  const what: string[] = [];
  if (row.generation !== now.generation)
    what.push(`run ${row.generation} was recorded, run ${now.generation} is there`);
  else if (row.pointMs !== now.pointMs) what.push("another point was recorded");
  if (row.kind !== now.kind) what.push(`${row.kind} was recorded, it is ${now.kind}`);
  for (const side of ["source", "destination"] as const)
    if (!sameExtent(row[side], now[side])) what.push(`${side} ${row[side].name} was recorded, it is ${now[side].name}`);
  return what.join(", ");
}

function sameExtent(a: ExtentRef, b: ExtentRef): boolean {
  return a.volumeUid === b.volumeUid && a.offsetBytes === b.offsetBytes && a.lengthBytes === b.lengthBytes;
}

function lostRow(row: CopyRow, nowMs: number): EndedCopyRow {
  const nothing = {
    plannedGranules: 0,
    pendingGranules: 0,
    changedGranules: 0,
    totalGranules: 0,
    bytesPlanned: 0,
    bytesCopied: 0,
    bytesZeroed: 0,
    bytesCloned: 0,
    barrierMicroseconds: 0,
  };
  return {
    ...row,
    ...nothing,
    phase: "cancelled",
    pace: 1,
    endedMs: nowMs,
    reason: "FIRST_COPY",
    failureCause: "OTHER",
    failureMessage: `the files of ${copyId(row.number)} were gone or damaged when the daemon started; do not rely on its destination`,
    destinationUsable: false,
  };
}
