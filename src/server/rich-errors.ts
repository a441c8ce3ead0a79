/**
 * Rich errors: the one funnel from a thrown value to what a gRPC client sees.
 *
 * A TidemarkError becomes its status, its message, and google.rpc.Status in `grpc-status-details-bin` with
 *   - ErrorInfo: reason = our code, domain = "tidemark", metadata = facts, and `hint` = what to do next;
 *   - BadRequest, when a field of the request is wrong.
 * Anything else, and INTERNAL, leaks nothing: the client gets a generic text, the log gets the error.
 */
import { Metadata, status } from "@grpc/grpc-js";
import { asTidemarkError, type TidemarkError } from "../base/errors.ts";
import type { Any } from "../gen/google/protobuf/any.ts";
import { BadRequest, ErrorInfo } from "../gen/google/rpc/error_details.ts";
import { Status } from "../gen/google/rpc/status.ts";
import { ERROR_TABLE } from "./error-table.ts";

export const ERROR_DOMAIN = "tidemark";
export const DETAILS_KEY = "grpc-status-details-bin";
const TYPE_PREFIX = "type.googleapis.com/google.rpc.";
const INTERNAL_TEXT = "internal error; the daemon's log says more";
/** A server sends metadata of at most 8 KiB; the texts of one error stay well below. */
const TEXT_LENGTH_MAX = 1500;

/** The form in which grpc-js takes an error. */
export class RpcError extends Error {
  readonly code: status;
  readonly details: string;
  readonly metadata: Metadata;
  constructor(code: status, details: string, metadata: Metadata) {
    super(details);
    this.code = code;
    this.details = details;
    this.metadata = metadata;
  }
}

/** Any thrown value as what the client sees. `log` gets what must not be told. */
export function toRpcError(error: unknown, log: (error: unknown) => void): RpcError {
  const known = asTidemarkError(error);
  if (known.code !== "INTERNAL") return rpcErrorOf(known, known.message);
  log(error);
  return rpcErrorOf(known, INTERNAL_TEXT);
}

function rpcErrorOf({ code: reason, detail }: TidemarkError, text: string): RpcError {
  const internal = reason === "INTERNAL";
  const message = shorten(text);
  const facts: Record<string, string> = internal ? {} : { ...detail.metadata };
  if (detail.hint !== undefined && !internal) facts["hint"] = detail.hint;
  const metadata = Object.fromEntries(Object.entries(facts).map(([key, value]) => [key, shorten(value)]));
  const details = [packed("ErrorInfo", ErrorInfo.encode({ reason, domain: ERROR_DOMAIN, metadata }).finish())];
  if (detail.field !== undefined && !internal) {
    const violation = { field: detail.field, description: message, reason, localizedMessage: undefined };
    details.push(packed("BadRequest", BadRequest.encode({ fieldViolations: [violation] }).finish()));
  }
  const code = status[ERROR_TABLE[reason].status];
  const carrier = new Metadata();
  carrier.set(DETAILS_KEY, Buffer.from(Status.encode({ code, message, details }).finish()));
  return new RpcError(code, message, carrier);
}

function packed(type: string, value: Uint8Array): Any {
  return { typeUrl: TYPE_PREFIX + type, value: Buffer.from(value) };
}

function shorten(text: string): string {
  return text.length <= TEXT_LENGTH_MAX ? text : `${text.slice(0, TEXT_LENGTH_MAX)}...`;
}
