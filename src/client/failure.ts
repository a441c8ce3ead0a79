/**
 * What went wrong, as the command line says it, and the exit code that belongs to it.
 *
 * Role: the only place that turns any thrown value into a message, a hint and an exit code.
 * Invariants:
 *   1. Exit codes are stable; they are listed in README.md and by `tidemark help exit-codes`.
 *   2. The exit code follows from the status code, never from a text.
 *   3. This file loads nothing: gRPC errors are recognised by shape and decoded by rpc-failure.ts.
 */

/** gRPC status names, and three of our own for what no server can report. */
export type StatusCode =
  | "CANCELLED"
  | "UNKNOWN"
  | "INVALID_ARGUMENT"
  | "DEADLINE_EXCEEDED"
  | "NOT_FOUND"
  | "ALREADY_EXISTS"
  | "PERMISSION_DENIED"
  | "RESOURCE_EXHAUSTED"
  | "FAILED_PRECONDITION"
  | "ABORTED"
  | "OUT_OF_RANGE"
  | "UNIMPLEMENTED"
  | "INTERNAL"
  | "UNAVAILABLE"
  | "DATA_LOSS"
  | "UNAUTHENTICATED"
  | "USAGE"
  | "COPY_FAILED"
  | "INTERRUPTED";

export const EXIT_OK = 0;
export const EXIT_FAILURE = 1;
export const EXIT_USAGE = 2;
export const EXIT_NOT_FOUND = 3;
export const EXIT_REFUSED = 4;
export const EXIT_UNREACHABLE = 5;
export const EXIT_PERMISSION = 6;
export const EXIT_COPY_FAILED = 7;
export const EXIT_TIMEOUT = 8;
export const EXIT_INTERRUPTED = 130;
/** 128 + SIGPIPE: what a program ended by that signal reports. */
export const EXIT_READER_GONE = 141;

/** Every exit code and its meaning, in the order in which help shows them. */
export const EXIT_CODES: readonly (readonly [code: number, meaning: string])[] = [
  [EXIT_OK, "done"],
  [EXIT_FAILURE, "the server reported a failure that has no code of its own, or doctor, fsck or scrub found something"],
  [EXIT_USAGE, "the command line is wrong, or an argument is (INVALID_ARGUMENT, OUT_OF_RANGE)"],
  [EXIT_NOT_FOUND, "a volume, export, copy, path or epoch does not exist (NOT_FOUND)"],
  [EXIT_REFUSED, "the present state does not allow it (FAILED_PRECONDITION, ALREADY_EXISTS, ABORTED)"],
  [EXIT_UNREACHABLE, "the server cannot be reached (UNAVAILABLE)"],
  [EXIT_PERMISSION, "not permitted (PERMISSION_DENIED, UNAUTHENTICATED)"],
  [EXIT_COPY_FAILED, "a copy failed or was cancelled while the command waited for it"],
  [EXIT_TIMEOUT, "the time given by --timeout, or the server's own limit, ran out (DEADLINE_EXCEEDED)"],
  [EXIT_INTERRUPTED, "interrupted (Ctrl-C)"],
  [EXIT_READER_GONE, "the program that read the output went away"],
];

const EXIT_CODE_OF: Record<StatusCode, number> = {
  CANCELLED: EXIT_INTERRUPTED,
  UNKNOWN: EXIT_FAILURE,
  INVALID_ARGUMENT: EXIT_USAGE,
  DEADLINE_EXCEEDED: EXIT_TIMEOUT,
  NOT_FOUND: EXIT_NOT_FOUND,
  ALREADY_EXISTS: EXIT_REFUSED,
  PERMISSION_DENIED: EXIT_PERMISSION,
  RESOURCE_EXHAUSTED: EXIT_FAILURE,
  FAILED_PRECONDITION: EXIT_REFUSED,
  ABORTED: EXIT_REFUSED,
  OUT_OF_RANGE: EXIT_USAGE,
  UNIMPLEMENTED: EXIT_FAILURE,
  INTERNAL: EXIT_FAILURE,
  UNAVAILABLE: EXIT_UNREACHABLE,
  DATA_LOSS: EXIT_FAILURE,
  UNAUTHENTICATED: EXIT_PERMISSION,
  USAGE: EXIT_USAGE,
  COPY_FAILED: EXIT_COPY_FAILED,
  INTERRUPTED: EXIT_INTERRUPTED,
};

export interface FailureDetail {
  /** Stable reason, such as VOLUME_NOT_FOUND; the status code itself when there is none. */
  readonly reason?: string;
  /** What to do next. */
  readonly hint?: string;
  /** Facts for programs. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** An error the command line reports; everything else that is thrown is turned into one by `asFailure`. */
export class Failure extends Error {
  readonly code: StatusCode;
  readonly reason: string;
  readonly hint: string;
  readonly metadata: Readonly<Record<string, string>>;
  constructor(code: StatusCode, message: string, detail: FailureDetail = {}, options?: ErrorOptions) {
    super(message, options);
    this.name = "Failure";
    this.code = code;
    this.reason = detail.reason ?? code;
    this.hint = detail.hint ?? "";
    this.metadata = detail.metadata ?? {};
  }
  get exitCode(): number {
    return EXIT_CODE_OF[this.code];
  }
}

/** A mistake on the command line. */
export function usageError(message: string, hint = "tidemark help"): Failure {
  return new Failure("USAGE", message, { hint });
}

/** Any thrown value as a Failure. A value that is not ours keeps its message and its cause. */
export function asFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  const message = error instanceof Error ? error.message : String(error);
  const errno = error instanceof Error && "code" in error ? String(error.code) : "";
  if (errno === "EACCES" || errno === "EPERM") {
    return new Failure("PERMISSION_DENIED", message, { hint: "run it as a user who may do this" }, { cause: error });
  }
  if (error instanceof Error && "syscall" in error && error.syscall === "uv_cwd") {
    const hint = "change to a directory that exists, or give absolute paths";
    return new Failure("USAGE", "the working directory no longer exists", { hint }, { cause: error });
  }
  return new Failure(
    "INTERNAL",
    message,
    { hint: "report this with the output of `tidemark doctor`" },
    { cause: error },
  );
}

/** The two lines for people. The second is missing when there is no hint. */
export function failureText(failure: Failure): string {
  const first = `tidemark: ${failure.message} (${failure.reason})\n`;
  return failure.hint === "" ? first : `${first}  try: ${failure.hint}\n`;
}

/** One JSON object for programs. */
export function failureJson(failure: Failure): string {
  const { code, reason, message, hint, metadata } = failure;
  return `${JSON.stringify({ code, reason, message, hint, metadata })}\n`;
}
