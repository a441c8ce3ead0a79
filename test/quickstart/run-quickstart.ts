/** Runs the quickstart as a process of its own, with a temporary directory of its own. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { ExecutionContext } from "ava";

const BUILT = process.env["TIDEMARK_TEST_BUILD"] === "dist";
const MAIN = fileURLToPath(
  new URL(BUILT ? "../../dist/quickstart/main.js" : "../../src/quickstart/main.ts", import.meta.url),
);
const NODE_ARGUMENTS = BUILT ? [] : ["--import=tsx"];

export interface QuickstartRun {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A directory that is removed after the test. The path is short: sockets lie below it. */
export function temporaryDirectory(t: ExecutionContext): string {
  const directory = mkdtempSync(join(tmpdir(), "tm-qs-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/** `onStderr` sees what the quickstart has said so far, and the process. */
export function runQuickstart(
  args: readonly string[],
  options: { readonly tmp: string; readonly onStderr?: (text: string, child: ReturnType<typeof spawn>) => void },
): Promise<QuickstartRun> {
  const env = { ...process.env, TMPDIR: options.tmp };
  const child = spawn(process.execPath, [...NODE_ARGUMENTS, MAIN, ...args], { env, stdio: ["ignore", "pipe", "pipe"] });
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
    options.onStderr?.(stderr, child);
  });
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve({ code, stdout, stderr }));
  });
}
