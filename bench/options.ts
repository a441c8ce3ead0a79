/** The command line of `npm run bench -- NAME ...`. */
import { statSync } from "node:fs";
import { tmpdir } from "node:os";
import { parseArgs } from "node:util";
import { GiB, MiB } from "./sizes.ts";

export const BENCH_NAMES = ["full-copy", "diff-copy", "point", "nbd", "rpc", "restart", "kernels"] as const;
export type BenchName = (typeof BENCH_NAMES)[number];

export interface BenchOptions {
  readonly name: BenchName;
  readonly json: boolean;
  /** Counted runs of each contestant. */
  readonly runs: number;
  /** Size of the volumes that are copied. */
  readonly sizeBytes: number;
  /** Where volumes and the box's state are put, in a temporary directory of their own. */
  readonly directory: string;
  /** Only cases whose name contains this. */
  readonly case: string;
}

export class BenchUsage extends Error {
  override readonly name = "BenchUsage";
}

export const USAGE = `usage: npm run bench -- NAME [--json] [--runs N] [--size 4GiB] [--directory DIR] [--case SUBSTRING]
  NAME  ${BENCH_NAMES.join(" | ")}
  --json       one object a line instead of the table
  --runs       counted runs of each contestant, after one that is not counted (default 5)
  --size       size of the volumes that are copied (default 4GiB)
  --directory  where to work, in a temporary directory of its own (default ${tmpdir()})
  --case       only cases whose name contains this
`;

const RUNS_DEFAULT = 5;
const SIZE_UNITS: Readonly<Record<string, number>> = { MiB, M: MiB, GiB, G: GiB };

/** Throws BenchUsage. */
export function parseOptions(argv: readonly string[]): BenchOptions {
  const { values, positionals } = parse(argv);
  const name = BENCH_NAMES.find((known) => known === positionals[0]);
  if (name === undefined || positionals.length !== 1) throw new BenchUsage("give the name of one benchmark");
  const runs = values.runs === undefined ? RUNS_DEFAULT : Number(values.runs);
  if (!Number.isInteger(runs) || runs < 1 || runs > 1000) throw new BenchUsage("--runs is a number from 1 to 1000");
  const directory = values.directory ?? tmpdir();
  if (statSync(directory, { throwIfNoEntry: false })?.isDirectory() !== true) {
    throw new BenchUsage(`--directory: ${directory} is no directory`);
  }
  const sizeBytes = values.size === undefined ? 4 * GiB : sizeOf(values.size);
  return { name, json: values.json === true, runs, sizeBytes, directory, case: values.case ?? "" };
}

function parse(argv: readonly string[]) {
  const value = { type: "string" } as const;
  const options = { json: { type: "boolean" }, runs: value, size: value, directory: value, case: value } as const;
  try {
    return parseArgs({ args: [...argv], options, allowPositionals: true });
  } catch (error) {
    throw new BenchUsage(error instanceof Error ? error.message : String(error));
  }
}

function sizeOf(text: string): number {
  const match = /^(\d+)(MiB|M|GiB|G)$/.exec(text);
  const sizeBytes = Number(match?.[1]) * (SIZE_UNITS[match?.[2] ?? ""] ?? Number.NaN);
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 64 * MiB) {
    throw new BenchUsage("--size is a size of at least 64MiB, such as 512MiB or 4GiB");
  }
  return sizeBytes;
}
