/**
 * The mover: copies stretches from one device to another, in worker threads where it can.
 *
 * Role: hands jobs to copier workers, those that a host waits for first; decides nothing about what is copied.
 * Invariants:
 *   1. A worker has at most one job. Jobs of one kind wait in order, in all at most COPIER_QUEUE_MAX.
 *   2. A worker that dies takes only its own job with it (INTERNAL); the next job that needs it starts a new one.
 *   3. When every worker has been stuck in one job for COPIER_STUCK_MS, further ones are started, up to
 *      COPIER_WORKERS_MAX, so that a stalled device does not stop the copies of others.
 *   4. A worker looks at its stop flag between pieces. The flag is cleared before a job is handed out, and set only while
 *      that job is the worker's.
 */
import type { Worker } from "node:worker_threads";
import { systemClock } from "../../base/clock.ts";
import { fromErrorRecord, TidemarkError } from "../../base/errors.ts";
import { COPIER_DISMISS_MS, COPIER_QUEUE_MAX, COPIER_STUCK_MS, COPIER_WORKERS_MAX } from "../../base/limits.ts";
import type { BlockDevice, Clock, MoveResult, MoveRun } from "../../base/ports.ts";
import { spawnWorker } from "../../base/spawn-worker.ts";
import type { CopierReply } from "./copier-worker.ts";
import type { DirectEnd, DirectJob, DirectWork } from "./move-direct.ts";
import { MoveTally } from "./move-tally.ts";
import { moveThroughPort } from "./move-through-port.ts";

export interface MoveOptions {
  /** So many bytes are copied, read in search of zeros, or written as zeros; holes and shared extents are free. */
  readonly budgetBytes: number;
  /** Aborted, the move ends early, maybe with nothing done. Without it a host waits, and the job goes ahead of others. */
  readonly stop?: AbortSignal;
}

export interface Mover {
  /**
   * Copies the runs in order. Ends early, at a granule boundary counted from a run's start, once the budget is spent, when
   * it is to stop, or when sharing has taken COPY_JOB_CLONE_MS_MAX; with a budget of Number.MAX_SAFE_INTEGER and without
   * `stop` it never ends early.
   * The caller keeps both ranges locked and both devices open. Nothing is flushed.
   * Errors carry `side` ("source" | "destination") and `doneBytes`, `copiedBytes`, `zeroedBytes`, `clonedBytes` in their
   * metadata: what was finished before, along the runs in order. LIMIT_EXCEEDED when too many jobs wait; STOPPING.
   */
  move(from: BlockDevice, to: BlockDevice, runs: readonly MoveRun[], options: MoveOptions): Promise<MoveResult>;
  /** Ends the jobs that run, refuses the ones that wait (STOPPING), stops the workers. */
  close(): Promise<void>;
}

export interface MoverOptions {
  /** 0: everything on the caller's thread. */
  readonly workers: number;
  readonly clock?: Clock;
}

export function createMover(options: MoverOptions): Mover {
  return new WorkerMover(options.workers, options.clock ?? systemClock);
}

interface Job {
  readonly message: DirectWork;
  readonly stop: AbortSignal | undefined;
  readonly resolve: (result: MoveResult) => void;
  readonly reject: (error: TidemarkError) => void;
}

interface Seat {
  readonly worker: Worker;
  /** Shared with the worker: not 0 when its job is to end early. */
  readonly stopFlag: Int32Array;
  /** From handing out a job until the worker is ready for the next. */
  busy: boolean;
  job: Job | undefined;
  beganMs: number;
}

const NOTHING_DONE: MoveResult = { doneBytes: 0, copiedBytes: 0, zeroedBytes: 0, clonedBytes: 0 };

class WorkerMover implements Mover {
  readonly #workers: number;
  readonly #clock: Clock;
  readonly #seats: Seat[] = [];
  readonly #queue: Job[] = [];
  readonly #closing = new AbortController();
  #closed: Promise<void> | undefined;
  #watching = false;
  readonly #portMoves = new Set<Promise<void>>();

  constructor(workers: number, clock: Clock) {
    this.#workers = workers;
    this.#clock = clock;
    for (let index = 0; index < workers; index++) this.#addSeat();
  }

