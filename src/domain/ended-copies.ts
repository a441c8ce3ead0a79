/** Ended copies: those that are remembered, and a session's last status as a row of the store, and back. */
import { ENDED_COPIES_MAX } from "../base/limits.ts";
import type { CopyFailure, CopyKind, CopyReason, EndedPhase, SessionStatus } from "../engine/engine-api.ts";
import type { EndedCopyRow } from "../store/rows.ts";
import type { Change, Store } from "../store/store.ts";
import { copyId, parseCopyId } from "./names.ts";

/** The newest ENDED_COPIES_MAX, in memory as in the store. */
export class EndedCopies {
  readonly #rows = new Map<number, EndedCopyRow>();

  async load(store: Store): Promise<void> {
    for await (const row of store.scan("ended-copies")) this.#rows.set(row.number, row);
  }

  get rows(): ReadonlyMap<number, EndedCopyRow> {
    return this.#rows;
  }

  has(number: number): boolean {
    return this.#rows.has(number);
  }

  get(number: number): EndedCopyRow | undefined {
    return this.#rows.get(number);
  }

  /** Remembers a row; the changes that store it and drop what is too old. */
  add(row: EndedCopyRow): Change[] {
    this.#rows.set(row.number, row);
    const changes: Change[] = [{ table: "ended-copies", put: row }];
    for (const number of this.#rows.keys()) {
      if (this.#rows.size <= ENDED_COPIES_MAX) break;
      this.#rows.delete(number);
      changes.push({ table: "ended-copies", remove: number });
    }
    return changes;
  }

  drop(number: number): void {
    this.#rows.delete(number);
  }
}

export function endedRowOf(session: SessionStatus, destinationUsable: boolean): EndedCopyRow {
  return {
    number: parseCopyId(session.id) ?? 0,
    source: session.source,
    destination: session.destination,
    kind: session.kind,
    phase: session.phase,
    pace: session.pace,
    createdMs: session.createdMs,
    pointMs: session.pointMs,
    endedMs: session.endedMs ?? session.pointMs,
    reason: session.reason,
    generation: session.generation,
    plannedGranules: session.plannedGranules,
    pendingGranules: session.pendingGranules,
    changedGranules: session.changedGranules,
    totalGranules: session.totalGranules,
    bytesPlanned: session.bytesPlanned,
    bytesCopied: session.bytesCopied,
    bytesZeroed: session.bytesZeroed,
    bytesCloned: session.bytesCloned,
    barrierMicroseconds: session.barrierMicroseconds,
    failureCause: session.failure?.cause ?? "",
    failureMessage: session.failure?.message ?? "",
    destinationUsable,
  };
}

/** The words of a row were words of the engine when it was written; the store's checksum vouches for them. */
export function statusOfRow(row: EndedCopyRow): SessionStatus {
  return {
    ...row,
    id: copyId(row.number),
    kind: row.kind as CopyKind,
    phase: row.phase as EndedPhase,
    reason: row.reason as CopyReason,
    tracking: false,
    sourceEpoch: 0,
    destinationEpoch: 0,
    etaSeconds: 0,
    failure:
      row.failureCause === "" ? undefined : { cause: row.failureCause as CopyFailure, message: row.failureMessage },
  };
}
