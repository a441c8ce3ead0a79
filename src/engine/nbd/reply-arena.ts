/**
 * Replies of a batch, one behind the other, sent with one write.
 *
 * Invariants: `bytes[0, end)` is complete protocol data, except while one reply is being built behind `end`;
 * nothing before `end` changes until the arena is cleared.
 */
import { assert } from "../../base/assert.ts";
import {
  CHUNK,
  CHUNK_FLAG_DONE,
  CHUNK_HEADER_BYTES,
  DATA_CHUNK_HEADER_BYTES,
  highHalf,
  lowHalf,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from "./protocol.ts";
import { ARENA_BYTES } from "./tuning.ts";
import { ViewCache } from "./view-cache.ts";

export class ReplyArena {
  readonly bytes: Buffer = Buffer.allocUnsafeSlow(ARENA_BYTES);
  readonly view: DataView = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length);
  readonly views: ViewCache = new ViewCache(this.bytes);
  end = 0;

  clear(): void {
    this.end = 0;
    this.views.restart();
  }

  fits(lengthBytes: number): boolean {
    return this.end + lengthBytes <= ARENA_BYTES;
  }

  /** Appends a copy; the caller has checked that it fits. */
  append(data: Uint8Array): void {
    assert(this.fits(data.length), "appended data fits");
    this.bytes.set(data, this.end);
    this.end += data.length;
  }

  /** Appends a simple reply without data. */
  appendSimple(cookieHigh: number, cookieLow: number, errno: number): void {
    putSimpleHeader(this.view, this.end, cookieHigh, cookieLow, errno);
    this.end += SIMPLE_REPLY_BYTES;
  }

  /** Appends a final chunk without content. */
  appendNone(cookieHigh: number, cookieLow: number): void {
    putChunkHeader(this.view, this.end, CHUNK_FLAG_DONE, CHUNK.NONE, cookieHigh, cookieLow, 0);
    this.end += CHUNK_HEADER_BYTES;
  }
}

export function putSimpleHeader(
  view: DataView,
  at: number,
  cookieHigh: number,
  cookieLow: number,
  errno: number,
): void {
  view.setUint32(at, SIMPLE_REPLY_MAGIC);
  view.setUint32(at + 4, errno);
  view.setUint32(at + 8, cookieHigh);
  view.setUint32(at + 12, cookieLow);
}

export function putChunkHeader(
  view: DataView,
  at: number,
  flags: number,
  type: number,
  cookieHigh: number,
  cookieLow: number,
  lengthBytes: number,
): void {
  view.setUint32(at, STRUCTURED_REPLY_MAGIC);
  view.setUint16(at + 4, flags);
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, cookieHigh);
  view.setUint32(at + 12, cookieLow);
  view.setUint32(at + 16, lengthBytes);
}

/** Header of an OFFSET_DATA chunk; the data follows at `at + DATA_CHUNK_HEADER_BYTES`. */
export function putDataChunkHeader(
  view: DataView,
  at: number,
  flags: number,
  cookieHigh: number,
  cookieLow: number,
  offsetBytes: number,
  lengthBytes: number,
): void {
  const payload = lengthBytes + DATA_CHUNK_HEADER_BYTES - CHUNK_HEADER_BYTES;
  putChunkHeader(view, at, flags, CHUNK.OFFSET_DATA, cookieHigh, cookieLow, payload);
  view.setUint32(at + 20, highHalf(offsetBytes));
  view.setUint32(at + 24, lowHalf(offsetBytes));
}
