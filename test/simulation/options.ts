/** What the command line of the simulator says. */
import { availableParallelism } from "node:os";

import { BOUNDED_HISTORIES } from "./bounded.ts";
import type { Histories } from "./history.ts";

export interface SimulationOptions {
  readonly seeds: number;
  readonly from: number;
  /** A mutant's name, "all", or nothing: the engine as it is. */
  readonly mutant: string | undefined;
  readonly json: boolean;
  readonly histories: Histories;
  readonly stride: number;
  readonly jobs: number;
}

export class SimulationUsage extends Error {}

export const USAGE = `usage: npm run simulate -- [--seeds N] [--from S] [--mutant NAME|all] [--jobs N] [--json]

  --seeds N       histories to run (2000); with --mutant: at most so many a mutant (20000)
  --from S        first seed (1)
  --mutant NAME   the engine with one rule left out: its histories must find it
  --bounded N     one in N of all histories of two steps in a small world, ended at any turn (1: every one)
  --jobs N        processes (one a processor)
  --json          one JSON object at the end
`;

export const SEEDS_DEFAULT = 2000;
export const SEEDS_PER_MUTANT_MAX = 20_000;

export function parseOptions(words: readonly string[]): SimulationOptions {
  const values = new Map<string, string>();
  let json = false;
  for (let at = 0; at < words.length; at++) {
    const word = words[at] as string;
    if (word === "--json") json = true;
    else if (["--seeds", "--from", "--mutant", "--jobs", "--bounded"].includes(word)) {
      const value = words[++at];
      if (value === undefined) throw new SimulationUsage(`${word} needs a value`);
      values.set(word, value);
    } else throw new SimulationUsage(`${word} is not an option`);
  }
  const mutant = values.get("--mutant");
  const bounded = values.has("--bounded");
  const stride = count(values, "--bounded", 1);
  const from = count(values, "--from", 1);
  const inStride = Math.max(0, Math.ceil((BOUNDED_HISTORIES - from + 1) / stride));
  const standard = bounded ? inStride : mutant === undefined ? SEEDS_DEFAULT : SEEDS_PER_MUTANT_MAX;
  const seeds = count(values, "--seeds", standard);
  if (bounded && seeds > inStride)
    throw new SimulationUsage(`there are ${inStride} bounded histories from ${from} on, not ${seeds}`);
  return {
    seeds,
    from,
    stride,
    histories: bounded ? "bounded" : "seeded",
    jobs: count(values, "--jobs", availableParallelism()),
    mutant,
    json,
  };
}

function count(values: ReadonlyMap<string, string>, name: string, standard: number): number {
  const value = values.get(name);
  if (value === undefined) return standard;
  const number = Number(value);
  if (!Number.isSafeInteger(number) || number < 1 || number > 2 ** 31)
    throw new SimulationUsage(`${name} ${value} is not a whole number from 1 on`);
  return number;
}
