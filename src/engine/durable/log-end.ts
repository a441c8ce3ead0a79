/**
 * Where a frame log ended when somebody wrote that down, and what it means that the log which is found ends earlier.
 *
 * Role: a log by itself cannot tell that whole frames are gone at its end (a file cut off between two frames, an earlier version
 * of it). A clean stop notes the end of each log in `clean-stop.log`, a superblock how many frames its log had; a log that
 * is shorter than that, or another one up to there, is damaged. A log may always be longer.
 */

import type { TidemarkError } from "../../base/errors.ts";
import { corruptFile } from "./state-files.ts";

/** As a clean stop has left a log. */
export interface LogEnd {
  /** Of the last frame. */
  readonly sequence: number;
  /** Of the last frame with a payload, and its checksum, which covers everything before it. */
  readonly dataSequence: number;
  readonly dataChecksum: number;
}

/** What a log that is found has to have. */
export interface ExpectedEnd {
  readonly sequence: number;
  readonly dataSequence: number;
  readonly dataChecksum?: number;
  /** Frames without a payload are missing or damaged: nothing is lost. */
  readonly onLostMark?: (error: TidemarkError) => void;
}

/** At least so many frames, as a superblock says. */
export function atLeastFrames(frames: number | undefined): ExpectedEnd | undefined {
  return frames === undefined ? undefined : { sequence: frames, dataSequence: frames };
}

/** Frame `sequence` is `checksum`. METADATA_CORRUPT. */
export function requireFrame(
  path: string,
  expected: ExpectedEnd | undefined,
  { sequence, checksum }: { readonly sequence: number; readonly checksum: number },
): void {
  if (expected?.dataChecksum === undefined || sequence !== expected.dataSequence) return;
  if (checksum !== expected.dataChecksum)
    throw corruptFile(path, `frame ${sequence} is not the one that the last stop has left`, {
      sequence: String(sequence),
    });
}

/** `found`: the end of the log. METADATA_CORRUPT. */
export function requireEnd(
  path: string,
  expected: ExpectedEnd | undefined,
  found: { readonly sequence: number; readonly endBytes: number },
): void {
  if (expected === undefined || found.sequence >= expected.sequence) return;
  const { sequence, endBytes } = found;
  const error = corruptFile(path, `ends with frame ${sequence}; it had ${expected.sequence} frames that were durable`, {
    offset: String(endBytes),
    sequence: String(sequence + 1),
  });
  if (sequence < expected.dataSequence) throw error;
  expected.onLostMark?.(error);
}

/** For JSON. */
export function encodeLogEnd({ sequence, dataSequence, dataChecksum }: LogEnd): readonly number[] {
  return [sequence, dataSequence, dataChecksum];
}

/** Undefined: not what `encodeLogEnd` makes. */
export function decodeLogEnd(value: unknown): LogEnd | undefined {
  if (!Array.isArray(value) || value.length !== 3 || !value.every((part) => Number.isSafeInteger(part) && part >= 0))
    return undefined;
  const [sequence, dataSequence, dataChecksum] = value as [number, number, number];
  return dataSequence <= sequence ? { sequence, dataSequence, dataChecksum } : undefined;
}
