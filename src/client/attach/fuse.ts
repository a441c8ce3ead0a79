/**
 * A volume as a file: nbdfuse in the background, mounted in a private directory.
 */
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { Failure } from "../failure.ts";
import { mounts } from "./block-device.ts";
import {
  backgroundEnded,
  findTool,
  isAlive,
  type ProcessIdentity,
  runTool,
  startBackground,
  waitUntil,
} from "./process.ts";

const START_TIMEOUT_MS = 15_000;
const STOP_TIMEOUT_MS = 15_000;
const FILE_NAME = "nbd";

export function fuseFile(mountPoint: string): string {
  return join(mountPoint, FILE_NAME);
}

/**
 * Starts nbdfuse for `uri`. `started` is told of the process before anything is mounted, so that it can be recorded.
 * Returns when the file can be used.
 */
export async function mountFuse(options: {
  readonly uri: string;
  readonly mountPoint: string;
  readonly directory: string;
  readonly readOnly: boolean;
  readonly started: (process: ProcessIdentity) => void;
}): Promise<void> {
  mkdirSync(options.mountPoint, { mode: 0o700, recursive: true });
  const logFile = join(options.directory, "nbdfuse.log");
  const pidFile = join(options.directory, "nbdfuse.pid");
  const access = options.readOnly ? ["--readonly"] : [];
  const args = ["--pidfile", pidFile, ...access, fuseFile(options.mountPoint), options.uri];
  const process = await startBackground("nbdfuse", args, logFile);
  options.started(process);
  const settled = await waitUntil(() => existsSync(pidFile) || !isAlive(process), START_TIMEOUT_MS);
  if (!isAlive(process)) throw backgroundEnded("nbdfuse", logFile);
  if (settled && isMounted(options.mountPoint)) return;
  throw new Failure("DEADLINE_EXCEEDED", "nbdfuse did not start in time", {
    reason: "TOOL_FAILED",
    hint: "tidemark doctor",
  });
}

/** Unmounts and waits until the process is gone. Nothing happens for what is gone already. */
export async function unmountFuse(mountPoint: string, process: ProcessIdentity | undefined): Promise<void> {
  if (isMounted(mountPoint)) {
    if (findTool("fusermount3") !== undefined) await runTool("fusermount3", ["-u", mountPoint]);
    else await runTool("umount", [mountPoint]);
  } else if (process !== undefined && isAlive(process)) {
    globalThis.process.kill(process.pid, "SIGTERM"); // started, but a crash came before it had mounted
  }
  if (await waitUntil(() => !isAlive(process), STOP_TIMEOUT_MS)) return;
  const hint = `look at process ${process?.pid}`;
  throw new Failure("DEADLINE_EXCEEDED", "nbdfuse did not end in time", { reason: "TOOL_FAILED", hint });
}

export function isMounted(mountPoint: string): boolean {
  return mounts().some((mount) => mount.mountPoint === mountPoint);
}
