/**
 * Box file: `state/box` says which database the state belongs to, and how far that database had come.
 *
 * Role: a superblock of kind "box". The domain writes it (domain/binding.ts); the engine leaves it alone.
 */
import { TidemarkError } from "../../base/errors.ts";
import type { StateFiles } from "./state-files.ts";
import { Superblock } from "./superblock.ts";

export const BOX_FILE = "box";
const OWNER = "database";
const UID = /^[-0-9a-zA-Z]{1,64}$/;
const DIGEST = /^[0-9a-f]{32}$/;

export interface BoxRecord {
  readonly boxUid: string;
  readonly boxNumber: number;
  /** Batches that the database had stored durably; it never has fewer. */
  readonly batches: number;
  /** Digest of its content then, hexadecimal. */
  readonly digest: string;
}

/** Throws what superblock.ts says; PATH_NOT_FOUND. */
export function openBoxFile(files: StateFiles): Promise<Superblock<BoxRecord>> {
  return Superblock.open(files, BOX_FILE, "box", OWNER, decodeBoxRecord);
}

/** A new file, durable; `replaces` as superblock.ts. */
export function createBoxFile(
  files: StateFiles,
  record: BoxRecord,
  replaces: "nothing" | "damaged",
): Promise<Superblock<BoxRecord>> {
  return Superblock.create(files, BOX_FILE, "box", OWNER, record, decodeBoxRecord, replaces);
}

function decodeBoxRecord(value: unknown): BoxRecord {
  if (typeof value !== "object" || value === null) return bad("record");
  const { boxUid, boxNumber, batches, digest } = value as Partial<Record<keyof BoxRecord, unknown>>;
  if (typeof boxUid !== "string" || !UID.test(boxUid)) return bad("boxUid");
  if (!isWhole(boxNumber)) return bad("boxNumber");
  if (!isWhole(batches)) return bad("batches");
  if (typeof digest !== "string" || !DIGEST.test(digest)) return bad("digest");
  return { boxUid, boxNumber, batches, digest };
}

function isWhole(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}

function bad(field: string): never {
  throw new TidemarkError("METADATA_CORRUPT", { message: `box record: field "${field}" is missing or wrong` });
}
