/**
 * Memory that the requests of all connections hold: payloads of writes, and replies until the client has taken them.
 *
 * Invariants:
 *   1. Together they hold at most `limitBytes`, and beside that each connection one request of up to SHARE_BYTES: whatever
 *      others hold, a connection that holds nothing goes on with ordinary requests.
 *   2. Who finds no room waits in line, in the order of asking; nobody who asks later is served before.
 *   3. Whoever is woken takes what it asked for, or leaves the line.
 * Held memory is given back when its request ends. A client that neither reads its replies nor sends the rest of its payload
 * holds it for as long as it likes; the server hangs up on it when others wait (server.ts).
 */
import { assert } from "../../base/assert.ts";
import { NBD_REQUEST_BYTES_MAX } from "../../base/limits.ts";
import { MiB } from "../../base/units.ts";

/** One read or write of the size that hosts use most. */
const SHARE_BYTES = 1 * MiB;

/** Somebody who takes memory. `heldBytes` is what it has of it. */
export interface MemoryUser {
  readonly heldBytes: number;
  /** What it waited for is free now. */
  memoryFreed(): void;
}

export class InFlightMemory {
  readonly #limitBytes: number;
  readonly #onWait: () => void;
  #usedBytes = 0;
  /** Who waits, and for how much; the first asked first. */
  readonly #line = new Map<MemoryUser, number>();
  #wakeScheduled = false;

  /** `onWait` is called when a line forms. */
  constructor(limitBytes: number, onWait: () => void) {
    assert(limitBytes >= NBD_REQUEST_BYTES_MAX + SHARE_BYTES, "the largest request fits, whatever its reply adds");
    this.#limitBytes = limitBytes;
    this.#onWait = onWait;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  get isAwaited(): boolean {
    return this.#line.size > 0;
  }

  /** Takes memory for a request; false when there is no room: then the user stands in line. */
  take(user: MemoryUser, bytes: number): boolean {
    const first = this.#line.keys().next().value;
    const own = user.heldBytes === 0 && bytes <= SHARE_BYTES;
    const fits = (first === undefined || first === user) && this.#usedBytes + bytes <= this.#limitBytes;
    if (!own && !fits) {
      this.#line.set(user, bytes);
      if (this.#line.size === 1) this.#onWait();
      return false;
    }
    this.#usedBytes += bytes;
    this.leave(user);
    return true;
  }

  give(bytes: number): void {
    this.#usedBytes -= bytes;
    assert(this.#usedBytes >= 0, "memory is given back once");
    this.#wakeLater();
  }

  /** Waits for nothing any more. */
  leave(user: MemoryUser): void {
    if (this.#line.delete(user)) this.#wakeLater();
  }

  /** Behind what is at hand: giving back happens deep inside other requests' ends. */
  #wakeLater(): void {
    if (this.#wakeScheduled || this.#line.size === 0) return;
    this.#wakeScheduled = true;
    setImmediate(() => {
      this.#wakeScheduled = false;
      const [first] = this.#line;
      if (first === undefined || this.#usedBytes + first[1] > this.#limitBytes) return;
      first[0].memoryFreed();
    });
  }
}
