/** One seed: its world, its steps, what came of them; and a failing one told in a form that can be kept as a test. */
import { boundedHistory } from "./bounded.ts";
import { Chance } from "./chance.ts";
import { INVARIANTS } from "./invariants.ts";
import type { Minimised } from "./minimise.ts";
import { type Outcome, simulate } from "./simulation.ts";
import { chooseSteps, type Step } from "./workload.ts";
import { chooseWorld, seedOf, type World } from "./world.ts";

/** `seeded`: chance decides from the seed on. `bounded`: the seed is a number of bounded.ts. */
export type Histories = "seeded" | "bounded";

export function historyOf(
  seed: number,
  histories: Histories = "seeded",
): { readonly world: World; readonly steps: readonly Step[] } {
  if (histories === "bounded") return boundedHistory(seed);
  const world = chooseWorld(seed, new Chance(seedOf(seed, 1)));
  return { world, steps: chooseSteps(world, new Chance(seedOf(seed, 3))) };
}

export function simulateSeed(seed: number, histories: Histories = "seeded"): Promise<Outcome> {
  const { world, steps } = historyOf(seed, histories);
  return simulate(world, steps);
}

/** What failed, and the shortest history found that fails the same way. */
export function tell(seed: number, world: World, { steps, outcome }: Minimised): string {
  const violation = outcome.violation;
  if (!violation) return `seed ${seed}: no violation`;
  const lines = [
    `seed ${seed} violates invariant ${violation.invariant}: ${INVARIANTS[violation.invariant]}`,
    `  ${violation.message}`,
    `  world: volumes of ${world.volumes.join(", ")} sectors; slots ${world.slots}, log ${world.checkpointBytes}, jobs ` +
      `${world.jobBytes}, order ${world.mood.order}; ${[...world.features].join(" ")}`,
    ...steps.map(({ action, gap }) => {
      const { do: verb, ...rest } = action;
      return `  ${verb.padEnd(14)} ${JSON.stringify(rest)}${gap === "answer" ? "" : `, then ${gap === "done" ? "until it is done" : `${gap} turns`}`}`;
    }),
  ];
  return lines.join("\n");
}
