/** Messages of the handshake, as bytes. Pure functions; layouts as in the NBD protocol, "Handshake". */
import {
  GREETING_MAGIC_HIGH,
  GREETING_MAGIC_LOW,
  HANDSHAKE_FLAGS,
  highHalf,
  INFO,
  lowHalf,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
  OPTION_REPLY_MAGIC_HIGH,
  OPTION_REPLY_MAGIC_LOW,
} from "./protocol.ts";

const EXPORT_NAME_PADDING_BYTES = 124;

export function greeting(): Buffer {
  const message = Buffer.alloc(18);
  message.writeUInt32BE(GREETING_MAGIC_HIGH, 0);
  message.writeUInt32BE(GREETING_MAGIC_LOW, 4);
  message.writeUInt32BE(OPTION_MAGIC_HIGH, 8);
  message.writeUInt32BE(OPTION_MAGIC_LOW, 12);
  message.writeUInt16BE(HANDSHAKE_FLAGS.FIXED_NEWSTYLE | HANDSHAKE_FLAGS.NO_ZEROES, 16);
  return message;
}

export function optionReply(option: number, reply: number, data: Uint8Array = new Uint8Array(0)): Buffer {
  const message = Buffer.alloc(20 + data.length);
  message.writeUInt32BE(OPTION_REPLY_MAGIC_HIGH, 0);
  message.writeUInt32BE(OPTION_REPLY_MAGIC_LOW, 4);
  message.writeUInt32BE(option, 8);
  message.writeUInt32BE(reply, 12);
  message.writeUInt32BE(data.length, 16);
  message.set(data, 20);
  return message;
}

/** The answer to EXPORT_NAME, which has a form of its own. */
export function exportNameReply(
  sizeBytes: number,
  flags: number,
  options: { readonly padding: "zeroes" | "none" },
): Buffer {
  const message = Buffer.alloc(10 + (options.padding === "zeroes" ? EXPORT_NAME_PADDING_BYTES : 0));
  writeUint64(message, sizeBytes, 0);
  message.writeUInt16BE(flags, 8);
  return message;
}

/** Data of REP_SERVER. */
export function serverReply(name: string): Buffer {
  const text = Buffer.from(name);
  const data = Buffer.alloc(4 + text.length);
  data.writeUInt32BE(text.length, 0);
  data.set(text, 4);
  return data;
}

/** Data of REP_META_CONTEXT. */
export function metaContextReply(context: { readonly id: number; readonly name: string }): Buffer {
  const text = Buffer.from(context.name);
  const data = Buffer.alloc(4 + text.length);
  data.writeUInt32BE(context.id, 0);
  data.set(text, 4);
  return data;
}

export function infoExport(sizeBytes: number, flags: number): Buffer {
  const data = Buffer.alloc(12);
  data.writeUInt16BE(INFO.EXPORT, 0);
  writeUint64(data, sizeBytes, 2);
  data.writeUInt16BE(flags, 10);
  return data;
}

export function infoText(type: number, text: string): Buffer {
  const data = Buffer.alloc(2 + Buffer.byteLength(text));
  data.writeUInt16BE(type, 0);
  data.write(text, 2);
  return data;
}

export function infoBlockSize(sizes: { minimum: number; preferred: number; maximum: number }): Buffer {
  const data = Buffer.alloc(14);
  data.writeUInt16BE(INFO.BLOCK_SIZE, 0);
  data.writeUInt32BE(sizes.minimum, 2);
  data.writeUInt32BE(sizes.preferred, 6);
  data.writeUInt32BE(sizes.maximum, 10);
  return data;
}

function writeUint64(target: Buffer, value: number, at: number): void {
  target.writeUInt32BE(highHalf(value), at);
  target.writeUInt32BE(lowHalf(value), at + 4);
}
