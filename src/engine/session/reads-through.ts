/** Whether a session may end although others read on from its destination. */
import { TidemarkError } from "../../base/errors.ts";
import { extentsOverlap } from "./extents.ts";
import type { CopySession } from "./session.ts";

/** A cascade copies on what this session still owes: ending it would leave the later destination with wrong data. COPY_STATE. */
export function requireNobodyReadsThrough(session: CopySession): void {
  if (!session.unfinished) return;
  const reader = session.destinationVolume.leaving.find(
    (other) => other.unfinished && other.state === "live" && extentsOverlap(other.source, session.destination),
  );
  if (!reader) return;
  throw new TidemarkError("COPY_STATE", {
    message: `copy ${session.id} cannot end yet: copy ${reader.id} still reads ${session.destination.name} through it`,
    hint: `wait for copy ${reader.id} or cancel it first`,
  });
}
