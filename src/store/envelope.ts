/**
 * Envelope: what stands around each value in the store.
 *
 *   byte 0      format version, 2
 *   bytes 1-4   CRC-32C, little endian, of the version, the key in UTF-8 and the body
 *   bytes 5-    body: a message of tidemark.store.v1
 *
 * The key is part of the checksum: a value that turns up under another key is noticed. LevelDB checks its blocks only
 * when asked to and drops damaged log records silently (data-safety §1.9), hence a checksum of our own; that no row is
 * missing says tally.ts. Version and checksum keep their places in every format.
 */
import { crc32 } from "node:zlib";
import { smallCrc32c } from "../base/crc32c.ts";
import { TidemarkError } from "../base/errors.ts";

const FORMAT_VERSION = 2;
const HEADER_BYTES = 5;

export function sealValue(key: string, body: Uint8Array): Uint8Array {
  const value = Buffer.allocUnsafe(HEADER_BYTES + body.length);
  value[0] = FORMAT_VERSION;
  value.writeUInt32LE(checksumOf(FORMAT_VERSION, key, body), 1);
  value.set(body, HEADER_BYTES);
  return value;
}

/** The body. Throws METADATA_CORRUPT, or SCHEMA_TOO_NEW for a format this program does not know. */
export function openValue(key: string, value: Uint8Array): Uint8Array {
  const view = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  const [version] = view;
  if (view.length < HEADER_BYTES || version === undefined) throw corruptValue(key, "it is too short");
  const body = view.subarray(HEADER_BYTES);
  if (checksumOf(version, key, body) !== view.readUInt32LE(1)) throw corruptValue(key, "its checksum is wrong");
  if (version > FORMAT_VERSION)
    throw new TidemarkError("SCHEMA_TOO_NEW", {
      message: `metadata ${key} has value format ${version}, this program knows ${FORMAT_VERSION}`,
      hint: "start the newer version of the program that wrote it",
      metadata: { key },
    });
  if (version < FORMAT_VERSION) throw corruptValue(key, `its format ${version} is unknown`);
  return body;
}

/** True for a whole value of format 1, whose checksum was another one and left out the version. */
export function isFirstFormat(key: string, value: Uint8Array): boolean {
  const view = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  if (view.length < HEADER_BYTES || view[0] !== 1) return false;
  return crc32(view.subarray(HEADER_BYTES), crc32(key)) === view.readUInt32LE(1);
}

export function corruptValue(key: string, reason: string, cause?: unknown): TidemarkError {
  return new TidemarkError(
    "METADATA_CORRUPT",
    {
      message: `metadata ${key} is damaged: ${reason}`,
      hint: "keep a copy of the data directory and restore its `db` folder from a backup; volumes are not affected",
      metadata: { key },
    },
    cause === undefined ? undefined : { cause },
  );
}

function checksumOf(version: number, key: string, body: Uint8Array): number {
  return smallCrc32c(body, smallCrc32c(Buffer.from(key), smallCrc32c(Uint8Array.of(version))));
}
