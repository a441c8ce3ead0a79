/**
 * Journal: the one way by which the domain changes the store, and the box's events.
 *
 * Role: a commit carries rows and the events that tell of them in one batch; events become visible when they are
 * durable, in the order of their numbers.
 * Invariants:
 *   1. An event that anybody has seen is durable.
 *   2. Ids grow by one per event that was kept; those of a failed commit are skipped.
 *   3. At most EVENTS_MAX events are kept, in the store as in memory.
 */
import { TidemarkError } from "../base/errors.ts";
import { EVENTS_MAX } from "../base/limits.ts";
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
  | "copy.failed";

/** What a mutation stores about its answer, so that a repeated request gets it again; see request-ids.ts. */
export type Recorder<T> = (result: T) => readonly Change[];
export const NO_RECORD: Recorder<unknown> = () => [];

interface Prepared {
  readonly row: EventRow;
  state: "pending" | "durable" | "dropped";
}

export class Journal {
  readonly #store: Store;
  readonly #clock: Clock;
  /** Durable events, oldest first. */
  readonly #events: EventRow[] = [];
  /** Events whose commit has not ended, or that wait for one before them. */
  #prepared: Prepared[] = [];
  #nextId = 1;
  #oldestStored = 1;
  readonly #listeners = new Set<() => void>();

  constructor(store: Store, clock: Clock) {
    this.#store = store;
    this.#clock = clock;
  }

  /** Reads the events of earlier runs. */
  async load(): Promise<void> {
    for await (const row of this.#store.scan("events")) this.#events.push(row);
    this.#nextId = (this.#events.at(-1)?.id ?? 0) + 1;
    this.#oldestStored = this.#events[0]?.id ?? this.#nextId;
  }

  /** Makes changes and events durable, all or nothing. METADATA_WRITE_FAILED. */
  async commit(changes: readonly Change[], events: readonly NewEvent[]): Promise<void> {
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

  #prepare(event: NewEvent): Prepared {
    const row = { attributes: {}, ...event, id: this.#nextId++, timeMs: this.#clock.nowMs() };
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
