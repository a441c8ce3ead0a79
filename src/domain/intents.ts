/**
 * Intents: what requests with an id are about to do, so that a repetition after a crash does not do it twice.
 *
 * Why: the engine makes a point, or an end, durable in its own files; the answer is stored after that. A daemon that dies in
 * between has done what was asked, and the client, which heard nothing, asks again.
 * Order: the intent is durable, with the numbers chosen, before the engine hears of it; the answer removes it in its own
 * commit. A start decides every intent it finds by what the engine has, before anybody can change that: it was done (the
 * row says so, with the sessions, until the answer has been given) or it was not (the row goes).
 * Only what the engine makes durable by itself needs this. Making a volume or an export ends in one commit that has the
 * answer with it; what was half made before is undone at start (volumes.ts).
 */
import { TidemarkError } from "../base/errors.ts";
import { REQUEST_ID_KEPT_MS } from "../base/limits.ts";
import type { Clock } from "../base/ports.ts";
import type { SessionStatus } from "../engine/engine-api.ts";
import type { EndedCopyRow, IntentAction, IntentRow, IntentTargetRow } from "../store/rows.ts";
import type { Change, Store } from "../store/store.ts";
import { parseCopyId } from "./names.ts";

/** What an operation is about to do. */
export interface Plan {
  readonly action: IntentAction;
  readonly targets?: readonly IntentTargetRow[];
  readonly volumeUid?: string;
}

/** The intent of one request, for the operation that carries it out. */
export interface Intent {
  /** What an earlier try of the same request began; undefined when there was none, or it has done nothing. */
  readonly earlier: IntentRow | undefined;
  /** The change that has to be durable before the operation acts. */
  begin(plan: Plan): readonly Change[];
  /** The change that says that nothing was done. */
  withdraw(): readonly Change[];
}

/** Of a request without an id: a repetition is another request. */
export const NO_INTENT: Intent = { earlier: undefined, begin: () => [], withdraw: () => [] };

/** What exists, to decide an intent by. */
export interface Existing {
  readonly sessions: readonly SessionStatus[];
  readonly ended: ReadonlyMap<number, EndedCopyRow>;
  readonly hasVolume: (uid: string) => boolean;
}

/** What cannot be decided in this run. */
export interface Undecided {
  concerns(row: IntentRow): boolean;
}

export class Intents {
  readonly #clock: Clock;
  readonly #rows = new Map<string, IntentRow>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  async load(store: Store): Promise<void> {
    for await (const row of store.scan("intents")) this.#rows.set(row.id, row);
  }

  get(id: string): IntentRow | undefined {
    return this.#rows.get(id);
  }

  of(request: { readonly id: string; readonly method: string; readonly digest: Uint8Array }): Intent {
    const { id, method, digest } = request;
    return {
      earlier: this.#rows.get(id),
      begin: ({ action, targets = [], volumeUid = "" }) => {
        const begun = { id, method, requestDigest: digest, begunMs: this.#clock.nowMs(), action, targets, volumeUid };
        const row: IntentRow = { ...begun, done: false, sessions: [] };
        this.#rows.set(id, row);
        return [{ table: "intents", put: row }];
      },
      withdraw: () => this.remove(id),
    };
  }

  /** The change that removes an intent, if there is one. */
  remove(id: string): readonly Change[] {
    return this.#rows.delete(id) ? [{ table: "intents", remove: id }] : [];
  }

  /** Decides what earlier runs have left. The changes are to be committed before anything else happens. */
  decideAll(existing: Existing, undecided: Undecided): readonly Change[] {
    const oldestMs = this.#clock.nowMs() - REQUEST_ID_KEPT_MS;
    return [...this.#rows.values()].flatMap((row): readonly Change[] => {
      if (row.begunMs < oldestMs) return this.remove(row.id);
      if (row.done || undecided.concerns(row)) return [];
      const sessions = decide(row, existing);
      if (sessions === undefined) return this.remove(row.id);
      const done: IntentRow = { ...row, done: true, sessions };
      this.#rows.set(row.id, done);
      return [{ table: "intents", put: done }];
    });
  }
}

/** A pair or session before a point; `newNumber` 0 when no new session may be made. */
export function targetOf(newNumber: number, session: SessionStatus | undefined): IntentTargetRow {
  if (session === undefined) return { newNumber, number: 0, generation: 0, pointMs: 0 };
  return { newNumber, number: parseCopyId(session.id) ?? 0, generation: session.generation, pointMs: session.pointMs };
}

/** True when the engine has said no; otherwise nobody can say what it has done. */
export function isRefusal(error: unknown): boolean {
  return error instanceof TidemarkError && error.code !== "INTERNAL" && error.code !== "STOPPING";
}

/** Numbers of the sessions that the intent has made, run again or ended; undefined when it was not carried out. */
export function decide(row: IntentRow, existing: Existing): readonly number[] | undefined {
  if (row.done) return row.sessions;
  if (row.action === "delete-volume") return existing.hasVolume(row.volumeUid) ? undefined : [];
  const live = new Map(existing.sessions.map((session) => [parseCopyId(session.id) ?? 0, session]));
  const numbers = row.targets.map((target) => {
    if (row.action === "fire") return firedNumber(target, live, existing.ended);
    const session = live.get(target.number);
    const ended = existing.ended.get(target.number);
    const done =
      row.action === "cancel"
        ? session === undefined && ended?.phase === "cancelled"
        : session === undefined
          ? ended?.phase === "completed"
          : !session.tracking;
    return done ? target.number : undefined;
  });
  // A point is fired for all or for none.
  return numbers.every((number) => number !== undefined) ? numbers : undefined;
}

function firedNumber(
  target: IntentTargetRow,
  live: ReadonlyMap<number, SessionStatus>,
  ended: ReadonlyMap<number, EndedCopyRow>,
): number | undefined {
  if (target.newNumber > 0 && (live.has(target.newNumber) || ended.has(target.newNumber))) return target.newNumber;
  const now = live.get(target.number) ?? ended.get(target.number);
  // The time of the point as well: damage found at start gives a session a new generation, but no new point.
  const fired = now !== undefined && now.generation > target.generation && now.pointMs !== target.pointMs;
  return fired ? target.number : undefined;
}
