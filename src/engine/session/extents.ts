/** Arithmetic between bytes of a volume and granules of a session. */
import { assert } from "../../base/assert.ts";
import type { MoveRun } from "../../base/ports.ts";
import { GRANULE_SIZE_BYTES, granuleCountOf, granulesTouched } from "../../base/units.ts";
import type { ExtentRef } from "../engine-api.ts";

export interface GranuleRun {
  readonly first: number;
  readonly count: number;
}

export function extentsOverlap(a: ExtentRef, b: ExtentRef): boolean {
  return (
    a.volumeUid === b.volumeUid &&
    a.offsetBytes < b.offsetBytes + b.lengthBytes &&
    b.offsetBytes < a.offsetBytes + a.lengthBytes
  );
}

export function sameExtent(a: ExtentRef, b: ExtentRef): boolean {
  return sameStart(a, b) && a.lengthBytes === b.lengthBytes;
}

/** True when both begin at the same byte of the same volume: a destination may be longer than what is copied into it. */
export function sameStart(a: ExtentRef, b: ExtentRef): boolean {
  return a.volumeUid === b.volumeUid && a.offsetBytes === b.offsetBytes;
}

/** Granules of a session side that bytes `[offsetBytes, offsetBytes + lengthBytes)` of the volume touch. */
export function granulesOfSide(
  side: { offsetBytes: number; lengthBytes: number },
  offsetBytes: number,
  lengthBytes: number,
): GranuleRun | undefined {
  const from = Math.max(offsetBytes, side.offsetBytes);
  const to = Math.min(offsetBytes + lengthBytes, side.offsetBytes + side.lengthBytes);
  if (from >= to) return undefined;
  return granulesTouched(from - side.offsetBytes, to - from);
}

/** Bytes of a run of session granules; the last granule of the session may be partial. */
export function bytesOfRun(run: GranuleRun, sessionLengthBytes: number): { offsetBytes: number; lengthBytes: number } {
  const offsetBytes = run.first * GRANULE_SIZE_BYTES;
  const endBytes = Math.min((run.first + run.count) * GRANULE_SIZE_BYTES, sessionLengthBytes);
  assert(endBytes > offsetBytes, "a run lies inside its session");
  return { offsetBytes, lengthBytes: endBytes - offsetBytes };
}

/** Granules finished by `doneBytes` of a run; the end of the session completes its partial granule. */
export function granulesDone(run: GranuleRun, doneBytes: number, sessionLengthBytes: number): number {
  const { lengthBytes } = bytesOfRun(run, sessionLengthBytes);
  if (doneBytes >= lengthBytes) return run.count;
  return Math.floor(doneBytes / GRANULE_SIZE_BYTES);
}

export function moveRun(run: GranuleRun, source: ExtentRef, destination: ExtentRef): MoveRun {
  const { offsetBytes, lengthBytes } = bytesOfRun(run, source.lengthBytes);
  return {
    fromOffsetBytes: source.offsetBytes + offsetBytes,
    toOffsetBytes: destination.offsetBytes + offsetBytes,
    lengthBytes,
  };
}

/** Bytes that `granules` set granules stand for, when the partial last granule is or is not among them. */
export function bytesOfGranules(granules: number, lastIsSet: boolean, sessionLengthBytes: number): number {
  const total = granuleCountOf(sessionLengthBytes);
  const missing = total * GRANULE_SIZE_BYTES - sessionLengthBytes;
  return granules * GRANULE_SIZE_BYTES - (lastIsSet ? missing : 0);
}
