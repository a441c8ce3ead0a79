/**
 * `tidemark fsck --data DIR [--repair]`
 *
 * Role: checks the data directory of a box that does not run, in this process. Reaches into src/server at run time, as
 * serve.ts does (the architecture test names both files as the exceptions).
 */
import { MetadataFinding } from "../../gen/tidemark/v1/box.ts";
import type { CommandContext } from "../context.ts";
import { countsText, findingLines, isLeft } from "../display/findings.ts";
import { formatSize } from "../display/units.ts";
import { EXIT_FAILURE, EXIT_OK, Failure, type StatusCode, usageError } from "../failure.ts";

interface Report {
  readonly directory: string;
  readonly findings: readonly MetadataFinding[];
  /** Findings beyond the bound. */
  readonly omitted: number;
  readonly files: number;
  readonly bytes: number;
  /** What a repair had to say. */
  readonly said: readonly string[];
  /** Why nothing was repaired. */
  readonly refusal: string | undefined;
}

interface Refusal {
  readonly code: StatusCode;
  readonly reason: string;
  readonly message: string;
  readonly hint: string;
  readonly metadata: Readonly<Record<string, string>>;
}

interface FsckModule {
  main(
    dataDirectory: string,
    action: "look" | "repair" | "accept",
  ): Promise<{ readonly answer: Report } | { readonly refusal: Refusal }>;
}

/** Exit code 0 when nothing is left to be done, 1 otherwise. */
export async function fsck(
  context: CommandContext,
  options: { readonly data?: string; readonly repair?: boolean; readonly acceptDatabase?: boolean },
): Promise<number> {
  const directory = options.data ?? context.environment["TIDEMARK_DATA"] ?? "";
  if (directory === "") throw usageError("no data directory is given", "add --data DIR, or set TIDEMARK_DATA");
  if (options.repair === true && options.acceptDatabase === true)
    throw usageError("--repair and --accept-database are two steps", "accept the database first, look, then repair");
  const module = await loadModule();
  const action = options.repair === true ? "repair" : options.acceptDatabase === true ? "accept" : "look";
  const result = await module.main(directory, action);
  if ("refusal" in result) throw new Failure(result.refusal.code, result.refusal.message, result.refusal);
  const report = result.answer;
  const left = report.findings.filter(isLeft).length + report.omitted;
  if (context.output.json) showJson(context, report, left);
  else show(context, report, left);
  return left === 0 ? EXIT_OK : EXIT_FAILURE;
}

function show({ output }: CommandContext, report: Report, left: number): void {
  for (const finding of report.findings) for (const line of findingLines(finding)) output.line(line);
  if (report.omitted > 0) output.line(`${report.omitted} more findings are left out`);
  for (const text of report.said) output.line(`repair: ${text}`);
  if (report.refusal !== undefined) output.line(`not repaired: ${report.refusal}`);
  const read = `${report.files} files, ${formatSize(BigInt(report.bytes))}`;
  output.line(`${read}, ${countsText(report.findings.length + report.omitted, left)}`);
}

/** A finding a line, then the summary. */
function showJson({ output }: CommandContext, report: Report, left: number): void {
  for (const finding of report.findings) output.object({ finding: MetadataFinding.toJSON(finding) });
  const { directory, files, bytes, omitted, said, refusal } = report;
  const findings = report.findings.length + omitted;
  const repaired = report.findings.filter((finding) => finding.repaired).length;
  const summary = { directory, files, bytes, findings, repaired, left, said };
  output.object({ summary: refusal === undefined ? summary : { ...summary, notRepaired: refusal } });
}

async function loadModule(): Promise<FsckModule> {
  const ending = import.meta.url.endsWith(".ts") ? "ts" : "js";
  const url = new URL(`../../server/fsck-main.${ending}`, import.meta.url);
  const module: unknown = await import(url.href);
  if (isFsckModule(module)) return module;
  throw new Failure("INTERNAL", "this installation has no server", { hint: "npm run build" });
}

function isFsckModule(module: unknown): module is FsckModule {
  return typeof module === "object" && module !== null && "main" in module && typeof module.main === "function";
}
