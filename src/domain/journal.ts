/**
 * Journal: the one way by which the domain changes the store, and the box's events.
 *
 * Role: a commit carries rows and the events that tell of them in one batch; events become visible when they are
 * durable, in the order of their numbers.
 * Invariants:
 *   1. An event that anybody has seen is durable.
 *   2. Ids grow by one per event that was kept; those of a failed commit are skipped.
 *   3. At most EVENTS_MAX events are kept, in the store as in memory.
 *   4. What has to be remembered of things that are so already (`keep`) is stored before anything that is committed after its
 *      first try, however long the store takes nothing. Until then it is in memory, and the engine's own files have it.
 */
import { endOnBug } from "../base/assert.ts";
import { TidemarkError } from "../base/errors.ts";
import { EVENTS_MAX, SESSIONS_MAX } from "../base/limits.ts";
import type { Clock } from "../base/ports.ts";
import type { EventRow } from "../store/rows.ts";
import type { Change, Store } from "../store/store.ts";

export type { EventRow } from "../store/rows.ts";

export interface NewEvent {
  readonly type: EventType;
  /** Object concerned: a volume, export or copy; empty for the box. */
  readonly subject: string;
  readonly message: string;
  readonly attributes?: Readonly<Record<string, string>>;
}

export type EventType =
  | "box.started"
  | "box.stopped"
  | "volume.registered"
  | "volume.created"
  | "volume.resized"
  | "volume.reopened"
  | "volume.deleted"
  | "volume.failed"
  | "export.added"
  | "export.removed"
  | "export.unavailable"
  | "copy.started"
  | "copy.restarted"
  | "copy.copied"
  | "copy.completed"
  | "copy.cancelled"
  | "copy.failed"
  | "copy.adopted"
  | "copy.corrected"
  | "copy.lost"
  | "copy.out-of-service"
  | "engine.trouble"
  | "metadata.damaged"
  | "metadata.repaired";

/** What a mutation stores about its answer, so that a repeated request gets it again; see request-ids.ts. */
export type Recorder<T> = (result: T) => readonly Change[];
export const NO_RECORD: Recorder<unknown> = () => [];

/** Between attempts to store what is kept. */
const RETRY_AFTER_MS = 5000;
/** Ends of all sessions, and as many other events. */
const KEPT_MAX = 2 * SESSIONS_MAX;

interface Prepared {
  readonly row: EventRow;
  state: "pending" | "durable" | "dropped";
}

/** Changes and events of something that is so already. */
interface Kept {
  readonly changes: readonly Change[];
  readonly events: readonly (NewEvent & { readonly timeMs: number })[];
  readonly stored: () => void;
}

export class Journal {
  readonly #store: Store;
  readonly #clock: Clock;
  readonly #report: (what: string, error: unknown) => void;
  /** Oldest first. */
  readonly #kept: Kept[] = [];
  #settling: Promise<void> | undefined;
  #retrying: Promise<void> | undefined;
  readonly #stopped = new AbortController();
  /** Durable events, oldest first. */
  readonly #events: EventRow[] = [];
  /** Events whose commit has not ended, or that wait for one before them. */
  #prepared: Prepared[] = [];
  #nextId = 1;
  #oldestStored = 1;
  readonly #listeners = new Set<() => void>();

  constructor(store: Store, clock: Clock, report: (what: string, error: unknown) => void) {
    this.#store = store;
    this.#clock = clock;
    this.#report = report;
  }

