/**
 * `npm run simulate`: histories by the thousand, or mutants that they must find.
 *
 * Exit codes: 0 as it must be, 1 a violation or a mutant that lives, 2 wrong options.
 */
import { fileURLToPath } from "node:url";
import { INVARIANTS } from "./invariants.ts";
import type { Report } from "./messages.ts";
import { parseOptions, type SimulationOptions, SimulationUsage, USAGE } from "./options.ts";
import { runPool } from "./pool.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const PROGRESS_EVERY_MS = 10_000;
const FAILURES_SHOWN = 20;

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
  return runHistories(options);
}

async function runHistories(options: SimulationOptions): Promise<number> {
  const startedMs = performance.now();
  let toldMs = startedMs;
  const report = await runPool({
    ...options,
    tree: ROOT,
    enough: () => false,
    minimise: "first-failure",
    onProgress: (soFar) => {
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
