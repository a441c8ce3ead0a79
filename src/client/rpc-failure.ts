/**
 * Errors of remote calls, decoded.
 *
 * Role: google.rpc.Status under `grpc-status-details-bin` holds ErrorInfo (reason, metadata, our hint) and BadRequest
 * (the field that is wrong). An unreachable server is explained by looking at the address from here.
 */
import { accessSync, constants, statSync } from "node:fs";
import { type ServiceError, status } from "@grpc/grpc-js";
import { BadRequest, ErrorInfo } from "../gen/google/rpc/error_details.ts";
import { Status } from "../gen/google/rpc/status.ts";
import { DEFAULT_ADDRESS, socketPathOf } from "./address.ts";
import { Failure, type StatusCode } from "./failure.ts";

const DETAILS_KEY = "grpc-status-details-bin";
const ERROR_INFO_TYPE = "type.googleapis.com/google.rpc.ErrorInfo";
const BAD_REQUEST_TYPE = "type.googleapis.com/google.rpc.BadRequest";

/** True for what grpc-js throws or hands to a callback. */
export function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && "details" in error && typeof error.code === "number";
}

/** An error of a call to `address` as a Failure; `undefined` when it is not an error of a call. */
export function failureOfCall(error: unknown, address: string): Failure | undefined {
  if (!isServiceError(error)) return undefined;
  const code = (status[error.code] ?? "UNKNOWN") as StatusCode;
  const { info, field } = detailsOf(error);
  if (info === undefined && code === "UNAVAILABLE") return unreachable(address, error);
  if (info === undefined && code === "DEADLINE_EXCEEDED") {
    return new Failure(code, "the server did not answer in time", {
      hint: "a longer --timeout, or look at the server's log",
    }, { cause: error }); // biome-ignore format: one line per part
  }
  const { hint = "", ...metadata } = info?.metadata ?? {};
  const facts = field === undefined || "field" in metadata ? metadata : { ...metadata, field };
  return new Failure(
    code,
    error.details === "" ? `the server answered ${code}` : error.details,
    { hint, metadata: facts, ...(info === undefined ? {} : { reason: info.reason }) },
    { cause: error },
  );
}

function detailsOf(error: ServiceError): { info: ErrorInfo | undefined; field: string | undefined } {
  const raw = error.metadata?.get(DETAILS_KEY)[0];
  let info: ErrorInfo | undefined;
  let field: string | undefined;
  if (!Buffer.isBuffer(raw)) return { info, field };
  for (const detail of Status.decode(raw).details) {
    if (detail.typeUrl === ERROR_INFO_TYPE) info = ErrorInfo.decode(detail.value);
    if (detail.typeUrl === BAD_REQUEST_TYPE) field = BadRequest.decode(detail.value).fieldViolations[0]?.field;
  }
  return { info, field };
}

/** Why nothing answers at `address`, as far as it can be seen from here. */
function unreachable(address: string, error: ServiceError): Failure {
  const name = "name its address with --address or TIDEMARK_ADDRESS, such as unix:DIR/run/api.sock";
  const start = "start a server with `tidemark serve --data DIR`";
  const options = { cause: error };
  const metadata = { address };
  const path = socketPathOf(address);
  const cannot = `cannot reach the server at ${address}`;
  if (path === undefined) {
    return new Failure(
      "UNAVAILABLE",
      cannot,
      { reason: "UNREACHABLE", hint: `${start}, or ${name}`, metadata },
      options,
    );
  }
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) {
    const where = address === DEFAULT_ADDRESS ? " (the default address)" : "";
    const message = `${cannot}${where}: there is no such socket`;
    return new Failure(
      "UNAVAILABLE",
      message,
      { reason: "UNREACHABLE", hint: `${start}, or ${name}`, metadata },
      options,
    );
  }
  if (!found.isSocket()) {
    const message = `${cannot}: that is not a socket`;
    return new Failure("UNAVAILABLE", message, { reason: "UNREACHABLE", hint: name, metadata }, options);
  }
  if (!mayConnect(path)) {
    const hint = "run it as the user, or as a member of the group, that owns the socket";
    const message = `${cannot}: no permission to use the socket`;
    return new Failure("PERMISSION_DENIED", message, { reason: "SOCKET_PERMISSION", hint, metadata }, options);
  }
  const message = `${cannot}: nothing listens there any more`;
  return new Failure(
    "UNAVAILABLE",
    message,
    { reason: "UNREACHABLE", hint: `${start}, or ${name}`, metadata },
    options,
  );
}

function mayConnect(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
