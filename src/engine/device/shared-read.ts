/**
 * One reading of something for many callers, so that a start that opens many volumes reads a table once and not once each.
 *
 * Invariant: a caller gets the result of a reading that began after its call.
 */
export class SharedRead<T> {
  readonly #read: () => Promise<T>;
  #running: Promise<T> | undefined;
  #next: Promise<T> | undefined;

  constructor(read: () => Promise<T>) {
    this.#read = read;
  }

  /** Rejects with the error of the reading. */
  request(): Promise<T> {
    if (this.#running === undefined) return this.#start();
    this.#next ??= this.#running
      .then(
        () => {},
        () => {}, // its own callers hear of it
      )
      .then(() => {
        this.#next = undefined;
        return this.#start();
      });
    return this.#next;
  }

  #start(): Promise<T> {
    const running = this.#read().finally(() => {
      this.#running = undefined;
    });
    this.#running = running;
    return running;
  }
}
