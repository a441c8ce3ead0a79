/** Diagnose: looks for what does not work or may go wrong, and says what to do about it. Gravest first. */
import type { TidemarkError } from "../base/errors.ts";
import type { Context } from "./context.ts";
import type { Copies } from "./copies.ts";
import type { Exports } from "./exports.ts";
import { unavailableHint } from "./unavailable.ts";
import type { Volumes } from "./volumes.ts";

export interface Finding {
  readonly severity: "error" | "warning" | "info";
  /** Stable name of the check. */
  readonly check: string;
  /** Object concerned; empty for the box. */
  readonly subject: string;
  readonly message: string;
  readonly remedy: string;
}

/** What the process knows about itself. */
export interface Environment {
  readonly nodeVersion: string;
  /** Threads for blocking file operations. */
  readonly threadPoolSize: number;
  readonly threadPoolSizeWanted: number;
}

const FREE_PART_MIN = 0.1;
const NODE_MAJOR_MIN = 20;
const GRAVITY = { error: 0, warning: 1, info: 2 } as const;

export interface DiagnosedParts {
  readonly volumes: Volumes;
  readonly exports: Exports;
  readonly copies: Copies;
  /** Why the state does not know the newest changes of the database (binding.ts). */
  readonly lag: TidemarkError | undefined;
}

export async function diagnose(context: Context, parts: DiagnosedParts, environment: Environment): Promise<Finding[]> {
  const findings = [
    ...(await volumeFindings(context)),
    ...exportFindings(parts.exports),
    ...copyFindings(parts.copies),
    ...lagFindings(parts.lag),
    ...(await spaceFindings(context)),
    ...environmentFindings(environment),
  ];
  return findings.sort((a, b) => GRAVITY[a.severity] - GRAVITY[b.severity]);
}

function lagFindings(lag: TidemarkError | undefined): Finding[] {
  if (lag === undefined) return [];
  const { message, hint = "look after the disk under the data directory" } = lag.detail;
  return [
    {
      severity: "warning",
      check: "database-not-recorded",
      subject: "",
      message: `the state does not know the newest changes of the database, so their loss would not be noticed: ${message}`,
      remedy: `${hint}; if it lasts, start the daemon again`,
    },
  ];
}

async function volumeFindings({ catalog, engine }: Context): Promise<Finding[]> {
  const rows = catalog.volumes();
  const all = await Promise.all(rows.map((row) => engine.volumeStatus(row.uid)));
  return rows.flatMap((row, index): Finding[] => {
    const status = all[index];
    if (status === undefined || status.online) return [];
    return [
      {
        severity: "error",
        check: "volume-unavailable",
        subject: catalog.nameOf(row),
        message: status.failure?.detail.message ?? `${row.path} could not be opened`,
        remedy: unavailableHint(catalog.nameOf(row), row, status.failure),
      },
    ];
  });
}

function exportFindings(exports: Exports): Finding[] {
  const findings = [...exports.unavailable].map(
    ([name, reason]): Finding => ({
      severity: "error",
      check: "export-unavailable",
      subject: name,
      message: `the export is not offered: ${reason}`,
      remedy: `bring its volume back, as is said of it here; or tidemark export remove ${name}`,
    }),
  );
  if (exports.serverUri !== "") return findings;
  const silent: Finding = {
    severity: "info",
    check: "nbd-not-listening",
    subject: "",
    message: "the box does not listen for NBD clients",
    remedy: "start the daemon with --nbd unix:PATH to attach or export volumes",
  };
  return [...findings, silent];
}

function copyFindings(copies: Copies): Finding[] {
  const leftAlone = copies.outOfService.reasons.map(
    ({ id, failure }): Finding => ({
      severity: "error",
      check: "copy-out-of-service",
      subject: id,
      message: failure.detail.message,
      remedy: failure.detail.hint ?? "start the daemon again",
    }),
  );
  const failed = copies.failed().map(
    (session): Finding => ({
      severity: "error",
      check: "copy-failed",
      subject: session.id,
      message: `${session.source.name} to ${session.destination.name}: ${session.failure?.message ?? "cause unknown"}`,
      remedy: `mend the cause, then tidemark copy restart ${session.id}, or cancel it`,
    }),
  );
  return [...leftAlone, ...failed];
}

async function spaceFindings({ paths, rules }: Context): Promise<Finding[]> {
  const { freeBytes, totalBytes } = await paths.space(rules.dataDirectory);
  if (freeBytes >= FREE_PART_MIN * totalBytes) return [];
  return [
    {
      severity: "warning",
      check: "data-directory-full",
      subject: "",
      message: `${rules.dataDirectory} has ${freeBytes} of ${totalBytes} bytes free`,
      remedy: "free space there: a full data directory stops tracking and commands",
    },
  ];
}

function environmentFindings(environment: Environment): Finding[] {
  const findings: Finding[] = [];
  if (environment.threadPoolSize < environment.threadPoolSizeWanted)
    findings.push({
      severity: "warning",
      check: "thread-pool-small",
      subject: "",
      message: `${environment.threadPoolSize} threads for file operations; a slow disk may hold up the others`,
      remedy: `start the daemon with UV_THREADPOOL_SIZE=${environment.threadPoolSizeWanted}`,
    });
  const major = Number(/^v?(\d+)/.exec(environment.nodeVersion)?.[1] ?? 0);
  if (major < NODE_MAJOR_MIN)
    findings.push({
      severity: "warning",
      check: "node-version",
      subject: "",
      message: `Node ${environment.nodeVersion} is older than what is tested`,
      remedy: `use Node ${NODE_MAJOR_MIN} or newer`,
    });
  return findings;
}
