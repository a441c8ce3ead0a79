#!/usr/bin/env node
/**
 * `npm run quickstart`: Tidemark in one minute, on a real disk image.
 *
 * Role: options, the temporary directory, the box; then the tour, and what it found. Exit codes: 0 every check held, 1 one
 * did not or something failed, 2 wrong options, 130 interrupted.
 * Invariant: unless --keep was given and all went well, no process and no file is left behind.
 */
import { rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Connection } from "../client/connection.ts";
import { Failure } from "../client/failure.ts";
import { BoxProcess } from "./box-process.ts";
import { QuickstartFailure, QuickstartUsage } from "./failure.ts";
import { makeImage, takeImage } from "./image.ts";
import { parseOptions, type QuickstartOptions, USAGE } from "./options.ts";
import { jsonOf, type Result, textOf } from "./report.ts";
import { tour } from "./tour.ts";

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const EXIT_INTERRUPTED = 130;

const interrupt = new AbortController();
/** What must not outlive this process. */
let directory: string | undefined;
let box: BoxProcess | undefined;

process.exitCode = await main();

async function main(): Promise<number> {
  let options: QuickstartOptions | "help";
  try {
    options = parseOptions(process.argv.slice(2), process.env);
  } catch (error) {
    if (!(error instanceof QuickstartUsage)) throw error;
    process.stderr.write(`quickstart: ${error.message}\n\n${USAGE}`);
    return EXIT_USAGE;
  }
  if (options === "help") {
    process.stdout.write(USAGE);
    return 0;
  }
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, onSignal);
  process.on("exit", leaveNothing);
  try {
    const result = await run(options);
    if (result.kept === undefined) await cleanUp();
    process.stdout.write(options.json ? jsonOf(result) : textOf(result));
    return 0;
  } catch (error) {
    report(error);
    return interrupt.signal.aborted ? EXIT_INTERRUPTED : EXIT_FAILED;
  } finally {
    if (box !== undefined || directory !== undefined) await cleanUp();
  }
}

async function run(options: QuickstartOptions): Promise<Result> {
  const startedMs = performance.now();
  const say = (text: string) => {
    if (options.json) return;
    process.stderr.write(`${((performance.now() - startedMs) / 1000).toFixed(1).padStart(5)} s  ${text}\n`);
  };
  const { signal } = interrupt;
  directory = await mkdtemp(join(tmpdir(), "tidemark-quickstart-"));
  if (options.image === undefined) say("an image is made");
  const image =
    options.image === undefined
      ? await makeImage(options.sizeBytes, directory, { signal })
      : await takeImage(options.image, directory, { signal, say });
  say("a box is started");
  const boxStartedMs = performance.now();
  box = BoxProcess.spawn(directory);
  const addresses = await box.ready(signal);
  const startMs = performance.now() - boxStartedMs;
  const connection = new Connection({ address: addresses.api, deadlineMs: undefined, signal });
  try {
    const found = await tour({ addresses, connection, image, directory, signal, say });
    const totalMs = performance.now() - startedMs;
    const kept = options.keep ? { address: addresses.api, pid: box.pid ?? 0, directory } : undefined;
    if (kept !== undefined) letGo();
    return { image, tour: found, startMs, totalMs, kept };
  } finally {
    connection.close();
  }
}

/** From here on the box and its directory belong to the user. */
function letGo(): void {
  box?.release();
  box = undefined;
  directory = undefined;
}

async function cleanUp(): Promise<void> {
  if (box !== undefined) await box.stop();
  else if (directory !== undefined) rmSync(directory, { recursive: true, force: true });
  box = undefined;
  directory = undefined;
}

/** The first signal ends what is under way in order, the second at once. */
function onSignal(): void {
  if (!interrupt.signal.aborted) {
    interrupt.abort();
    return;
  }
  process.exit(EXIT_INTERRUPTED);
}

/** Whatever ended the process: nothing is there any more after an ordinary end. */
function leaveNothing(): void {
  if (box !== undefined) box.stopNow();
  else if (directory !== undefined) rmSync(directory, { recursive: true, force: true });
}

function report(error: unknown): void {
  if (interrupt.signal.aborted) {
    process.stderr.write("quickstart: interrupted; the box is stopped and its directory removed\n");
    return;
  }
  const message = error instanceof Error ? error.message : String(error);
  const hint = error instanceof QuickstartFailure || error instanceof Failure ? error.hint : "";
  process.stderr.write(`quickstart: ${message}\n${hint === "" ? "" : `  try: ${hint}\n`}`);
  const tail = error instanceof QuickstartFailure ? "" : (box?.logTail() ?? "");
  if (tail !== "") process.stderr.write(`the last lines of the box's log:\n${tail}\n`);
}
