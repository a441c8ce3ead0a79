/**
 * Watches: streams that follow a copy or the events.
 *
 * Invariants: at most WATCHERS_MAX at once; a watch says something at least every WATCH_BEAT_MS; it reads from where it
 * stands, so a slow client holds up nobody and needs no queue; it ends when its signal aborts.
 */
import { TidemarkError } from "../base/errors.ts";
import { WATCH_BEAT_MS, WATCHERS_MAX } from "../base/limits.ts";
import type { Clock } from "../base/ports.ts";
import type { SessionStatus } from "../engine/engine-api.ts";
import type { EventRow } from "../store/rows.ts";
import { type Copies, isEnd } from "./copies.ts";
import type { Journal } from "./journal.ts";
import { WATCH_PROGRESS_MS } from "./limits.ts";

export class Watches {
  readonly #clock: Clock;
  readonly #journal: Journal;
  readonly #copies: Copies;
  readonly #stopping = new AbortController();
  #count = 0;

  constructor(clock: Clock, journal: Journal, copies: Copies) {
    this.#clock = clock;
    this.#journal = journal;
    this.#copies = copies;
  }

  get count(): number {
    return this.#count;
  }

  /** Ends every watch. */
  stop(): void {
    this.#stopping.abort();
  }

  /**
   * Follows a session: its state now, then at each change and at each beat, until it has ended, failed or, for QuickOPC,
   * finished copying. `until: "end"` goes on after the copying and after a failure. SESSION_NOT_FOUND.
   */
  async *copy(
    id: string,
    options: { readonly until: "copied" | "end"; readonly signal: AbortSignal },
  ): AsyncGenerator<SessionStatus, void, undefined> {
    const wait = this.#enter(options.signal);
    const unsubscribe = this.#copies.subscribe((session) => {
      if (session.id === id) wait.notify();
    });
    try {
      let last = "";
      let saidMs = 0;
      while (!wait.signal.aborted) {
        const session = await this.#copies.get(id);
        const text = JSON.stringify(session);
        const nowMs = this.#clock.monotonicMs();
        if (text !== last || nowMs - saidMs >= WATCH_BEAT_MS) {
          last = text;
          saidMs = nowMs;
          yield session;
        }
        const still = session.phase !== "copying" || session.failure !== undefined; // out of service: it will not end
        if (isEnd(session.phase) || (still && options.until === "copied")) return;
        const untilBeatMs = Math.max(1, saidMs + WATCH_BEAT_MS - this.#clock.monotonicMs());
        await wait.forChange(session.phase === "copying" ? Math.min(WATCH_PROGRESS_MS, untilBeatMs) : untilBeatMs);
      }
    } finally {
      unsubscribe();
      this.#count--;
    }
  }

  /**
   * Events behind `afterId` (0: from now on), of one object if `subject` is not empty; an empty batch is a beat.
   * LIMIT_EXCEEDED when events in between are no longer kept.
   */
  async *events(
    afterId: number,
    subject: string,
    signal: AbortSignal,
  ): AsyncGenerator<readonly EventRow[], void, undefined> {
    const wait = this.#enter(signal);
    const unsubscribe = this.#journal.subscribe(() => wait.notify());
    try {
      let cursor = afterId === 0 ? this.#journal.lastId : afterId;
      let saidMs = this.#clock.monotonicMs();
      while (!wait.signal.aborted) {
        const rows = this.#journal.since(cursor);
        cursor = rows.at(-1)?.id ?? cursor;
        const matching = subject === "" ? rows : rows.filter((row) => row.subject === subject);
        if (matching.length > 0 || this.#clock.monotonicMs() - saidMs >= WATCH_BEAT_MS) {
          saidMs = this.#clock.monotonicMs();
          yield matching;
        }
        await wait.forChange(Math.max(1, saidMs + WATCH_BEAT_MS - this.#clock.monotonicMs()));
      }
    } finally {
      unsubscribe();
      this.#count--;
    }
  }

  #enter(signal: AbortSignal): Wait {
    if (this.#count >= WATCHERS_MAX)
      throw new TidemarkError("LIMIT_EXCEEDED", {
        message: `${WATCHERS_MAX} watches are open`,
        hint: "close one, or ask again from time to time instead",
      });
    this.#count++;
    return new Wait(this.#clock, AbortSignal.any([signal, this.#stopping.signal]));
  }
}

/** Waiting for a change that is not lost when it comes while nobody waits. */
class Wait {
  readonly signal: AbortSignal;
  readonly #clock: Clock;
  #changed = false;
  #sleeping: AbortController | undefined;

  constructor(clock: Clock, signal: AbortSignal) {
    this.#clock = clock;
    this.signal = signal;
  }

  notify(): void {
    this.#changed = true;
    this.#sleeping?.abort();
  }

  /** Resolves at the next change, also one since the last wait, after `ms`, or when the signal aborts. */
  async forChange(ms: number): Promise<void> {
    if (!this.#changed) {
      this.#sleeping = new AbortController();
      await this.#clock.sleep(ms, AbortSignal.any([this.signal, this.#sleeping.signal]));
      this.#sleeping = undefined;
    }
    this.#changed = false;
  }
}
