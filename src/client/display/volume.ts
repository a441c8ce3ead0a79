/** Words and details of volumes. */
import { type Epoch, type Volume, VolumeBacking, VolumeState } from "../../gen/tidemark/v1/volume.ts";
import type { Column } from "./table.ts";
import { formatSizeExact, formatTime } from "./units.ts";

const STATE_WORDS: Record<VolumeState, string> = {
  [VolumeState.UNSPECIFIED]: "",
  [VolumeState.ONLINE]: "online",
  [VolumeState.UNAVAILABLE]: "unavailable",
};

const BACKING_WORDS: Record<VolumeBacking, string> = {
  [VolumeBacking.UNSPECIFIED]: "",
  [VolumeBacking.FILE]: "file",
  [VolumeBacking.BLOCK]: "block",
};

export function stateWord(state: VolumeState): string {
  return STATE_WORDS[state];
}

export function backingWord(backing: VolumeBacking): string {
  return BACKING_WORDS[backing];
}

/** Everything worth knowing about one volume except its epochs. */
export function volumeFacts(volume: Volume): (readonly [string, string])[] {
  const counters = volume.counters;
  return [
    ["name", volume.name],
    ["label", volume.label],
    ["uid", volume.uid],
    ["size", formatSizeExact(volume.sizeBytes)],
    ["path", volume.path],
    ["backing", backingWord(volume.backing)],
    ["state", stateWord(volume.state)],
    ["reason", volume.stateReason],
    ["access", volume.readOnly ? "read only" : "read and write"],
    ["file made by", volume.createdByBox ? "the box" : "somebody else"],
    ["shares extents", volume.cloneRange ? "yes" : "no"],
    ["registered", formatTime(volume.createTime)],
    ["reads", counters === undefined ? "" : `${counters.readOperations}, ${formatSizeExact(counters.readBytes)}`],
    ["writes", counters === undefined ? "" : `${counters.writeOperations}, ${formatSizeExact(counters.writeBytes)}`],
    ["failed", counters === undefined ? "" : String(counters.failedOperations)],
  ];
}

export const EPOCH_COLUMNS: readonly Column<Epoch>[] = [
  { title: "EPOCH", align: "right", cell: (epoch) => String(epoch.id) },
  { title: "BEGAN", cell: (epoch) => formatTime(epoch.beginTime) },
  { title: "CHANGED-GRANULES", align: "right", cell: (epoch) => String(epoch.changedGranules) },
  { title: "STATE", cell: (epoch) => (epoch.open ? "open" : "sealed") },
  { title: "HELD-BY", cell: (epoch) => epoch.heldBy.join(",") },
];
