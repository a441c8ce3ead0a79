/** Copies one stretch at once, on the engine thread when it is small, because a host waits for it. */

import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import type { BlockDevice, MoveResult, MoveRun } from "../../base/ports.ts";
import { KiB } from "../../base/units.ts";
import type { Mover } from "../device/mover.ts";

/** Larger stretches go to a copier worker: below this a thread switch costs more than the copy. */
const INLINE_BYTES_MAX = 128 * KiB;
const BUFFERS_KEPT = 64;
const buffers: Uint8Array[] = [];

export async function moveNow(mover: Mover, from: BlockDevice, to: BlockDevice, run: MoveRun): Promise<MoveResult> {
  if (run.lengthBytes > INLINE_BYTES_MAX) return mover.move(from, to, [run], { budgetBytes: Number.MAX_SAFE_INTEGER });
  const buffer = buffers.pop() ?? new Uint8Array(INLINE_BYTES_MAX);
  try {
    const piece = buffer.subarray(0, run.lengthBytes);
    await onSide("source", async () => {
      if (!from.tryRead(run.fromOffsetBytes, piece)) await from.read(run.fromOffsetBytes, piece);
    });
    await onSide("destination", async () => {
      if (!to.tryWrite(run.toOffsetBytes, piece)) await to.write(run.toOffsetBytes, piece);
    });
  } finally {
    if (buffers.length < BUFFERS_KEPT) buffers.push(buffer);
  }
  return { doneBytes: run.lengthBytes, copiedBytes: run.lengthBytes, zeroedBytes: 0, clonedBytes: 0 };
}

/** Adds to an error which side of the copy it happened on. */
async function onSide(side: "source" | "destination", task: () => Promise<void>): Promise<void> {
  try {
    await task();
  } catch (cause) {
    const error = asTidemarkError(cause);
    const metadata = { ...error.detail.metadata, side };
    throw new TidemarkError(error.code, { ...error.detail, metadata }, { cause });
  }
}
