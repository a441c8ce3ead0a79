/**
 * Handlers: how a plain function becomes a gRPC method.
 *
 * Role: request ids, errors, cancellation and backpressure, once for all services. Services only convert.
 * Invariants: nothing thrown reaches the client but through rich-errors.ts; a stream stops producing when its client has
 * gone or its deadline has passed; a call that was cancelled before it began does nothing.
 */
import type { EventEmitter } from "node:events";
import {
  type handleServerStreamingCall,
  type handleUnaryCall,
  Metadata,
  type ServerWritableStream,
} from "@grpc/grpc-js";
import { type Intent, NO_INTENT } from "../domain/intents.ts";
import type { Recorder } from "../domain/journal.ts";
import { NO_RECORD } from "../domain/journal.ts";
import type { RequestIds } from "../domain/request-ids.ts";
import { requireReadable } from "./readable-request.ts";
import { toRpcError } from "./rich-errors.ts";

/** What a stream that is full waits for: pitfall 3, a wait for `drain` alone may never end. */
const ENDING = ["drain", "cancelled", "close", "error"] as const;

export type LogError = (error: unknown) => void;

/** A method that answers one request and changes nothing. */
export function unary<Request, Response>(
  log: LogError,
  run: (request: Request) => Response | Promise<Response>,
): handleUnaryCall<Request, Response> {
  return (call, callback) => {
    let answer: Response | Promise<Response>;
    try {
      answer = run(requireReadable(call.request));
    } catch (error) {
      callback(toRpcError(error, log));
      return;
    }
    if (answer instanceof Promise)
      answer.then(
        (response) => callback(null, response),
        (error: unknown) => callback(toRpcError(error, log)),
      );
    else callback(null, answer);
  };
}

/** What of a generated method definition is needed. */
export interface MethodDefinition<Request, Response> {
  readonly path: string;
  readonly requestSerialize: (request: Request) => Buffer;
  readonly responseSerialize: (response: Response) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => Response;
}

/** A method that changes something: repeatable with `request_id`. */
export function mutation<Request extends { readonly requestId: string }, Result, Response>(
  parts: { readonly log: LogError; readonly requests: RequestIds },
  method: MethodDefinition<Request, Response>,
  run: (request: Request, record: Recorder<Result>, intent: Intent) => Promise<Result>,
  respond: (result: Result) => Response,
): handleUnaryCall<Request, Response> {
  const execute = async (given: Request): Promise<Response> => {
    const request = requireReadable(given);
    if (request.requestId === "") return respond(await run(request, NO_RECORD, NO_INTENT));
    const bytes = method.requestSerialize(request);
    const identified = { id: request.requestId, method: method.path, bytes };
    const response = await parts.requests.once(identified, async (store, intent) => {
      let stored: Uint8Array | undefined;
      const record: Recorder<Result> = (value) => {
        stored = method.responseSerialize(respond(value));
        return store(stored);
      };
      const result = await run(request, record, intent);
      return stored ?? method.responseSerialize(respond(result));
    });
    return method.responseDeserialize(Buffer.from(response));
  };
  return (call, callback) => {
    if (call.cancelled) return;
    execute(call.request).then(
      (response) => callback(null, response),
      (error: unknown) => callback(toRpcError(error, parts.log)),
    );
  };
}

/** A method that answers with a stream. `run` ends soon after its signal aborts. */
export function serverStream<Request, Response>(
  log: LogError,
  run: (request: Request, signal: AbortSignal) => AsyncIterable<Response>,
): handleServerStreamingCall<Request, Response> {
  return (call) => {
    const gone = new AbortController();
    // Headers at once: a watcher knows that it is served before anything happens.
    call.sendMetadata(new Metadata());
    for (const event of ["cancelled", "close", "error"]) call.once(event, () => gone.abort());
    sendAll(call, run, gone.signal).then(
      () => call.end(),
      (error: unknown) => {
        if (!gone.signal.aborted) call.emit("error", toRpcError(error, log));
      },
    );
  };
}

async function sendAll<Request, Response>(
  call: ServerWritableStream<Request, Response>,
  run: (request: Request, signal: AbortSignal) => AsyncIterable<Response>,
  gone: AbortSignal,
): Promise<void> {
  for await (const message of run(requireReadable(call.request), gone)) {
    if (gone.aborted) return;
    if (!call.write(message)) await drained(call);
  }
}

/** Resolves when the stream takes more, or takes no more at all. */
function drained(call: EventEmitter): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      for (const event of ENDING) call.off(event, end);
      resolve();
    };
    for (const event of ENDING) call.on(event, end);
  });
}
