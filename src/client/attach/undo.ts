/**
 * Detaching: everything attach made is undone, in the opposite order.
 *
 * Invariants:
 *   1. Nothing is taken away while somebody uses the device.
 *   2. Everything written is durable before the device goes; if it cannot be made so, the device stays, unless the
 *      user gives the writes up.
 *   3. Only what attach made is touched: a loop device is given back only while its backing file is ours.
 */
import { Failure } from "../failure.ts";
import { detachLoop, findLoop, flushDevice, refuseIfUsed } from "./block-device.ts";
import { fuseFile, unmountFuse } from "./fuse.ts";
import { detachKernelNbd, isKernelNbdConnected } from "./kernel-nbd.ts";
import { isAlive, thisProcess } from "./process.ts";
import { type Attachment, forgetAttachment, mountDirectory, writeRecord } from "./record.ts";

export interface UndoOptions {
  /** What to do when a step fails: stop and say so, or (after a failed attach) try the rest as well. */
  readonly afterFailure: "throw" | "keep going";
  /** `give up`: detach although writes could not be made durable. */
  readonly unflushedWrites?: "keep" | "give up";
}

/** Takes an attachment apart and forgets it. Throws DEVICE_MOUNTED, DEVICE_BUSY, FLUSH_FAILED. */
export async function undoAttachment(attachment: Attachment, options: UndoOptions): Promise<void> {
  const { directory, record } = attachment;
  const steps =
    record.method === "kernel-nbd" ? [() => undoKernelNbd(record.device, options)] : nbdfuseSteps(attachment, options);
  const { busy: _busy, ...settled } = record;
  writeRecord(directory, { ...settled, busy: thisProcess() });
  for (const step of steps) {
    try {
      await step();
    } catch (error) {
      if (options.afterFailure === "keep going") continue;
      writeRecord(directory, settled);
      throw error;
    }
  }
  if (options.afterFailure === "keep going" && isAlive(record.server)) return; // the record stays for a later detach
  forgetAttachment(directory);
}

function nbdfuseSteps({ directory, record }: Attachment, options: UndoOptions): (() => Promise<void>)[] {
  const mountPoint = mountDirectory(directory);
  const file = fuseFile(mountPoint);
  const giveBackLoop = async () => {
    const device = findLoop(file);
    if (device === undefined) return;
    refuseIfUsed(device);
    flushUnlessGivenUp(device, options);
    await detachLoop(device, file);
  };
  return [giveBackLoop, () => unmountFuse(mountPoint, record.server)];
}

async function undoKernelNbd(device: string, options: UndoOptions): Promise<void> {
  if (device === "" || !isKernelNbdConnected(device)) return;
  refuseIfUsed(device);
  flushUnlessGivenUp(device, options);
  await detachKernelNbd(device);
}

function flushUnlessGivenUp(device: string, options: UndoOptions): void {
  try {
    flushDevice(device);
  } catch (error) {
    if (options.unflushedWrites === "give up") return;
    if (!(error instanceof Failure)) throw error;
    const hint = "is the server still there? `tidemark volume detach NAME --force` gives the unwritten data up";
    throw new Failure(error.code, error.message, { ...error, hint }, { cause: error });
  }
}
