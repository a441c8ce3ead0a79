/**
 * First-come-first-served exclusive locks on ranges of granules.
 *
 * Role: orders the copying of one session; two copies of the same granule never overlap.
 * Invariants:
 *   1. Held ranges are disjoint.
 *   2. A waiter is passed only by requests that do not overlap it.
 *   3. A holder that asked for it is told, at least once, while somebody waits for a part of its range.
 */
import { assert } from "../../base/assert.ts";

export interface RangeLockHandle {
  readonly first: number;
  readonly count: number;
}

interface Held extends RangeLockHandle {
  readonly onAwaited: (() => void) | undefined;
}

interface Waiter extends RangeLockHandle {
  readonly grant: (handle: RangeLockHandle) => void;
}

export class RangeLock {
  readonly #held = new Set<Held>();
  #waiters: Waiter[] = [];
  #released: (() => void)[] = [];

  /**
   * The lock at once, or undefined when somebody holds or awaits an overlapping range. `onAwaited` is called when
   * somebody comes to wait for a part of it: the holder is to hurry.
   */
  tryAcquire(first: number, count: number, onAwaited?: () => void): RangeLockHandle | undefined {
    assert(count > 0, "a lock covers something");
    const wanted: Held = { first, count, onAwaited };
    for (const taken of this.#taken()) if (overlaps(taken, wanted)) return undefined;
    this.#held.add(wanted);
    return wanted;
  }

  /** The lock, when its turn has come. */
  acquire(first: number, count: number): Promise<RangeLockHandle> {
    const handle = this.tryAcquire(first, count);
    if (handle) return Promise.resolve(handle);
    const wanted = { first, count };
    for (const held of this.#held) if (overlaps(held, wanted)) held.onAwaited?.();
    return new Promise((grant) => this.#waiters.push({ ...wanted, grant }));
  }

  release(handle: RangeLockHandle): void {
    assert(this.#held.delete(handle as Held), "only a held lock is released");
    const waiting = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiting) {
      const granted = this.tryAcquire(waiter.first, waiter.count);
      if (granted) waiter.grant(granted);
      else this.#waiters.push(waiter);
    }
    for (const resolve of this.#released.splice(0)) resolve();
  }

  /** Resolves when a range that is held now or later has been given back. */
  released(): Promise<void> {
    return new Promise((resolve) => this.#released.push(resolve));
  }

  /** The first stretch of `[first, limit)` that nobody holds or awaits. */
  nextFree(first: number, limit: number): { readonly first: number; readonly count: number } | undefined {
    let from = first;
    let end = limit;
    for (let moved = true; moved; ) {
      moved = false;
      end = limit;
      for (const taken of this.#taken()) {
        const takenEnd = taken.first + taken.count;
        if (takenEnd <= from) continue;
        if (taken.first > from) end = Math.min(end, taken.first);
        else {
          from = takenEnd;
          moved = true;
        }
      }
    }
    return from < end ? { first: from, count: end - from } : undefined;
  }

  *#taken(): Iterable<RangeLockHandle> {
    yield* this.#held;
    yield* this.#waiters;
  }
}

function overlaps(a: RangeLockHandle, b: RangeLockHandle): boolean {
  return a.first < b.first + b.count && b.first < a.first + a.count;
}
