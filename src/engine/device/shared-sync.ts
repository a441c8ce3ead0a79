/**
 * One sync for many callers.
 *
 * Invariants:
 *   1. A caller is served only by a sync that started after its call (data-safety: a sync covers what was stored before it).
 *   2. At most one sync runs and at most one waits behind it.
 */
export class SharedSync {
  readonly #sync: () => Promise<void>;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  constructor(sync: () => Promise<void>) {
    this.#sync = sync;
  }

  /** Resolves when a sync that starts now or later has ended; rejects with its error. */
  request(): Promise<void> {
    if (this.#running === undefined) return this.#start();
    this.#next ??= this.#running
      .then(
        () => {},
        () => {},
      )
      .then(() => {
        this.#next = undefined;
        return this.#start();
      });
    return this.#next;
  }

  /** Resolves, without error, when no sync runs or waits. */
  async idle(): Promise<void> {
    while (this.#running !== undefined) {
      await (this.#next ?? this.#running).catch(() => {});
    }
  }

  #start(): Promise<void> {
    const running = this.#sync().finally(() => {
      this.#running = undefined;
    });
    this.#running = running;
    return running;
  }
}
