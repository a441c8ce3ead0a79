/**
 * Copies: sessions as users see them.
 *
 * Role: turns names into places, gives numbers to sessions, remembers those that have ended, writes events. What a
 * session may do, and what it copies, is the engine's; its answers are exact, so state is asked of it each time.
 * The summary of live sessions kept here (for totals and for locks) follows the engine's events.
 * Invariants:
 *   1. An ended session is recorded once, in one commit with its event; only then does the engine forget it.
 *   2. What the engine has done is done: that it cannot be recorded yet is no failure of the request (journal.ts, `keep`).
 *   3. A request with an id acts once, whenever the daemon dies (intents.ts).
 */
import { TidemarkError } from "../base/errors.ts";
import { PACE_MAX } from "../base/limits.ts";
import type {
  CopyKind,
  CopyPlan,
  EndedSession,
  EngineEvent,
  EngineFound,
  ExtentRef,
  SessionHint,
  SessionStatus,
  StartRequest,
} from "../engine/engine-api.ts";
import type { CopyRow, EndedCopyRow, IntentTargetRow } from "../store/rows.ts";
import type { Change, Store } from "../store/store.ts";
import type { Context } from "./context.ts";
import { checkCount, checkDistinct, checkId, checkPace, refuseUnaligned, sessionNotFound } from "./copy-checks.ts";
import { endEvent, firedEvent, phaseEvent } from "./copy-events.ts";
import { COPY_COUNTER, CopyNumbers, type Taken } from "./copy-numbers.ts";
import { compareRows, joined, rowOf } from "./copy-rows.ts";
import { EndedCopies, endedRowOf, statusOfRow } from "./ended-copies.ts";
import { decide, type Intent, isRefusal, NO_INTENT, targetOf } from "./intents.ts";
import type { NewEvent, Recorder } from "./journal.ts";
import { CORRECTIONS_AT_ONCE } from "./limits.ts";
import { copyId, parseCopyId } from "./names.ts";
import { hintsOf, OutOfService } from "./out-of-service.ts";
import { type Page, type PageRequest, pageOf } from "./pages.ts";
import { PointOrder } from "./point-order.ts";

export type {
  CopyFailure,
  CopyKind,
  CopyPlan,
  CopyReason,
  EndedSession,
  SessionStatus,
} from "../engine/engine-api.ts";

export interface PairNames {
  readonly source: string;
  readonly destination: string;
}

const NO_NUMBERS: Taken = { first: 0, count: 0 };

export interface CopyTotals {
  readonly copying: number;
  readonly tracking: number;
  readonly failed: number;
}

/** What a point is about to do, for its numbers and its intent. */
interface PlannedPoint {
  readonly numbers: Taken;
  readonly targets: readonly IntentTargetRow[];
}

export class Copies {
  readonly #context: Context;
  readonly #live = new Map<string, SessionStatus>();
  readonly #ended = new EndedCopies();
  readonly outOfService = new OutOfService();
  /** Sessions whose end the caller of an operation records, not the event. */
  readonly #awaited = new Map<string, EndedCopyRow | undefined>();
  readonly #order = new PointOrder();
  readonly #numbers = new CopyNumbers();
  #rowsAtStart: CopyRow[] = [];
  readonly #listeners = new Set<(session: SessionStatus) => void>();

  constructor(context: Context) {
    this.#context = context;
  }

