/**
 * What must hold, by the numbers of data-safety 3.2. Session kinds to come add theirs; README.md says where each is checked.
 */
export const INVARIANTS = {
  1: "flushed data survives power loss",
  2: "acknowledged data survives a kill",
  3: "no sector is torn or foreign",
  4: "reads are linearizable per sector",
  5: "other volumes never change",
  6: "a recovery that crashed is as one that did not, or wider",
  7: "maps have every true difference",
  8: "maps have nothing else but in hot regions, and nothing else at all after a clean stop",
  9: "a damaged or stale metadata page is detected",
  10: "sessions take legal steps only",
  11: "the files are those of the sessions and volumes that exist",
  12: "no lock is left, nothing fails without a reason, and everything goes on when faults stop",
  13: "a destination is its source at the point, and what was written to it since",
  14: "a copy that has ended needs its source no more",
  15: "bytes past the source's size are untouched",
  16: "cancel and restart never change the source",
  17: "each restart gives the source at its own point",
  18: "a restart copies what the maps say, and is a difference where one is possible",
  19: "a restore makes the source what the destination is, and tracking goes on",
  20: "a bad sector fails the copy, and nothing false is copied",
  42: "the members of a point, and the sectors of each, are of one instant, all or none",
} as const;

export type InvariantNumber = keyof typeof INVARIANTS;
