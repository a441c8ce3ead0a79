/**
 * Limits how many asynchronous operations of one device are at work at once; the rest waits in order.
 *
 * Role: keeps one stalled device from taking every thread of the pool.
 * Invariants: at most `activeMax` run; at most `waitingMax` wait; they start in the order in which they came.
 */
import { TidemarkError } from "../../base/errors.ts";

export interface QueueLimits {
  readonly activeMax: number;
  readonly waitingMax: number;
}

export class OperationQueue {
  readonly #limits: QueueLimits;
  #active = 0;
  #waiting: (() => void)[] = [];
  #head = 0;
  #idle: (() => void)[] = [];

  constructor(limits: QueueLimits) {
    this.#limits = limits;
  }

  /** Runs `operation` as soon as there is room. Throws LIMIT_EXCEEDED when too many wait already. */
  run<T>(operation: () => Promise<T>): Promise<T> {
    if (this.#active < this.#limits.activeMax) return this.#start(operation);
    if (this.#waiting.length - this.#head >= this.#limits.waitingMax) {
      return Promise.reject(
        new TidemarkError("LIMIT_EXCEEDED", {
          message: `${this.#limits.waitingMax} operations wait for one device`,
          hint: "the device is slower than its clients; try again with fewer requests at once",
        }),
      );
    }
    return new Promise<void>((resolve) => this.#waiting.push(resolve)).then(() => this.#start(operation));
  }

  /** Resolves when nothing runs and nothing waits. */
  idle(): Promise<void> {
    if (this.#active === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  #start<T>(operation: () => Promise<T>): Promise<T> {
    this.#active++;
    return operation().finally(() => this.#ended());
  }

  #ended(): void {
    this.#active--;
    const next = this.#waiting[this.#head];
    if (next !== undefined) {
      this.#head++;
      if (this.#head > 64 && this.#head * 2 > this.#waiting.length) {
        this.#waiting = this.#waiting.slice(this.#head);
        this.#head = 0;
      }
      next();
      return;
    }
    if (this.#active > 0) return;
    const idle = this.#idle;
    this.#idle = [];
    for (const resolve of idle) resolve();
  }
}
