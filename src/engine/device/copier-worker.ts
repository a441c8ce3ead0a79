/** Copier worker: does the moves that mover.ts sends, one after another, with blocking calls. It decides nothing. */
import { parentPort } from "node:worker_threads";
import { assert } from "../../base/assert.ts";
import { systemClock } from "../../base/clock.ts";
import { type ErrorRecord, toErrorRecord } from "../../base/errors.ts";
import type { MoveResult } from "../../base/ports.ts";
import { type DirectJob, DirectMover } from "./move-direct.ts";

/** `ready`: the worker takes the next job at once; else a reply of its own says when. */
export type CopierReply =
  | { readonly result: MoveResult; readonly ready: boolean }
  | { readonly error: ErrorRecord; readonly ready: true }
  | { readonly ready: true };

const port = parentPort;
assert(port !== null, "the copier worker runs in a worker thread");
const mover = new DirectMover(systemClock);
port.on("message", (job: DirectJob | null) => {
  if (job === null) {
    port.close(); // nothing else keeps the thread
    return;
  }
  let reply: CopierReply;
  try {
    reply = { result: mover.move(job), ready: !mover.hasWritten };
  } catch (error) {
    reply = { error: toErrorRecord(error), ready: true };
  }
  port.postMessage(reply);
  if (reply.ready) return;
  mover.startWriteback();
  port.postMessage({ ready: true } satisfies CopierReply);
});
