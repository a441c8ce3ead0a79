/**
 * NBD protocol numbers (fixed newstyle) and the translation of our errors to the protocol's.
 *
 * Role: constants and pure functions. No I/O.
 * Specification: the NBD protocol, "Values"; https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
 */
import type { TidemarkError } from "../../base/errors.ts";

/** 64-bit magic numbers as two halves: the wire is read and written 32 bits at a time, without BigInt. */
export const GREETING_MAGIC_HIGH = 0x4e42444d;
export const GREETING_MAGIC_LOW = 0x41474943;
export const OPTION_MAGIC_HIGH = 0x49484156;
export const OPTION_MAGIC_LOW = 0x454f5054;
export const OPTION_REPLY_MAGIC_HIGH = 0x0003e889;
export const OPTION_REPLY_MAGIC_LOW = 0x045565a9;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

export const OPTION_HEADER_BYTES = 16;
export const REQUEST_BYTES = 28;
export const SIMPLE_REPLY_BYTES = 16;
export const CHUNK_HEADER_BYTES = 20;
/** Chunk header and the 64-bit offset in front of the data of an OFFSET_DATA chunk. */
export const DATA_CHUNK_HEADER_BYTES = 28;
/** "Strings": names and queries are at most this long. */
export const STRING_BYTES_MAX = 4096;

export const HANDSHAKE_FLAGS = { FIXED_NEWSTYLE: 1, NO_ZEROES: 2 } as const;

export const OPTION = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
} as const;

export const REPLY = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_TOO_BIG: 0x80000009,
} as const;

export const INFO = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

export const TRANSMISSION_FLAGS = {
  HAS_FLAGS: 1 << 0,
  READ_ONLY: 1 << 1,
  SEND_FLUSH: 1 << 2,
  SEND_FUA: 1 << 3,
  SEND_TRIM: 1 << 5,
  SEND_WRITE_ZEROES: 1 << 6,
  SEND_DF: 1 << 7,
  CAN_MULTI_CONN: 1 << 8,
  SEND_CACHE: 1 << 10,
  SEND_FAST_ZERO: 1 << 11,
} as const;

export const COMMAND = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;

export const COMMAND_FLAGS = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16 } as const;

/** Flags each command may carry, by command number. FUA "is valid for all commands" once SEND_FUA is offered. */
export const FLAGS_ALLOWED: readonly number[] = [
  COMMAND_FLAGS.FUA | COMMAND_FLAGS.DF,
  COMMAND_FLAGS.FUA,
  COMMAND_FLAGS.FUA,
  COMMAND_FLAGS.FUA,
  COMMAND_FLAGS.FUA,
  COMMAND_FLAGS.FUA,
  COMMAND_FLAGS.FUA | COMMAND_FLAGS.NO_HOLE | COMMAND_FLAGS.FAST_ZERO,
  COMMAND_FLAGS.FUA | COMMAND_FLAGS.REQ_ONE,
];

export const CHUNK_FLAG_DONE = 1;
export const CHUNK = { NONE: 0, OFFSET_DATA: 1, BLOCK_STATUS: 5, ERROR: 0x8001, ERROR_OFFSET: 0x8002 } as const;

/** Status bits: `base:allocation` and `qemu:dirty-bitmap:`. */
export const STATE = { HOLE: 1, ZERO: 2, DIRTY: 1 } as const;

export const ERRNO = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** The protocol's error number for an error of ours met while `command` ran. */
export function errnoOf(error: TidemarkError, command: number): number {
  switch (error.code) {
    case "NO_SPACE":
      return ERRNO.ENOSPC;
    case "READ_ONLY":
    case "PERMISSION_DENIED":
      return ERRNO.EPERM;
    case "RANGE_INVALID":
      return command === COMMAND.WRITE || command === COMMAND.WRITE_ZEROES ? ERRNO.ENOSPC : ERRNO.EINVAL;
    case "INVALID_ARGUMENT":
    case "EPOCH_NOT_FOUND":
      return ERRNO.EINVAL;
    case "MEMORY_EXHAUSTED":
      return ERRNO.ENOMEM;
    case "STOPPING":
      return ERRNO.ESHUTDOWN;
    default:
      return ERRNO.EIO;
  }
}

/** Flags that tell a client what an export can do. */
export function transmissionFlagsOf(export_: { readOnly: boolean; structured: boolean }): number {
  const f = TRANSMISSION_FLAGS;
  const always = f.HAS_FLAGS | f.SEND_FLUSH | f.SEND_FUA | f.CAN_MULTI_CONN | f.SEND_CACHE;
  const writing = export_.readOnly ? f.READ_ONLY : f.SEND_TRIM | f.SEND_WRITE_ZEROES | f.SEND_FAST_ZERO;
  return always | writing | (export_.structured ? f.SEND_DF : 0);
}

/** High half of a 64-bit number that a double holds exactly. */
export function highHalf(value: number): number {
  return Math.floor(value / 2 ** 32);
}

/** Low half, as an unsigned number. */
export function lowHalf(value: number): number {
  return value % 2 ** 32;
}
