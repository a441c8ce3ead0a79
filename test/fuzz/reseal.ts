/**
 * Makes damage look as if it had been written so: computes the checksums of a damaged state file anew. What is behind the
 * checksums is then all that protects the program, as it is against a file of another program version or of a bug of ours.
 *
 * Works on whatever it is given: where a structure cannot be followed it stops. Layouts: docs/file-formats.md.
 */
import { crc32c } from "../../src/engine/map/core.ts";

const LOG_HEADER_BYTES = 4096;
const FRAME_HEADER_BYTES = 40;
const FRAME_MAGIC = Buffer.from([0x54, 0x4d, 0x46, 0xa7]);
const SLOT_BYTES = 4096;
const MAP_HEADER_BYTES = 512;
const MAP_IDENTITY_BYTES = 112;
const MAP_RECORD_BYTES = 24;

export function reseal(path: string, bytes: Uint8Array): Buffer {
  const sealed = Buffer.from(bytes);
  if (path.endsWith("/super")) sealSlots(sealed);
  else if (path.endsWith(".log")) sealLog(sealed);
  else if (path.endsWith(".map")) sealMap(sealed);
  return sealed;
}

function sealSlots(bytes: Buffer): void {
  for (let at = 0; at + SLOT_BYTES <= bytes.length; at += SLOT_BYTES)
    bytes.writeUInt32LE(crc32c(bytes.subarray(at, at + SLOT_BYTES - 4)), at + SLOT_BYTES - 4);
}

function sealLog(bytes: Buffer): void {
  if (bytes.length < LOG_HEADER_BYTES) return;
  const logChecksum = crc32c(bytes.subarray(0, LOG_HEADER_BYTES - 4));
  bytes.writeUInt32LE(logChecksum, LOG_HEADER_BYTES - 4);
  let previous = logChecksum;
  let sequence = 0n;
  for (let at = LOG_HEADER_BYTES; at + FRAME_HEADER_BYTES <= bytes.length; ) {
    if (!bytes.subarray(at, at + 4).equals(FRAME_MAGIC)) return;
    const end = at + FRAME_HEADER_BYTES + bytes.readUInt32LE(at + 8);
    if (end > bytes.length) return;
    bytes.writeUInt32LE(previous, at + 12);
    bytes.writeBigUInt64LE(++sequence, at + 16);
    previous = crc32c(bytes.subarray(at + FRAME_HEADER_BYTES, end), crc32c(bytes.subarray(at, at + 32), logChecksum));
    bytes.writeUInt32LE(previous, at + 32);
    at = end;
  }
}

function sealMap(bytes: Buffer): void {
  if (bytes.length < MAP_HEADER_BYTES) return;
  let checksum = crc32c(bytes.subarray(0, MAP_IDENTITY_BYTES));
  let at = MAP_HEADER_BYTES;
  while (at + MAP_RECORD_BYTES <= bytes.length) {
    const trailer = bytes.toString("latin1", at, at + 4) === "TMED";
    const end = at + MAP_RECORD_BYTES + (trailer ? 0 : bytes.readUInt32LE(at + 16));
    if (end > bytes.length) break;
    const head = crc32c(bytes.subarray(at, at + 20), checksum);
    checksum = trailer ? head : crc32c(bytes.subarray(at + MAP_RECORD_BYTES, end), head);
    bytes.writeUInt32LE(checksum, at + 20);
    at = end;
    if (trailer) break;
  }
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, MAP_HEADER_BYTES - 4)), MAP_HEADER_BYTES - 4);
}

/** A change to the `pick`-th value of the JSON in a superblock, or of the first JSON part in a log. */
export interface JsonDamage {
  readonly pick: number;
  /** JSON text that takes its place; "" removes it. */
  readonly value: string;
}

/** The file with the change, its lengths and checksums right. Unchanged where there is no JSON. */
export function changeJson(path: string, bytes: Uint8Array, damage: JsonDamage): Buffer {
  const from = Buffer.from(bytes);
  if (path.endsWith("/super")) {
    for (let at = 0; at + SLOT_BYTES <= from.length; at += SLOT_BYTES) {
      const length = from.readUInt32LE(at + 12);
      const changed = changedText(from.subarray(at + 96, at + 96 + Math.min(length, 3996)), damage);
      if (changed === undefined || changed.length > 3996) continue;
      from.fill(0, at + 96, at + SLOT_BYTES - 4);
      changed.copy(from, at + 96);
      from.writeUInt32LE(changed.length, at + 12);
    }
    return reseal(path, from);
  }
  for (let at = LOG_HEADER_BYTES; at + FRAME_HEADER_BYTES <= from.length; ) {
    const end = at + FRAME_HEADER_BYTES + from.readUInt32LE(at + 8);
    if (end > from.length) return from;
    const payload = from.subarray(at + FRAME_HEADER_BYTES, end);
    const changed = changedPayload(payload, damage);
    if (changed !== undefined) {
      const head = Buffer.from(from.subarray(at, at + FRAME_HEADER_BYTES));
      head.writeUInt32LE(changed.length, 8);
      return reseal(path, Buffer.concat([from.subarray(0, at), head, changed, from.subarray(end)]));
    }
    at = end;
  }
  return from;
}

/** JSON alone, or JSON with its length in front and maps behind, or JSON behind 8 bytes. */
function changedPayload(payload: Buffer, damage: JsonDamage): Buffer | undefined {
  for (const skip of [0, 8]) {
    const changed = changedText(payload.subarray(skip), damage);
    if (changed !== undefined) return Buffer.concat([payload.subarray(0, skip), changed]);
  }
  if (payload.length < 4) return undefined;
  const end = 4 + payload.readUInt32LE(0);
  const changed = end > payload.length ? undefined : changedText(payload.subarray(4, end), damage);
  if (changed === undefined) return undefined;
  const head = Buffer.alloc(4);
  head.writeUInt32LE(changed.length);
  return Buffer.concat([head, changed, payload.subarray(end)]);
}

function changedText(text: Buffer, { pick, value }: JsonDamage): Buffer | undefined {
  let root: unknown;
  try {
    root = JSON.parse(text.toString());
  } catch {
    return undefined; // no JSON here
  }
  if (typeof root !== "object" || root === null) return undefined;
  const places: (readonly [holder: Record<string, unknown>, key: string])[] = [];
  const visit = (holder: Record<string, unknown>) => {
    for (const key of Object.keys(holder)) {
      places.push([holder, key]);
      const inner = holder[key];
      if (typeof inner === "object" && inner !== null) visit(inner as Record<string, unknown>);
    }
  };
  visit(root as Record<string, unknown>);
  if (places.length === 0) return Buffer.from(value === "" ? "null" : value);
  const [holder, key] = places[pick % places.length] as (typeof places)[number];
  if (value !== "") holder[key] = JSON.parse(value);
  else if (Array.isArray(holder)) holder.splice(Number(key), 1);
  else delete holder[key];
  return Buffer.from(JSON.stringify(root));
}

const STRANGE_VALUES = [
  "",
  "null",
  "0",
  "-1",
  "1",
  "1.5",
  "1e300",
  "9007199254740991",
  "9007199254740993",
  "4294967296",
  '""',
  '"../../x"',
  '"super"',
  '"a\\u0000b"',
  '"x"',
  "[]",
  "[[]]",
  "{}",
  "true",
  '"__proto__"',
];

export function anyJsonDamage(chance: { below(limit: number): number; pick<T>(list: readonly T[]): T }): JsonDamage {
  return { pick: chance.below(1000), value: chance.pick(STRANGE_VALUES) };
}
