/**
 * Error table: what each code of base/errors.ts is on the wire. A new code does not compile until it is here.
 *
 * `status` is the gRPC status; programs branch on the code itself, which travels as ErrorInfo.reason.
 * The vendor command families add their message ids here when they come.
 */
import type { status } from "@grpc/grpc-js";
import type { ErrorCode } from "../base/errors.ts";

export interface ErrorReply {
  readonly status: keyof typeof status;
}

export const ERROR_TABLE = {
  INVALID_ARGUMENT: { status: "INVALID_ARGUMENT" },
  PAGE_TOKEN_INVALID: { status: "INVALID_ARGUMENT" },
  REQUEST_ID_REUSED: { status: "INVALID_ARGUMENT" },
  LIMIT_EXCEEDED: { status: "RESOURCE_EXHAUSTED" },
  RANGE_INVALID: { status: "OUT_OF_RANGE" },
  VOLUME_NOT_FOUND: { status: "NOT_FOUND" },
  VOLUME_EXISTS: { status: "ALREADY_EXISTS" },
  VOLUME_BUSY: { status: "FAILED_PRECONDITION" },
  VOLUME_SHRUNK: { status: "FAILED_PRECONDITION" },
  VOLUME_CHANGED_OUTSIDE: { status: "FAILED_PRECONDITION" },
  VOLUME_UNAVAILABLE: { status: "FAILED_PRECONDITION" },
  OUT_OF_SERVICE: { status: "FAILED_PRECONDITION" },
  LABEL_EXISTS: { status: "ALREADY_EXISTS" },
  SIZE_INVALID: { status: "FAILED_PRECONDITION" },
  PATH_NOT_FOUND: { status: "NOT_FOUND" },
  PATH_EXISTS: { status: "ALREADY_EXISTS" },
  PATH_NOT_USABLE: { status: "FAILED_PRECONDITION" },
  PATH_REGISTERED: { status: "ALREADY_EXISTS" },
  PATH_MOUNTED: { status: "FAILED_PRECONDITION" },
  PATH_HELD: { status: "FAILED_PRECONDITION" },
  PERMISSION_DENIED: { status: "PERMISSION_DENIED" },
  PARTITION_NOT_FOUND: { status: "NOT_FOUND" },
  PARTITION_UNALIGNED: { status: "FAILED_PRECONDITION" },
  EXPORT_NOT_FOUND: { status: "NOT_FOUND" },
  EXPORT_EXISTS: { status: "ALREADY_EXISTS" },
  EXPORT_BUSY: { status: "FAILED_PRECONDITION" },
  NBD_NOT_LISTENING: { status: "FAILED_PRECONDITION" },
  SESSION_NOT_FOUND: { status: "NOT_FOUND" },
  SOURCE_IS_DESTINATION: { status: "FAILED_PRECONDITION" },
  DESTINATION_TOO_SMALL: { status: "FAILED_PRECONDITION" },
  DESTINATION_IN_USE: { status: "FAILED_PRECONDITION" },
  DESTINATION_COPYING: { status: "FAILED_PRECONDITION" },
  SOURCE_UNREADABLE: { status: "FAILED_PRECONDITION" },
  COPY_CYCLE: { status: "FAILED_PRECONDITION" },
  REVERSE_NOT_OPC: { status: "FAILED_PRECONDITION" },
  COPY_STATE: { status: "FAILED_PRECONDITION" },
  NOT_TRACKING: { status: "FAILED_PRECONDITION" },
  EPOCH_NOT_FOUND: { status: "NOT_FOUND" },
  BARRIER_TIMEOUT: { status: "DEADLINE_EXCEEDED" },
  MEDIUM_ERROR: { status: "DATA_LOSS" },
  NO_SPACE: { status: "RESOURCE_EXHAUSTED" },
  SNAP_OVERFLOW: { status: "RESOURCE_EXHAUSTED" },
  KEY_INVALID: { status: "FAILED_PRECONDITION" },
  DEVICE_GONE: { status: "FAILED_PRECONDITION" },
  DEVICE_TIMEOUT: { status: "DEADLINE_EXCEEDED" },
  READ_ONLY: { status: "FAILED_PRECONDITION" },
  MEMORY_EXHAUSTED: { status: "RESOURCE_EXHAUSTED" },
  STATE_DIRECTORY_LOCKED: { status: "FAILED_PRECONDITION" },
  STATE_DIRECTORY_INVALID: { status: "FAILED_PRECONDITION" },
  SCHEMA_TOO_NEW: { status: "FAILED_PRECONDITION" },
  METADATA_CORRUPT: { status: "DATA_LOSS" },
  METADATA_WRITE_FAILED: { status: "RESOURCE_EXHAUSTED" },
  STOPPING: { status: "UNAVAILABLE" },
  INTERNAL: { status: "INTERNAL" },
} as const satisfies Record<ErrorCode, ErrorReply>;
