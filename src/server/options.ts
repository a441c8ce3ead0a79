/** Options of the daemon, from its arguments and environment. */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { TidemarkError } from "../base/errors.ts";
import { BOX_NUMBER_MAX } from "../base/limits.ts";
import { absolutePath } from "./absolute-path.ts";
import { type ListenAddress, parseListenAddress } from "./addresses.ts";

export const USAGE = `usage: tidemark serve --data DIR [--address unix:PATH|HOST:PORT] [--nbd unix:PATH|HOST:PORT|none]
                      [--box N] [--log-level LEVEL] [--scrub weekly|off]

  --data DIR        the box's state (or TIDEMARK_DATA); made if it does not exist
  --address ADDR    where the API listens; may be repeated. Default: unix:DIR/run/api.sock
  --nbd ADDR        where NBD listens. Default: unix:DIR/run/nbd.sock
  --box N           number of the box, 0 to ${BOX_NUMBER_MAX}; remembered. Default: 1
  --log-level L     debug, info, warn, error or silent. Default: info
  --scrub WHEN      weekly: the box reads its own metadata again once a week; off: only when asked to. Default: weekly
`;

const LOG_LEVELS = ["debug", "info", "warn", "error", "silent"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface DaemonOptions {
  /** From the root on. */
  readonly dataDirectory: string;
  /** Empty: the default inside the data directory. */
  readonly addresses: readonly ListenAddress[];
  /** Undefined: the default inside the data directory; "none": NBD is not served. */
  readonly nbd: ListenAddress | "none" | undefined;
  /** Undefined: the number the box has, 1 for a new one. */
  readonly boxNumber: number | undefined;
  readonly logLevel: LogLevel;
  readonly scrub: "weekly" | "off";
}

/** INVALID_ARGUMENT, with what is wrong. A leading `serve` may be there. "help" when help is asked for. */
export function parseOptions(argv: readonly string[], environment: NodeJS.ProcessEnv): DaemonOptions | "help" {
  const args = argv[0] === "serve" ? argv.slice(1) : argv;
  const { values } = parseGiven(args);
  if (values.help === true) return "help";
  const dataDirectory = values.data ?? environment["TIDEMARK_DATA"] ?? "";
  if (dataDirectory === "") throw wrong("no data directory is given", "add --data DIR, or set TIDEMARK_DATA");
  return {
    dataDirectory: absolutePath(dataDirectory, "--data"),
    addresses: (values.address ?? []).map((text) => parseListenAddress(text, "--address")),
    nbd:
      values.nbd === undefined ? undefined : values.nbd === "none" ? "none" : parseListenAddress(values.nbd, "--nbd"),
    boxNumber: values.box === undefined ? undefined : boxNumber(values.box),
    logLevel: logLevel(values["log-level"] ?? environment["TIDEMARK_LOG_LEVEL"] ?? "info"),
    scrub: scrub(values.scrub ?? "weekly"),
  };
}

/** The sockets of a data directory's own `run` folder. */
export function defaultAddresses(run: string): { readonly api: ListenAddress; readonly nbd: ListenAddress } {
  return {
    api: parseListenAddress(`unix:${join(run, "api.sock")}`, "--address"),
    nbd: parseListenAddress(`unix:${join(run, "nbd.sock")}`, "--nbd"),
  };
}

function parseGiven(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        data: { type: "string" },
        address: { type: "string", multiple: true },
        nbd: { type: "string" },
        box: { type: "string" },
        "log-level": { type: "string" },
        scrub: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    throw wrong(error instanceof Error ? error.message : String(error), "tidemark serve --help shows the options");
  }
}

function boxNumber(text: string): number {
  const number = /^\d{1,4}$/.test(text) ? Number(text) : Number.NaN;
  if (number >= 0 && number <= BOX_NUMBER_MAX) return number;
  throw wrong(`--box ${text} is no number from 0 to ${BOX_NUMBER_MAX}`, "leave it out for the number the box has");
}

function logLevel(text: string): LogLevel {
  const level = LOG_LEVELS.find((known) => known === text);
  if (level !== undefined) return level;
  throw wrong(`there is no log level ${text}`, `use one of ${LOG_LEVELS.join(", ")}`);
}

function scrub(text: string): "weekly" | "off" {
  if (text === "weekly" || text === "off") return text;
  throw wrong(`--scrub ${text} is neither weekly nor off`, "leave it out for weekly");
}

function wrong(message: string, hint: string): TidemarkError {
  return new TidemarkError("INVALID_ARGUMENT", { message, hint });
}
