/**
 * `tidemark fsck`: arguments in, report and exit code out; what it does is fsck.ts.
 *
 * Exit codes: 0 nothing is left to be done, 1 something is (standard output says what), 2 wrong options, 4 it could not be
 * checked: a daemon uses the directory, or it is none.
 */
import { parseArgs } from "node:util";
import { asTidemarkError, TidemarkError } from "../base/errors.ts";
import { MetadataFinding } from "../gen/tidemark/v1/box.ts";
import { toMetadataFinding } from "./convert.ts";
import { type FsckFinding, type FsckReport, fsck } from "./fsck.ts";

const EXIT_CLEAN = 0;
const EXIT_LEFT = 1;
const EXIT_USAGE = 2;
const EXIT_REFUSED = 4;

const USAGE = `usage: tidemark fsck --data DIR [--repair] [--json]

  --data DIR   data directory of a box that does not run (or TIDEMARK_DATA)
  --repair     make durable what the next start would make of what was found; nothing is invented
  --json       a finding a line, then a summary
`;

interface FsckOptions {
  readonly dataDirectory: string;
  readonly action: "look" | "repair";
  readonly format: "text" | "json";
}

/** Checks, and prints; resolves to the exit code. `argv` is what stands behind `tidemark fsck`. */
export async function main(argv: readonly string[]): Promise<number> {
  const format = argv.includes("--json") ? "json" : "text";
  let options: FsckOptions | "help";
  try {
    options = parseOptions(argv, process.env);
  } catch (error) {
    return fail(error, format, EXIT_USAGE);
  }
  if (options === "help") {
    process.stdout.write(USAGE);
    return EXIT_CLEAN;
  }
  try {
    const report = await fsck(options.dataDirectory, options.action);
    process.stdout.write(format === "json" ? jsonOf(report) : textOf(report));
    return report.findings.some(isLeft) || report.omitted > 0 ? EXIT_LEFT : EXIT_CLEAN;
  } catch (error) {
    return fail(error, format, EXIT_REFUSED);
  }
}

function parseOptions(argv: readonly string[], environment: NodeJS.ProcessEnv): FsckOptions | "help" {
  const { values } = parseGiven(argv);
  if (values.help === true) return "help";
  const dataDirectory = values.data ?? environment["TIDEMARK_DATA"] ?? "";
  if (dataDirectory === "") throw wrong("no data directory is given", "add --data DIR, or set TIDEMARK_DATA");
  const action = values.repair === true ? "repair" : "look";
  return { dataDirectory, action, format: values.json === true ? "json" : "text" };
}

function parseGiven(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        data: { type: "string" },
        repair: { type: "boolean" },
        json: { type: "boolean" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    throw wrong(error instanceof Error ? error.message : String(error), "tidemark fsck --help shows the options");
  }
}

function wrong(message: string, hint: string): TidemarkError {
  return new TidemarkError("INVALID_ARGUMENT", { message, hint });
}

/** To be done by somebody: not repaired, and more than good to know. */
function isLeft({ finding, state }: FsckFinding): boolean {
  return state === "left" && finding.severity !== "info";
}

function jsonOf(report: FsckReport): string {
  const { directory, files, bytes, omitted, said, refusal, findings } = report;
  const lines = findings.map(({ finding, state }) => MetadataFinding.toJSON(toMetadataFinding(finding, state)));
  const left = findings.filter(isLeft).length + omitted;
  const repaired = findings.filter(({ state }) => state === "repaired").length;
  const summary = { directory, files, bytes, findings: findings.length + omitted, repaired, left, said };
  const told = { summary: refusal === undefined ? summary : { ...summary, notRepaired: refusal } };
  return [...lines, told].map((line) => `${JSON.stringify(line)}\n`).join("");
}

function textOf(report: FsckReport): string {
  const { files, bytes, omitted, said, refusal, findings } = report;
  const lines = findings.flatMap(({ finding, state }) => findingLines(finding, state));
  if (omitted > 0) lines.push(`${omitted} more findings are left out`);
  lines.push(...said.map((text) => `repair: ${text}`));
  if (refusal !== undefined) lines.push(`not repaired: ${refusal}`);
  const left = findings.filter(isLeft).length + omitted;
  const repaired = findings.filter(({ state }) => state === "repaired").length;
  const counts = [`${files} files, ${bytes} bytes`, `${findings.length + omitted} findings`];
  if (repaired > 0) counts.push(`${repaired} repaired`);
  lines.push(`${counts.join(", ")}: ${left === 0 ? "nothing is left to be done" : `${left} left`}`);
  return `${lines.join("\n")}\n`;
}

function findingLines(finding: FsckFinding["finding"], state: FsckFinding["state"]): string[] {
  const { severity, path, page, offsetBytes, message, kind, cost, remedy } = finding;
  const place = [
    ...(page === undefined ? [] : [`page ${page}`]),
    ...(offsetBytes === undefined ? [] : [`byte ${offsetBytes}`]),
  ].join(", ");
  const first = `${state === "repaired" ? "repaired" : severity}: ${path}${place === "" ? "" : ` (${place})`}: ${message} [${kind}]`;
  if (state === "repaired") return [first, ...(cost === "" ? [] : [`  cost: ${cost}`])];
  return [first, ...(cost === "" ? [] : [`  cost: ${cost}`]), `  try: ${remedy}`];
}

function fail(error: unknown, format: FsckOptions["format"], exitCode: number): number {
  const { code, message, detail } = asTidemarkError(error);
  const hint = detail.hint ?? "";
  const { metadata = {} } = detail;
  process.stderr.write(
    format === "json"
      ? `${JSON.stringify({ code, reason: code, message, hint, metadata })}\n`
      : `tidemark: ${message} (${code})\n${hint === "" ? "" : `  try: ${hint}\n`}`,
  );
  return exitCode;
}
