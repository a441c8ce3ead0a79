/**
 * Commit line: one batch at a time goes to the engine; what comes meanwhile travels together in the next one.
 *
 * Why one at a time: a batch that fails may leave half a record in the engine's log. What is written behind that is lost at
 * the next start although it was acknowledged, so nothing may follow a failure before the engine has been opened anew.
 * Invariants:
 *   1. Batches hold whole commits, in the order of the calls.
 *   2. After a failure the next batch is preceded by `reopen` and by a batch that puts back what the failed one would have
 *      changed: a refused commit never turns up later, whatever the engine's log has made of it.
 *   3. While that does not succeed, commits are refused, each batch after one try; reading goes on. When not even the state
     before the failed batch can be read, they are refused until the daemon starts again.
 */
import { TidemarkError } from "../base/errors.ts";
import type { KeyValue, KeyValueChange } from "./key-value.ts";
import { COMMIT_CHANGES_MAX, COMMITS_WAITING_MAX } from "./limits.ts";

interface Waiting {
  readonly changes: readonly KeyValueChange[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class CommitLine {
  readonly #engine: KeyValue;
  #waiting: Waiting[] = [];
  #running: Promise<void> | undefined;
  /** After a failed batch: what puts back the state before it, or why that could not be read. */
  #failed: { readonly undo: readonly KeyValueChange[] } | { readonly unknown: TidemarkError } | undefined;

  constructor(engine: KeyValue) {
    this.#engine = engine;
  }

  /** Resolves when the changes are durable. METADATA_WRITE_FAILED, LIMIT_EXCEEDED. */
  add(changes: readonly KeyValueChange[]): Promise<void> {
    if (this.#waiting.length >= COMMITS_WAITING_MAX)
      return Promise.reject(
        new TidemarkError("LIMIT_EXCEEDED", {
          message: `${COMMITS_WAITING_MAX} changes of the metadata wait to be stored`,
          hint: "look after the disk under the data directory, then try again",
        }),
      );
    return new Promise((resolve, reject) => {
      this.#waiting.push({ changes, resolve, reject });
      this.#running ??= this.#run();
    });
  }

  /** Waits for everything that was added; tries once more to put back what a failed batch may have left. */
  async close(): Promise<void> {
    await this.#running;
    // What cannot be put back now may be found at the next start as if it had been acknowledged: a whole state, too.
    if (this.#failed !== undefined) await this.#recover().catch(() => undefined);
  }

  async #run(): Promise<void> {
    // The caller gets its promise first, and what is added in the same turn travels along.
    await Promise.resolve();
    while (this.#waiting.length > 0) {
      const batch = this.#takeBatch();
      try {
        await this.#write(batch.flatMap(({ changes }) => changes));
        for (const { resolve } of batch) resolve();
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    this.#running = undefined;
  }

  #takeBatch(): Waiting[] {
    let count = 0;
    let end = 0;
    for (const { changes } of this.#waiting) {
      count += changes.length;
      if (end > 0 && count > COMMIT_CHANGES_MAX) break;
      end++;
    }
    const batch = this.#waiting.slice(0, end);
    this.#waiting = this.#waiting.slice(end);
    return batch;
  }

  async #write(changes: readonly KeyValueChange[]): Promise<void> {
    if (this.#failed !== undefined) await this.#recover();
    try {
      await this.#engine.batch(changes);
    } catch (cause) {
      const error = writeFailed(cause);
      // Read now: once the engine has been opened anew it may show the batch that failed.
      this.#failed = await this.#priorOf(changes).then(
        (undo) => ({ undo }),
        () => ({ unknown: error }),
      );
      throw error;
    }
  }

  async #priorOf(changes: readonly KeyValueChange[]): Promise<KeyValueChange[]> {
    const prior: KeyValueChange[] = [];
    for (const key of new Set(changes.map((change) => change.key))) {
      const value = await this.#engine.get(key);
      prior.push(value === undefined ? { type: "del", key } : { type: "put", key, value });
    }
    return prior;
  }

  async #recover(): Promise<void> {
    if (this.#failed === undefined) return;
    if ("unknown" in this.#failed) throw this.#failed.unknown;
    await this.#engine.reopen();
    try {
      await this.#engine.batch(this.#failed.undo);
    } catch (error) {
      throw writeFailed(error);
    }
    this.#failed = undefined;
  }
}

function writeFailed(cause: unknown): TidemarkError {
  if (cause instanceof TidemarkError) return cause;
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new TidemarkError(
    "METADATA_WRITE_FAILED",
    {
      message: `the box could not store its metadata: ${reason}`,
      hint: "make room or look after the disk under the data directory, then try again; nothing was changed",
    },
    { cause },
  );
}
