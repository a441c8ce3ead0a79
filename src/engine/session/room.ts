/** Whether the box, and the volumes of a point, have room for more sessions. */
import { TidemarkError } from "../../base/errors.ts";
import { SESSIONS_MAX, SESSIONS_PER_VOLUME_MAX } from "../../base/limits.ts";
import type { VolumeSet } from "../volume/volume-set.ts";
import type { PointMember } from "./point.ts";

/** `exist`: sessions there are. The superblock of a volume names the epochs that its sessions hold. LIMIT_EXCEEDED, OUT_OF_SERVICE. */
export function requireRoom(volumes: VolumeSet, members: readonly PointMember[], exist: number): void {
  if (exist + members.length > SESSIONS_MAX)
    throw new TidemarkError("LIMIT_EXCEEDED", {
      message: `there are ${exist} copy sessions; at most ${SESSIONS_MAX} can exist`,
      hint: "cancel sessions that are not needed",
    });
  for (const member of members)
    for (const { volumeUid, name } of [member.source, member.destination]) {
      const volume = volumes.require(volumeUid);
      volume.requireInService();
      const added = members.filter((one) => [one.source.volumeUid, one.destination.volumeUid].includes(volumeUid));
      if (volume.leaving.length + volume.entering.length + added.length <= SESSIONS_PER_VOLUME_MAX) continue;
      throw new TidemarkError("LIMIT_EXCEEDED", {
        message: `${name} would have more than ${SESSIONS_PER_VOLUME_MAX} copy sessions`,
        hint: "cancel sessions of this volume that are not needed",
      });
    }
}
