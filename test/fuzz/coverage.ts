/**
 * Which code a case reaches, from V8's own precise coverage: a case that reaches a block no case before it has reached is
 * worth keeping as a parent of others. Only this thread is seen, and only files of `src/`.
 *
 * Without call counts V8 tells of each block once, when it has run for the first time, so that looking is cheap.
 */
import { type Profiler, Session } from "node:inspector";

export class Coverage {
  readonly #session = new Session();
  readonly #seen = new Set<string>();

  constructor() {
    this.#session.connect();
    this.#session.post("Profiler.enable");
    this.#session.post("Profiler.startPreciseCoverage", { callCount: false, detailed: true });
  }

  /** Whether something ran since the last look that had not run before. */
  reachedNew(): boolean {
    let grown = false;
    for (const script of this.#take()) {
      const path = script.url.split("/src/")[1];
      if (path === undefined) continue;
      for (const { ranges } of script.functions)
        for (const { startOffset, endOffset, count } of ranges) {
          if (count === 0) continue;
          const key = `${path}:${startOffset}-${endOffset}`;
          if (this.#seen.has(key)) continue;
          this.#seen.add(key);
          grown = true;
        }
    }
    return grown;
  }

  get blocks(): number {
    return this.#seen.size;
  }

  close(): void {
    this.#session.disconnect();
  }

  #take(): readonly Profiler.ScriptCoverage[] {
    let result: readonly Profiler.ScriptCoverage[] = [];
    // Answers come before `post` returns when the session looks at its own thread.
    this.#session.post("Profiler.takePreciseCoverage", (_error, taken) => {
      result = taken?.result ?? [];
    });
    return result;
  }
}
