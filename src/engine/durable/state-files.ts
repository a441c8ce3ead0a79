/**
 * The port to the disk that holds the engine's own state: small files below one state directory.
 *
 * Role: everything in this folder goes through these two interfaces, so that a simulator can replace the disk.
 * Words: *stored* = `write` returned (survives `kill -9`); *durable* = a `sync` that started later returned
 * (survives power loss). Names are durable only after `syncDirectory` of the directory that holds them.
 * Guarantees every implementation gives:
 *   1. Paths are relative to the state directory, separated by "/", without "." or ".." (asserted).
 *   2. `write` is complete or throws METADATA_WRITE_FAILED; metadata `path`, `systemCode` (such as ENOSPC).
 *   3. A failed `sync` is final for the file: METADATA_WRITE_FAILED then and at every later call but `close`,
 *      because the system may have marked pages clean that never reached the disk.
 *   4. Every other failure of the system is a TidemarkError that names the path.
 * Specification: data-safety 1.1, 1.2, 1.8.
 */
import { assert } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";

export interface StateFile {
  readonly path: string;
  size(): Promise<number>;
  /** Fewer bytes only where the file ends. MEDIUM_ERROR when the system cannot read it. */
  read(offsetBytes: number, lengthBytes: number): Promise<Uint8Array>;
  /** Stored when it returns. `data` belongs to the file until then. A gap before `offsetBytes` reads as zeros. */
  write(offsetBytes: number, data: Uint8Array): Promise<void>;
  truncate(lengthBytes: number): Promise<void>;
  /** Every write, and the size, from calls that had returned before this call is durable when it returns. */
  sync(): Promise<void>;
  /** What is durable is read from the medium next time, as far as the system can do that; undefined where there is no cache. */
  forgetCached?(): Promise<void>;
  /** Does not sync. Idempotent. */
  close(): Promise<void>;
}

export type CreateMode = "must-not-exist" | "may-exist" | "must-exist";

export interface StateFiles {
  /** For reading and writing. PATH_EXISTS, PATH_NOT_FOUND. A new file's name is not durable yet. */
  open(path: string, options: { create: CreateMode }): Promise<StateFile>;
  /** Atomic; replaces `to`. PATH_NOT_FOUND. Both in one directory. */
  rename(from: string, to: string): Promise<void>;
  /** A file that is missing is not an error. */
  remove(path: string): Promise<void>;
  /** Names of files and directories, sorted. "" is the state directory itself. PATH_NOT_FOUND. */
  list(directory: string): Promise<string[]>;
  /** One level; a directory that exists is not an error. */
  makeDirectory(path: string): Promise<void>;
  /** Must be empty; a missing one is not an error. */
  removeDirectory(path: string): Promise<void>;
  /** Names made, changed or removed in it before this call are durable when it returns. */
  syncDirectory(directory: string): Promise<void>;
  exists(path: string): Promise<boolean>;
}

/** Asserts guarantee 1. */
export function assertStatePath(path: string): void {
  const parts = path.split("/");
  const plain = parts.every((part) => part !== "" && part !== "." && part !== ".." && !part.includes("\0"));
  assert(path === "" || plain, `"${path}" is a plain path below the state directory`);
}

/** The directory part of a state path; "" for the state directory itself. */
export function directoryOf(path: string): string {
  const slash = path.lastIndexOf("/");
  return slash < 0 ? "" : path.slice(0, slash);
}

/** What says that the medium, or the file system on it, is bad. */
const MEDIUM_CODES: ReadonlySet<string> = new Set(["EIO", "EBADMSG", "EUCLEAN", "EREMOTEIO", "EILSEQ", "ENXIO"]);

type FileOperation = "open" | "read" | "write" | "truncate" | "sync" | "rename" | "remove" | "list" | "make" | "close";

