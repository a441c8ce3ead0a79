/**
 * Errors: one class, one closed list of codes.
 *
 * A code says what went wrong; `message` says it of this object; `hint` says what to do next.
 * The server maps each code once to a gRPC status and to the vendor message ids (server/error-table.ts).
 * Programs branch on `code` only.
 */
export const ERROR_CODES = [
  "INVALID_ARGUMENT",
  "PAGE_TOKEN_INVALID",
  "REQUEST_ID_REUSED",
  "LIMIT_EXCEEDED",
  "RANGE_INVALID",
  "VOLUME_NOT_FOUND",
  "VOLUME_EXISTS",
  "VOLUME_BUSY",
  "VOLUME_SHRUNK",
  "VOLUME_CHANGED_OUTSIDE",
  "VOLUME_UNAVAILABLE",
  "OUT_OF_SERVICE",
  "LABEL_EXISTS",
  "SIZE_INVALID",
  "PATH_NOT_FOUND",
  "PATH_EXISTS",
  "PATH_NOT_USABLE",
  "PATH_REGISTERED",
  "PATH_MOUNTED",
  "PATH_HELD",
  "PERMISSION_DENIED",
  "PARTITION_NOT_FOUND",
  "PARTITION_UNALIGNED",
  "EXPORT_NOT_FOUND",
  "EXPORT_EXISTS",
  "EXPORT_BUSY",
  "NBD_NOT_LISTENING",
  "SESSION_NOT_FOUND",
  "SOURCE_IS_DESTINATION",
  "DESTINATION_TOO_SMALL",
  "DESTINATION_IN_USE",
  "DESTINATION_COPYING",
  "SOURCE_UNREADABLE",
  "COPY_CYCLE",
  "REVERSE_NOT_OPC",
  "COPY_STATE",
  "NOT_TRACKING",
  "EPOCH_NOT_FOUND",
  "BARRIER_TIMEOUT",
  "MEDIUM_ERROR",
  "NO_SPACE",
  "SNAP_OVERFLOW",
  "KEY_INVALID",
  "DEVICE_GONE",
  "DEVICE_TIMEOUT",
  "READ_ONLY",
  "MEMORY_EXHAUSTED",
  "STATE_DIRECTORY_LOCKED",
  "STATE_DIRECTORY_INVALID",
  "SCHEMA_TOO_NEW",
  "METADATA_CORRUPT",
  "METADATA_WRITE_FAILED",
  "STOPPING",
  "INTERNAL",
] as const;

export type ErrorCode = (typeof ERROR_CODES)[number];

export interface ErrorDetail {
  /** One sentence about this object; no final instruction. */
  readonly message: string;
  /** What the user can do next. */
  readonly hint?: string;
  /** Request field that is wrong, in proto spelling. */
  readonly field?: string;
  /** Facts for programs, such as the path, the holder or the offset. */
  readonly metadata?: Readonly<Record<string, string>>;
}

export class TidemarkError extends Error {
  readonly code: ErrorCode;
  readonly detail: ErrorDetail;
  constructor(code: ErrorCode, detail: ErrorDetail, options?: ErrorOptions) {
    super(detail.message, options);
    this.name = "TidemarkError";
    this.code = code;
    this.detail = detail;
  }
}

/** The form in which an error crosses a thread. */
export interface ErrorRecord {
  readonly code: ErrorCode;
  readonly detail: ErrorDetail;
}

/** Any thrown value as a TidemarkError; what is not ours becomes INTERNAL with its cause kept. */
export function asTidemarkError(error: unknown): TidemarkError {
  if (error instanceof TidemarkError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new TidemarkError("INTERNAL", { message: `internal error: ${message}` }, { cause: error });
}

export function toErrorRecord(error: unknown): ErrorRecord {
  const { code, detail } = asTidemarkError(error);
  return { code, detail };
}

export function fromErrorRecord(record: ErrorRecord): TidemarkError {
  return new TidemarkError(record.code, record.detail);
}