  /** Reads the events of earlier runs. */
  async load(): Promise<void> {
    for await (const row of this.#store.scan("events")) this.#events.push(row);
    this.#nextId = (this.#events.at(-1)?.id ?? 0) + 1;
    this.#oldestStored = this.#events[0]?.id ?? this.#nextId;
  }

  /** Makes changes and events durable, all or nothing. METADATA_WRITE_FAILED. */
  async commit(changes: readonly Change[], events: readonly NewEvent[]): Promise<void> {
    if (this.#kept.length > 0) await this.settle();
    await this.#commit(changes, events);
  }

  /**
   * For what is so already and only has to be remembered: stores it now or, when that fails, before the next commit; it is
   * tried again from time to time. Resolves after the first try; `stored` is called when it is durable.
   */
  async keep(
    changes: readonly Change[],
    events: readonly NewEvent[],
    stored: () => void = () => undefined,
  ): Promise<void> {
    const timeMs = this.#clock.nowMs();
    try {
      await this.commit(changes, events);
    } catch (error) {
      endOnBug(error);
      this.#report("what has happened could not be recorded yet", error);
      if (this.#kept.length >= KEPT_MAX)
        return this.#report("too much waits to be recorded; the next start sees to it", error);
      this.#kept.push({ changes, events: events.map((event) => ({ ...event, timeMs })), stored });
      this.#retrying ??= this.#retry();
      return;
    }
    stored();
  }

  /** Resolves when nothing is kept that is not stored. METADATA_WRITE_FAILED while that cannot be done. */
  settle(): Promise<void> {
    if (this.#kept.length === 0) return Promise.resolve();
    this.#settling ??= this.#settle().finally(() => {
      this.#settling = undefined;
    });
    return this.#settling;
  }

  /** True when nothing is kept that is not stored. */
  get isSettled(): boolean {
    return this.#kept.length === 0;
  }

  /** Ends the tries from time to time; `commit` still makes one. */
  stop(): void {
    this.#stopped.abort();
  }

  async #settle(): Promise<void> {
    for (let first = this.#kept[0]; first !== undefined; first = this.#kept[0]) {
      await this.#commit(first.changes, first.events);
      this.#kept.shift();
      first.stored();
    }
  }

  async #retry(): Promise<void> {
    while (this.#kept.length > 0 && !this.#stopped.signal.aborted) {
      await this.#clock.sleep(RETRY_AFTER_MS, this.#stopped.signal);
      await this.settle().catch(endOnBug); // reported when it was kept
    }
    this.#retrying = undefined;
  }

  async #commit(changes: readonly Change[], events: readonly (NewEvent & { timeMs?: number })[]): Promise<void> {
    const prepared = events.map((event) => this.#prepare(event));
    const rows = prepared.map(({ row }): Change => ({ table: "events", put: row }));
    try {
      await this.#store.commit([...changes, ...rows, ...this.#trim(events.length)]);
      for (const event of prepared) event.state = "durable";
    } catch (error) {
      for (const event of prepared) event.state = "dropped";
      throw error;
    } finally {
      this.#publish();
    }
  }

  /** Durable events, oldest first. Not to be kept across an await. */
  get events(): readonly EventRow[] {
    return this.#events;
  }

  get lastId(): number {
    return this.#events.at(-1)?.id ?? 0;
  }

  /**
   * Durable events behind `afterId`. LIMIT_EXCEEDED when some of them are no longer kept.
   */
  since(afterId: number): readonly EventRow[] {
    const oldest = this.#events[0]?.id ?? this.#nextId;
    if (afterId + 1 < oldest && afterId !== 0 && oldest > 1)
      throw new TidemarkError("LIMIT_EXCEEDED", {
        message: `events up to ${oldest - 1} are no longer kept; ${afterId + 1} was asked for`,
        hint: "list the events that are kept, then watch from the last of them",
        metadata: { oldestId: String(oldest) },
      });
    return this.#events.slice(firstBehind(this.#events, afterId));
  }

  /** `listener` is called whenever events were added. Returns what ends it. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #prepare(event: NewEvent & { timeMs?: number }): Prepared {
    const { timeMs = this.#clock.nowMs(), attributes = {}, ...rest } = event;
    const row = { ...rest, attributes, id: this.#nextId++, timeMs };
    const prepared: Prepared = { row, state: "pending" };
    this.#prepared.push(prepared);
    return prepared;
  }

  /** Removals that keep the table bounded when `added` more come. */
  #trim(added: number): Change[] {
    const changes: Change[] = [];
    while (changes.length < 2 * added && this.#nextId - this.#oldestStored > EVENTS_MAX)
      changes.push({ table: "events", remove: this.#oldestStored++ });
    return changes;
  }

  #publish(): void {
    const end = this.#prepared.findIndex(({ state }) => state === "pending");
    const ended = end < 0 ? this.#prepared : this.#prepared.slice(0, end);
    this.#prepared = end < 0 ? [] : this.#prepared.slice(end);
    const durable = ended.filter(({ state }) => state === "durable");
    if (durable.length === 0) return;
    for (const { row } of durable) this.#events.push(row);
    const surplus = this.#events.length - EVENTS_MAX;
    if (surplus > 0) this.#events.splice(0, surplus);
    for (const listener of this.#listeners) listener();
  }
}

/** Index of the first event whose id is above `id`. */
function firstBehind(events: readonly EventRow[], id: number): number {
  let first = 0;
  let end = events.length;
  while (first < end) {
    const middle = (first + end) >>> 1;
    if ((events[middle] as EventRow).id <= id) first = middle + 1;
    else end = middle;
  }
  return first;
}