/** A failure of the system as the error that guarantee 4 promises. */
export function stateFileError(operation: FileOperation, path: string, cause: unknown): TidemarkError {
  const systemCode = systemCodeOf(cause);
  const reason = cause instanceof Error ? cause.message : String(cause);
  const metadata = { path, operation, systemCode };
  if (systemCode === "ENOENT" && !["write", "truncate", "sync"].includes(operation)) {
    return new TidemarkError("PATH_NOT_FOUND", {
      message: `state file ${path} does not exist`,
      hint: "restore the state directory from its backup, or register the volume again",
      metadata,
    });
  }
  if (systemCode === "EEXIST") {
    return new TidemarkError("PATH_EXISTS", { message: `state file ${path} exists already`, metadata });
  }
  if (systemCode === "EACCES" || systemCode === "EPERM") {
    return new TidemarkError("PERMISSION_DENIED", {
      message: `state file ${path} cannot be used: ${reason}`,
      hint: "give the state directory back to the user that runs tidemarkd (files 0600, directories 0700)",
      metadata,
    });
  }
  if ((operation === "read" || operation === "list" || operation === "open") && MEDIUM_CODES.has(systemCode)) {
    return new TidemarkError("MEDIUM_ERROR", {
      message: `state file ${path} cannot be read: ${reason}`,
      hint: "check the disk under the state directory",
      metadata,
    });
  }
  return new TidemarkError(
    "METADATA_WRITE_FAILED",
    {
      message: `${operation} of state file ${path} failed: ${reason}`,
      hint: isOutOfSpace(systemCode)
        ? "make room on the file system that holds the state directory"
        : "check the disk under the state directory, then restart tidemarkd",
      metadata,
    },
    { cause },
  );
}

/** The error of guarantee 3. */
export function syncFailedError(path: string): TidemarkError {
  return new TidemarkError("METADATA_WRITE_FAILED", {
    message: `state file ${path} is out of use since a sync of it failed`,
    hint: "check the disk under the state directory, then restart tidemarkd",
    metadata: { path, operation: "sync", systemCode: "EIO" },
  });
}

/**
 * True for a failed write that left everything as it was, but for a part of it that can be cut off. A sync, or the cutting
 * off, that fails for want of space is as final as any other failure.
 */
export function wasOutOfSpace(error: unknown): boolean {
  if (!(error instanceof TidemarkError)) return false;
  const { operation, systemCode } = error.detail.metadata ?? {};
  return operation === "write" && isOutOfSpace(systemCode);
}

function isOutOfSpace(systemCode: string | undefined): boolean {
  return systemCode === "ENOSPC" || systemCode === "EDQUOT";
}

function systemCodeOf(cause: unknown): string {
  const code = (cause as { code?: unknown } | undefined)?.code;
  return typeof code === "string" ? code : "UNKNOWN";
}

/** METADATA_CORRUPT of one file; `message` continues "<path>: ". */
export function corruptFile(path: string, message: string, metadata: Record<string, string> = {}): TidemarkError {
  return new TidemarkError("METADATA_CORRUPT", {
    message: `${path}: ${message}`,
    hint: "keep a copy of the state directory, then run `tidemark fsck`; volume data is not touched by this",
    metadata: { path, ...metadata },
  });
}

/**
 * True when a state file itself is bad: wrong content, gone, or not readable from the disk. Everything else (no descriptors, no
 * permission, a newer format) says nothing about what it holds and may be over at the next attempt.
 */
export function isDamage(error: TidemarkError): boolean {
  return ["METADATA_CORRUPT", "PATH_NOT_FOUND", "MEDIUM_ERROR"].includes(error.code);
}

/** True when a state file must not be opened in this run: nothing is known of it, and nothing may be done to it. */
export function isBarring(error: TidemarkError): boolean {
  return error.code === "PERMISSION_DENIED" || error.code === "SCHEMA_TOO_NEW";
}

/** SCHEMA_TOO_NEW of one file. */
export function fileTooNew(path: string, found: number, known: number): TidemarkError {
  return new TidemarkError("SCHEMA_TOO_NEW", {
    message: `${path} has format ${found}; this program knows formats up to ${known}`,
    hint: "use the tidemark release that wrote the state directory, or a later one",
    metadata: { path, found: String(found), known: String(known) },
  });
}
