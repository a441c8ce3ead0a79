/**
 * Copies that this run leaves alone, because state files that have to do with them must not be opened (engine/barred.ts).
 *
 * Their rows stay as they are, so that the next start compares them; they are shown as they were last known, with the reason;
 * what is asked of them is refused, and intents that have to do with them are not decided before they are there again.
 */
import { type ErrorRecord, TidemarkError } from "../base/errors.ts";
import { granuleCountOf } from "../base/units.ts";
import type { CopyKind, CopyPhase, OutOfServiceSession, SessionHint, SessionStatus } from "../engine/engine-api.ts";
import type { CopyRow, EndedCopyRow, IntentRow } from "../store/rows.ts";
import { outOfServiceEvent } from "./copy-events.ts";
import type { NewEvent } from "./journal.ts";
import { copyId, parseCopyId } from "./names.ts";

interface LeftAlone {
  readonly failure: ErrorRecord;
  /** Undefined when neither its files nor a row say what it is. */
  readonly session: SessionStatus | undefined;
}

export class OutOfService {
  readonly #copies = new Map<number, LeftAlone>();

  /** Takes over what the engine left alone; gives back the rows of the others. */
  adopt(
    found: readonly OutOfServiceSession[],
    rows: readonly CopyRow[],
  ): { readonly rows: CopyRow[]; readonly events: NewEvent[] } {
    const byNumber = new Map(rows.map((row) => [row.number, row]));
    for (const { id, failure, session } of found) {
      const number = parseCopyId(id) ?? 0;
      this.#copies.set(number, { failure, session: lastKnown(session, byNumber.get(number), failure) });
    }
    return {
      rows: rows.filter(({ number }) => !this.#copies.has(number)),
      events: [...this.#copies].map(([number, { session, failure }]) =>
        outOfServiceEvent(copyId(number), session, failure),
      ),
    };
  }

  get numbers(): readonly number[] {
    return [...this.#copies.keys()];
  }

  get reasons(): readonly { readonly id: string; readonly failure: ErrorRecord }[] {
    return [...this.#copies].map(([number, { failure }]) => ({ id: copyId(number), failure }));
  }

  /** What there is to show. */
  get sessions(): SessionStatus[] {
    return [...this.#copies.values()].flatMap(({ session }) => session ?? []);
  }

  /** As last known. OUT_OF_SERVICE when nothing is known of it; undefined when it is in service. */
  get(number: number): SessionStatus | undefined {
    const copy = this.#copies.get(number);
    if (copy && !copy.session) this.refuse(copyId(number));
    return copy?.session;
  }

  /** OUT_OF_SERVICE. */
  refuse(id: string): void {
    const copy = this.#copies.get(parseCopyId(id) ?? 0);
    if (!copy) return;
    const { detail } = copy.failure;
    throw new TidemarkError("OUT_OF_SERVICE", { ...detail, message: `copy ${id} is ${detail.message}` });
  }

  /** Whether an intent was carried out is known when all its copies are there. OUT_OF_SERVICE. */
  refuseUndecided({ done, targets }: IntentRow): void {
    if (!done)
      for (const { number, newNumber } of targets) for (const one of [number, newNumber]) this.refuse(copyId(one));
  }

  concerns({ targets }: IntentRow): boolean {
    return targets.some(({ number, newNumber }) => this.#copies.has(number) || this.#copies.has(newNumber));
  }
}

/** What rows say of sessions whose files may turn out not to be readable; one that has ended may be there all the same. */
export function hintsOf(rows: readonly CopyRow[], ended: ReadonlyMap<number, EndedCopyRow>): SessionHint[] {
  return [...rows, ...ended.values()].map(({ number, source, destination }) => ({
    id: copyId(number),
    volumeUids: [source.volumeUid, destination.volumeUid],
  }));
}

/** A row knows the phase, unless another run has begun since; what is left of the files may know more of the rest. */
function lastKnown(
  session: SessionStatus | undefined,
  row: CopyRow | undefined,
  { detail }: ErrorRecord,
): SessionStatus | undefined {
  const known = session ?? (row && statusOf(row));
  if (!known) return undefined;
  const isRowNewer = row !== undefined && row.generation >= known.generation;
  const { kind, phase, pointMs, generation } = isRowNewer ? statusOf(row) : known;
  const pendingGranules = phase === "tracking" ? 0 : known.pendingGranules;
  const message = [detail.message, detail.hint].filter((text) => text !== undefined).join("; ");
  const failure = { cause: "OTHER" as const, message };
  return { ...known, kind, phase, pointMs, generation, pendingGranules, failure };
}

function statusOf(row: CopyRow): SessionStatus {
  const totalGranules = granuleCountOf(row.source.lengthBytes);
  const nothing = { bytesPlanned: 0, bytesCopied: 0, bytesZeroed: 0, bytesCloned: 0, changedGranules: 0 };
  return {
    ...{ id: copyId(row.number), source: row.source, destination: row.destination, kind: row.kind as CopyKind },
    ...{ phase: row.phase as CopyPhase, tracking: row.phase === "tracking", pace: 1, generation: row.generation },
    ...{ createdMs: row.createdMs, pointMs: row.pointMs, endedMs: undefined, reason: "FIRST_COPY", ...nothing },
    ...{ plannedGranules: totalGranules, pendingGranules: totalGranules, totalGranules },
    ...{ sourceEpoch: 0, destinationEpoch: 0, barrierMicroseconds: 0, etaSeconds: 0, failure: undefined },
  };
}
