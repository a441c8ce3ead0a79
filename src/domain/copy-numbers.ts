/**
 * Numbers of sessions: none is given out twice, also not by another run of the daemon.
 *
 * A number is durable as "may have been given out" before the engine hears it. Those of a refused point, and of pairs that
 * run an earlier session again, are free again while nobody has taken more.
 */
import type { Change } from "../store/store.ts";

/** Name of the counter's row. */
export const COPY_COUNTER = "copy";

/** Numbers taken in a row. */
export interface Taken {
  readonly first: number;
  readonly count: number;
}

export class CopyNumbers {
  #last = 0;
  #stored = 0;

  load(storedNumber: number): void {
    this.#stored = storedNumber;
    this.seen(storedNumber);
  }

  /** A number that is in use. */
  seen(number: number): void {
    this.#last = Math.max(this.#last, number);
  }

  take(count: number): Taken {
    const first = this.#last + 1;
    this.#last += count;
    return { first, count };
  }

  /** Makes durable, by `commit`, that the numbers taken may have been given out. */
  async store(commit: (changes: readonly Change[]) => Promise<void>): Promise<void> {
    const value = this.#last;
    const changes: Change[] = value <= this.#stored ? [] : [{ table: "counters", put: { name: COPY_COUNTER, value } }];
    await commit(changes);
    this.#stored = Math.max(this.#stored, value);
  }

  giveBack(taken: Taken, used: readonly number[]): void {
    const end = taken.first + taken.count - 1;
    if (taken.count === 0 || this.#last !== end) return;
    this.#last = Math.max(taken.first - 1, ...used.filter((number) => number >= taken.first));
  }
}
