/**
 * `npm run bench -- NAME [--json]`: the figures of docs/performance.md, each beside the peers it is held against.
 *
 * Exit codes: 0 measured (also when a bar is missed), 1 failed, 2 wrong options, 130 interrupted.
 */
import type { BenchRow } from "./bench-row.ts";
import { describeMachine } from "./machine.ts";
import { type BenchName, type BenchOptions, BenchUsage, parseOptions, USAGE } from "./options.ts";
import { type BenchContext, reaches } from "./series.ts";
import { Workspace } from "./workspace.ts";

type Benchmark = (context: BenchContext) => Promise<void>;

const BENCHMARKS: Readonly<Record<BenchName, () => Promise<Benchmark>>> = {
  "full-copy": async () => (await import("./full-copy.ts")).fullCopy,
  "diff-copy": async () => (await import("./diff-copy.ts")).diffCopy,
  point: async () => (await import("./point.ts")).point,
  nbd: async () => (await import("./nbd.ts")).nbd,
  rpc: async () => (await import("./rpc.ts")).rpc,
  restart: async () => (await import("./restart.ts")).restart,
  kernels: async () => {
    const kernels = await import("./kernels.ts");
    return async (context) => {
      for (const row of await kernels.run()) if (row.case.includes(context.options.case)) context.report(row);
    };
  },
};

process.exit(await main());

async function main(): Promise<number> {
  let options: BenchOptions;
  try {
    options = parseOptions(process.argv.slice(2));
  } catch (error) {
    if (!(error instanceof BenchUsage)) throw error;
    process.stderr.write(`bench: ${error.message}\n\n${USAGE}`);
    return 2;
  }
  const work = await Workspace.open(options.directory);
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => void work.close().then(() => process.exit(130)));
  }
  try {
    if (!options.json) process.stdout.write(`${(await describeMachine(work.directory)).join("\n")}\n\n`);
    const rows: BenchRow[] = [];
    await (await BENCHMARKS[options.name]())({
      options,
      work,
      report: (row) => {
        rows.push(row);
        process.stdout.write(options.json ? `${JSON.stringify(row)}\n` : `${lineOf(row)}\n`);
      },
      note: (text) => process.stderr.write(`bench: ${text}\n`),
    });
    if (rows.length === 0) throw new Error("nothing was measured: no case has that name, or a program is missing");
    return 0;
  } catch (error) {
    process.stderr.write(`bench: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    return 1;
  } finally {
    await work.close();
  }
}

function lineOf(row: BenchRow): string {
  const peers = Object.entries(row.peers).map(([name, value]) => `${name} ${value}`);
  const verdict = { true: "reached", false: "MISSED", undefined: "" }[String(reaches(row)) as "true"];
  const bar = row.bar === null ? "" : ` bar ${row.bar} ${verdict}`;
  const beside = peers.length === 0 ? "" : ` | ${peers.join(", ")}`;
  return `${`${row.bench}: ${row.case}`.padEnd(44)} ${row.ours} ${row.unit}${beside} | ratio ${row.ratio}${bar} (${row.runs} runs)`;
}
