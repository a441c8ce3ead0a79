/**
 * Copies: sessions as users see them.
 *
 * Role: turns names into places, gives numbers to sessions, remembers those that have ended, writes events. What a
 * session may do, and what it copies, is the engine's; its answers are exact, so state is asked of it each time.
 * The summary of live sessions kept here (for totals and for locks) follows the engine's events.
 * Invariants: a number is durable as "may have been given out" before the engine hears it; an ended session is
 * recorded once, in one commit with its event.
 */
import { TidemarkError } from "../base/errors.ts";
import { ENDED_COPIES_MAX, PACE_MAX, PACE_MIN, SESSIONS_PER_POINT_MAX } from "../base/limits.ts";
import { GRANULE_SIZE_BYTES } from "../base/units.ts";
import type { CopyKind, CopyPlan, EngineEvent, ExtentRef, SessionStatus, StartRequest } from "../engine/engine-api.ts";
import type { EndedCopyRow } from "../store/rows.ts";
import type { Change, Store } from "../store/store.ts";
import type { Context } from "./context.ts";
import { endedRowOf, statusOfRow } from "./ended-copies.ts";
import type { NewEvent, Recorder } from "./journal.ts";
import { copyId, parseCopyId } from "./names.ts";
import { type Page, type PageRequest, pageOf } from "./pages.ts";

export type {
  CopyFailure,
  CopyKind,
  CopyPlan,
  CopyReason,
  SessionStatus,
} from "../engine/engine-api.ts";

export interface PairNames {
  readonly source: string;
  readonly destination: string;
}

export interface CancelledCopy {
  readonly session: SessionStatus;
  /** True when the destination holds a complete copy of the point. */
  readonly destinationUsable: boolean;
}

export interface CopyTotals {
  readonly copying: number;
  readonly tracking: number;
  readonly failed: number;
}

export const COPY_COUNTER = "copy";

export class Copies {
  readonly #context: Context;
  readonly #live = new Map<string, SessionStatus>();
  readonly #ended = new Map<number, EndedCopyRow>();
  /** Sessions whose end the caller of an operation records, not the event. */
  readonly #awaited = new Map<string, EndedCopyRow | undefined>();
  /** Points under way. What the engine tells meanwhile may be their consequence: its events wait, to come after theirs. */
  #firing = 0;
  #held: NewEvent[] = [];
  #lastNumber = 0;
  #storedNumber = 0;
  readonly #listeners = new Set<(session: SessionStatus) => void>();

  constructor(context: Context) {
    this.#context = context;
  }

  async load(store: Store): Promise<void> {
    for await (const row of store.scan("ended-copies")) this.#ended.set(row.number, row);
    this.#storedNumber = (await store.get("counters", COPY_COUNTER))?.value ?? 0;
    this.#lastNumber = this.#storedNumber;
  }

  /** The sessions the engine found when it started. */
  adopt(sessions: readonly SessionStatus[]): void {
    for (const session of sessions) {
      this.#live.set(session.id, session);
      this.#lastNumber = Math.max(this.#lastNumber, parseCopyId(session.id) ?? 0);
    }
  }

