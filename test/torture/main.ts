/**
 * `npm run torture`: the real daemon killed again and again, or the power cut at any instant of a recorded run.
 *
 * Exit codes: 0 nothing was lost, 1 something was or the run failed, 2 wrong options. Ctrl-C leaves the directory.
 */
import { randomInt } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { runKills } from "./kill-run.ts";
import { parseOptions, type TortureOptions, TortureUsage, USAGE } from "./options.ts";
import { PowerTally, runPowerLosses } from "./power/power-run.ts";
import type { Tally } from "./violations.ts";

const PROGRAM = fileURLToPath(new URL("../../dist/client/main.js", import.meta.url));
const PROGRESS_MS = 10_000;

process.exit(await main());

async function main(): Promise<number> {
  let options: TortureOptions;
  try {
    options = parseOptions(process.argv.slice(2), randomInt(1_000_000));
  } catch (error) {
    if (!(error instanceof TortureUsage)) throw error;
    process.stderr.write(`torture: ${error.message}\n\n${USAGE}`);
    return 2;
  }
  if (!existsSync(PROGRAM)) {
    process.stderr.write("torture: the program is not built: npm run build\n");
    return 2;
  }
  const directory = await mkdtemp(join(options.directory, "tidemark-torture-"));
  const begin = performance.now();
  const seconds = () => Math.round((performance.now() - begin) / 100) / 10;
  process.stderr.write(`torture: seed ${options.seed}, in ${directory}\n`);
  let told = 0;
  let tally: Tally | undefined;
  const progress = (now: Tally) => {
    tally = now;
    if (performance.now() - told < PROGRESS_MS) return;
    told = performance.now();
    const done = now instanceof PowerTally ? `${now.losses} power losses` : `${now.kills} kills`;
    process.stderr.write(`torture: ${done}, ${now.points} points, ${seconds()} s\n`);
  };
  let violation: string | undefined;
  try {
    const { kills, power, seed } = options;
    if (kills > 0) tally = await runKills({ kills, seed, directory, program: [PROGRAM], progress });
    else tally = await runPowerLosses({ points: power, seed, directory, progress });
    await rm(directory, { recursive: true, force: true });
  } catch (error) {
    violation = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
    const stack = error instanceof Error ? `\n${error.stack}` : "";
    process.stderr.write(
      `torture: ${violation}${stack}\ntorture: seed ${options.seed}; everything is left in ${directory}\n`,
    );
  }
  print(
    { seed: options.seed, seconds: seconds(), violations: violation === undefined ? 0 : 1, violation, ...tally },
    options,
  );
  return violation === undefined ? 0 : 1;
}

function print(result: Readonly<Record<string, unknown>>, { json }: TortureOptions): void {
  if (json) process.stdout.write(`${JSON.stringify(result)}\n`);
  else
    for (const [name, value] of Object.entries(result))
      process.stdout.write(`${name.padEnd(22)} ${typeof value === "object" ? JSON.stringify(value) : value}\n`);
}
