/**
 * Makes copied granules durable in batches.
 *
 * Role: after the data of some granules has been written to the destination: sync the destination, then append the
 * record that they are copied, then sync the record; only then may the source (or the destination's host) overwrite them.
 * Algorithm (data-safety 1.4):
 *   1. `add` takes runs whose data writes have ended.
 *   2. A round takes all runs, then starts the destination's sync: it covers every write of the round.
 *   3. The record is appended after that sync has returned, and synced itself.
 *   4. `flush` joins the next round, never the one under way, whose sync may have started too early.
 *   5. Runs of a round that failed wait for the next one: they are still not durable.
 */
import type { GranuleRun } from "./extents.ts";

interface Round {
  readonly promise: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

function newRound(): Round {
  let resolve: () => void = () => undefined;
  let reject: (error: unknown) => void = () => undefined;
  const promise = new Promise<void>((onResolve, onReject) => {
    resolve = onResolve;
    reject = onReject;
  });
  return { promise, resolve, reject };
}

export class CommitQueue {
  readonly #commit: (runs: readonly GranuleRun[]) => Promise<void>;
  #runs: GranuleRun[] = [];
  #next: Round | undefined;
  #running: Promise<void> | undefined;
  #discards = 0;

  /** `commit` carries out one round; a rejected round rejects everybody who waits for it. */
  constructor(commit: (runs: readonly GranuleRun[]) => Promise<void>) {
    this.#commit = commit;
  }

  add(run: GranuleRun): void {
    const last = this.#runs.at(-1);
    if (last && last.first + last.count === run.first) {
      this.#runs[this.#runs.length - 1] = { first: last.first, count: last.count + run.count };
    } else this.#runs.push(run);
  }

  /** Resolves when everything added before this call is durable. */
  flush(): Promise<void> {
    this.#next ??= newRound();
    const { promise } = this.#next;
    this.#running ??= this.#run();
    return promise;
  }

  /** Forgets runs that no round has taken: their granules are to be copied again. */
  discard(): void {
    this.#runs = [];
    this.#discards++;
  }

  async #run(): Promise<void> {
    await Promise.resolve(); // requests of the same moment share a round
    while (this.#next) {
      const round = this.#next;
      const runs = this.#runs;
      const discards = this.#discards;
      this.#next = undefined;
      this.#runs = [];
      try {
        if (runs.length > 0) await this.#commit(runs);
        round.resolve();
      } catch (error) {
        if (discards === this.#discards) this.#runs = [...runs, ...this.#runs];
        round.reject(error);
      }
    }
    this.#running = undefined; // in the same step as the last look at #next, so that no request is missed
  }
}
