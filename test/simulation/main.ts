/**
 * `npm run simulate`: histories by the thousand, or mutants that they must find.
 *
 * Exit codes: 0 as it must be, 1 a violation or a mutant that lives, 2 wrong options.
 */
import { fileURLToPath } from "node:url";
import { INVARIANTS } from "./invariants.ts";
import type { Failure, Report } from "./messages.ts";
import { runTestOf } from "./mutant-test.ts";
import { plantMutant, removePlantedMutants } from "./mutant-tree.ts";
import { MUTANTS, type Mutant } from "./mutants.ts";
import { parseOptions, type SimulationOptions, SimulationUsage, USAGE } from "./options.ts";
import { runPool } from "./pool.ts";
import type { Feature } from "./world.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const PROGRESS_EVERY_MS = 10_000;
const FAILURES_SHOWN = 20;

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const)
  process.once(signal, () => {
    removePlantedMutants();
    process.exit(130);
  });

process.exitCode = await main();

async function main(): Promise<number> {
  let options: SimulationOptions;
  try {
    options = parseOptions(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof SimulationUsage)) throw error;
    process.stderr.write(`simulate: ${error.message}\n\n${USAGE}`);
    return 2;
  }
  if (options.mutant === undefined) return runHistories(options);
  const mutants = options.mutant === "all" ? MUTANTS : MUTANTS.filter(({ name }) => name === options.mutant);
  if (mutants.length > 0) return runMutants(options, mutants);
  process.stderr.write(
    `simulate: there is no mutant ${options.mutant}; there are: ${MUTANTS.map(({ name }) => name).join(", ")}\n`,
  );
  return 2;
}

interface Killed {
  readonly mutant: string;
  readonly rule: string;
  /** Seeds run until a violation was found; all of them if none was. */
  readonly seeds: number;
  readonly seconds: number;
  readonly invariant: number | undefined;
  readonly seed: number | undefined;
  readonly message: string | undefined;
  /** The test that failed, of a mutant that one part's own test notices. */
  readonly test: string | undefined;
}

async function runMutants(options: SimulationOptions, mutants: readonly Mutant[]): Promise<number> {
  const results: Killed[] = [];
  for (const mutant of mutants) {
    const result = await runMutant(options, mutant);
    results.push(result);
    if (!options.json) process.stdout.write(`${showMutant(result)}\n`);
  }
  const alive = results.filter(({ seed, test }) => seed === undefined && test === undefined);
  if (options.json)
    process.stdout.write(
      `${JSON.stringify({ killed: results.length - alive.length, alive: alive.length, mutants: results })}\n`,
    );
  else process.stdout.write(`${results.length - alive.length} of ${results.length} mutants killed\n`);
  return alive.length > 0 ? 1 : 0;
}

async function runMutant(options: SimulationOptions, mutant: Mutant): Promise<Killed> {
  const startedMs = performance.now();
  const { name, rule } = mutant;
  const seconds = () => Number(((performance.now() - startedMs) / 1000).toFixed(1));
  if (mutant.noticedBy !== undefined) {
    const failed = await runTestOf(mutant, mutant.noticedBy);
    const none = { seeds: 0, invariant: undefined, seed: undefined, message: undefined };
    return { mutant: name, rule, ...none, seconds: seconds(), test: failed };
  }
  const tree = await plantMutant(mutant);
  try {
    const found = await firstKill(options, tree.directory, mutant.needs ?? []);
    return {
      mutant: name,
      rule,
      seeds: found ? found.seed - options.from + 1 : options.seeds,
      seconds: seconds(),
      invariant: found?.invariant,
      seed: found?.seed,
      message: found?.message,
      test: undefined,
    };
  } finally {
    await tree.remove();
  }
}

/** The first seed that the mutant fails and the engine as it is does not. */
async function firstKill(
  options: SimulationOptions,
  tree: string,
  features: readonly Feature[],
): Promise<Failure | undefined> {
  const enough = (report: Report) => report.failures.length > 0;
  const end = options.from + options.seeds * options.stride;
  for (let from = options.from; from < end; ) {
    const run = { jobs: options.jobs, enough, minimise: "no" } as const;
    const { histories, stride } = options;
    const seeds = Math.floor((end - from) / stride);
    const report = await runPool({ ...run, from, seeds, tree, histories, stride, features });
    const [first] = report.failures.toSorted((a, b) => a.seed - b.seed);
    if (!first) return undefined;
    const itself = await runPool({ ...run, from: first.seed, seeds: 1, tree: ROOT, histories });
    if (itself.failures.length === 0) return first;
    from = first.seed + stride;
  }
  return undefined;
}

function showMutant({ mutant, rule, seeds, seconds, invariant, seed, message, test }: Killed): string {
  if (test !== undefined) return `killed  ${mutant} in ${seconds} s, by the test "${test}" (${rule})`;
  if (seed === undefined) return `LIVES   ${mutant} after ${seeds} seeds, ${seconds} s (${rule})`;
  return `killed  ${mutant} after ${seeds} seeds, ${seconds} s, by ${invariant}: ${message} (${rule})`;
}

async function runHistories(options: SimulationOptions): Promise<number> {
  const startedMs = performance.now();
  let toldMs = startedMs;
  let toldFailures = 0;
  const report = await runPool({
    ...options,
    tree: ROOT,
    enough: () => false,
    minimise: "first-failure",
    onProgress: (soFar) => {
      // A run takes hours: what it has found is not kept back until its end.
      for (const { seed, invariant, message } of soFar.failures.slice(toldFailures))
        process.stderr.write(`seed ${seed}: ${invariant}: ${message}\n`);
      toldFailures = soFar.failures.length;
      if (options.json || performance.now() - toldMs < PROGRESS_EVERY_MS) return;
      toldMs = performance.now();
      process.stderr.write(`${soFar.seeds} of ${options.seeds} seeds, ${soFar.failures.length} violations\n`);
    },
  });
  const seconds = (performance.now() - startedMs) / 1000;
  if (options.json) process.stdout.write(`${JSON.stringify(figures(options, report, seconds))}\n`);
  else process.stdout.write(`${show(options, report, seconds)}\n`);
  return report.failures.length > 0 ? 1 : 0;
}

function figures(options: SimulationOptions, report: Report, seconds: number) {
  const { failures, ...counts } = report;
  return {
    from: options.from,
    ...counts,
    seconds: Number(seconds.toFixed(1)),
    seedsPerSecond: Number((report.seeds / seconds).toFixed(1)),
    jobs: options.jobs,
    violations: failures.length,
    failures,
  };
}

function show(options: SimulationOptions, report: Report, seconds: number): string {
  const { seeds, crashes, recoveryCrashes, points, turns, failures } = report;
  const lines = [
    `${seeds} seeds from ${options.from} on: ${crashes} crashes, ${recoveryCrashes} more inside recovery, ${points} points, ` +
      `${turns} turns`,
    `${seconds.toFixed(1)} s, ${(seeds / seconds).toFixed(1)} seeds/s with ${options.jobs} jobs`,
    `${failures.length} violations`,
  ];
  for (const { seed, invariant, message } of failures.slice(0, FAILURES_SHOWN))
    lines.push(`  seed ${seed}: ${invariant} (${INVARIANTS[invariant]}): ${message}`);
  if (failures.length > FAILURES_SHOWN) lines.push(`  and ${failures.length - FAILURES_SHOWN} more`);
  const told = failures.find(({ history }) => history !== undefined);
  if (told?.history) lines.push("", told.history);
  return lines.join("\n");
}