  move(from: BlockDevice, to: BlockDevice, runs: readonly MoveRun[], options: MoveOptions): Promise<MoveResult> {
    const { budgetBytes, stop } = options;
    if (this.#closing.signal.aborted) return Promise.reject(stopping());
    if (to.readOnly) return Promise.reject(readOnly());
    if (stop?.aborted) return Promise.resolve(NOTHING_DONE);
    const [source, destination] = [endOf(from, "source"), endOf(to, "destination")];
    if (source === undefined || destination === undefined || this.#workers === 0)
      return this.#moveHere(from, to, runs, options);
    if (this.#queue.length >= COPIER_QUEUE_MAX) return Promise.reject(tooMany());
    const flat = new Float64Array(runs.length * 3);
    for (const [index, run] of runs.entries()) {
      flat.set([run.fromOffsetBytes, run.toOffsetBytes, run.lengthBytes], index * 3);
    }
    return new Promise((resolve, reject) => {
      this.#enqueue({ message: { from: source, to: destination, runs: flat, budgetBytes }, stop, resolve, reject });
      this.#dispatch();
    });
  }

  #moveHere(
    from: BlockDevice,
    to: BlockDevice,
    runs: readonly MoveRun[],
    { budgetBytes, stop }: MoveOptions,
  ): Promise<MoveResult> {
    const moving = moveThroughPort(from, to, runs, new MoveTally(budgetBytes, () => stop?.aborted === true));
    const settled: Promise<void> = moving.then(
      () => {},
      () => {},
    );
    this.#portMoves.add(settled);
    void settled.then(() => this.#portMoves.delete(settled));
    return moving;
  }

  #enqueue(job: Job): void {
    const { stop } = job;
    if (stop === undefined) {
      const firstBackground = this.#queue.findIndex((waiting) => waiting.stop !== undefined);
      this.#queue.splice(firstBackground < 0 ? this.#queue.length : firstBackground, 0, job);
      return;
    }
    this.#queue.push(job);
    stop.addEventListener("abort", () => this.#stop(job), { once: true });
  }

  /** Ends a job early: at once if it waits, at its next piece if it runs; nothing if it has ended. */
  #stop(job: Job): void {
    const waiting = this.#queue.indexOf(job);
    if (waiting >= 0) {
      this.#queue.splice(waiting, 1);
      job.resolve(NOTHING_DONE);
      return;
    }
    for (const seat of this.#seats) if (seat.job === job) Atomics.store(seat.stopFlag, 0, 1);
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#closing.abort();
    for (const job of this.#queue.splice(0)) job.reject(stopping());
    await Promise.all(this.#portMoves);
    const busy = this.#seats.filter((seat) => seat.job !== undefined);
    await Promise.all(
      busy.map(
        (seat) =>
          new Promise<void>((resolve) => seat.worker.once("message", () => resolve()).once("exit", () => resolve())),
      ),
    );
    await Promise.all(this.#seats.splice(0).map((seat) => this.#dismiss(seat.worker)));
  }

  /**
   * Asks a worker to end and waits for it. It is not terminated: while it is still loading, native code of it may run.
   * One that is stuck in a call of a dead device is left to the end of the process.
   */
  async #dismiss(worker: Worker): Promise<void> {
    const timer = new AbortController();
    const ended = new Promise<void>((resolve) => worker.once("exit", () => resolve()));
    worker.postMessage(null);
    worker.ref();
    await Promise.race([ended, this.#clock.sleep(COPIER_DISMISS_MS, timer.signal)]);
    timer.abort();
    worker.unref();
  }

  #addSeat(): Seat {
    const worker = spawnWorker(import.meta, "./copier-worker");
    const stopFlag = new Int32Array(new SharedArrayBuffer(4));
    const seat: Seat = { worker, stopFlag, busy: false, job: undefined, beganMs: 0 };
    worker.unref();
    worker.on("message", (reply: CopierReply) => this.#replied(seat, reply));
    worker.on("error", (error) => this.#crashed(seat, error));
    worker.on("exit", (code) => this.#crashed(seat, new Error(`it ended with code ${code}`)));
    this.#seats.push(seat);
    return seat;
  }

  #dispatch(): void {
    while (this.#queue.length > 0) {
      const seat = this.#freeSeat();
      if (seat === undefined) {
        this.#makeWay();
        this.#watch();
        return;
      }
      const job = this.#queue.shift();
      if (job === undefined) return;
      seat.job = job;
      seat.busy = true;
      seat.beganMs = this.#clock.monotonicMs();
      seat.worker.ref();
      Atomics.store(seat.stopFlag, 0, 0);
      const message: DirectJob = { ...job.message, stopFlag: seat.stopFlag };
      seat.worker.postMessage(message, [message.runs.buffer as ArrayBuffer]);
    }
  }

  #freeSeat(): Seat | undefined {
    const free = this.#seats.find((seat) => !seat.busy);
    if (free !== undefined) return free;
    if (this.#seats.length < this.#workers || this.#allStuck()) return this.#addSeat();
    return undefined;
  }

  /** When a host waits and no worker is free: the background job that has run longest ends early. */
  #makeWay(): void {
    if (this.#queue[0]?.stop !== undefined) return;
    const background = this.#seats.filter((seat) => seat.job?.stop !== undefined);
    const longest = background.sort((a, b) => a.beganMs - b.beganMs)[0];
    if (longest) Atomics.store(longest.stopFlag, 0, 1);
  }

  #allStuck(): boolean {
    const limitMs = this.#clock.monotonicMs() - COPIER_STUCK_MS;
    return this.#seats.length < COPIER_WORKERS_MAX && this.#seats.every((seat) => seat.beganMs <= limitMs);
  }

  /** While jobs wait: looks again from time to time whether every worker is stuck. */
  #watch(): void {
    if (this.#watching || this.#closing.signal.aborted || this.#seats.length >= COPIER_WORKERS_MAX) return;
    this.#watching = true;
    void this.#clock.sleep(COPIER_STUCK_MS, this.#closing.signal).then(() => {
      this.#watching = false;
      if (!this.#closing.signal.aborted) this.#dispatch();
    });
  }

  #replied(seat: Seat, reply: CopierReply): void {
    if ("result" in reply) seat.job?.resolve(reply.result);
    else if ("error" in reply) seat.job?.reject(fromErrorRecord(reply.error));
    seat.job = undefined;
    seat.worker.unref();
    if (!reply.ready) return;
    seat.busy = false;
    // A worker that was added for stuck ones leaves when there is nothing to do.
    if (this.#queue.length === 0 && this.#seats.length > this.#workers) this.#retire(seat);
    this.#dispatch();
  }

  #retire(seat: Seat): void {
    this.#remove(seat);
    seat.worker.removeAllListeners();
    seat.worker.postMessage(null);
  }

  #crashed(seat: Seat, cause: Error): void {
    if (!this.#remove(seat)) return;
    seat.job?.reject(
      new TidemarkError(
        "INTERNAL",
        {
          message: `a copier worker ended unexpectedly: ${cause.message}`,
          hint: "the copy is tried again with a new one",
        },
        { cause },
      ),
    );
    seat.job = undefined;
    if (!this.#closing.signal.aborted) this.#dispatch();
  }

  #remove(seat: Seat): boolean {
    const index = this.#seats.indexOf(seat);
    if (index >= 0) this.#seats.splice(index, 1);
    return index >= 0;
  }
}

function endOf(device: BlockDevice, side: string): DirectEnd | undefined {
  if (device.direct === undefined) return undefined;
  const { holes, cloneDomain } = device.capabilities;
  const name = "path" in device && typeof device.path === "string" ? device.path : `the ${side}`;
  return { ...device.direct, name, holes, cloneDomain };
}

function readOnly(): TidemarkError {
  return new TidemarkError("READ_ONLY", {
    message: "the destination of a copy is read-only",
    hint: "make its file or device writable and open the volume again",
    metadata: { side: "destination", doneBytes: "0", copiedBytes: "0", zeroedBytes: "0", clonedBytes: "0" },
  });
}

function stopping(): TidemarkError {
  return new TidemarkError("STOPPING", {
    message: "the copier is stopping",
    hint: "repeat after the box has started again",
  });
}

function tooMany(): TidemarkError {
  return new TidemarkError("LIMIT_EXCEEDED", {
    message: `${COPIER_QUEUE_MAX} copy jobs wait already`,
    hint: "wait until some have ended",
  });
}
