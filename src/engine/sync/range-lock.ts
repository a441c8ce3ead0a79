/**
 * First-come-first-served exclusive locks on ranges of granules.
 *
 * Role: orders the copying of one session; two copies of the same granule never overlap.
 * Invariants:
 *   1. Held ranges are disjoint.
 *   2. A waiter is passed only by requests that do not overlap it.
 */
import { assert } from "../../base/assert.ts";

export interface RangeLockHandle {
  readonly first: number;
  readonly count: number;
}

interface Waiter extends RangeLockHandle {
  readonly grant: (handle: RangeLockHandle) => void;
}

export class RangeLock {
  readonly #held = new Set<RangeLockHandle>();
  #waiters: Waiter[] = [];

  /** The lock at once, or undefined when somebody holds or awaits an overlapping range. */
  tryAcquire(first: number, count: number): RangeLockHandle | undefined {
    assert(count > 0, "a lock covers something");
    const wanted = { first, count };
    for (const held of this.#held) if (overlaps(held, wanted)) return undefined;
    for (const waiter of this.#waiters) if (overlaps(waiter, wanted)) return undefined;
    this.#held.add(wanted);
    return wanted;
  }

  /** The lock, when its turn has come. */
  acquire(first: number, count: number): Promise<RangeLockHandle> {
    const handle = this.tryAcquire(first, count);
    if (handle) return Promise.resolve(handle);
    return new Promise((grant) => this.#waiters.push({ first, count, grant }));
  }

  release(handle: RangeLockHandle): void {
    assert(this.#held.delete(handle), "only a held lock is released");
    if (this.#waiters.length === 0) return;
    const waiting = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiting) {
      const granted = this.tryAcquire(waiter.first, waiter.count);
      if (granted) waiter.grant(granted);
      else this.#waiters.push(waiter);
    }
  }

  get idle(): boolean {
    return this.#held.size === 0 && this.#waiters.length === 0;
  }
}

function overlaps(a: RangeLockHandle, b: RangeLockHandle): boolean {
  return a.first < b.first + b.count && b.first < a.first + a.count;
}
