/**
 * Answers to NBD_CMD_BLOCK_STATUS: extents of the engine as descriptors of the protocol.
 *
 * Invariants: descriptors are consecutive from the asked offset on, never zero long, neighbours differ in their flags,
 * and together they do not reach beyond the asked range. Where the engine's answer ended early, so does ours.
 */
import type { AllocationExtent, ByteExtent } from "../../base/ports.ts";
import { STATE } from "./protocol.ts";

/** Length and flags, alternating: as they go over the wire. */
export type Descriptors = number[];

class DescriptorList {
  readonly words: Descriptors = [];
  readonly #endBytes: number;
  #atBytes: number;

  constructor(offsetBytes: number, lengthBytes: number) {
    this.#atBytes = offsetBytes;
    this.#endBytes = offsetBytes + lengthBytes;
  }

  /** Describes everything up to `endBytes`. */
  extendTo(endBytes: number, flags: number): void {
    const end = Math.min(endBytes, this.#endBytes);
    const length = end - this.#atBytes;
    if (length <= 0) return;
    this.#atBytes = end;
    const words = this.words;
    if (words.length > 0 && words[words.length - 1] === flags) words[words.length - 2]! += length;
    else words.push(length, flags);
  }
}

/** `base:allocation`: known zeros are reported as holes that read as zeros. */
export function describeAllocation(
  extents: readonly AllocationExtent[],
  offsetBytes: number,
  lengthBytes: number,
): Descriptors {
  const list = new DescriptorList(offsetBytes, lengthBytes);
  for (const extent of extents) {
    list.extendTo(extent.offsetBytes + extent.lengthBytes, extent.zero ? STATE.HOLE | STATE.ZERO : 0);
  }
  return list.words;
}

/**
 * `qemu:dirty-bitmap:`: between the runs lies what did not change. `runsMax` is how many runs the engine was asked
 * for: if it gave that many there may be more, and nothing is known behind the last one.
 */
export function describeChanges(
  runs: readonly ByteExtent[],
  runsMax: number,
  offsetBytes: number,
  lengthBytes: number,
): Descriptors {
  const list = new DescriptorList(offsetBytes, lengthBytes);
  for (const run of runs) {
    list.extendTo(run.offsetBytes, 0);
    list.extendTo(run.offsetBytes + run.lengthBytes, STATE.DIRTY);
  }
  if (runs.length < runsMax) list.extendTo(offsetBytes + lengthBytes, 0);
  return list.words;
}
