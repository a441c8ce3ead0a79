/**
 * ReadBlocksResponse on the wire with a single copy of the data.
 *
 * grpc-js asks a serialiser for a Buffer, of which it uses two things: `byteLength`, and `copy` into the frame it sends
 * (server-interceptors, serializeMessage). The generated encoder fills two buffers of the message's size before that;
 * with it, taking and freeing that memory costs more than all the rest of a stream. So the serialiser gives the two
 * things and keeps the data where it is. test/server compares every shape of message with the generated encoder, and
 * whole streams with what was written: a change in grpc-js cannot pass unnoticed.
 */
import type { ReadBlocksResponse } from "../../gen/tidemark/v1/data.ts";

/** A response whose data lies in memory that is used again. */
export interface OutgoingBlocks extends ReadBlocksResponse {
  /** Called when the data has been copied into the frame. */
  release?: () => void;
}

const OFFSET_TAG = 0x08;
const DATA_TAG = 0x12;
/** Two tags and two variable-length numbers of at most 10 bytes. */
const HEADER_BYTES_MAX = 22;

export function serializeBlocks(message: OutgoingBlocks): Buffer {
  return new BlocksMessage(message) as unknown as Buffer;
}

/** What grpc-js uses of a Buffer. */
class BlocksMessage {
  readonly byteLength: number;
  readonly #header: Buffer;
  readonly #message: OutgoingBlocks;

  constructor(message: OutgoingBlocks) {
    this.#message = message;
    this.#header = headerOf(message);
    this.byteLength = this.#header.length + message.data.length;
  }

  copy(into: Buffer, at: number): number {
    this.#header.copy(into, at);
    this.#message.data.copy(into, at + this.#header.length);
    this.#message.release?.();
    return this.byteLength;
  }
}

/** Everything of the message before the data: fields in the order of their numbers, empty ones left out. */
function headerOf({ offsetBytes, data }: ReadBlocksResponse): Buffer {
  const header = Buffer.allocUnsafe(HEADER_BYTES_MAX);
  let at = 0;
  if (offsetBytes !== 0n) {
    header[at++] = OFFSET_TAG;
    at = putVarint(header, at, Number(offsetBytes));
  }
  if (data.length > 0) {
    header[at++] = DATA_TAG;
    at = putVarint(header, at, data.length);
  }
  return header.subarray(0, at);
}

/** Writes a number below 2^53 in groups of 7 bits, lowest first. */
function putVarint(into: Buffer, at: number, value: number): number {
  let rest = value;
  let position = at;
  while (rest >= 0x80) {
    into[position++] = (rest % 0x80) | 0x80;
    rest = Math.floor(rest / 0x80);
  }
  into[position++] = rest;
  return position;
}
