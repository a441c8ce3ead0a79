/** What changes for others when a copy ends that has not brought everything. */
import type { VolumeSet } from "../volume/volume-set.ts";
import type { CopySession } from "./session.ts";

/**
 * What the destination of a copy that ends unfinished still lacks was read there through the copy, and is not there any more:
 * for who tracks the destination it changes, durably before the copy is over.
 */
export async function markLost(volumes: VolumeSet, session: CopySession): Promise<void> {
  const { destinationVolume } = session;
  if (!session.unfinished || !destinationVolume.chain.tracked) return;
  const missing = session.missing();
  destinationVolume.markLogicalChange(missing, session.destination);
  missing.dispose();
  volumes.noteMarks(destinationVolume);
  await volumes.settle([destinationVolume]);
}
