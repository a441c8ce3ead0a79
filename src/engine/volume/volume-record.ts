/** What the superblock of a tracked volume says, and its validation. */
import { TidemarkError } from "../../base/errors.ts";
import { atLeastFrames, type ExpectedEnd } from "../durable/log-end.ts";
import { corruptFile } from "../durable/state-files.ts";
import type { EpochTrust } from "./change-chain.ts";

/** Id, begin in milliseconds, trust (index of TRUSTS), serial of its map file (0: nothing but what the logs say). */
export type EpochEntry = readonly [id: number, beginMs: number, trust: number, serial: number];

export const TRUSTS: readonly EpochTrust[] = ["exact", "widened", "lost"];

export interface VolumeRecord {
  readonly uid: string;
  /** Ids below it have been used. */
  readonly nextEpoch: number;
  /** Number of the first activity log to replay. */
  readonly log: number;
  /** Last serial used in names of map files. */
  readonly serial: number;
  /** The activity log that was in use when this was written, and how many of its frames were durable. */
  readonly inUse?: readonly [log: number, frames: number];
  /** Oldest first; short, because all epochs that sessions hold must fit into the superblock. */
  readonly epochs: readonly EpochEntry[];
}

export function mapFileOf(id: number, serial: number): string {
  return `epoch-${id}-${serial}.map`;
}

/** Checks what was read from disk; METADATA_CORRUPT names the first field that is wrong. */
export function decodeVolumeRecord(value: unknown): VolumeRecord {
  const bad = (field: string): never => {
    throw new TidemarkError("METADATA_CORRUPT", {
      message: `volume record: field "${field}" is missing or wrong`,
      hint: "what this volume tracks is copied in full next time",
    });
  };
  if (typeof value !== "object" || value === null) return bad("record");
  const record = value as Record<string, unknown>;
  for (const field of ["nextEpoch", "log", "serial"]) if (!isCount(record[field])) return bad(field);
  if (typeof record["uid"] !== "string") return bad("uid");
  const { inUse } = record;
  if (inUse !== undefined && !(Array.isArray(inUse) && inUse.length === 2 && inUse.every(isCount))) return bad("inUse");
  if (!Array.isArray(record["epochs"])) return bad("epochs");
  let lastId = -1;
  for (const entry of record["epochs"] as unknown[]) {
    if (!Array.isArray(entry) || entry.length !== 4 || !entry.every(isCount)) return bad("epochs");
    if (entry[0] <= lastId) return bad("epochs.id");
    if (entry[2] >= TRUSTS.length) return bad("epochs.trust");
    lastId = entry[0];
  }
  return value as VolumeRecord;
}

/** Epochs and serials are counted on from what is read: far below the end of the exact numbers. */
function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) < 2 ** 52;
}

/** What activity log `number` has to have: as the last stop has left it, else as the superblock knows it. */
export function expectedLogEnd(
  directory: string,
  { inUse }: VolumeRecord,
  number: number,
  ends: ReadonlyMap<string, ExpectedEnd>,
): ExpectedEnd | undefined {
  const known = inUse && inUse[0] === number ? atLeastFrames(inUse[1]) : undefined;
  return ends.get(`${directory}/al-${number}.log`) ?? known;
}

/** The log that was in use when the superblock was written, or a later one, still is. METADATA_CORRUPT. */
export function requireLogInUse(directory: string, { inUse }: VolumeRecord, number: number): void {
  if (inUse === undefined || inUse[0] <= number) return;
  throw corruptFile(`${directory}/al-${inUse[0]}.log`, "is not the log in use, though it was");
}
