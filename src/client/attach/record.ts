/**
 * What is attached on this machine, remembered across commands.
 *
 * Role: one private directory an attachment, holding its record, the mount directory and the log of the background
 * process. The directory is the lock: it is made with mkdir, which only one command can win.
 * Invariants:
 *   1. A record is written before the step that it speaks of, so that leftovers of a crash can be found and undone.
 *   2. A record is replaced whole (write, rename): it is never half-written.
 *   3. Nobody but its owner can read or change the directory (0700).
 */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { Failure } from "../failure.ts";
import type { ProcessIdentity } from "./process.ts";

export type AttachMethod = "kernel-nbd" | "nbdfuse";

export interface AttachmentRecord {
  readonly schema: 1;
  /** Canonical name of the volume or partition, and its label (empty if none). */
  readonly name: string;
  readonly label: string;
  /** Address of the server's API. */
  readonly address: string;
  readonly uri: string;
  readonly readOnly: boolean;
  readonly method: AttachMethod;
  /** True when attaching added the export, so that detaching removes it. */
  readonly exportAdded: boolean;
  /** Path of the block device; empty until there is one. */
  readonly device: string;
  /** Background process that serves the FUSE file. */
  readonly server?: ProcessIdentity;
  /** The command that is working on it; absent when it is attached. */
  readonly busy?: ProcessIdentity;
}

export interface Attachment {
  /** Private directory of this attachment. */
  readonly directory: string;
  readonly record: AttachmentRecord;
}

const RECORD_FILE = "record.json";
/** More attachments than any machine has loop devices. */
const ATTACHMENTS_MAX = 4096;

/** Directory that holds all attachments of this user. */
export function attachmentsDirectory(environment: Readonly<Record<string, string | undefined>>): string {
  const chosen = environment["TIDEMARK_RUNTIME_DIR"];
  if (chosen !== undefined && chosen !== "") return join(chosen, "attach");
  // Not XDG_RUNTIME_DIR for root: it is set in some logins and not in others, and then detach would find nothing.
  if (process.getuid?.() === 0) return "/run/tidemark-attach";
  const runtime = environment["XDG_RUNTIME_DIR"];
  if (runtime !== undefined && runtime !== "") return join(runtime, "tidemark-attach");
  return join(homedir(), ".tidemark", "attach");
}

/** Name of an attachment's directory: readable, and different for equal names of different boxes. */
export function attachmentKey(name: string, uri: string): string {
  const digest = createHash("sha256").update(uri).digest("hex").slice(0, 8);
  return `${name.replaceAll(/[^A-Za-z0-9._-]/g, "_")}-${digest}`;
}

/** Makes the directory of a new attachment. Returns undefined when it exists already. */
export function claimDirectory(parent: string, key: string): string | undefined {
  mkdirSync(parent, { recursive: true, mode: 0o700 });
  const directory = join(parent, key);
  try {
    mkdirSync(directory, { mode: 0o700 });
    return directory;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return undefined;
    throw error;
  }
}

export function writeRecord(directory: string, record: AttachmentRecord): void {
  const temporary = join(directory, `${RECORD_FILE}.new`);
  writeFileSync(temporary, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600, flush: true });
  renameSync(temporary, join(directory, RECORD_FILE));
}

/** The attachment in `directory`; undefined when it has no record (a crash right after mkdir). */
export function readAttachment(directory: string): Attachment | undefined {
  let text: string;
  try {
    text = readFileSync(join(directory, RECORD_FILE), "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  const record = parseRecord(text);
  if (record !== undefined) return { directory, record };
  throw new Failure("INTERNAL", `${join(directory, RECORD_FILE)} cannot be read`, {
    reason: "ATTACHMENT_RECORD_INVALID",
    hint: `look at it; detach by hand (losetup -l, mount), then remove ${directory}`,
  });
}

/** All attachments in order of their directory's name. */
export function listAttachments(parent: string): Attachment[] {
  let names: string[];
  try {
    names = readdirSync(parent).sort().slice(0, ATTACHMENTS_MAX);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw error;
  }
  return names.flatMap((name) => readAttachment(join(parent, name)) ?? []);
}

/** Forgets an attachment whose parts are all gone. The mount directory must be empty: nothing is removed through it. */
export function forgetAttachment(directory: string): void {
  try {
    rmdirSync(mountDirectory(directory));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  rmSync(directory, { recursive: true, force: true });
}

export function mountDirectory(directory: string): string {
  return join(directory, "mount");
}

function parseRecord(text: string): AttachmentRecord | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isRecord(value: unknown): value is AttachmentRecord {
  if (typeof value !== "object" || value === null) return false;
  const fields = value as Record<string, unknown>;
  const texts = ["name", "label", "address", "uri", "device"].every((key) => typeof fields[key] === "string");
  const flags = typeof fields["readOnly"] === "boolean" && typeof fields["exportAdded"] === "boolean";
  return (
    fields["schema"] === 1 && texts && flags && (fields["method"] === "nbdfuse" || fields["method"] === "kernel-nbd")
  );
}
