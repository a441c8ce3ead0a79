/**
 * Answers of the transmission phase, put into the channel's arena.
 *
 * Invariants: a request gets exactly one final answer; with structured replies every error carries a text for people,
 * without them a number has to do. Nothing is sent here: the caller decides when a batch is complete.
 */
import { AssertionError } from "../../base/assert.ts";
import { asTidemarkError } from "../../base/errors.ts";
import type { Channel } from "./channel.ts";
import {
  CHUNK,
  CHUNK_FLAG_DONE,
  CHUNK_HEADER_BYTES,
  COMMAND,
  ERRNO,
  errnoOf,
  highHalf,
  lowHalf,
  SIMPLE_REPLY_BYTES,
} from "./protocol.ts";
import { putChunkHeader } from "./reply-arena.ts";
import type { Descriptors } from "./status.ts";

const ERROR_TEXT_BYTES_MAX = 1024;
const NO_TEXT = new Uint8Array(0);

/** The 64-bit number by which the client knows its request, in halves. */
export interface Cookie {
  readonly cookieHigh: number;
  readonly cookieLow: number;
}

/** Why a request is refused before anything is done. */
export interface Refusal {
  readonly errno: number;
  readonly text: string;
}

export class Replier {
  readonly #channel: Channel;
  readonly structured: boolean;

  constructor(channel: Channel, structured: boolean) {
    this.#channel = channel;
    this.structured = structured;
  }

  /** Success without data, of any command but READ. */
  done(cookieHigh: number, cookieLow: number): void {
    this.#channel.reserve(SIMPLE_REPLY_BYTES).appendSimple(cookieHigh, cookieLow, 0);
  }

  /** Success of a READ of zero bytes: a data chunk must not be empty. */
  emptyRead(cookieHigh: number, cookieLow: number): void {
    if (this.structured) this.#channel.reserve(CHUNK_HEADER_BYTES).appendNone(cookieHigh, cookieLow);
    else this.done(cookieHigh, cookieLow);
  }

  refused(cookieHigh: number, cookieLow: number, refusal: Refusal): void {
    this.#error(cookieHigh, cookieLow, refusal.errno, refusal.text, undefined);
  }

  /** A failed command. Assertions are mistakes of ours and go on. `offsetBytes`: where, if a client may rely on it. */
  failed(cookieHigh: number, cookieLow: number, command: number, error: unknown, offsetBytes?: number): void {
    if (error instanceof AssertionError) throw error;
    const known = asTidemarkError(error);
    const errno = errnoOf(known, command);
    const text = known.code === "INTERNAL" ? "internal error" : known.message;
    this.#error(cookieHigh, cookieLow, errno === ERRNO.ENOTSUP ? ERRNO.EINVAL : errno, text, offsetBytes);
  }

  /** One chunk of block status; `last` ends the answer. */
  status(cookie: Cookie, contextId: number, words: Descriptors, place: "last" | "more"): void {
    const length = 4 + words.length * 4;
    const arena = this.#channel.reserve(CHUNK_HEADER_BYTES + length);
    const { view, end } = arena;
    const flags = place === "last" ? CHUNK_FLAG_DONE : 0;
    putChunkHeader(view, end, flags, CHUNK.BLOCK_STATUS, cookie.cookieHigh, cookie.cookieLow, length);
    let at = end + CHUNK_HEADER_BYTES;
    view.setUint32(at, contextId);
    for (const word of words) {
      at += 4;
      view.setUint32(at, word);
    }
    arena.end = end + CHUNK_HEADER_BYTES + length;
  }

  #error(high: number, low: number, errno: number, text: string, offsetBytes: number | undefined): void {
    if (!this.structured) {
      this.#channel.reserve(SIMPLE_REPLY_BYTES).appendSimple(high, low, errno);
      return;
    }
    const message = text === "" ? NO_TEXT : Buffer.from(text).subarray(0, ERROR_TEXT_BYTES_MAX);
    const length = 6 + message.length + (offsetBytes === undefined ? 0 : 8);
    const arena = this.#channel.reserve(CHUNK_HEADER_BYTES + length);
    const { view, end } = arena;
    const type = offsetBytes === undefined ? CHUNK.ERROR : CHUNK.ERROR_OFFSET;
    putChunkHeader(view, end, CHUNK_FLAG_DONE, type, high, low, length);
    const at = end + CHUNK_HEADER_BYTES;
    view.setUint32(at, errno);
    view.setUint16(at + 4, message.length);
    arena.bytes.set(message, at + 6);
    if (offsetBytes !== undefined) {
      view.setUint32(at + 6 + message.length, highHalf(offsetBytes));
      view.setUint32(at + 10 + message.length, lowHalf(offsetBytes));
    }
    arena.end = at + length;
  }
}

/** Refusals, by reason. */
export const REFUSED = {
  unknownCommand: { errno: ERRNO.EINVAL, text: "unknown command" },
  flags: { errno: ERRNO.EINVAL, text: "flag not valid for this command" },
  flushRange: { errno: ERRNO.EINVAL, text: "flush has no offset and no length" },
  tooLong: { errno: ERRNO.EINVAL, text: "request is longer than the maximum block size" },
  tooLongUnfragmented: { errno: ERRNO.EOVERFLOW, text: "request is too long to be answered in one piece" },
  beyondEnd: { errno: ERRNO.EINVAL, text: "request reaches beyond the end of the export" },
  writeBeyondEnd: { errno: ERRNO.ENOSPC, text: "request reaches beyond the end of the export" },
  readOnly: { errno: ERRNO.EPERM, text: "export is read-only" },
  noContext: { errno: ERRNO.EINVAL, text: "no metadata context was selected" },
  emptyStatus: { errno: ERRNO.EINVAL, text: "block status of zero bytes" },
  notFast: { errno: ERRNO.ENOTSUP, text: "zeroing this range would not be fast" },
  stopping: { errno: ERRNO.ESHUTDOWN, text: "server is stopping" },
} as const satisfies Record<string, Refusal>;

/** What is refused when a range reaches beyond the end. */
export function beyondEndOf(command: number): Refusal {
  return command === COMMAND.WRITE || command === COMMAND.WRITE_ZEROES ? REFUSED.writeBeyondEnd : REFUSED.beyondEnd;
}
