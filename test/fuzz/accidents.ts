/** Errors that nobody caught: a thrown assertion in a callback, a rejection without a handler. Each is a violation. */
export class Accidents {
  #seen: string[] = [];
  readonly #onError = (error: unknown) => {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.#seen.push(text.split("\n").slice(0, 6).join(" | "));
  };

  /** From now on they do not end the process. */
  watch(): void {
    process.on("uncaughtException", this.#onError);
    process.on("unhandledRejection", this.#onError);
  }

  unwatch(): void {
    process.off("uncaughtException", this.#onError);
    process.off("unhandledRejection", this.#onError);
  }

  /** Those since the last call, as violations. Rejections are told of after the present turn: wait one first. */
  take(): string[] {
    const seen = this.#seen.map((text) => `uncaught: ${text}`);
    this.#seen = [];
    return seen;
  }
}
