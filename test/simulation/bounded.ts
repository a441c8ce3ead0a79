/**
 * Every history of two steps in a small world, ended at every turn: what chance may leave out is in here (data-safety 3.3).
 *
 * A history is a beginning (no copy, a copy under way, a copy that tracks, one that has changed since), two steps of the
 * list below, one right after the other or when the first is answered, and a kill or a power loss so many turns after the second
 * step. Histories are numbered from 1 to BOUNDED_HISTORIES; the number takes the place of a seed.
 */
import { Chance, mixSeed } from "./chance.ts";
import { type Extent, SECTORS_A_GRANULE } from "./facts.ts";
import { chooseMood } from "./scheduler.ts";
import type { Action, MemberStep, Step } from "./workload.ts";
import { seedOf, type World } from "./world.ts";

const GRANULES = 4;
const SECTORS = GRANULES * SECTORS_A_GRANULE;
/** The second step and what follows from it take fewer turns. */
const TURNS_MAX = 64;

const whole = (volume: number): Extent => ({ volume, first: 0, count: SECTORS });
/** The end of a granule and the beginning of the next one. */
const across = (volume: number): Extent => ({ volume, first: SECTORS_A_GRANULE - 2, count: 4 });
const copy = (kind: MemberStep["kind"], pace: number): Action => ({
  do: "start",
  members: [{ source: whole(0), destination: whole(1), kind, pace }],
});
const write = (volume: number): Action => ({ do: "write", extent: across(volume) });

const BEGINNINGS: readonly (readonly Action[])[] = [
  [{ do: "write", extent: whole(0) }],
  [{ do: "write", extent: whole(0) }, copy("quickopc", 1)],
  [{ do: "write", extent: whole(0) }, copy("opc", 1)],
  [{ do: "write", extent: whole(0) }, copy("quickopc", 15), { do: "finish" }],
  [{ do: "write", extent: whole(0) }, copy("quickopc", 15), { do: "finish" }, write(0), write(1)],
];

const STEPS: readonly Action[] = [
  write(0),
  write(1),
  { do: "zero", extent: across(0) },
  { do: "flush", volume: 0 },
  { do: "flush", volume: 1 },
  copy("quickopc", 15),
  copy("opc", 15),
  { do: "restart", picks: [0] },
  { do: "restore", pick: 0 },
  { do: "cancel", pick: 0 },
  { do: "stop-tracking", pick: 0 },
  { do: "pace", pick: 0, pace: 3 },
  { do: "stop", cutOff: undefined },
  /** Everything that waits for its time, such as checkpoints, comes. */
  { do: "rest", ms: 20_000 },
];

const ENDS = ["kill", "power"] as const;
const GAPS: readonly Step["gap"][] = [0, "answer"];

export const BOUNDED_HISTORIES = BEGINNINGS.length * STEPS.length ** 2 * GAPS.length * ENDS.length * TURNS_MAX;

/** One of them; `number` from 1 to BOUNDED_HISTORIES. The last figure to change is the turn of the end. */
export function boundedHistory(number: number): { readonly world: World; readonly steps: readonly Step[] } {
  let left = number - 1;
  const next = <T>(choices: readonly T[]): T => {
    const choice = choices[left % choices.length] as T;
    left = Math.floor(left / choices.length);
    return choice;
  };
  const second = next(STEPS);
  const first = next(STEPS);
  const beginning = next(BEGINNINGS);
  const gap = next(GAPS);
  const end = next(ENDS);
  const turns = left;
  const answered = beginning.map((action) => ({ action, gap: "answer" as const }));
  const steps = [
    ...answered,
    { action: first, gap },
    { action: second, gap: turns },
    { action: { do: end, recoveries: [] } as const, gap: "answer" as const },
  ];
  return { world: smallWorld(number), steps: steps.map((step, index) => ({ ...step, seed: mixSeed(number, index) })) };
}

function smallWorld(number: number): World {
  const chance = new Chance(seedOf(number, 1));
  const windows = [[whole(0)], [whole(1)]];
  return {
    seed: number,
    features: new Set(["kill", "power-loss", "clean-stop", "restore", "zeroes", "overlap"]),
    volumes: [SECTORS, SECTORS],
    windows,
    extents: windows,
    mood: chooseMood(chance),
    disk: { holes: false, inlineProbability: chance.pick([0, 0.3, 0.9]) },
    slots: 1024,
    checkpointBytes: chance.pick([5000, 16 * 1024 * 1024]),
    jobBytes: 8192,
    stateTurnProbability: chance.pick([0, 1]),
    pointMapsBytesMax: chance.pick([0, 16 * 1024 * 1024]),
  };
}
