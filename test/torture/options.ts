/** The command line of `npm run torture -- ...`. */
import { accessSync, constants } from "node:fs";
import { tmpdir } from "node:os";
import { parseArgs } from "node:util";

export interface TortureOptions {
  readonly kills: number;
  readonly power: number;
  readonly seed: number;
  readonly json: boolean;
  readonly directory: string;
}

export class TortureUsage extends Error {
  override readonly name = "TortureUsage";
}

/** A file system in memory. */
const MEMORY = "/dev/shm";

export const USAGE = `usage: npm run torture -- --kills N | --power N [--seed S] [--json] [--directory DIR]
  --kills N    kill the daemon N times under load and check everything after each start
  --power N    cut the power at N points of a recorded run of the engine and check everything
  --seed S     chooses the load (default: by chance, and printed)
  --json       one JSON object at the end
  --directory  where to work, in a temporary directory of its own (default ${tmpdir()}; for --power ${MEMORY}, for what
               is durable is known from the record, and no real disk has to be waited for)
`;
const COUNT_MAX = 10_000_000;

/** Throws TortureUsage. */
export function parseOptions(argv: readonly string[], chosenSeed: number): TortureOptions {
  const { kills, power, seed, json, directory } = parse(argv);
  const options = {
    kills: countOf("--kills", kills),
    power: countOf("--power", power),
    seed: seed === undefined ? chosenSeed : countOf("--seed", seed),
    json: json === true,
    directory: directory ?? (power === undefined ? tmpdir() : memoryOr(tmpdir())),
  };
  if (options.kills > 0 === options.power > 0) throw new TortureUsage("give either --kills or --power");
  return options;
}

function memoryOr(other: string): string {
  try {
    accessSync(MEMORY, constants.W_OK);
    return MEMORY;
  } catch {
    return other; // slower, and as good
  }
}

function parse(argv: readonly string[]) {
  const value = { type: "string" } as const;
  const options = { kills: value, power: value, seed: value, json: { type: "boolean" }, directory: value } as const;
  try {
    return parseArgs({ args: [...argv], options }).values;
  } catch (error) {
    throw new TortureUsage(error instanceof Error ? error.message : String(error));
  }
}

function countOf(name: string, text: string | undefined): number {
  if (text === undefined) return 0;
  const count = Number(text);
  if (!Number.isInteger(count) || count < 0 || count > COUNT_MAX)
    throw new TortureUsage(`${name} is a number up to ${COUNT_MAX}`);
  return count;
}
