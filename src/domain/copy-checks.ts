/** Checks of what is asked of copies, before anything happens. */
import { TidemarkError } from "../base/errors.ts";
import { PACE_MAX, PACE_MIN, SESSIONS_PER_POINT_MAX } from "../base/limits.ts";
import { GRANULE_SIZE_BYTES } from "../base/units.ts";
import type { ExtentRef } from "../engine/engine-api.ts";
import type { EndedCopyRow } from "../store/rows.ts";
import { parseCopyId } from "./names.ts";

export function checkId(id: string, field: string): number {
  const number = parseCopyId(id);
  if (number !== undefined) return number;
  throw new TidemarkError("INVALID_ARGUMENT", {
    message: `${JSON.stringify(id.slice(0, 100))} is no session id`,
    hint: "ids look like c12; tidemark copy list shows them",
    field,
  });
}

export function checkCount(count: number, field: string): void {
  if (count >= 1 && count <= SESSIONS_PER_POINT_MAX) return;
  throw new TidemarkError(count === 0 ? "INVALID_ARGUMENT" : "LIMIT_EXCEEDED", {
    message: `a point fires 1 to ${SESSIONS_PER_POINT_MAX} sessions, ${count} were given`,
    hint: count === 0 ? "name at least one" : "fire several points",
    field,
  });
}

/** INVALID_ARGUMENT. */
export function checkDistinct(ids: readonly string[]): void {
  if (new Set(ids).size === ids.length) return;
  throw new TidemarkError("INVALID_ARGUMENT", {
    message: "a session is named twice",
    hint: "name each session once",
    field: "ids",
  });
}

export function checkPace(pace: number): number {
  if (pace >= PACE_MIN && pace <= PACE_MAX) return pace;
  throw new TidemarkError("INVALID_ARGUMENT", {
    message: `the pace ${pace} is not between ${PACE_MIN} and ${PACE_MAX}`,
    hint: `${PACE_MAX} is as fast as it goes, ${PACE_MIN} is gentle`,
    field: "pace",
  });
}

export function refuseUnaligned(extent: ExtentRef, field: string): void {
  if (extent.offsetBytes % GRANULE_SIZE_BYTES === 0) return;
  throw new TidemarkError("PARTITION_UNALIGNED", {
    message: `${extent.name} begins at byte ${extent.offsetBytes}, which is no multiple of ${GRANULE_SIZE_BYTES}`,
    hint: "copy the whole volume, or move the partition to an 8 KiB boundary",
    field,
    metadata: { name: extent.name, offsetBytes: String(extent.offsetBytes) },
  });
}

export function sessionNotFound(id: string, field: string, ended: EndedCopyRow | undefined): TidemarkError {
  return new TidemarkError("SESSION_NOT_FOUND", {
    message: ended === undefined ? `there is no session ${id}` : `the session ${id} has ended (${ended.phase})`,
    hint: "tidemark copy list shows the sessions; start a new one for the pair",
    field,
    metadata: { id },
  });
}
