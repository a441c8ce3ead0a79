/** Events of copies: what the box says of points, changes of phase, ends, and what a start has put right. */
import type { ErrorRecord } from "../base/errors.ts";
import type { SessionStatus } from "../engine/engine-api.ts";
import type { CopyRow, EndedCopyRow } from "../store/rows.ts";
import type { NewEvent } from "./journal.ts";
import { copyId } from "./names.ts";

interface Pair {
  readonly source: { readonly name: string };
  readonly destination: { readonly name: string };
  readonly kind: string;
}

function attributesOf({ source, destination, kind }: Pair): Record<string, string> {
  return { source: source.name, destination: destination.name, kind };
}

const pairOf = ({ source, destination }: Pair) => `${source.name} to ${destination.name}`;

export function firedEvent(session: SessionStatus): NewEvent {
  const first = session.generation <= 1;
  return {
    type: first ? "copy.started" : "copy.restarted",
    subject: session.id,
    message: `${pairOf(session)}: point fired, ${session.bytesPlanned} bytes to copy (${session.reason})`,
    attributes: {
      ...attributesOf(session),
      reason: session.reason,
      bytesPlanned: String(session.bytesPlanned),
      generation: String(session.generation),
      barrierMicroseconds: String(session.barrierMicroseconds),
    },
  };
}

/** The event of a change of phase that no operation brought about. */
export function phaseEvent(before: SessionStatus | undefined, now: SessionStatus): NewEvent | undefined {
  const unchanged = before?.phase === now.phase && before.generation === now.generation;
  if (unchanged) return undefined;
  if (now.phase === "tracking") {
    const attributes = { ...attributesOf(now), bytesCopied: String(now.bytesCopied) };
    return { type: "copy.copied", subject: now.id, message: `${pairOf(now)}: everything is copied`, attributes };
  }
  if (now.phase === "failed") {
    const attributes = { ...attributesOf(now), cause: now.failure?.cause ?? "OTHER" };
    const message = `${pairOf(now)}: failed, ${now.failure?.message ?? "cause unknown"}`;
    return { type: "copy.failed", subject: now.id, message, attributes };
  }
  return undefined;
}

export function endEvent(row: EndedCopyRow): NewEvent {
  const done = row.phase === "completed";
  return {
    type: done ? "copy.completed" : "copy.cancelled",
    subject: copyId(row.number),
    message: done
      ? `${pairOf(row)}: completed`
      : `${pairOf(row)}: cancelled, the destination ${row.destinationUsable ? "is a complete copy" : "is not usable"}`,
    attributes: {
      ...attributesOf(row),
      destinationUsable: String(row.destinationUsable),
      bytesCopied: String(row.bytesCopied),
    },
  };
}

/** A session of the engine's that the store had no row of. */
export function adoptedEvent(session: SessionStatus): NewEvent {
  return {
    type: "copy.adopted",
    subject: session.id,
    message: `${pairOf(session)}: found at start; its point of ${timeText(session.pointMs)} had not been recorded`,
    attributes: { ...attributesOf(session), generation: String(session.generation), pointMs: String(session.pointMs) },
  };
}

/** A row that said something else than the engine's files. `what` says what. */
export function correctedEvent(session: SessionStatus, what: string): NewEvent {
  return {
    type: "copy.corrected",
    subject: session.id,
    message: `${pairOf(session)}: ${what}; the record was put right`,
    attributes: { ...attributesOf(session), generation: String(session.generation), pointMs: String(session.pointMs) },
  };
}

/** A row whose session the engine does not have. */
export function lostEvent(row: CopyRow): NewEvent {
  return {
    type: "copy.lost",
    subject: copyId(row.number),
    message: `${pairOf(row)}: its files are gone or damaged; do not rely on ${row.destination.name}, start the copy again`,
    attributes: { ...attributesOf(row), generation: String(row.generation), pointMs: String(row.pointMs) },
  };
}

/** A session that this run leaves alone. */
export function outOfServiceEvent(id: string, session: SessionStatus | undefined, { detail }: ErrorRecord): NewEvent {
  return {
    type: "copy.out-of-service",
    subject: id,
    message: `${session ? `${pairOf(session)}: ` : ""}${detail.message}; ${detail.hint ?? ""}`,
    attributes: { ...(session && attributesOf(session)), ...detail.metadata },
  };
}

function timeText(ms: number): string {
  return new Date(ms).toISOString();
}
