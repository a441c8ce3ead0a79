/**
 * Keyed mutex: operations that share a key run one after the other, in the order of their calls.
 *
 * Role: keeps "check, await, act" on one volume or session in one piece.
 * Invariants: an operation takes all its keys in one step, at the call, so operations cannot wait for each other in a
 * circle; a key is forgotten with its last waiter; at most LOCK_WAITERS_MAX wait for one key.
 */
import { TidemarkError } from "../base/errors.ts";
import { LOCK_WAITERS_MAX } from "./limits.ts";

interface Key {
  /** Settles when the last operation on the key has ended. */
  tail: Promise<void>;
  waiting: number;
}

export class KeyedMutex {
  readonly #keys = new Map<string, Key>();

  /** Runs `operation` alone on `keys`; repeated keys count once. LIMIT_EXCEEDED when too many wait. */
  run<T>(keys: readonly string[], operation: () => Promise<T>): Promise<T> {
    const unique = [...new Set(keys)];
    for (const key of unique)
      if ((this.#keys.get(key)?.waiting ?? 0) >= LOCK_WAITERS_MAX)
        return Promise.reject(
          new TidemarkError("LIMIT_EXCEEDED", {
            message: `${LOCK_WAITERS_MAX} operations wait for one volume`,
            hint: "try again when some have ended",
          }),
        );
    const before = unique.map((key) => this.#keys.get(key)?.tail);
    const result = Promise.all(before).then(operation);
    const tail = result.then(
      () => {},
      () => {},
    );
    for (const key of unique) this.#enter(key, tail);
    return result;
  }

  /** Keys that are taken or waited for. */
  get size(): number {
    return this.#keys.size;
  }

  #enter(name: string, tail: Promise<void>): void {
    const key = this.#keys.get(name) ?? { tail, waiting: 0 };
    key.tail = tail;
    key.waiting++;
    this.#keys.set(name, key);
    void tail.then(() => {
      if (--key.waiting === 0) this.#keys.delete(name);
    });
  }
}
