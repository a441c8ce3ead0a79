#!/usr/bin/env node
/**
 * tidemarkd: entry point of the daemon, also behind `tidemark serve`.
 *
 * Prints one line on stdout when it serves; everything else goes to the log on stderr.
 * Exit codes: 0 stopped by a signal, in order; 1 could not start; 2 wrong options; 3 stopped by a signal, but not everything
 * could be made durable in time (standard error names the volumes; a start recovers); 70 the engine failed (a start recovers).
 */
import { realpathSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type Logger, pino } from "pino";
import { asTidemarkError, TidemarkError } from "../base/errors.ts";
import { STOP_MS_MAX } from "../base/limits.ts";
import { type Daemon, startDaemon } from "./daemon.ts";
import { exitNow } from "./exit.ts";
import { type DaemonOptions, parseOptions, USAGE } from "./options.ts";
import { ensureThreadPool } from "./thread-pool.ts";

const EXIT_FAILED = 1;
const EXIT_USAGE = 2;
const EXIT_UNCLEAN = 3;
const EXIT_ENGINE_LOST = 70;
/** 128 + SIGINT: the second signal. */
const EXIT_HARD = 130;

/** Runs the daemon until a signal ends it; `argv` is what stands behind `tidemarkd` or `tidemark serve`. */
export async function main(argv: readonly string[]): Promise<void> {
  let options: DaemonOptions | "help";
  try {
    options = parseOptions(argv, process.env);
  } catch (error) {
    exitWith(EXIT_USAGE, error);
  }
  if (options === "help") {
    process.stdout.write(USAGE);
    return;
  }
  const log = pino({ level: options.logLevel }, pino.destination({ dest: 2, sync: true }));
  ensureThreadPool((message) => log.warn(message));
  process.umask(0o077);
  leaveGoneDirectory();
  const daemon = await startDaemon(options, {
    log,
    interceptors: [],
    onEngineLost: ({ error, exitCode }) => {
      log.fatal({ err: error, exitCode }, "the engine failed; start the daemon again to recover");
      exitNow(EXIT_ENGINE_LOST);
    },
  }).catch((error: unknown) => exitWith(EXIT_FAILED, error, log));
  stopOnSignals(daemon, log);
  warnOfTcp(options, daemon, log);
  log.info({ addresses: daemon.addresses, nbd: daemon.nbdAddress, box: daemon.boxNumber }, "serving");
  const nbd = daemon.nbdAddress === "" ? "none" : daemon.nbdAddress;
  process.stdout.write(
    `tidemark: serving, address=${daemon.addresses.join(",")}, nbd=${nbd}, box=${daemon.boxNumber}\n`,
  );
}

/** Threads cannot be started where the working directory is gone; nothing here needs it (options.ts). */
function leaveGoneDirectory(): void {
  try {
    process.cwd();
  } catch {
    process.chdir("/");
  }
}

function stopOnSignals(daemon: Daemon, log: Logger): void {
  let signals = 0;
  const stop = (signal: NodeJS.Signals) => {
    if (++signals > 1) exitNow(EXIT_HARD);
    log.info({ signal }, "stopping");
    setTimeout(() => exitWith(EXIT_UNCLEAN, stopTooLong(), log), STOP_MS_MAX);
    daemon.stop().then(
      () => {
        log.info("stopped");
        exitNow(0);
      },
      (error: unknown) => {
        log.error({ err: error }, "stopped, but not in order");
        exitWith(EXIT_UNCLEAN, error, log);
      },
    );
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
}

function stopTooLong(): TidemarkError {
  return new TidemarkError("DEVICE_TIMEOUT", {
    message: `the box did not stop within ${STOP_MS_MAX / 1000} s`,
    hint: "nothing is lost: the next start recovers as after a kill; look for stalled devices (dmesg)",
  });
}

function warnOfTcp(options: DaemonOptions, daemon: Daemon, log: Logger): void {
  const open = options.addresses.filter(({ kind }) => kind === "tcp").length > 0;
  if (open) log.warn({ addresses: daemon.addresses }, "the API is open to every user of this machine: plain TCP");
  if (options.nbd !== undefined && options.nbd !== "none" && options.nbd.kind === "tcp")
    log.warn({ nbd: daemon.nbdAddress }, "exports are open to every user of this machine: plain TCP");
}

function exitWith(code: number, error: unknown, log?: Logger): never {
  const { code: reason, message, detail } = asTidemarkError(error);
  if (!(error instanceof TidemarkError)) log?.fatal({ err: error }, "unexpected failure");
  const hint = detail.hint === undefined ? "" : `\n  hint: ${detail.hint}`;
  process.stderr.write(`tidemarkd: ${message} (${reason})${hint}\n`);
  exitNow(code);
}

const entry = process.argv[1];
if (entry !== undefined && realpathSync(entry) === fileURLToPath(import.meta.url)) await main(process.argv.slice(2));
