/** A registered volume that cannot be used: the error, and what to do about it. */
import { type ErrorRecord, TidemarkError } from "../base/errors.ts";
import type { VolumeRow } from "../store/rows.ts";

/** VOLUME_UNAVAILABLE with the reason. */
export function unavailable(name: string, row: VolumeRow, failure: ErrorRecord): TidemarkError {
  return new TidemarkError("VOLUME_UNAVAILABLE", {
    message: `volume ${name} is not available: ${failure.detail.message}`,
    hint: unavailableHint(name, row, failure),
    metadata: { volume: name, path: row.path, reason: failure.code },
  });
}

/** The engine's hints are for a path that somebody wants to register; what is registered has to come back as it was. */
export function unavailableHint(name: string, row: VolumeRow, failure: ErrorRecord | undefined): string {
  if (failure?.code === "OUT_OF_SERVICE") return failure.detail.hint ?? "start the daemon again";
  const reopen = `tidemark volume reopen ${name}`;
  if (failure?.code === "PATH_NOT_FOUND")
    return `bring ${row.path} back with its content (a new file there would be taken for it), then: ${reopen}; to give it up: tidemark volume delete ${name}`;
  const hint = failure?.detail.hint ?? `bring ${row.path} back`;
  return hint.includes(reopen) ? hint : `${hint}, then: ${reopen}`;
}
