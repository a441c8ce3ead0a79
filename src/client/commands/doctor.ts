/** `tidemark doctor` */
import { existsSync } from "node:fs";
import { BoxServiceClient, Finding, FindingSeverity } from "../../gen/tidemark/v1/box.ts";
import { isIntact } from "../attach/attach.ts";
import { hasKernelNbd } from "../attach/kernel-nbd.ts";
import { findTool, TOOL_PACKAGES } from "../attach/process.ts";
import { attachmentsDirectory, listAttachments } from "../attach/record.ts";
import type { CommandContext } from "../context.ts";
import { asFailure, EXIT_FAILURE, EXIT_OK } from "../failure.ts";

const NODE_MAJOR_MIN = 20;

const SEVERITY_WORDS: Record<FindingSeverity, string> = {
  [FindingSeverity.UNSPECIFIED]: "",
  [FindingSeverity.INFO]: "info",
  [FindingSeverity.WARNING]: "warning",
  [FindingSeverity.ERROR]: "error",
};

/** Exit code 0 when nothing is wrong, 1 when there is an error, that of the failure when no server answers. */
export async function doctor(context: CommandContext): Promise<number> {
  const findings = localFindings(context);
  let exitCode = EXIT_OK;
  try {
    const connection = await context.connect();
    const client = connection.client(BoxServiceClient);
    findings.push(...(await connection.unary(client, client.diagnose, {})).findings);
  } catch (error) {
    const failure = asFailure(error);
    if (failure.code === "INTERRUPTED") throw failure;
    exitCode = failure.exitCode;
    findings.push(finding("ERROR", "server-unreachable", failure.message, failure.hint));
  }
  findings.sort((left, right) => right.severity - left.severity);
  if (exitCode === EXIT_OK && findings.some(({ severity }) => severity === FindingSeverity.ERROR))
    exitCode = EXIT_FAILURE;
  if (context.output.json) context.output.object({ findings: findings.map((item) => Finding.toJSON(item)) });
  else show(context, findings);
  return exitCode;
}

function show(context: CommandContext, findings: readonly Finding[]): void {
  if (findings.length === 0) context.output.line("all is well");
  for (const { severity, check, subject, message, remedy } of findings) {
    context.output.line(`${SEVERITY_WORDS[severity]}: ${subject === "" ? "" : `${subject}: `}${message} [${check}]`);
    if (remedy !== "") context.output.line(`  try: ${remedy}`);
  }
}

function finding(
  severity: "INFO" | "WARNING" | "ERROR",
  check: string,
  message: string,
  remedy: string,
  subject = "",
): Finding {
  return { severity: FindingSeverity[severity], check, subject, message, remedy };
}

/** What this machine lacks for `volume attach`, and attachments that are broken. */
function localFindings(context: CommandContext): Finding[] {
  const found: Finding[] = [];
  const nodeMajor = Number(process.versions.node.split(".")[0]);
  if (nodeMajor < NODE_MAJOR_MIN) {
    found.push(
      finding(
        "ERROR",
        "node-version",
        `Node.js ${process.versions.node} is too old`,
        `Node.js ${NODE_MAJOR_MIN} or newer`,
      ),
    );
  }
  const kernel = hasKernelNbd() && findTool("nbd-client") !== undefined;
  if (!kernel) {
    for (const tool of ["nbdfuse", "fusermount3", "losetup"]) {
      if (findTool(tool) !== undefined) continue;
      const remedy = `apt-get install ${TOOL_PACKAGES[tool]}`;
      found.push(finding("WARNING", "attach-tool", `${tool} is not installed: \`volume attach\` cannot work`, remedy));
    }
    for (const [path, what] of [
      ["/dev/fuse", "FUSE"],
      ["/dev/loop-control", "loop devices"],
    ] as const) {
      if (existsSync(path)) continue;
      found.push(
        finding(
          "WARNING",
          "attach-device",
          `the kernel offers no ${what} here: \`volume attach\` cannot work`,
          `a kernel or container with ${path}`,
        ),
      );
    }
  }
  if (process.getuid?.() !== 0) {
    found.push(finding("INFO", "attach-rights", "`volume attach` needs root", "sudo tidemark volume attach NAME"));
  }
  for (const attachment of listAttachments(attachmentsDirectory(context.environment))) {
    if (isIntact(attachment)) continue;
    const { name } = attachment.record;
    found.push(
      finding(
        "ERROR",
        "attachment-broken",
        "its attachment does not work any more",
        `tidemark volume detach ${name}`,
        name,
      ),
    );
  }
  return found;
}
