/** What the main process and its workers tell each other. */
import type { Histories } from "./history.ts";
import type { InvariantNumber } from "./invariants.ts";
import type { Feature } from "./world.ts";

/** Run these seeds: `count` of them, each `stride` after the one before. */
export interface Task {
  readonly from: number;
  readonly count: number;
  readonly stride: number;
  readonly histories: Histories;
  /** Only those whose world has these; the others are counted, and hold. */
  readonly features: readonly Feature[];
  /** Make the first failing history short and tell it. */
  readonly minimise: "first-failure" | "no";
}

export interface Failure {
  readonly seed: number;
  readonly invariant: InvariantNumber;
  readonly message: string;
  /** Told in full, for the first one of a task. */
  readonly history: string | undefined;
}

/** What came of a task. */
export interface Report {
  readonly seeds: number;
  readonly crashes: number;
  readonly recoveryCrashes: number;
  readonly points: number;
  readonly turns: number;
  readonly failures: readonly Failure[];
}

export const NOTHING: Report = { seeds: 0, crashes: 0, recoveryCrashes: 0, points: 0, turns: 0, failures: [] };

export function sum(one: Report, other: Report): Report {
  return {
    seeds: one.seeds + other.seeds,
    crashes: one.crashes + other.crashes,
    recoveryCrashes: one.recoveryCrashes + other.recoveryCrashes,
    points: one.points + other.points,
    turns: one.turns + other.turns,
    failures: [...one.failures, ...other.failures],
  };
}
