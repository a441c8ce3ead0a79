/** What is kept durably of a session, and its validation. Written in its superblock and in the points log. */
import { TidemarkError } from "../../base/errors.ts";
import { VOLUME_SIZE_BYTES_MAX } from "../../base/limits.ts";
import type { CopyFailure, CopyKind, CopyReason, EndedPhase, ExtentRef } from "../engine-api.ts";

/** `creating`: nothing has been fired yet. `live`: copying or tracking, whichever the maps say. `ended`: to be removed. */
export type RecordState = "creating" | "live" | "failed" | "ended";

/** What only an ended session has. */
export interface SessionEnd {
  readonly phase: EndedPhase;
  readonly atMs: number;
  readonly pendingGranules: number;
  readonly changedGranules: number;
  readonly destinationUsable: boolean;
}

export interface SessionRecord {
  readonly id: string;
  readonly state: RecordState;
  readonly kind: CopyKind;
  readonly tracking: boolean;
  /** What is copied is as long as the source; the destination may be longer. */
  readonly source: ExtentRef;
  readonly destination: ExtentRef;
  readonly pace: number;
  readonly createdMs: number;
  readonly pointMs: number;
  readonly generation: number;
  readonly reason: CopyReason;
  readonly plannedGranules: number;
  readonly bytesPlanned: number;
  readonly bytesCopied: number;
  readonly bytesZeroed: number;
  readonly bytesCloned: number;
  /** 0 when not tracking. */
  readonly sourceEpoch: number;
  readonly destinationEpoch: number;
  readonly barrierMicroseconds: number;
  readonly failure: { readonly cause: CopyFailure; readonly message: string } | undefined;
  /** Map of the granules pending at the checkpoint; undefined while it is only in the points log. */
  readonly mapFile: string | undefined;
  /** Log of the granules copied since. */
  readonly logFile: string;
  /** So many frames of it were durable when this was written; only in the superblock. */
  readonly logFrames?: number;
  /** In state `ended`, unless an older program has written it. */
  readonly end?: SessionEnd;
}

/** What a record says of the session itself, without its state and without what is about its files. */
export type SessionFacts = Omit<SessionRecord, "state" | "mapFile" | "logFile" | "logFrames" | "end">;

export function factsOf(record: SessionRecord): SessionFacts {
  const { state: _, mapFile: __, logFile: ___, logFrames: ____, end: _____, ...facts } = record;
  return facts;
}

const NUMBERS = [
  "pace",
  "createdMs",
  "pointMs",
  "generation",
  "plannedGranules",
  "bytesPlanned",
  "bytesCopied",
  "bytesZeroed",
  "bytesCloned",
  "sourceEpoch",
  "destinationEpoch",
  "barrierMicroseconds",
] as const;

const NUMBER_MAX = 2 ** 52;

/** `c12`, which is also the name of its directory. */
export function isSessionId(text: string): boolean {
  return /^c[1-9][0-9]{0,14}$/.test(text);
}

/** Checks what was read from disk; METADATA_CORRUPT names the first field that is wrong. */
export function decodeSessionRecord(value: unknown): SessionRecord {
  const record = value as Record<string, unknown>;
  const bad = (field: string): never => {
    throw new TidemarkError("METADATA_CORRUPT", {
      message: `session record: field "${field}" is missing or wrong`,
      hint: "keep the state directory as it is and report this; the session can be cancelled and started again",
    });
  };
  if (typeof value !== "object" || value === null) return bad("record");
  for (const field of NUMBERS)
    if (!Number.isSafeInteger(record[field]) || !inRange(record[field] as number)) return bad(field);
  if (typeof record["id"] !== "string" || !isSessionId(record["id"])) return bad("id");
  if (!["creating", "live", "failed", "ended"].includes(record["state"] as string)) return bad("state");
  if (!["opc", "quickopc"].includes(record["kind"] as string)) return bad("kind");
  if (typeof record["tracking"] !== "boolean") return bad("tracking");
  if (typeof record["reason"] !== "string") return bad("reason");
  if (!isFileName(record["logFile"], /^copied-\d{1,15}\.log$/)) return bad("logFile");
  const { logFrames } = record;
  if (logFrames !== undefined && !(Number.isSafeInteger(logFrames) && inRange(logFrames as number)))
    return bad("logFrames");
  if (record["mapFile"] !== undefined && !isFileName(record["mapFile"], /^pending-\d{1,15}\.map$/))
    return bad("mapFile");
  if (record["failure"] !== undefined && !isFailure(record["failure"])) return bad("failure");
  for (const side of ["source", "destination"]) {
    const extent = record[side] as Partial<ExtentRef> | undefined;
    if (typeof extent?.volumeUid !== "string" || typeof extent.name !== "string") return bad(side);
    if (!Number.isSafeInteger(extent.offsetBytes) || !Number.isSafeInteger(extent.lengthBytes)) return bad(side);
    const { offsetBytes = -1, lengthBytes = 0 } = extent;
    if (lengthBytes <= 0 || offsetBytes < 0 || offsetBytes + lengthBytes > VOLUME_SIZE_BYTES_MAX) return bad(side);
  }
  if (record["end"] !== undefined && !isEnd(record["end"])) return bad("end");
  const { source, destination } = value as SessionRecord;
  if (source.lengthBytes !== destination.lengthBytes) return bad("destination.lengthBytes");
  // JSON leaves undefined fields out.
  return {
    ...(value as SessionRecord),
    failure: (value as SessionRecord).failure,
    mapFile: (value as SessionRecord).mapFile,
  };
}

function isEnd(value: unknown): value is SessionEnd {
  if (typeof value !== "object" || value === null) return false;
  const end = value as Record<string, unknown>;
  return (
    ["completed", "cancelled"].includes(end["phase"] as string) &&
    typeof end["destinationUsable"] === "boolean" &&
    ["atMs", "pendingGranules", "changedGranules"].every(
      (field) => Number.isSafeInteger(end[field]) && (end[field] as number) >= 0,
    )
  );
}

/** Generations and epochs are counted on from what is read: far below the end of the exact numbers. */
function inRange(value: number): boolean {
  return value >= 0 && value < NUMBER_MAX;
}

function isFileName(value: unknown, form: RegExp): boolean {
  return typeof value === "string" && form.test(value);
}

function isFailure(value: unknown): boolean {
  const failure = value as Partial<NonNullable<SessionRecord["failure"]>> | null;
  return typeof failure?.cause === "string" && typeof failure.message === "string";
}
