/**
 * Everything a benchmark leaves on the machine while it runs: a temporary directory, processes, mounts.
 *
 * Invariant: what was made is undone by `close`, last first, also after a failure or Ctrl-C, and one failure there
 * does not keep the rest from being undone.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { sleep } from "./sizes.ts";

const STOP_PATIENCE_MS = 20_000;
const SYSTEM_DIRECTORIES = ["/usr/sbin", "/sbin"];
process.env["PATH"] = [process.env["PATH"] ?? "", ...SYSTEM_DIRECTORIES].join(delimiter);

export class Workspace {
  readonly directory: string;
  readonly #undo: (() => Promise<void>)[] = [];
  #closing: Promise<void> | undefined;

  private constructor(directory: string) {
    this.directory = directory;
    this.defer(() => rm(directory, { recursive: true, force: true }));
  }

  static async open(parent: string): Promise<Workspace> {
    return new Workspace(await mkdtemp(join(parent, "tidemark-bench-")));
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** Registers what undoes something. */
  defer(undo: () => Promise<void>): void {
    this.#undo.push(undo);
  }

  /** A process that runs until `close` or `stop`. Its standard error goes to ours only if it fails to start. */
  spawn(program: string, args: readonly string[], output: "ignore" | "pipe" = "ignore"): ChildProcess {
    const child = spawn(program, args, { stdio: ["ignore", output, "ignore"] });
    child.on("error", () => {}); // told by whoever waits for it
    this.defer(() => stop(child));
    return child;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    for (let undo = this.#undo.pop(); undo !== undefined; undo = this.#undo.pop()) {
      try {
        await undo();
      } catch (error) {
        process.stderr.write(`bench: cleaning up: ${error instanceof Error ? error.message : String(error)}\n`);
      }
    }
  }
}

/** Ends a process, by force after a while. */
export async function stop(child: ChildProcess): Promise<void> {
  const ended = () => child.exitCode !== null || child.signalCode !== null || child.pid === undefined;
  if (ended()) return;
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  child.kill("SIGTERM");
  await Promise.race([exited, sleep(STOP_PATIENCE_MS)]);
  if (ended()) return;
  child.kill("SIGKILL");
  await exited;
}

/** Runs a program to its end; its standard output. Throws when it fails, with what it said. */
export function run(program: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on("data", (piece: Buffer) => out.push(piece));
    child.stderr.on("data", (piece: Buffer) => err.push(piece));
    child.once("error", reject);
    child.once("close", (code, signal) => {
      if (code === 0) resolve(Buffer.concat(out).toString());
      else reject(new Error(`${program} ${args.join(" ")}: ${signal ?? `exit ${code}`}: ${Buffer.concat(err)}`));
    });
  });
}

export function hasTool(name: string): boolean {
  return (process.env["PATH"] ?? "").split(delimiter).some((directory) => {
    try {
      accessSync(join(directory, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
