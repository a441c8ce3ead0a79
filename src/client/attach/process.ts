/** Processes of this machine: tools that are run, and background processes that outlive the command. */
import { execFile, spawn } from "node:child_process";
import { accessSync, closeSync, constants, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Failure } from "../failure.ts";

/** A process and when it started, so that a reused number is not mistaken for it. */
export interface ProcessIdentity {
  readonly pid: number;
  /** Start time in clock ticks since boot, field 22 of /proc/PID/stat. */
  readonly startTicks: string;
}

/** Tools that attach needs, with the Debian package of each. */
export const TOOL_PACKAGES: Readonly<Record<string, string>> = {
  nbdfuse: "libnbd-bin",
  fusermount3: "fuse3",
  losetup: "mount",
  "nbd-client": "nbd-client",
};

const TOOL_TIMEOUT_MS = 30_000;
const TOOL_OUTPUT_BYTES_MAX = 64 * 1024;
const POLL_MS = 20;

/** Path of a tool; system directories are searched too, because root's PATH may lack them. */
export function findTool(name: string, searchPath = process.env["PATH"] ?? ""): string | undefined {
  const directories = [...searchPath.split(":"), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
  for (const directory of directories) {
    if (directory === "") continue;
    const path = join(directory, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // not here: look in the next directory
    }
  }
  return undefined;
}

/** Path of a tool. Throws TOOL_MISSING naming the package. */
export function needTool(name: string): string {
  const path = findTool(name);
  if (path !== undefined) return path;
  const hint = `apt-get install ${TOOL_PACKAGES[name] ?? name}`;
  throw new Failure("FAILED_PRECONDITION", `${name} is not installed`, {
    reason: "TOOL_MISSING",
    hint,
    metadata: { tool: name },
  });
}

/** Runs a tool to its end and returns what it printed. Throws TOOL_FAILED with its own words. */
export function runTool(name: string, args: readonly string[]): Promise<string> {
  const path = needTool(name);
  const options = { timeout: TOOL_TIMEOUT_MS, maxBuffer: TOOL_OUTPUT_BYTES_MAX, env: { ...process.env, LC_ALL: "C" } };
  return new Promise((resolve, reject) => {
    execFile(path, [...args], options, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout);
      const words = stderr.trim().replaceAll("\n", "; ") || error.message;
      reject(
        new Failure(
          "INTERNAL",
          words,
          { reason: "TOOL_FAILED", hint: "tidemark doctor", metadata: { tool: name } },
          { cause: error },
        ),
      );
    });
  });
}

/** Starts a process that goes on after this command; its output goes to `logFile`. */
export async function startBackground(
  name: string,
  args: readonly string[],
  logFile: string,
): Promise<ProcessIdentity> {
  const path = needTool(name);
  const log = openSync(logFile, "a", 0o600);
  try {
    const child = spawn(path, [...args], { detached: true, cwd: "/", stdio: ["ignore", log, log] });
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", reject);
    });
    child.unref();
    const identity = child.pid === undefined ? undefined : identify(child.pid);
    if (identity === undefined) throw backgroundEnded(name, logFile);
    return identity;
  } finally {
    closeSync(log);
  }
}

/** The error of a background process that ended too early, with the last words of its log. */
export function backgroundEnded(name: string, logFile: string): Failure {
  const words = readFileSync(logFile, "utf8").trim().split("\n").slice(-3).join("; ");
  const message = `${name} ended at once${words === "" ? "" : `: ${words}`}`;
  return new Failure("INTERNAL", message, { reason: "TOOL_FAILED", hint: "tidemark doctor", metadata: { tool: name } });
}

/** Identity of a live process; undefined when there is none (a zombie is none). */
export function identify(pid: number): ProcessIdentity | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return undefined;
  }
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" "); // the name before may hold anything
  const state = fields[0];
  const startTicks = fields[19];
  return state === "Z" || state === "X" || startTicks === undefined ? undefined : { pid, startTicks };
}

export function isAlive(identity: ProcessIdentity | undefined): boolean {
  return identity !== undefined && identify(identity.pid)?.startTicks === identity.startTicks;
}

export function thisProcess(): ProcessIdentity {
  return identify(process.pid) ?? { pid: process.pid, startTicks: "" };
}

/** Waits until `done` holds. Returns false when it does not within `timeoutMs`. */
export async function waitUntil(done: () => boolean, timeoutMs: number): Promise<boolean> {
  const end = performance.now() + timeoutMs;
  while (!done()) {
    if (performance.now() >= end) return false;
    await sleep(POLL_MS);
  }
  return true;
}
