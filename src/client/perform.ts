/**
 * Runs one command: context in, exit code out.
 *
 * Role: the only place that reads the process (arguments are commander's) and that sets its exit code.
 */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import type { Command } from "commander";
import { REQUEST_ID_LENGTH_MAX } from "../base/limits.ts";
import { DEFAULT_ADDRESS, parseAddress } from "./address.ts";
import type { Connection } from "./connection.ts";
import type { CommandContext } from "./context.ts";
import { Output } from "./display/output.ts";
import { parseDuration } from "./display/units.ts";
import { asFailure, EXIT_OK, EXIT_READER_GONE, Failure, failureJson, failureText, usageError } from "./failure.ts";

export interface GlobalOptions {
  readonly address?: string;
  readonly json?: boolean;
  readonly timeout?: string;
  readonly requestId?: string;
}

/** Runs `work` for the command that commander chose. A returned number is the exit code; errors are reported here. */
export async function perform(command: Command, work: (context: CommandContext) => Promise<unknown>) {
  const globals = command.optsWithGlobals<GlobalOptions>();
  const interrupt = new AbortController();
  const onInterrupt = () => {
    if (interrupt.signal.aborted) process.exit(130); // second Ctrl-C: at once
    interrupt.abort();
  };
  process.on("SIGINT", onInterrupt);
  const { context, close } = createContext(globals, interrupt.signal);
  try {
    const result = await work(context);
    process.exitCode = typeof result === "number" ? result : EXIT_OK;
  } catch (error) {
    process.exitCode = report(interrupt.signal.aborted ? interruptedBy(error) : error, globals.json === true);
  } finally {
    process.off("SIGINT", onInterrupt);
    close();
  }
}

/** Says what went wrong on standard error and returns the exit code. */
export function report(error: unknown, json: boolean): number {
  const failure = asFailure(error);
  process.stderr.write(json ? failureJson(failure) : failureText(failure));
  if (process.env["TIDEMARK_DEBUG"] !== undefined) console.error(failure.cause ?? failure);
  return failure.exitCode;
}

/** A reader that goes away (`| head`) ends the program quietly. */
export function endWhenReaderGoes(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EPIPE") process.exit(EXIT_READER_GONE);
      throw error;
    });
  }
}

function interruptedBy(error: unknown): Failure {
  const failure = asFailure(error);
  return failure.code === "INTERRUPTED" ? failure : new Failure("INTERRUPTED", "interrupted", {}, { cause: error });
}

function createContext(globals: GlobalOptions, signal: AbortSignal): { context: CommandContext; close: () => void } {
  let connection: Connection | undefined;
  const deadlineMs = globals.timeout === undefined ? undefined : Date.now() + parseDuration(globals.timeout);
  const address = addressOf(globals);
  const context: CommandContext = {
    address,
    signal,
    deadlineMs,
    requestId: requestIdOf(globals),
    environment: process.env,
    output: new Output({
      format: globals.json === true ? "json" : "text",
      stdout: process.stdout,
      stderr: process.stderr,
    }),
    connect: async () => {
      const { Connection } = await import("./connection.ts");
      connection ??= new Connection({ address, deadlineMs, signal });
      return connection;
    },
  };
  return { context, close: () => connection?.close() };
}

/** --address or TIDEMARK_ADDRESS (commander reads both), else the box of TIDEMARK_DATA, else the default. */
export function addressOf(globals: Pick<GlobalOptions, "address">): string {
  const data = process.env["TIDEMARK_DATA"];
  if (globals.address !== undefined) return parseAddress(globals.address);
  return data === undefined || data === "" ? DEFAULT_ADDRESS : parseAddress(`unix:${join(data, "run", "api.sock")}`);
}

function requestIdOf(globals: GlobalOptions): string {
  const id = globals.requestId ?? randomUUID();
  if (id.length < 1 || id.length > REQUEST_ID_LENGTH_MAX) {
    throw usageError("the request id is empty or too long", `1 to ${REQUEST_ID_LENGTH_MAX} characters`);
  }
  return id;
}
