/**
 * Engine thread: entry point of the worker that owns all volumes.
 *
 * Role: builds the engine, hands it the calls that arrive, sends answers and events back, in order, in batches.
 * A failed assertion is our mistake: it ends the thread (and with it the daemon) instead of becoming an answer, since
 * nothing that follows could be trusted (data-safety §2.9). The next start recovers.
 */
import { parentPort } from "node:worker_threads";
import { AssertionError, assert } from "../../base/assert.ts";
import { TidemarkError, toErrorRecord } from "../../base/errors.ts";
import { createEngine } from "../engine.ts";
import { type CallBatch, type EngineCall, type EngineMessage, isEngineMethod, ownsItsMemory } from "./messages.ts";

assert(parentPort !== null, "engine-worker runs in a worker thread");
const port = parentPort;
const engine = await createEngine();
let outgoing: EngineMessage[] = [];

function send(message: EngineMessage): void {
  if (outgoing.push(message) === 1) setImmediate(flush);
}

function flush(): void {
  const messages = outgoing;
  outgoing = [];
  const transfer = new Set<ArrayBuffer>();
  for (const message of messages)
    if (message.kind === "answer" && message.value instanceof Uint8Array && ownsItsMemory(message.value))
      transfer.add(message.value.buffer);
  port.postMessage({ messages }, [...transfer]);
}

async function carryOut({ id, method, args }: EngineCall): Promise<void> {
  try {
    assert(isEngineMethod(method), `the engine has no method ${String(method)}`);
    const run = engine[method] as (...values: readonly unknown[]) => Promise<unknown>;
    const value = await run.apply(engine, [...args]);
    // Bytes that are part of a larger memory would drag all of it along.
    const own = value instanceof Uint8Array && !ownsItsMemory(value) ? Uint8Array.from(value) : value;
    send({ kind: "answer", id, value: own });
  } catch (error) {
    if (error instanceof AssertionError) throw error;
    const trace = error instanceof TidemarkError ? undefined : error instanceof Error ? error.stack : String(error);
    send({ kind: "refusal", id, error: toErrorRecord(error), trace });
  }
}

engine.onEvent((event) => send({ kind: "event", event }));
port.on("message", (batch: CallBatch) => {
  for (const call of batch.calls) void carryOut(call);
});
