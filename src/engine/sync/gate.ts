/**
 * The write barrier of one volume: counts what is under way and, while closed, lets nothing new in.
 *
 * Invariants:
 *   1. While closed and drained, no write, no copy and no copy-on-access is under way on the volume.
 *   2. Whoever entered leaves exactly once.
 *   3. Whoever is inside for long is told when the gate closes.
 */
import { assert } from "../../base/assert.ts";

export class Gate {
  #inFlight = 0;
  #closed = false;
  #entering: (() => void)[] = [];
  #drained: (() => void)[] = [];
  readonly #closing = new Set<() => void>();

  get isOpen(): boolean {
    return !this.#closed;
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

  /** Calls `hurry` when the gate closes; for who is inside for long. Returns what ends that. */
  onClosing(hurry: () => void): () => void {
    this.#closing.add(hurry);
    return () => this.#closing.delete(hurry);
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
    const drained = new Promise<void>((resolve) => this.#drained.push(resolve));
    for (const hurry of this.#closing) hurry();
    return drained;
  }

  open(): void {
    assert(this.#closed, "only a closed gate opens");
    this.#closed = false;
    for (const resolve of this.#entering.splice(0)) resolve();
  }
}
