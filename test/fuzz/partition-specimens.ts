/**
 * Partition tables for the files door: good ones (MBR with logical partitions, GPT with both copies), and what must be true of
 * whatever is read from damaged ones.
 *
 * Rules: typed errors only; at most 128 partitions, each inside its device, no number twice; a bounded number of reads whatever the
 * table says; a GPT is read exactly as it was written or not at all, as long as the first sector says that it is one.
 */
import { crc32 } from "node:zlib";
import { TidemarkError } from "../../src/base/errors.ts";
import type { BlockDevice } from "../../src/base/ports.ts";
import { MiB, TiB } from "../../src/base/units.ts";
import { MemoryDevice } from "../../src/engine/device/memory-device.ts";
import { readPartitions } from "../../src/engine/device/partition-table.ts";
import type { PartitionFacts } from "../../src/engine/engine-api.ts";
import { Chance } from "./chance.ts";

const SECTOR = 512;
/** What a table of 128 partitions needs, with room: each logical one is a read, and both copies of a GPT are tried. */
const READS_MAX = 400;
const LONG_CHAIN = 3000;

/** Pieces of a device; everything between them is zero. */
export interface TableSpecimen {
  readonly kind: "mbr" | "gpt";
  readonly sizeBytes: number;
  readonly pieces: readonly { readonly offsetBytes: number; readonly bytes: Buffer }[];
}

export function tableOf(kind: "mbr" | "gpt", seed: number): TableSpecimen {
  const chance = new Chance(seed * 2 + (kind === "gpt" ? 1 : 0));
  return kind === "gpt" ? gpt(chance) : mbr(chance);
}