  async load(store: Store): Promise<void> {
    await this.#ended.load(store);
    for await (const row of store.scan("copies")) this.#rowsAtStart.push(row);
    this.#numbers.load((await store.get("counters", COPY_COUNTER))?.value ?? 0);
    for (const number of [...this.#ended.rows.keys(), ...this.#rowsAtStart.map((row) => row.number)])
      this.#numbers.seen(number);
  }

  /** What the rows know, for the start of the engine. */
  get hints(): SessionHint[] {
    return hintsOf(this.#rowsAtStart, this.#ended.rows);
  }

  /** Takes over what the engine found when it started, and puts the rows right by it. METADATA_WRITE_FAILED. */
  async adopt(found: Pick<EngineFound, "sessions" | "ended" | "outOfService">): Promise<void> {
    const { journal, clock } = this.#context;
    const told = found.ended.map((one) => endedRowOf(one.session, one.destinationUsable));
    const before = [...this.#ended.rows.values(), ...told];
    // Before anything is waited for: a session may end at any time from now on, and is told of as one of these.
    for (const session of found.sessions) {
      this.#ended.drop(numberOf(session));
      this.#live.set(session.id, session);
      this.#numbers.seen(numberOf(session));
    }
    const { rows, events } = this.outOfService.adopt(found.outOfService, this.#rowsAtStart);
    for (const number of this.outOfService.numbers) this.#numbers.seen(number);
    const ended = new Map(before.map((row) => [row.number, row]));
    const corrections = compareRows(rows, found.sessions, ended, clock.nowMs());
    // All of them at once and before anything is waited for: what changes meanwhile is recorded behind them.
    const parts = [{ changes: [], events }, ...joined(corrections, CORRECTIONS_AT_ONCE)];
    const corrected = Promise.all(parts.map((part) => journal.commit(part.changes, part.events)));
    const recorded = found.ended.map(({ session, destinationUsable }) => {
      this.#numbers.seen(numberOf(session));
      if (!this.#ended.has(numberOf(session))) return this.#recordEnd(endedRowOf(session, destinationUsable), []);
      return this.#forget(session.id);
    });
    await Promise.all([corrected, ...recorded]);
    for (const { ended: lost } of corrections) if (lost !== undefined) this.#ended.add(lost);
    this.#rowsAtStart = [];
  }

  /** Sessions that have ended, as far as they are remembered. */
  get ended(): ReadonlyMap<number, EndedCopyRow> {
    return this.#ended.rows;
  }

  /** Fires one point for all pairs. Errors as CopyService.StartCopy. */
  async start(
    request: { readonly pairs: readonly PairNames[]; readonly kind: CopyKind; readonly pace: number },
    record: Recorder<readonly SessionStatus[]>,
    intent: Intent = NO_INTENT,
  ): Promise<readonly SessionStatus[]> {
    const before = await this.#doneBefore(intent, record);
    if (before !== undefined) return before;
    checkCount(request.pairs.length, "pairs");
    const pace = request.pace === 0 ? PACE_MAX : checkPace(request.pace);
    const { catalog, locks } = this.#context;
    const uids = request.pairs.flatMap(({ source, destination }) => [
      catalog.find(source, "pairs.source").volume.uid,
      catalog.find(destination, "pairs.destination").volume.uid,
    ]);
    return locks.run(uids, async () => {
      const places = await Promise.all(request.pairs.map((pair) => this.#places(pair, "pairs.")));
      const numbers = this.#numbers.take(places.length);
      const requests = places.map(
        (place, index): StartRequest => ({ ...place, id: copyId(numbers.first + index), kind: request.kind, pace }),
      );
      const targets = places.map((place, index) => targetOf(numbers.first + index, this.#existing(place)));
      return this.#fire({ numbers, targets }, (engine) => engine.startSessions(requests), record, intent);
    });
  }

  /** Runs sessions again at one point. Errors as CopyService.RestartCopy. */
  async restart(
    ids: readonly string[],
    record: Recorder<readonly SessionStatus[]>,
    intent: Intent = NO_INTENT,
  ): Promise<readonly SessionStatus[]> {
    const before = await this.#doneBefore(intent, record);
    if (before !== undefined) return before;
    checkCount(ids.length, "ids");
    checkDistinct(ids);
    return this.#context.locks.run(this.#uidsOf(ids, "ids"), () => {
      const targets = ids.map((id) => targetOf(0, this.#live.get(id)));
      return this.#fire({ numbers: NO_NUMBERS, targets }, (engine) => engine.restartSessions(ids), record, intent);
    });
  }

  /** Ends a session. Errors as CopyService.CancelCopy. */
  async cancel(id: string, record: Recorder<EndedSession>, intent: Intent = NO_INTENT): Promise<EndedSession> {
    const [before] = (await this.#numbersBefore(intent)) ?? [];
    const row = before === undefined ? undefined : this.#ended.get(before);
    if (row !== undefined) {
      const ended = { session: statusOfRow(row), destinationUsable: row.destinationUsable };
      await this.#context.journal.keep(record(ended), []);
      return ended;
    }
    return this.#alone(id, async (engine) => {
      const ended = await this.#intending("cancel", [id], intent, () => engine.cancelSession(id));
      await this.#recordEnd(endedRowOf(ended.session, ended.destinationUsable), record(ended));
      return ended;
    });
  }

  /** Ends tracking only. Errors as CopyService.StopTracking. */
  async stopTracking(id: string, record: Recorder<SessionStatus>, intent: Intent = NO_INTENT): Promise<SessionStatus> {
    const [before] = (await this.#doneBefore(intent, ([session]) => (session ? record(session) : []))) ?? [];
    if (before !== undefined) return before;
    return this.#alone(id, async (engine) => {
      const session = await this.#intending("stop-tracking", [id], intent, () => engine.stopTracking(id));
      if (isEnd(session.phase)) await this.#recordEnd(endedRowOf(session, true), record(session));
      else {
        this.#live.set(id, session);
        this.#order.release(id); // what it was before is not written over what it is now
        await this.#context.journal.keep([{ table: "copies", put: rowOf(session) }, ...record(session)], []);
      }
      return session;
    });
  }

  /** Changes the pace, 1 to 15. SESSION_NOT_FOUND, INVALID_ARGUMENT. */
  setPace(id: string, pace: number, record: Recorder<SessionStatus>): Promise<SessionStatus> {
    checkPace(pace);
    return this.#alone(id, async (engine) => {
      const session = await engine.setPace(id, pace);
      await this.#context.journal.keep(record(session), []);
      return session;
    });
  }

  /** One session, also an ended one while it is remembered. SESSION_NOT_FOUND. */
  async get(id: string): Promise<SessionStatus> {
    const number = checkId(id, "id");
    const ended = this.#ended.get(number);
    if (ended !== undefined) return statusOfRow(ended);
    const leftAlone = this.outOfService.get(number);
    if (leftAlone !== undefined) return leftAlone;
    try {
      return await this.#context.engine.sessionStatus(id);
    } catch (error) {
      // It may have ended between the question and the answer.
      const now = this.#ended.get(number) ?? this.#awaited.get(id);
      if (now !== undefined && error instanceof TidemarkError && error.code === "SESSION_NOT_FOUND")
        return statusOfRow(now);
      throw error;
    }
  }

  /** Sessions in order of their numbers, as of one instant. */
  async list(
    filter: { readonly volume: string; readonly ended: "include" | "leave-out" },
    request: PageRequest,
  ): Promise<Page<SessionStatus>> {
    const matches = this.#filter(filter.volume);
    const there = [...(await this.#context.engine.sessions()), ...this.outOfService.sessions];
    const live = there.filter(({ id, phase }) => !isEnd(phase) && !this.#ended.has(parseCopyId(id) ?? 0));
    const ids = new Set(live.map(({ id }) => id));
    const rows = filter.ended === "include" ? [...this.#ended.rows.values()] : [];
    const ended = rows.map(statusOfRow).filter(({ id }) => !ids.has(id));
    const items = [...live, ...ended].filter(matches).sort((a, b) => numberOf(a) - numberOf(b));
    const keyOf = (session: SessionStatus) => String(numberOf(session));
    const compare = (session: SessionStatus, key: string) => numberOf(session) - Number(key);
    return pageOf({ name: "copies", filter: JSON.stringify(filter), items, keyOf, compare }, request);
  }

  /** What a start would copy, and why. Errors as CopyService.StartCopy. */
  async explain(request: PairNames & { readonly kind: CopyKind }): Promise<CopyPlan> {
    const place = await this.#places(request, "");
    return this.#context.engine.explain({ ...place, kind: request.kind });
  }

  totals(): CopyTotals {
    const totals = { copying: 0, tracking: 0, failed: 0 };
    for (const { phase } of this.#live.values()) if (!isEnd(phase)) totals[phase]++;
    return totals;
  }

  /** Failed sessions, for diagnosis. */
  failed(): SessionStatus[] {
    return [...this.#live.values()].filter(({ phase }) => phase === "failed");
  }

  /** `listener` hears of each change of phase. Returns what ends it. */
  subscribe(listener: (session: SessionStatus) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Takes part in what the engine tells. */
  onEngineEvent(event: EngineEvent): void {
    if (event.type === "session.changed") {
      const before = this.#live.get(event.session.id);
      if (this.#ended.has(numberOf(event.session))) return;
      this.#live.set(event.session.id, event.session);
      const told = phaseEvent(before, event.session);
      if (told !== undefined) this.#order.record(event.session, () => this.#recordPhase(event.session, told));
      this.#tell(event.session);
    } else if (event.type === "session.ended") {
      const row = endedRowOf(event.session, event.destinationUsable);
      if (this.#awaited.has(event.session.id)) this.#awaited.set(event.session.id, row);
      else this.#recordEndLater(event.session, row);
      this.#tell(event.session);
    }
  }

  /** Fires a point; what it brings about is recorded behind it. */
  async #fire(
    planned: PlannedPoint,
    fire: (engine: Context["engine"]) => Promise<SessionStatus[]>,
    record: Recorder<readonly SessionStatus[]>,
    intent: Intent,
  ): Promise<readonly SessionStatus[]> {
    const { engine, journal } = this.#context;
    let sessions: SessionStatus[];
    let recorded: Promise<void>;
    this.#order.begin();
    try {
      sessions = await this.#fireIntended(planned, () => fire(engine), intent);
      this.#order.fired(sessions);
      const live = sessions.filter((session) => !this.#ended.has(numberOf(session)));
      for (const session of live) this.#live.set(session.id, session);
      const rows = live.map((session): Change => ({ table: "copies", put: rowOf(session) }));
      recorded = journal.keep([...rows, ...record(sessions)], sessions.map(firedEvent));
    } finally {
      // Events get their numbers when they are handed to the journal: the point's have theirs by now.
      this.#order.end();
    }
    await recorded;
    for (const session of sessions) this.#tell(session);
    return sessions;
  }

  /** Makes numbers and intent durable, fires, and gives back what was not used. */
  async #fireIntended(
    { numbers, targets }: PlannedPoint,
    fire: () => Promise<SessionStatus[]>,
    intent: Intent,
  ): Promise<SessionStatus[]> {
    const { journal } = this.#context;
    try {
      // Also what was withdrawn before: a number may be given out again only when no intent on disk names it.
      await journal.settle();
      const begun = intent.begin({ action: "fire", targets });
      await this.#numbers.store((changes) => journal.commit([...changes, ...begun], []));
    } catch (error) {
      intent.withdraw(); // nothing of it was stored
      this.#numbers.giveBack(numbers, []);
      throw error;
    }
    try {
      const sessions = await fire();
      this.#numbers.giveBack(numbers, sessions.map(numberOf));
      return sessions;
    } catch (error) {
      if (isRefusal(error)) {
        await this.#withdraw(intent);
        if (journal.isSettled) this.#numbers.giveBack(numbers, []);
      }
      throw error;
    }
  }

  /** Runs an operation of the engine's behind its durable intent. */
  async #intending<T>(
    action: "cancel" | "stop-tracking",
    ids: readonly string[],
    intent: Intent,
    operation: () => Promise<T>,
  ): Promise<T> {
    const begun = intent.begin({ action, targets: ids.map((id) => targetOf(0, this.#live.get(id))) });
    try {
      await this.#context.journal.commit(begun, []);
    } catch (error) {
      intent.withdraw(); // nothing of it was stored
      throw error;
    }
    try {
      return await operation();
    } catch (error) {
      if (isRefusal(error)) await this.#withdraw(intent);
      throw error;
    }
  }

  async #withdraw(intent: Intent): Promise<void> {
    const withdrawal = intent.withdraw();
    if (withdrawal.length > 0) await this.#context.journal.keep(withdrawal, []);
  }

  /** The sessions of a point, or of an operation, that an earlier try of the same request has carried out. */
  async #doneBefore(
    intent: Intent,
    record: Recorder<readonly SessionStatus[]>,
  ): Promise<readonly SessionStatus[] | undefined> {
    const numbers = await this.#numbersBefore(intent);
    if (numbers === undefined) return undefined;
    const sessions = await Promise.all(numbers.map((number) => this.get(copyId(number))));
    await this.#context.journal.keep(record(sessions), []);
    return sessions;
  }

  async #numbersBefore({ earlier }: Intent): Promise<readonly number[] | undefined> {
    if (earlier === undefined) return undefined;
    this.outOfService.refuseUndecided(earlier);
    const sessions = earlier.done ? [] : await this.#context.engine.sessions();
    return decide(earlier, { sessions, ended: this.#ended.rows, hasVolume: () => true });
  }

  /** The session that a start of this pair runs again (engine, rules.ts). */
  #existing(pair: { readonly source: ExtentRef; readonly destination: ExtentRef }): SessionStatus | undefined {
    const sameStart = (a: ExtentRef, b: ExtentRef) => a.volumeUid === b.volumeUid && a.offsetBytes === b.offsetBytes;
    return [...this.#live.values()].find(
      ({ source, destination }) =>
        sameStart(source, pair.source) &&
        source.lengthBytes === pair.source.lengthBytes &&
        sameStart(destination, pair.destination),
    );
  }

  /** Records a change of phase that no operation waits for. */
  #recordPhase(session: SessionStatus, event: NewEvent): void {
    const gone = this.#ended.has(numberOf(session));
    void this.#context.journal.keep(gone ? [] : [{ table: "copies", put: rowOf(session) }], [event]);
  }

  /** Records an end with what else belongs to its commit, once; then the engine may forget it. */
  async #recordEnd(row: EndedCopyRow, changes: readonly Change[]): Promise<void> {
    const end = this.#rememberEnd(row);
    await this.#context.journal.keep([...end.changes, ...changes], end.events, end.stored);
  }

  /** The same for an end that nobody waits for: behind the points under way, because it may be one of theirs. */
  #recordEndLater(session: SessionStatus, row: EndedCopyRow): void {
    const end = this.#rememberEnd(row);
    this.#order.record(session, () => void this.#context.journal.keep(end.changes, end.events, end.stored));
  }

  #rememberEnd(row: EndedCopyRow): { changes: Change[]; events: NewEvent[]; stored: () => void } {
    const id = copyId(row.number);
    this.#live.delete(id);
    if (this.#ended.has(row.number)) return { changes: [], events: [], stored: () => undefined };
    const changes: Change[] = [{ table: "copies", remove: row.number }, ...this.#ended.add(row)];
    return { changes, events: [endEvent(row)], stored: () => this.#forget(id) };
  }

  #forget(id: string): void {
    const { engine, report } = this.#context;
    engine.forgetSession(id).catch((error: unknown) => {
      // The next start finds it again.
      if (!(error instanceof TidemarkError) || error.code !== "STOPPING") report(`${id} was not forgotten`, error);
    });
  }

  /** Runs an operation on one live session, alone on its volumes; the operation records an end it brings about. */
  async #alone<T>(id: string, operation: (engine: Context["engine"]) => Promise<T>): Promise<T> {
    return this.#context.locks.run(this.#uidsOf([id], "id"), async () => {
      this.#awaited.set(id, undefined);
      try {
        return await operation(this.#context.engine);
      } finally {
        const row = this.#awaited.get(id);
        this.#awaited.delete(id);
        // It ended on its own while the operation failed.
        if (row !== undefined && !this.#ended.has(row.number)) await this.#recordEnd(row, []);
      }
    });
  }

  #uidsOf(ids: readonly string[], field: string): string[] {
    return ids.flatMap((id) => {
      checkId(id, field);
      const session = this.#live.get(id);
      if (session !== undefined) return [session.source.volumeUid, session.destination.volumeUid];
      this.outOfService.refuse(id);
      throw sessionNotFound(id, field, this.#ended.get(parseCopyId(id) ?? 0));
    });
  }

  async #places(pair: PairNames, prefix: string): Promise<{ source: ExtentRef; destination: ExtentRef }> {
    const { catalog } = this.#context;
    const [source, destination] = await Promise.all([
      catalog.target(pair.source, `${prefix}source`),
      catalog.target(pair.destination, `${prefix}destination`),
    ]);
    refuseUnaligned(source.extent, `${prefix}source`);
    refuseUnaligned(destination.extent, `${prefix}destination`);
    return { source: source.extent, destination: destination.extent };
  }

  #filter(name: string): (session: SessionStatus) => boolean {
    if (name === "") return () => true;
    const { volume, partition } = this.#context.catalog.find(name, "volume");
    const canonical = partition === 0 ? "" : name;
    const touches = (extent: ExtentRef) =>
      extent.volumeUid === volume.uid && (canonical === "" || extent.name === canonical);
    return ({ source, destination }) => touches(source) || touches(destination);
  }

  #tell(session: SessionStatus): void {
    for (const listener of this.#listeners) listener(session);
  }
}

function numberOf({ id }: SessionStatus): number {
  return parseCopyId(id) ?? 0;
}

/** True for the phases in which a session no longer exists. */
export function isEnd(phase: SessionStatus["phase"]): phase is "completed" | "cancelled" {
  return phase === "completed" || phase === "cancelled";
}
