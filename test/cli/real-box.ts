/** A real daemon, started with `tidemark serve` in a directory of its own. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { ExecutionContext } from "ava";
import { programArguments, type RunOptions, type RunResult, runTidemark, runTidemarkBytes } from "./run-tidemark.ts";

const AS_NOBODY = fileURLToPath(new URL("../support/serve-as-nobody.ts", import.meta.url));
const SERVING = /^tidemark: serving, address=(\S+), nbd=/;

export class RealBox {
  readonly directory: string;
  #child: ChildProcess | undefined;
  #log = "";
  address = "";

  private constructor(directory: string) {
    this.directory = directory;
  }

  /** Starts a box in a new temporary directory. `close` stops it and removes the directory. */
  static async start(): Promise<RealBox> {
    const box = new RealBox(mkdtempSync(join(tmpdir(), "tidemark-cli-")));
    await box.serve();
    return box;
  }

  /** Starts the daemon; also again, after `kill`. `nobody`: as a user that may not do everything. */
  async serve(user: "self" | "nobody" = "self"): Promise<void> {
    const { TIDEMARK_ADDRESS: _address, ...inherited } = process.env;
    const env = user === "self" ? inherited : { ...inherited, UV_THREADPOOL_SIZE: "32" }; // it would start itself anew
    const program = user === "self" ? programArguments() : ["--import=tsx", AS_NOBODY];
    const args = [...program, "serve", "--data", join(this.directory, "state"), "--log-level", "warn"];
    const child = spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", "pipe"] });
    this.#child = child;
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#log += text;
    });
    if (child.stdout === null) throw new Error("the daemon has no output");
    for await (const line of createInterface({ input: child.stdout })) {
      const address = SERVING.exec(line)?.[1];
      if (address === undefined) continue;
      this.address = address;
      return;
    }
    if (child.exitCode === null && child.signalCode === null) await once(child, "close");
    throw new Error(`the daemon did not start (${child.exitCode ?? child.signalCode}): ${this.#log}`);
  }

  /** The daemon's process. */
  process(): ChildProcess {
    if (this.#child === undefined) throw new Error("the daemon does not run");
    return this.#child;
  }

  /** What the daemon has said on standard error so far. */
  log(): string {
    return this.#log;
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** Runs a command against this box. */
  run(args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
    return runTidemark(args, { ...options, env: this.#environment(options) });
  }

  runBytes(args: readonly string[], options: RunOptions = {}) {
    return runTidemarkBytes(args, { ...options, env: this.#environment(options) });
  }

  /** Runs a command with --json that must succeed, and returns the objects it prints. */
  async json(t: ExecutionContext, args: readonly string[]): Promise<Record<string, unknown>[]> {
    const { code, stdout, stderr } = await this.run([...args, "--json"]);
    t.is(code, 0, `tidemark ${args.join(" ")}: ${stderr}`);
    t.is(stderr, "", "nothing but the result is printed");
    const lines = stdout.split("\n").filter((line) => line !== "");
    return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  /** Ends the daemon at once, as a power failure would. */
  async kill(): Promise<void> {
    await this.#end("SIGKILL");
  }

  /** Stops the daemon as a service manager does; `serve` starts it again. */
  async stop(): Promise<void> {
    await this.#end("SIGTERM");
  }

  async close(): Promise<void> {
    await this.stop();
    rmSync(this.directory, { recursive: true, force: true });
  }

  async #end(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const closed = once(child, "close");
    child.kill(signal);
    await closed;
  }

  #environment(options: RunOptions): Record<string, string> {
    return { TIDEMARK_ADDRESS: this.address, TIDEMARK_RUNTIME_DIR: join(this.directory, "runtime"), ...options.env };
  }
}
