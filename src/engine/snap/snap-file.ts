/**
 * The port to the file or device that holds one snap store.
 *
 * Role: a state file that can promise space. The store is written against this, so that a simulator can replace the disk.
 * Guarantees beside those of `StateFile` (durable/state-files.ts):
 *   1. After `allocate` has returned, writes into the range do not fail for want of space, as far as the system can promise
 *      that. What was not written there reads as zeros or as what it held before. The promise is durable after a `sync`.
 *   2. `allocate` of a range that is allocated already changes nothing.
 *   3. Out of space in `write` and in `allocate` is told by `wasOutOfSpace`, and changes nothing outside the range concerned.
 */
import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import { type StateFile, wasOutOfSpace } from "../durable/state-files.ts";

export interface SnapFile extends StateFile {
  /** METADATA_WRITE_FAILED as of a `write`, with the system code. */
  allocate(offsetBytes: number, lengthBytes: number): Promise<void>;
}

/** Nothing more can be stored: what a session fails of with "overflow" (spec/40 0xBB). */
export function snapOverflow(owner: string, message: string, cause?: unknown): TidemarkError {
  return new TidemarkError(
    "SNAP_OVERFLOW",
    {
      message: `snap data volume ${owner}: ${message}`,
      hint: "cancel the copy, then make the snap data volume or its pool larger, or empty the volume",
      metadata: { owner, reason: "overflow" },
    },
    cause === undefined ? undefined : { cause },
  );
}

/**
 * What the file said, as the store says it: out of space is an overflow, a failed write or sync is a bad medium. `final`: it is
 * not known what is stored, so nothing more may be.
 */
export function snapFailure(owner: string, error: unknown): { readonly error: TidemarkError; readonly final: boolean } {
  const known = asTidemarkError(error);
  if (known.code === "SNAP_OVERFLOW") return { error: known, final: false };
  if (known.code !== "METADATA_WRITE_FAILED") return { error: known, final: true };
  const outOfSpace = ["ENOSPC", "EDQUOT"].includes(known.detail.metadata?.["systemCode"] ?? "");
  if (outOfSpace) {
    const overflow = snapOverflow(owner, "the file system below it is full", known);
    return { error: overflow, final: !wasOutOfSpace(known) };
  }
  return { error: mediumError(owner, known), final: true };
}

function mediumError(owner: string, error: TidemarkError): TidemarkError {
  return new TidemarkError(
    "MEDIUM_ERROR",
    {
      message: `snap data volume ${owner}: ${error.detail.message}`,
      hint: "check the disk below the snap data volume; the copies that are kept in it have failed",
      metadata: { owner, ...error.detail.metadata },
    },
    { cause: error },
  );
}
