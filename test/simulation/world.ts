/**
 * The world of one history: its volumes, its disks, its bounds, and what can go wrong in it. Everything from the seed.
 *
 * A small world has volumes of 8 to 64 granules, all in one region of the activity log. A wide one has sparse volumes of
 * several regions, of which only the granules around the borders of regions are used, so that regions are evicted.
 */
import { type Chance, mixSeed } from "./chance.ts";
import { type Extent, SECTORS_A_GRANULE, SECTORS_A_REGION } from "./facts.ts";
import { chooseMood, type SchedulingMood } from "./scheduler.ts";
import type { DiskHabits } from "./virtual-disk.ts";

const VOLUMES_LEAST = 2;
const VOLUMES_MOST = 4;

/** Things that a history may contain; each seed leaves some out, so that rare things are also seen alone. */
export const FEATURES = [
  "kill",
  "power-loss",
  "recovery-crash",
  "clean-stop",
  "parts",
  "cascade",
  "restore",
  "group-points",
  "zeroes",
  "overlap",
  "bad-sectors",
  "device-full",
  "device-failure",
  "stalls",
  "state-full",
  "state-failure",
  "whole-box",
  "register-again",
  "store-full",
  "store-failure",
] as const;
export type Feature = (typeof FEATURES)[number];

const PROBABILITY: Readonly<Record<Feature, number>> = {
  kill: 0.6,
  "power-loss": 0.7,
  "recovery-crash": 0.4,
  "clean-stop": 0.5,
  parts: 0.5,
  cascade: 0.5,
  restore: 0.5,
  "group-points": 0.4,
  zeroes: 0.4,
  overlap: 0.3,
  "bad-sectors": 0.12,
  "device-full": 0.1,
  "device-failure": 0.25,
  stalls: 0.1,
  "state-full": 0.12,
  "state-failure": 0.16,
  "whole-box": 0.2,
  "register-again": 0.4,
  "store-full": 0.25,
  "store-failure": 0.3,
};

/** What concerns the rows of a box, which only a whole one has. */
const OF_THE_WHOLE_BOX: ReadonlySet<Feature> = new Set(["register-again", "store-full", "store-failure"]);

export interface World {
  readonly seed: number;
  readonly features: ReadonlySet<Feature>;
  /** Sectors of each volume. */
  readonly volumes: readonly number[];
  /** Where hosts write and read, by volume. */
  readonly windows: readonly (readonly Extent[])[];
  /** What copies are made of, by volume; the first is the whole. */
  readonly extents: readonly (readonly Extent[])[];
  readonly mood: SchedulingMood;
  readonly disk: DiskHabits;
  readonly slots: number;
  readonly checkpointBytes: number;
  readonly jobBytes: number;
  /** How likely an operation on the state files takes a turn of its own, besides writes and syncs, which always do. */
  readonly stateTurnProbability: number;
  /** Larger maps of a point are in files of their own. */
  readonly pointMapsBytesMax: number;
}

export function chooseWorld(seed: number, chance: Chance): World {
  const features = new Set(FEATURES.filter((feature) => chance.happens(PROBABILITY[feature])));
  if (!features.has("whole-box")) for (const feature of OF_THE_WHOLE_BOX) features.delete(feature);
  const count = chance.between(VOLUMES_LEAST, VOLUMES_MOST);
  const wide = chance.happens(0.4);
  const volumes: number[] = [];
  const base = wide ? SECTORS_A_REGION * chance.between(2, 4) : SECTORS_A_GRANULE * chance.between(8, 32);
  for (let index = 0; index < count; index++) volumes.push(base + sizeChange(chance));
  const windows = volumes.map((sectors, volume) =>
    wide ? borderWindows(volume, sectors) : [{ volume, first: 0, count: sectors }],
  );
  const extents = volumes.map((sectors, volume) => [
    { volume, first: 0, count: sectors },
    ...(wide ? borderWindows(volume, sectors) : smallParts(volume, sectors)),
  ]);
  return {
    ...{ seed, features, volumes, windows, extents },
    mood: chooseMood(chance),
    disk: { holes: wide || chance.happens(0.5), inlineProbability: chance.pick([0, 0.3, 0.9]) },
    slots: wide ? chance.between(1, 3) : 1024,
    checkpointBytes: chance.pick([5000, 6000, 16 * 1024 * 1024]),
    jobBytes: 8192 * chance.pick([1, 2, 4, 512]),
    stateTurnProbability: chance.pick([0, 0.3, 1]),
    pointMapsBytesMax: chance.pick([0, 40, 16 * 1024 * 1024, 16 * 1024 * 1024]),
  };
}

function sizeChange(chance: Chance): number {
  return chance.weighted({ same: 3, larger: 2 }) === "same" ? 0 : chance.between(1, 40);
}

/** Four granules on either side of each border between regions. */
function borderWindows(volume: number, sectors: number): Extent[] {
  const windows: Extent[] = [];
  const half = 4 * SECTORS_A_GRANULE;
  for (let border = SECTORS_A_REGION; border <= sectors; border += SECTORS_A_REGION)
    windows.push({ volume, first: border - half, count: Math.min(2 * half, sectors - border + half) });
  return windows;
}

/** Two parts that are neighbours; the first ends inside a granule. */
function smallParts(volume: number, sectors: number): Extent[] {
  const half = Math.floor(sectors / SECTORS_A_GRANULE / 2);
  return [
    { volume, first: 0, count: (half - 1) * SECTORS_A_GRANULE + 3 },
    { volume, first: half * SECTORS_A_GRANULE, count: (half - 1) * SECTORS_A_GRANULE + 5 },
  ];
}

export function seedOf(seed: number, purpose: number): number {
  return mixSeed(seed, purpose);
}
