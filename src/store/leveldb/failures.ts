/** What LevelDB's errors mean for the box, and what to do about them. */
import { TidemarkError } from "../../base/errors.ts";

const REBUILD =
  "keep a copy of the data directory, then put this folder back from a backup; without one, start with another --data " +
  "directory and register the volumes again: their data is not touched, and the first copies are full ones";

/** A database that cannot be opened at start. It is left as it is. */
export function openFailed(directory: string, error: unknown): TidemarkError {
  if (error instanceof TidemarkError) return error;
  const codes = codesOf(error);
  const metadata = { path: directory };
  if (codes.includes("LEVEL_LOCKED"))
    return new TidemarkError(
      "STATE_DIRECTORY_LOCKED",
      {
        message: `${directory} is in use by another daemon`,
        hint: "stop it, or give this one a data directory of its own",
        metadata,
      },
      { cause: error },
    );
  if (codes.includes("LEVEL_CORRUPTION")) return damaged(directory, error);
  if (/No space left on device|Disk quota exceeded/.test(reasonOf(error)))
    return new TidemarkError(
      "METADATA_WRITE_FAILED",
      {
        message: `${directory} cannot be opened without room: ${reasonOf(error)}`,
        hint: "make room on the file system that holds the data directory, then start again; nothing is lost",
        metadata,
      },
      { cause: error },
    );
  return new TidemarkError(
    "STATE_DIRECTORY_INVALID",
    {
      message: `${directory} cannot be opened: ${reasonOf(error)}`,
      hint: "look after its owner, its permissions and the free space",
      metadata,
    },
    { cause: error },
  );
}

/** A failed read, also one that was under way while the database was opened anew. */
export function readFailed(directory: string, error: unknown): TidemarkError {
  if (error instanceof TidemarkError) return error;
  const codes = codesOf(error);
  if (codes.includes("LEVEL_CORRUPTION")) return damaged(directory, error);
  return new TidemarkError(
    codes.includes("LEVEL_IO_ERROR") ? "MEDIUM_ERROR" : "METADATA_WRITE_FAILED",
    {
      message: `the box's metadata in ${directory} cannot be read now: ${reasonOf(error)}`,
      hint: "look after the disk under the data directory, then try again",
      metadata: { path: directory },
    },
    { cause: error },
  );
}

export function reopenFailed(directory: string, error: unknown): TidemarkError {
  return new TidemarkError(
    "METADATA_WRITE_FAILED",
    {
      message: `${directory} cannot be opened again: ${reasonOf(error)}`,
      hint: "make room or look after the disk under the data directory, then try again; nothing was changed",
      metadata: { path: directory },
    },
    { cause: error },
  );
}

function damaged(directory: string, error: unknown): TidemarkError {
  return new TidemarkError(
    "METADATA_CORRUPT",
    { message: `${directory} is damaged: ${reasonOf(error)}`, hint: REBUILD, metadata: { path: directory } },
    { cause: error },
  );
}

function codesOf(error: unknown): string[] {
  const codes: string[] = [];
  for (let at: unknown = error; at instanceof Error; at = at.cause)
    if ("code" in at && typeof at.code === "string") codes.push(at.code);
  return codes;
}

function reasonOf(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  return cause instanceof Error ? cause.message : String(cause);
}