  /** Fires one point for all pairs. Errors as CopyService.StartCopy. */
  async start(
    request: { readonly pairs: readonly PairNames[]; readonly kind: CopyKind; readonly pace: number },
    record: Recorder<readonly SessionStatus[]>,
  ): Promise<readonly SessionStatus[]> {
    checkCount(request.pairs.length, "pairs");
    const pace = request.pace === 0 ? PACE_MAX : checkPace(request.pace);
    const { catalog, locks } = this.#context;
    const uids = request.pairs.flatMap(({ source, destination }) => [
      catalog.find(source, "pairs.source").volume.uid,
      catalog.find(destination, "pairs.destination").volume.uid,
    ]);
    return locks.run(uids, async () => {
      const places = await Promise.all(request.pairs.map((pair) => this.#places(pair, "pairs.")));
      const numbers = this.#takeNumbers(places.length);
      const requests = places.map(
        (place, index): StartRequest => ({ ...place, id: copyId(numbers.first + index), kind: request.kind, pace }),
      );
      return this.#fire(numbers, (engine) => engine.startSessions(requests), record);
    });
  }

  /** Runs sessions again at one point. Errors as CopyService.RestartCopy. */
  async restart(ids: readonly string[], record: Recorder<readonly SessionStatus[]>): Promise<readonly SessionStatus[]> {
    checkCount(ids.length, "ids");
    if (new Set(ids).size !== ids.length)
      throw new TidemarkError("INVALID_ARGUMENT", {
        message: "a session is named twice",
        hint: "name each session once",
        field: "ids",
      });
    return this.#context.locks.run(this.#uidsOf(ids, "ids"), () =>
      this.#fire({ first: this.#lastNumber + 1, count: 0 }, (engine) => engine.restartSessions(ids), record),
    );
  }

  /** Ends a session. Errors as CopyService.CancelCopy. */
  cancel(id: string, record: Recorder<CancelledCopy>): Promise<CancelledCopy> {
    return this.#alone(id, async (engine) => {
      const ended = await engine.cancelSession(id);
      await this.#recordEnd(endedRowOf(ended.session, ended.destinationUsable), record(ended));
      return ended;
    });
  }

  /** Ends tracking only. Errors as CopyService.StopTracking. */
  stopTracking(id: string, record: Recorder<SessionStatus>): Promise<SessionStatus> {
    return this.#alone(id, async (engine) => {
      const session = await engine.stopTracking(id);
      if (session.phase === "completed" || session.phase === "cancelled")
        await this.#recordEnd(endedRowOf(session, true), record(session));
      else await this.#context.journal.commit(record(session), []);
      return session;
    });
  }

  /** Changes the pace, 1 to 15. SESSION_NOT_FOUND, INVALID_ARGUMENT. */
  setPace(id: string, pace: number, record: Recorder<SessionStatus>): Promise<SessionStatus> {
    checkPace(pace);
    return this.#alone(id, async (engine) => {
      const session = await engine.setPace(id, pace);
      await this.#context.journal.commit(record(session), []);
      return session;
    });
  }

  /** One session, also an ended one while it is remembered. SESSION_NOT_FOUND. */
  async get(id: string): Promise<SessionStatus> {
    const number = checkId(id, "id");
    const ended = this.#ended.get(number);
    if (ended !== undefined) return statusOfRow(ended);
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
    const live = (await this.#context.engine.sessions()).filter(({ phase }) => !isEnd(phase));
    const ids = new Set(live.map(({ id }) => id));
    const rows = filter.ended === "include" ? [...this.#ended.values()] : [];
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
      if (told !== undefined && this.#firing > 0) this.#held.push(told);
      else if (told !== undefined) this.#record(told);
      this.#tell(event.session);
    } else if (event.type === "session.ended") {
      const row = endedRowOf(event.session, event.destinationUsable);
      if (this.#awaited.has(event.session.id)) this.#awaited.set(event.session.id, row);
      else
        this.#recordEnd(row, []).catch((error) =>
          this.#context.report(`the end of ${event.session.id} was not recorded`, error),
        );
      this.#tell(event.session);
    }
  }

  async #fire(
    numbers: { readonly first: number; readonly count: number },
    fire: (engine: Context["engine"]) => Promise<SessionStatus[]>,
    record: Recorder<readonly SessionStatus[]>,
  ): Promise<readonly SessionStatus[]> {
    const { engine, journal } = this.#context;
    let sessions: SessionStatus[];
    let recorded: Promise<void>;
    this.#firing++;
    try {
      sessions = await this.#fireNumbered(numbers, () => fire(engine));
      for (const session of sessions) if (!this.#ended.has(numberOf(session))) this.#live.set(session.id, session);
      recorded = journal.commit(record(sessions), sessions.map(firedEvent));
    } finally {
      // Events get their numbers when they are handed to the journal: the point's have theirs by now.
      if (--this.#firing === 0) for (const event of this.#held.splice(0)) this.#record(event);
    }
    await recorded;
    for (const session of sessions) this.#tell(session);
    return sessions;
  }

  /** Makes the numbers durable, fires, and gives back the ones that were not used. */
  async #fireNumbered(
    numbers: { readonly first: number; readonly count: number },
    fire: () => Promise<SessionStatus[]>,
  ): Promise<SessionStatus[]> {
    try {
      await this.#storeNumbers();
      const sessions = await fire();
      this.#giveBack(numbers, sessions);
      return sessions;
    } catch (error) {
      if (error instanceof TidemarkError && error.code !== "INTERNAL" && error.code !== "STOPPING")
        this.#giveBack(numbers, []);
      throw error;
    }
  }

  /** Records an event that no operation waits for. */
  #record(event: NewEvent): void {
    const { journal, report } = this.#context;
    journal.commit([], [event]).catch((error) => report(`${event.type} was not recorded`, error));
  }

  #takeNumbers(count: number): { readonly first: number; readonly count: number } {
    const first = this.#lastNumber + 1;
    this.#lastNumber += count;
    return { first, count };
  }

  /** Makes durable that the numbers taken may have been given out. */
  async #storeNumbers(): Promise<void> {
    const value = this.#lastNumber;
    if (value <= this.#storedNumber) return;
    await this.#context.journal.commit([{ table: "counters", put: { name: COPY_COUNTER, value } }], []);
    this.#storedNumber = Math.max(this.#storedNumber, value);
  }

  /** Numbers of pairs that run an earlier session again, or of a refused point, are free again if nobody took more. */
  #giveBack(numbers: { readonly first: number; readonly count: number }, used: readonly SessionStatus[]): void {
    const end = numbers.first + numbers.count - 1;
    if (numbers.count === 0 || this.#lastNumber !== end) return;
    const highest = used.map(numberOf).filter((number) => number >= numbers.first);
    this.#lastNumber = Math.max(numbers.first - 1, ...highest);
  }

  async #recordEnd(row: EndedCopyRow, changes: readonly Change[]): Promise<void> {
    this.#live.delete(copyId(row.number));
    if (this.#ended.has(row.number)) return this.#context.journal.commit(changes, []);
    this.#ended.set(row.number, row);
    const removals: Change[] = [];
    for (const number of this.#ended.keys()) {
      if (this.#ended.size <= ENDED_COPIES_MAX) break;
      this.#ended.delete(number);
      removals.push({ table: "ended-copies", remove: number });
    }
    await this.#context.journal.commit([{ table: "ended-copies", put: row }, ...removals, ...changes], [endEvent(row)]);
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

function checkId(id: string, field: string): number {
  const number = parseCopyId(id);
  if (number !== undefined) return number;
  throw new TidemarkError("INVALID_ARGUMENT", {
    message: `${JSON.stringify(id.slice(0, 100))} is no session id`,
    hint: "ids look like c12; tidemark copy list shows them",
    field,
  });
}

function checkCount(count: number, field: string): void {
  if (count >= 1 && count <= SESSIONS_PER_POINT_MAX) return;
  throw new TidemarkError(count === 0 ? "INVALID_ARGUMENT" : "LIMIT_EXCEEDED", {
    message: `a point fires 1 to ${SESSIONS_PER_POINT_MAX} sessions, ${count} were given`,
    hint: count === 0 ? "name at least one" : "fire several points",
    field,
  });
}

function checkPace(pace: number): number {
  if (pace >= PACE_MIN && pace <= PACE_MAX) return pace;
  throw new TidemarkError("INVALID_ARGUMENT", {
    message: `the pace ${pace} is not between ${PACE_MIN} and ${PACE_MAX}`,
    hint: `${PACE_MAX} is as fast as it goes, ${PACE_MIN} is gentle`,
    field: "pace",
  });
}

function refuseUnaligned(extent: ExtentRef, field: string): void {
  if (extent.offsetBytes % GRANULE_SIZE_BYTES === 0) return;
  throw new TidemarkError("PARTITION_UNALIGNED", {
    message: `${extent.name} begins at byte ${extent.offsetBytes}, which is no multiple of ${GRANULE_SIZE_BYTES}`,
    hint: "copy the whole volume, or move the partition to an 8 KiB boundary",
    field,
    metadata: { name: extent.name, offsetBytes: String(extent.offsetBytes) },
  });
}

function sessionNotFound(id: string, field: string, ended: EndedCopyRow | undefined): TidemarkError {
  return new TidemarkError("SESSION_NOT_FOUND", {
    message: ended === undefined ? `there is no session ${id}` : `the session ${id} has ended (${ended.phase})`,
    hint: "tidemark copy list shows the sessions; start a new one for the pair",
    field,
    metadata: { id },
  });
}

function attributesOf(session: Pick<SessionStatus, "source" | "destination" | "kind">): Record<string, string> {
  return { source: session.source.name, destination: session.destination.name, kind: session.kind };
}

function firedEvent(session: SessionStatus): NewEvent {
  const first = session.generation <= 1;
  return {
    type: first ? "copy.started" : "copy.restarted",
    subject: session.id,
    message: `${session.source.name} to ${session.destination.name}: point fired, ${session.bytesPlanned} bytes to copy (${session.reason})`,
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
function phaseEvent(before: SessionStatus | undefined, now: SessionStatus): NewEvent | undefined {
  const pair = `${now.source.name} to ${now.destination.name}`;
  const unchanged = before?.phase === now.phase && before.generation === now.generation;
  if (unchanged) return undefined;
  if (now.phase === "tracking") {
    const attributes = { ...attributesOf(now), bytesCopied: String(now.bytesCopied) };
    return { type: "copy.copied", subject: now.id, message: `${pair}: everything is copied`, attributes };
  }
  if (now.phase === "failed") {
    const attributes = { ...attributesOf(now), cause: now.failure?.cause ?? "OTHER" };
    const message = `${pair}: failed, ${now.failure?.message ?? "cause unknown"}`;
    return { type: "copy.failed", subject: now.id, message, attributes };
  }
  return undefined;
}

function endEvent(row: EndedCopyRow): NewEvent {
  const pair = `${row.source.name} to ${row.destination.name}`;
  const done = row.phase === "completed";
  return {
    type: done ? "copy.completed" : "copy.cancelled",
    subject: copyId(row.number),
    message: done
      ? `${pair}: completed`
      : `${pair}: cancelled, the destination ${row.destinationUsable ? "is a complete copy" : "is not usable"}`,
    attributes: {
      source: row.source.name,
      destination: row.destination.name,
      kind: row.kind,
      destinationUsable: String(row.destinationUsable),
      bytesCopied: String(row.bytesCopied),
    },
  };
}
