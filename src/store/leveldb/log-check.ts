/**
 * LevelDB's log before LevelDB reads it: opening turns the log into a table, and what is damaged in it is dropped without a
 * word, together with what follows in its block. Here it is found first, and the log stays as it is.
 *
 * Format (LevelDB, doc/log_format.md): blocks of 32 KiB; records with a masked CRC-32C (4 bytes), length (2), type (1): full,
 * first, middle, last.
 * Rule: every batch was durable before the next one was written. So a damaged record with the beginning of a whole one
 * anywhere behind it is damage; otherwise it may be the tail that a crash has torn off, which nobody was told of.
 */
import { readdir, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { smallCrc32c } from "../../base/crc32c.ts";
import { TidemarkError } from "../../base/errors.ts";

const BLOCK_BYTES = 32_768;
const HEADER_BYTES = 7;
const MASK = 0xa282ead8;
const FULL = 1;
const FIRST = 2;
const TYPES = [FULL, FIRST, 3, 4];

/** How a log ends. */
export type LogEnd = "whole" | "torn";

/** How the logs of a database end, taken together. METADATA_CORRUPT names file and place. */
export async function checkLogs(directory: string): Promise<LogEnd> {
  let end: LogEnd = "whole";
  for (const name of await logNames(directory)) {
    const found = checkLog(join(directory, name), await readFile(join(directory, name)));
    if (found === "torn") end = "torn";
  }
  return end;
}

async function logNames(directory: string): Promise<string[]> {
  const names = await readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return []; // LevelDB says what it makes of that
    throw error;
  });
  return names.filter((name) => /^\d+\.log$/.test(name)).sort();
}

/** Of one file. METADATA_CORRUPT. */
export function checkLog(path: string, log: Uint8Array): LogEnd {
  for (let start = 0; start < log.length; start += BLOCK_BYTES) {
    const block = log.subarray(start, start + BLOCK_BYTES);
    const bad = firstBad(block);
    if (bad === undefined) continue;
    const offset = start + bad;
    if (beginsBehind(block, bad + 1) || laterBlockBegins(log, start + BLOCK_BYTES)) throw damaged(path, offset);
    return "torn";
  }
  return "whole";
}

/** Offset of the first record of a block that is not whole. */
function firstBad(block: Uint8Array): number | undefined {
  let at = 0;
  while (block.length - at >= HEADER_BYTES) {
    const lengthBytes = wholeAt(block, at);
    if (lengthBytes === undefined) return at;
    at += lengthBytes;
  }
  // A full block may end in up to six bytes of zeros.
  if (at === block.length) return undefined;
  return block.length === BLOCK_BYTES && block.subarray(at).every((byte) => byte === 0) ? undefined : at;
}

/** Length of the whole record that lies there, header included. */
function wholeAt(block: Uint8Array, at: number): number | undefined {
  const view = Buffer.from(block.buffer, block.byteOffset + at, block.length - at);
  if (view.length < HEADER_BYTES) return undefined;
  const end = HEADER_BYTES + view.readUInt16LE(4);
  if (!TYPES.includes(view[6] as number) || end > view.length) return undefined;
  const crc = smallCrc32c(view.subarray(6, end));
  const masked = (((crc >>> 15) | (crc << 17)) + MASK) >>> 0;
  return masked === view.readUInt32LE(0) ? end : undefined;
}

/** True when a batch begins anywhere there, wherever the lengths before it may point. */
function beginsBehind(block: Uint8Array, from: number): boolean {
  for (let at = from; at + HEADER_BYTES <= block.length; at++) {
    const type = block[at + 6];
    if ((type === FULL || type === FIRST) && wholeAt(block, at) !== undefined) return true;
  }
  return false;
}

function laterBlockBegins(log: Uint8Array, from: number): boolean {
  for (let start = from; start < log.length; start += BLOCK_BYTES)
    if (beginsBehind(log.subarray(start, start + BLOCK_BYTES), 0)) return true;
  return false;
}

function damaged(path: string, offsetBytes: number): TidemarkError {
  return new TidemarkError("METADATA_CORRUPT", {
    message: `${path} is damaged at byte ${offsetBytes}, and there are changes behind that; it was not opened`,
    hint: `keep a copy of the data directory, then put ${basename(path)}, or the whole \`db\` folder, back from a backup`,
    metadata: { path, offset: String(offsetBytes) },
  });
}
