/**
 * The write barrier of one volume: counts what is under way and, while closed, lets nothing new in.
 *
 * Invariants:
 *   1. While closed and drained, no write, no copy and no copy-on-access is under way on the volume.
 *   2. Whoever entered leaves exactly once.
 */
import { assert } from "../../base/assert.ts";

export class Gate {
  #inFlight = 0;
  #closed = false;
  #entering: (() => void)[] = [];
  #drained: (() => void)[] = [];

  get isOpen(): boolean {
    return !this.#closed;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  tryEnter(): boolean {
    if (this.#closed) return false;
    this.#inFlight++;
    return true;
  }

  /** Waits while the gate is closed. */
  async enter(): Promise<void> {
    while (!this.tryEnter()) await this.opened();
  }

  leave(): void {
    assert(this.#inFlight > 0, "only who entered leaves");
    this.#inFlight--;
    if (this.#inFlight === 0) for (const resolve of this.#drained.splice(0)) resolve();
  }

  opened(): Promise<void> {
    if (!this.#closed) return Promise.resolve();
    return new Promise((resolve) => this.#entering.push(resolve));
  }

  /** Closes; resolves when nothing is under way any more. */
  close(): Promise<void> {
    assert(!this.#closed, "one barrier at a time");
    this.#closed = true;
    if (this.#inFlight === 0) return Promise.resolve();
    return new Promise((resolve) => this.#drained.push(resolve));
  }

  open(): void {
    assert(this.#closed, "only a closed gate opens");
    this.#closed = false;
    for (const resolve of this.#entering.splice(0)) resolve();
  }
}
