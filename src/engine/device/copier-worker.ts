/** Copier worker: does the moves that mover.ts sends, one after another, with blocking calls. It decides nothing. */
import { parentPort } from "node:worker_threads";
import { assert } from "../../base/assert.ts";
import { systemClock } from "../../base/clock.ts";
import { type ErrorRecord, toErrorRecord } from "../../base/errors.ts";
import type { MoveResult } from "../../base/ports.ts";
import { type DirectJob, DirectMover } from "./move-direct.ts";

export type CopierReply = { readonly result: MoveResult } | { readonly error: ErrorRecord };

const port = parentPort;
assert(port !== null, "the copier worker runs in a worker thread");
const mover = new DirectMover(systemClock);
port.on("message", (job: DirectJob) => {
  let reply: CopierReply;
  try {
    reply = { result: mover.move(job) };
  } catch (error) {
    reply = { error: toErrorRecord(error) };
  }
  port.postMessage(reply);
});
