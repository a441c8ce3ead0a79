/**
 * Makes a failing history short: leaves out steps as long as the same invariant is still violated.
 *
 * First halves, then quarters, down to single steps; then the gaps, one by one, to "answer". Bounded in runs.
 */
import { type Outcome, simulate } from "./simulation.ts";
import type { Step } from "./workload.ts";
import type { World } from "./world.ts";

const RUNS_MAX = 400;

export interface Minimised {
  readonly steps: readonly Step[];
  readonly outcome: Outcome;
}

export async function minimise(world: World, steps: readonly Step[], outcome: Outcome): Promise<Minimised> {
  let best: Minimised = { steps: steps.slice(0, outcome.steps), outcome };
  let runs = 0;
  const fails = async (candidate: readonly Step[]): Promise<boolean> => {
    if (++runs > RUNS_MAX) return false;
    const found = await simulate(world, candidate);
    if (found.violation?.invariant !== outcome.violation?.invariant) return false;
    best = { steps: candidate, outcome: found };
    return true;
  };
  for (let size = Math.ceil(best.steps.length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2))
    for (let at = 0; at < best.steps.length; ) if (!(await fails(best.steps.toSpliced(at, size)))) at += size;
  for (let at = 0; at < best.steps.length; at++) {
    const step = best.steps[at] as Step;
    if (step.gap !== "answer") await fails(best.steps.toSpliced(at, 1, { ...step, gap: "answer" }));
  }
  return best;
}
