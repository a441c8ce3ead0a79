/**
 * Attaching: a volume of a box becomes a block device of this machine.
 *
 * Steps, each recorded before it is taken, so that a crash between any two leaves something `undo` can clear away:
 *   1. claim the private directory (the lock) and record the export;
 *   2. nbdfuse: start it, wait for its file, make a loop device over the file; or: connect a kernel nbd device;
 *   3. record the device.
 * A failure in between undoes what was done.
 */
import { join } from "node:path";
import { Failure } from "../failure.ts";
import { attachLoop, findLoop } from "./block-device.ts";
import { fuseFile, isMounted, mountFuse } from "./fuse.ts";
import { attachKernelNbd, hasKernelNbd, isKernelNbdConnected } from "./kernel-nbd.ts";
import { findTool, isAlive, needTool, thisProcess } from "./process.ts";
import {
  type AttachMethod,
  type Attachment,
  type AttachmentRecord,
  attachmentKey,
  claimDirectory,
  forgetAttachment,
  mountDirectory,
  readAttachment,
  writeRecord,
} from "./record.ts";
import { undoAttachment } from "./undo.ts";

export type AttachRequest = Pick<AttachmentRecord, "name" | "label" | "address" | "uri" | "readOnly" | "exportAdded">;

/** How volumes are attached here. Throws what is missing: rights, or a tool with its package. */
export function chooseMethod(): AttachMethod {
  if (process.getuid?.() !== 0) {
    throw new Failure("PERMISSION_DENIED", "only root can make block devices", {
      reason: "NOT_ROOT",
      hint: "run it with sudo, or use the NBD URI of `tidemark export add` directly",
    });
  }
  if (hasKernelNbd() && findTool("nbd-client") !== undefined) return "kernel-nbd";
  for (const tool of ["nbdfuse", "losetup", "fusermount3"]) needTool(tool);
  return "nbdfuse";
}

/** Attaches and returns the finished record. Throws ALREADY_ATTACHED with the device when it is attached. */
export async function attachVolume(parent: string, request: AttachRequest): Promise<AttachmentRecord> {
  const method = chooseMethod();
  const key = attachmentKey(request.name, request.uri);
  const directory = claimDirectory(parent, key) ?? (await clearLeftovers(parent, key));
  let record: AttachmentRecord = { schema: 1, ...request, method, device: "", busy: thisProcess() };
  const keep = (change: Partial<AttachmentRecord>) => {
    record = { ...record, ...change };
    writeRecord(directory, record);
  };
  try {
    keep({});
    const device = await makeDevice(directory, record, keep);
    const { busy: _busy, ...settled } = record;
    record = { ...settled, device };
    writeRecord(directory, record);
    return record;
  } catch (error) {
    await undoAttachment({ directory, record }, { afterFailure: "keep going" });
    throw error;
  }
}

async function makeDevice(
  directory: string,
  record: AttachmentRecord,
  keep: (change: Partial<AttachmentRecord>) => void,
): Promise<string> {
  if (record.method === "kernel-nbd") return attachKernelNbd(record.uri, record);
  const mountPoint = mountDirectory(directory);
  await mountFuse({
    uri: record.uri,
    mountPoint,
    directory,
    readOnly: record.readOnly,
    started: (server) => keep({ server }),
  });
  return attachLoop(fuseFile(mountPoint), record);
}

/** An attachment that is there and works is refused; what a crash left behind is cleared away and claimed again. */
async function clearLeftovers(parent: string, key: string): Promise<string> {
  const directory = join(parent, key);
  const found = readAttachment(directory);
  if (found !== undefined) {
    if (isAlive(found.record.busy)) throw beingWorkedOn(found.record);
    if (isIntact(found)) throw alreadyAttached(found.record);
    await undoAttachment(found, { afterFailure: "throw" });
  } else forgetAttachment(directory);
  const claimed = claimDirectory(parent, key);
  if (claimed !== undefined) return claimed;
  throw new Failure("ABORTED", "another command attaches the same volume", {
    reason: "ATTACHMENT_BUSY",
    hint: "try again",
  });
}

/** True when the device of an attachment is there and has its background process. */
export function isIntact({ directory, record }: Attachment): boolean {
  if (record.device === "") return false;
  if (record.method === "kernel-nbd") return isKernelNbdConnected(record.device);
  const mountPoint = mountDirectory(directory);
  return isAlive(record.server) && isMounted(mountPoint) && findLoop(fuseFile(mountPoint)) === record.device;
}

export function beingWorkedOn(record: AttachmentRecord): Failure {
  const message = `${record.name} is being attached or detached by process ${record.busy?.pid}`;
  return new Failure("ABORTED", message, { reason: "ATTACHMENT_BUSY", hint: "wait until it is done" });
}

function alreadyAttached(record: AttachmentRecord): Failure {
  return new Failure("ALREADY_EXISTS", `${record.name} is attached already, as ${record.device}`, {
    reason: "ALREADY_ATTACHED",
    hint: `use ${record.device}, or \`tidemark volume detach ${record.name}\``,
    metadata: { device: record.device, name: record.name },
  });
}
