/**
 * ReadBlocksResponse as bytes, with one copy of the data: the generated encoder makes two, which costs a quarter of the
 * stream's throughput. test/server compares both on every shape of message.
 */
import type { ReadBlocksResponse } from "../../gen/tidemark/v1/data.ts";

const OFFSET_TAG = 0x08;
const DATA_TAG = 0x12;
/** Two tags and two variable-length numbers of at most 10 bytes. */
const HEADER_BYTES_MAX = 22;

export function readBlocksResponseBytes({ offsetBytes, data }: ReadBlocksResponse): Buffer {
  const message = Buffer.allocUnsafe(HEADER_BYTES_MAX + data.length);
  let at = 0;
  if (offsetBytes !== 0n) {
    message[at++] = OFFSET_TAG;
    at = putVarint(message, at, Number(offsetBytes));
  }
  if (data.length > 0) {
    message[at++] = DATA_TAG;
    at = putVarint(message, at, data.length);
    at += data.copy(message, at);
  }
  return message.subarray(0, at);
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
