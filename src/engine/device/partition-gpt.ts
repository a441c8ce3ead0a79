/**
 * GUID partition table (UEFI specification 2.10, chapter 5).
 *
 * A copy counts only when its header's CRC, its entries' CRC and its position agree. Sector sizes 512 and 4096 are tried.
 */
import { PARTITION_NUMBER_MAX } from "../../base/limits.ts";
import type { BlockDevice } from "../../base/ports.ts";
import { MiB } from "../../base/units.ts";
import type { PartitionFacts } from "../engine-api.ts";
import { crc32 } from "./crc32.ts";
import { readExactly } from "./partition-read.ts";

const SECTOR_SIZES = [512, 4096];
const SIGNATURE = "EFI PART";
const HEADER_BYTES_MIN = 92;
const ENTRY_BYTES_MIN = 128;
const ENTRY_BYTES_MAX = 4096;
const ENTRIES_BYTES_MAX = 1 * MiB;

interface GptHeader {
  readonly alternateSector: number;
  readonly entriesSector: number;
  readonly entryCount: number;
  readonly entryBytes: number;
  readonly entriesCrc: number;
}

/** Partitions of the first good copy; undefined when there is none. */
export async function readGpt(device: BlockDevice): Promise<PartitionFacts[] | undefined> {
  for (const sectorBytes of SECTOR_SIZES) {
    const lastSector = Math.floor(device.sizeBytes / sectorBytes) - 1;
    const primary = await readHeader(device, 1, sectorBytes);
    const places = [1, lastSector, primary?.alternateSector ?? lastSector];
    for (const sector of new Set(places)) {
      const header = sector === 1 ? primary : await readHeader(device, sector, sectorBytes);
      const partitions = header && (await readEntries(device, header, sectorBytes));
      if (partitions !== undefined) return partitions;
    }
  }
  return undefined;
}

async function readHeader(device: BlockDevice, sector: number, sectorBytes: number): Promise<GptHeader | undefined> {
  const block = await readExactly(device, sector * sectorBytes, sectorBytes);
  if (block === undefined || block.toString("latin1", 0, 8) !== SIGNATURE) return undefined;
  const headerBytes = block.readUInt32LE(12);
  if (headerBytes < HEADER_BYTES_MIN || headerBytes > sectorBytes) return undefined;
  const stored = block.readUInt32LE(16);
  const header = Buffer.from(block.subarray(0, headerBytes));
  header.writeUInt32LE(0, 16);
  if (crc32(header) !== stored || sectorAt(header, 24) !== sector) return undefined;
  return {
    alternateSector: sectorAt(header, 32),
    entriesSector: sectorAt(header, 72),
    entryCount: header.readUInt32LE(80),
    entryBytes: header.readUInt32LE(84),
    entriesCrc: header.readUInt32LE(88),
  };
}

/** A 64-bit sector number; beyond every device when it is not exact. */
function sectorAt(buffer: Buffer, at: number): number {
  const value = buffer.readBigUInt64LE(at);
  return value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(value);
}

async function readEntries(
  device: BlockDevice,
  header: GptHeader,
  sectorBytes: number,
): Promise<PartitionFacts[] | undefined> {
  const { entryBytes, entryCount } = header;
  if (entryBytes < ENTRY_BYTES_MIN || entryBytes > ENTRY_BYTES_MAX || entryBytes % 8 !== 0) return undefined;
  if (entryCount === 0 || entryCount * entryBytes > ENTRIES_BYTES_MAX) return undefined;
  const table = await readExactly(device, header.entriesSector * sectorBytes, entryCount * entryBytes);
  if (table === undefined || crc32(table) !== header.entriesCrc) return undefined;
  const partitions: PartitionFacts[] = [];
  for (let index = 0; index < Math.min(entryCount, PARTITION_NUMBER_MAX); index++) {
    const entry = table.subarray(index * entryBytes, (index + 1) * entryBytes);
    const partition = entryFacts(entry, index + 1, sectorBytes);
    if (partition !== undefined && partition.offsetBytes + partition.sizeBytes <= device.sizeBytes)
      partitions.push(partition);
  }
  return partitions;
}

function entryFacts(entry: Buffer, number: number, sectorBytes: number): PartitionFacts | undefined {
  if (entry.subarray(0, 16).every((byte) => byte === 0)) return undefined;
  const offsetBytes = sectorAt(entry, 32) * sectorBytes;
  const sizeBytes = (sectorAt(entry, 40) + 1) * sectorBytes - offsetBytes;
  if (offsetBytes === 0 || sizeBytes <= 0) return undefined;
  return { number, offsetBytes, sizeBytes, type: guidText(entry), label: labelOf(entry) };
}

/** The first three fields are little-endian, the rest is in order. */
function guidText(entry: Buffer): string {
  const part = (at: number, length: number, reversed: "reversed" | "inOrder") => {
    const bytes = Buffer.from(entry.subarray(at, at + length));
    return (reversed === "reversed" ? bytes.reverse() : bytes).toString("hex");
  };
  const fields = [
    part(0, 4, "reversed"),
    part(4, 2, "reversed"),
    part(6, 2, "reversed"),
    part(8, 2, "inOrder"),
    part(10, 6, "inOrder"),
  ];
  return fields.join("-").toUpperCase();
}

/** Up to 36 characters; what a terminal could act on is replaced. */
function labelOf(entry: Buffer): string {
  const text = entry.toString("utf16le", 56, 128);
  const end = text.indexOf("\0");
  return (end < 0 ? text : text.slice(0, end)).replace(/[\p{C}]/gu, "\ufffd");
}
