/**
 * `npm run fuzz -- --door nbd|grpc|files|pages`: feeds a door with bad input for a while and reports what broke.
 *
 * The door runs in a process of its own: if that dies, the case that killed it is kept, and the rest of the time is used by a new
 * one. Exit codes: 0 nothing found, 1 something found, 2 wrong options.
 */
import { fork } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeFinding } from "./corpus.ts";
import type { LoopReport } from "./fuzz-loop.ts";
import { type FuzzOptions, FuzzUsage, parseOptions, USAGE } from "./options.ts";

const DEATHS_MAX = 10;
const OUTPUT_BYTES_MAX = 20_000;

interface Message {
  readonly report?: LoopReport;
  readonly violations?: readonly string[];
}

process.exitCode = await main();

async function main(): Promise<number> {
  let options: FuzzOptions;
  try {
    options = parseOptions(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof FuzzUsage)) throw error;
    process.stderr.write(`fuzz: ${error.message}\n\n${USAGE}`);
    return 2;
  }
  const directory = mkdtempSync(join(tmpdir(), "tidemark-fuzz-run-"));
  try {
    return options.replay === undefined ? await run(options, directory) : await replay(options, directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

async function replay(options: FuzzOptions, directory: string): Promise<number> {
  const { message, output } = await child(options, join(directory, "case"));
  const violations = message?.violations ?? [`the process died: ${output}`];
  for (const violation of violations) process.stdout.write(`${violation}\n`);
  if (violations.length === 0) process.stdout.write("nothing is broken\n");
  return violations.length === 0 ? 0 : 1;
}

async function run(options: FuzzOptions, directory: string): Promise<number> {
  const begin = performance.now();
  const reports: LoopReport[] = [];
  const deaths: { violation: string; file: string; case: number }[] = [];
  for (let seed = options.seed; deaths.length < DEATHS_MAX; seed += 1_000_003) {
    const left = options.seconds - (performance.now() - begin) / 1000;
    if (left <= 0) break;
    const casePath = join(directory, "case");
    const { message, output } = await child({ ...options, seed, seconds: left }, casePath);
    if (message?.report !== undefined) {
      reports.push(message.report);
      break;
    }
    const file = writeFinding(options.door, "the process died", readFileSync(casePath, "utf8"));
    deaths.push({ violation: `the process died: ${output}`, file, case: 0 });
  }
  const report = merged(options, reports, deaths, (performance.now() - begin) / 1000);
  process.stdout.write(options.json ? `${JSON.stringify(report)}\n` : `${JSON.stringify(report, undefined, 2)}\n`);
  return report.crashes + report.violations > 0 ? 1 : 0;
}

function merged(
  options: FuzzOptions,
  reports: readonly LoopReport[],
  deaths: LoopReport["findings"],
  seconds: number,
): LoopReport {
  const [report] = reports;
  return {
    cases: 0,
    casesPerSecond: 0,
    rssMaxMiB: 0,
    corpus: 0,
    grown: 0,
    slowestMs: 0,
    processorSeconds: 0,
    figures: {},
    ...report,
    door: options.door,
    seed: options.seed,
    seconds: Math.round(seconds * 10) / 10,
    crashes: (report?.crashes ?? 0) + deaths.length,
    violations: report?.violations ?? 0,
    findings: [...deaths, ...(report?.findings ?? [])],
  };
}

/** Runs the door; `output` is the end of what it wrote, for the event that it died. */
async function child(
  options: FuzzOptions,
  casePath: string,
): Promise<{ message: Message | undefined; output: string }> {
  const entry = fileURLToPath(new URL("./door-process.ts", import.meta.url));
  const running = fork(entry, [JSON.stringify(options), casePath], {
    execArgv: ["--import", "tsx", "--expose-gc"],
    stdio: ["ignore", "pipe", "pipe", "ipc"],
  });
  let output = "";
  for (const stream of [running.stdout, running.stderr])
    stream?.on("data", (text: Buffer) => {
      output = (output + text.toString()).slice(-OUTPUT_BYTES_MAX);
    });
  let message: Message | undefined;
  running.on("message", (given) => {
    message = given as Message;
  });
  await new Promise((resolve) => running.once("close", resolve));
  return { message, output: output.slice(-2000) };
}