/** Reads the tables of a device made of these pieces. */
export async function readTables(
  pieces: TableSpecimen["pieces"],
  sizeBytes: number,
): Promise<{ partitions: PartitionFacts[] | undefined; violations: string[] }> {
  const memory = new MemoryDevice(sizeBytes);
  for (const { offsetBytes, bytes } of pieces) {
    const length = Math.min(bytes.length, sizeBytes - offsetBytes);
    if (length > 0) memory.tryWrite(offsetBytes, bytes.subarray(0, length));
  }
  let reads = 0;
  const counted = new Proxy<BlockDevice>(memory, {
    get: (target, property) => {
      if (property === "tryRead" && ++reads > 10 * READS_MAX) throw new Error("reading does not end");
      const value = Reflect.get(target, property, target) as unknown;
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  let partitions: PartitionFacts[];
  try {
    partitions = await readPartitions(counted);
  } catch (error) {
    if (error instanceof TidemarkError && error.code === "METADATA_CORRUPT" && error.detail.hint !== undefined)
      return { partitions: undefined, violations: [] };
    return {
      partitions: undefined,
      violations: [`not typed: ${error instanceof Error ? error.stack : String(error)}`],
    };
  }
  const violations = partitionViolations(partitions, sizeBytes);
  if (reads > READS_MAX) violations.push(`cost: ${reads} reads for ${partitions.length} partitions`);
  return { partitions, violations };
}

function partitionViolations(partitions: readonly PartitionFacts[], sizeBytes: number): string[] {
  const found: string[] = [];
  const numbers = new Set(partitions.map(({ number }) => number));
  if (numbers.size !== partitions.length) found.push("a partition number is there twice");
  for (const { number, offsetBytes, sizeBytes: length, label } of partitions) {
    if (!Number.isSafeInteger(number) || number < 1 || number > 128) found.push(`partition number ${number}`);
    const whole = Number.isSafeInteger(offsetBytes) && Number.isSafeInteger(length) && length > 0 && offsetBytes > 0;
    if (!whole || offsetBytes + length > sizeBytes) found.push(`partition ${number} is not inside its device`);
    if (label.length > 36 || /\p{C}/u.test(label))
      found.push(`the label of partition ${number} is not fit for a terminal`);
  }
  return found;
}

function mbr(chance: Chance): TableSpecimen {
  const sizeBytes = chance.pick([4 * MiB, 64 * MiB, 2 * TiB]);
  const sectors = sizeBytes / SECTOR;
  const pieces: { offsetBytes: number; bytes: Buffer }[] = [];
  const record = (sector: number, entries: readonly (readonly [type: number, first: number, count: number])[]) => {
    const bytes = Buffer.alloc(SECTOR);
    entries.forEach(([type, first, count], index) => {
      const at = 446 + index * 16;
      bytes[at] = chance.pick([0, 0x80]);
      bytes[at + 4] = type;
      bytes.writeUInt32LE(first % 2 ** 32, at + 8);
      bytes.writeUInt32LE(count % 2 ** 32, at + 12);
    });
    bytes.writeUInt16BE(0x55aa, 510);
    pieces.push({ offsetBytes: sector * SECTOR, bytes });
  };
  const extended = 2048;
  const logical = sizeBytes > 4 * MiB && chance.odds(10) ? LONG_CHAIN : chance.pick([0, 1, 3, 60]);
  record(0, [
    [0x83, 64, 1000],
    [0x83, Math.min(sectors - 10, 5000), 10],
    [logical > 0 ? 0x05 : 0x00, extended, Math.min(2 ** 32 - 1, sectors - extended)],
  ]);
  for (let index = 0; index < logical; index++) {
    const next: [number, number, number] = index + 1 < logical ? [0x05, (index + 1) * 32, 32] : [0, 0, 0];
    // A long chain names no partition: only the number of its records bounds what following it costs.
    record(extended + index * 32, [logical === LONG_CHAIN ? [0, 0, 0] : [0x83, 1, 8], next]);
  }
  return { kind: "mbr", sizeBytes, pieces };
}

function gpt(chance: Chance): TableSpecimen {
  const sectorBytes = chance.pick([512, 4096]);
  const sizeBytes = chance.pick([8 * MiB, 100 * MiB]);
  const last = sizeBytes / sectorBytes - 1;
  const entryCount = chance.pick([4, 128, 200]);
  const entryBytes = chance.pick([128, 256]);
  const table = Buffer.alloc(entryCount * entryBytes);
  for (let index = 0; index < entryCount; index++) {
    if (chance.odds(60)) continue;
    const at = index * entryBytes;
    chance.bytes(32).copy(table, at);
    const first = BigInt(chance.between(200, 1000));
    table.writeBigUInt64LE(first, at + 32);
    table.writeBigUInt64LE(first + BigInt(chance.below(200)), at + 40);
    table.write(chance.pick(["root", "", "a b", "\u00e4", "x".repeat(36)]), at + 56, 72, "utf16le");
  }
  const tableSectors = Math.ceil(table.length / sectorBytes);
  const header = (place: number, other: number, entries: number) => {
    const bytes = Buffer.alloc(sectorBytes);
    bytes.write("EFI PART", 0, "latin1");
    bytes.writeUInt32LE(0x10000, 8);
    bytes.writeUInt32LE(92, 12);
    bytes.writeBigUInt64LE(BigInt(place), 24);
    bytes.writeBigUInt64LE(BigInt(other), 32);
    bytes.writeBigUInt64LE(BigInt(entries), 72);
    bytes.writeUInt32LE(entryCount, 80);
    bytes.writeUInt32LE(entryBytes, 84);
    bytes.writeUInt32LE(crc32(table), 88);
    bytes.writeUInt32LE(crc32(bytes.subarray(0, 92)), 16);
    return { offsetBytes: place * sectorBytes, bytes };
  };
  const protective = Buffer.alloc(SECTOR);
  protective[446 + 4] = 0xee;
  protective.writeUInt32LE(1, 446 + 8);
  protective.writeUInt32LE(sizeBytes / SECTOR - 1, 446 + 12);
  protective.writeUInt16BE(0x55aa, 510);
  const backup = last - tableSectors;
  return {
    kind: "gpt",
    sizeBytes,
    pieces: [
      { offsetBytes: 0, bytes: protective },
      header(1, last, 2),
      { offsetBytes: 2 * sectorBytes, bytes: table },
      { offsetBytes: backup * sectorBytes, bytes: table },
      header(last, 1, backup),
    ],
  };
}

/** Makes the checksums of a damaged GPT right again. */
export function resealTable(pieces: TableSpecimen["pieces"]): TableSpecimen["pieces"] {
  const [protective, first, table, backupTable, last] = pieces;
  if (!protective || !first || !table || !backupTable || !last) return pieces;
  const sealed = (header: { offsetBytes: number; bytes: Buffer }, entries: Buffer) => {
    if (header.bytes.length < 92) return header;
    const bytes = Buffer.from(header.bytes);
    bytes.writeUInt32LE(crc32(entries), 88);
    bytes.writeUInt32LE(0, 16);
    const length = Math.min(Math.max(bytes.readUInt32LE(12), 20), bytes.length);
    bytes.writeUInt32LE(crc32(bytes.subarray(0, length)), 16);
    return { offsetBytes: header.offsetBytes, bytes };
  };
  return [protective, sealed(first, table.bytes), table, backupTable, sealed(last, backupTable.bytes)];
}
