/**
 * Partition tables: which partitions a device has.
 *
 * Role: reads MBR (with extended and logical partitions) and GPT from a device; changes nothing.
 * What is not a table gives an empty list: a boot sector of a file system also ends in 55 AA. Entries that lie outside the
 * device are left out. Only a GPT whose two headers are both bad is an error (METADATA_CORRUPT), because a disk that says
 * it has partitions must not look empty.
 */
import { TidemarkError } from "../../base/errors.ts";
import { PARTITION_NUMBER_MAX } from "../../base/limits.ts";
import type { BlockDevice } from "../../base/ports.ts";
import { SECTOR_SIZE_BYTES } from "../../base/units.ts";
import type { PartitionFacts } from "../engine-api.ts";
import { readGpt } from "./partition-gpt.ts";
import { readExactly } from "./partition-read.ts";

const ENTRIES_OFFSET = 446;
const ENTRY_BYTES = 16;
const GPT_PROTECTIVE = 0xee;
const EXTENDED_TYPES: ReadonlySet<number> = new Set([0x05, 0x0f, 0x85]);
const FIRST_LOGICAL_NUMBER = 5;
/** Records of a chain that are looked at: one a partition, and as many that name none. A longer chain is no table. */
const EXTENDED_RECORDS_MAX = 2 * PARTITION_NUMBER_MAX;

interface MbrEntry {
  readonly type: number;
  readonly firstSector: number;
  readonly sectors: number;
}

/** Partitions by number. Throws METADATA_CORRUPT and what reading throws. */
export async function readPartitions(device: BlockDevice): Promise<PartitionFacts[]> {
  const entries = await readEntries(device, 0);
  if (entries === undefined) return [];
  if (entries.some((entry) => entry.type === GPT_PROTECTIVE)) {
    const partitions = await readGpt(device);
    if (partitions !== undefined) return partitions;
    throw new TidemarkError("METADATA_CORRUPT", {
      message: "the disk has a GUID partition table, but both copies of it are damaged",
      hint: "look at it with `sgdisk --verify` and repair it; the volume as a whole can still be used",
    });
  }
  const found: PartitionFacts[] = [];
  for (const [index, entry] of entries.entries()) {
    if (EXTENDED_TYPES.has(entry.type)) continue;
    add(found, device, index + 1, entry, 0);
  }
  const extended = entries.find((entry) => EXTENDED_TYPES.has(entry.type));
  if (extended !== undefined) await addLogical(found, device, extended.firstSector);
  return found;
}

/** Follows the chain of extended boot records: each names one partition and the next record. */
async function addLogical(found: PartitionFacts[], device: BlockDevice, extendedSector: number): Promise<void> {
  const visited = new Set<number>();
  let sector = extendedSector;
  let number = FIRST_LOGICAL_NUMBER;
  while (number <= PARTITION_NUMBER_MAX && visited.size < EXTENDED_RECORDS_MAX && !visited.has(sector)) {
    visited.add(sector);
    const entries = await readEntries(device, sector);
    if (entries === undefined) return;
    const partition = entries.find((entry) => entry.sectors > 0 && !EXTENDED_TYPES.has(entry.type));
    if (partition !== undefined && add(found, device, number, partition, sector)) number++;
    const next = entries.find((entry) => EXTENDED_TYPES.has(entry.type) && entry.sectors > 0);
    if (next === undefined) return;
    sector = extendedSector + next.firstSector;
  }
}

function add(
  found: PartitionFacts[],
  device: BlockDevice,
  number: number,
  entry: MbrEntry,
  baseSector: number,
): boolean {
  const offsetBytes = (baseSector + entry.firstSector) * SECTOR_SIZE_BYTES;
  const sizeBytes = entry.sectors * SECTOR_SIZE_BYTES;
  if (entry.type === 0 || offsetBytes === 0 || sizeBytes === 0) return false;
  if (offsetBytes + sizeBytes > device.sizeBytes) return false;
  found.push({ number, offsetBytes, sizeBytes, type: entry.type.toString(16).padStart(2, "0"), label: "" });
  return true;
}

/** The four entries of a boot record; undefined if the sector is none. */
async function readEntries(device: BlockDevice, sector: number): Promise<MbrEntry[] | undefined> {
  const record = await readExactly(device, sector * SECTOR_SIZE_BYTES, SECTOR_SIZE_BYTES);
  if (record === undefined || record[510] !== 0x55 || record[511] !== 0xaa) return undefined;
  const entries: MbrEntry[] = [];
  for (let index = 0; index < 4; index++) {
    const at = ENTRIES_OFFSET + index * ENTRY_BYTES;
    const boot = record.readUInt8(at);
    // Anything else is the code of a boot sector, not an entry.
    if (boot !== 0x00 && boot !== 0x80) return undefined;
    entries.push({
      type: record.readUInt8(at + 4),
      firstSector: record.readUInt32LE(at + 8),
      sectors: record.readUInt32LE(at + 12),
    });
  }
  return entries;
}
