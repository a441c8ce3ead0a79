/**
 * Engine client: the engine as the main thread sees it, running in its own thread.
 *
 * Role: turns each call of EngineApi into a message and each answer back into a promise; what methods there are, messages.ts
 * says. Decides nothing.
 * Invariants:
 *   1. At most ENGINE_CALLS_MAX calls are unanswered; more are refused with LIMIT_EXCEEDED.
 *   2. Every call settles: when the thread ends, all pending ones reject (STOPPING when it was stopped, else INTERNAL).
 *   3. Calls reach the engine in the order they were made; events and answers arrive in the order they happened.
 * Bytes given to `write` and `read` move to the engine when they own their memory: the caller must not use them again.
 */
import type { Worker } from "node:worker_threads";
import { systemClock } from "../../base/clock.ts";
import { type ErrorDetail, fromErrorRecord, TidemarkError } from "../../base/errors.ts";
import { STOP_THREAD_MS } from "../../base/limits.ts";
import { spawnWorker } from "../../base/spawn-worker.ts";
import type { EngineApi, EngineEvent } from "../engine-api.ts";
import {
  ENGINE_METHODS,
  type EngineCall,
  type EngineMessage,
  type EngineMethod,
  type MessageBatch,
  ownsItsMemory,
} from "./messages.ts";

/** Unary RPCs and stream chunks that can be under way at once, with room to spare. */
export const ENGINE_CALLS_MAX = 8192;

export interface EngineExit {
  /** True when it was stopped and had everything durable. */
  readonly expected: boolean;
  readonly exitCode: number;
  /** What the thread threw, if anything. */
  readonly error: unknown;
}

export interface EngineClient extends EngineApi {
  /** One listener; called once, when the thread has ended, after all pending calls were rejected. */
  onExit(listener: (exit: EngineExit) => void): void;
}

/** Methods that are sent to the engine's thread as they are called. */
type Forwarded = Omit<EngineApi, "stop" | "onEvent">;

/** Starts the engine thread. It does nothing before `start`. */
export function startEngineThread(): EngineClient {
  return engineClientOf(spawnWorker(import.meta, "./engine-worker"));
}

/** A client over a worker that answers as engine-worker.ts does. */
export function engineClientOf(worker: Worker): EngineClient {
  const link = new EngineLink(worker);
  const methods = ENGINE_METHODS.map((method) => [method, (...args: unknown[]) => link.call(method, args)] as const);
  return {
    // Sound by the list: it has every method of the engine, and the thread calls the one of that name.
    ...(Object.fromEntries(methods) as unknown as Forwarded),
    stop: () => link.stop(),
    onEvent: (listener) => link.onEvent(listener),
    onExit: (listener) => link.onExit(listener),
  };
}

/** The engine's error; what it did not foresee keeps its stack as the cause, for the log. */
function errorOf({ error, trace }: Extract<EngineMessage, { kind: "refusal" }>): TidemarkError {
  if (trace === undefined) return fromErrorRecord(error);
  const cause = new Error(error.detail.message);
  cause.stack = trace;
  return new TidemarkError(error.code, error.detail, { cause });
}

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: TidemarkError) => void;
}

/** The calls under way to a worker that runs engine-worker.ts, and its life. */
class EngineLink {
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  #queue: EngineCall[] = [];
  #nextId = 1;
  #stopping: Promise<void> | undefined;
  #stopped = false;
  #exit: EngineExit | undefined;
  #error: unknown;
  #onEvent: (event: EngineEvent) => void = () => {};
  #onExit: ((exit: EngineExit) => void) | undefined;

  constructor(worker: Worker) {
    this.#worker = worker;
    worker.on("message", (batch: MessageBatch) => {
      for (const message of batch.messages) this.#receive(message);
    });
    worker.on("error", (error) => {
      this.#error = error;
    });
    worker.on("exit", (exitCode) => this.#ended(exitCode));
  }

  onEvent(listener: (event: EngineEvent) => void): void {
    this.#onEvent = listener;
  }

  onExit(listener: (exit: EngineExit) => void): void {
    this.#onExit = listener;
    if (this.#exit !== undefined) listener(this.#exit);
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  call(method: EngineMethod, args: readonly unknown[]): Promise<unknown> {
    if (this.#exit !== undefined || this.#stopping !== undefined) return Promise.reject(this.#ending());
    return this.#post(method, args);
  }

  #post(method: EngineMethod, args: readonly unknown[]): Promise<unknown> {
    if (this.#pending.size >= ENGINE_CALLS_MAX)
      return Promise.reject(
        new TidemarkError("LIMIT_EXCEEDED", {
          message: `${ENGINE_CALLS_MAX} operations are under way`,
          hint: "try again when some have ended",
        }),
      );
    const id = this.#nextId++;
    if (this.#queue.push({ id, method, args }) === 1) setImmediate(() => this.#send());
    return new Promise((resolve, reject) => this.#pending.set(id, { resolve, reject }));
  }

  #send(): void {
    const calls = this.#queue;
    this.#queue = [];
    const transfer: ArrayBuffer[] = [];
    for (const { args } of calls)
      for (const value of args) if (value instanceof Uint8Array && ownsItsMemory(value)) transfer.push(value.buffer);
    this.#worker.postMessage({ calls }, transfer);
  }

  #receive(message: EngineMessage): void {
    if (message.kind === "event") {
      this.#onEvent(message.event);
      return;
    }
    const pending = this.#pending.get(message.id);
    if (pending === undefined) return;
    this.#pending.delete(message.id);
    if (message.kind === "answer") pending.resolve(message.value);
    else pending.reject(errorOf(message));
  }

  async #stop(): Promise<void> {
    if (this.#exit !== undefined) return;
    try {
      await this.#post("stop", []);
    } finally {
      // Also when not everything could be made durable: the caller is told, and the next start recovers.
      this.#stopped = true;
      // A call of a device that does not answer keeps a thread from ending; the process ends with it (server/exit.ts).
      const timer = new AbortController();
      await Promise.race([this.#worker.terminate(), systemClock.sleep(STOP_THREAD_MS, timer.signal)]);
      timer.abort();
      this.#ended(0);
    }
  }

  #ended(exitCode: number): void {
    if (this.#exit !== undefined) return;
    const expected = this.#stopped && this.#error === undefined;
    this.#exit = { expected, exitCode, error: this.#error };
    const error = this.#ending();
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
    this.#onExit?.(this.#exit);
  }

  #ending(): TidemarkError {
    if (this.#exit !== undefined && !this.#exit.expected) {
      const detail: ErrorDetail = { message: "the engine has failed", hint: "the daemon restarts; try again then" };
      return new TidemarkError("INTERNAL", detail, { cause: this.#exit.error });
    }
    return new TidemarkError("STOPPING", { message: "the box is stopping", hint: "try again when it runs again" });
  }
}
