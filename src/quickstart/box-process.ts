/**
 * A daemon of its own, in a temporary directory: started, watched, stopped.
 *
 * Invariant: `stop` leaves no process and no file behind, in whatever state things are.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, rmSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { systemClock } from "../base/clock.ts";
import { QuickstartFailure } from "./failure.ts";

const SERVING = /^tidemark: serving, address=(\S+), nbd=(\S+), box=/;
const START_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 15_000;
const LOG_LINES_SHOWN = 10;

export interface BoxAddresses {
  readonly api: string;
  /** Path of the NBD socket. */
  readonly nbdSocket: string;
}

export class BoxProcess {
  readonly directory: string;
  readonly logPath: string;
  readonly #child: ChildProcess;
  #ended: string | undefined;

  private constructor(directory: string, logPath: string, child: ChildProcess) {
    this.directory = directory;
    this.logPath = logPath;
    this.#child = child;
    child.once("error", (error) => {
      this.#ended = error.message;
    });
    child.once("exit", (code, signal) => {
      this.#ended = signal === null ? `exit code ${code}` : `signal ${signal}`;
    });
  }

  /** Starts `tidemark serve` with its state below `directory`. A session of its own: Ctrl-C is for us, we stop it. */
  static spawn(directory: string): BoxProcess {
    const ending = import.meta.url.endsWith(".ts") ? "ts" : "js"; // tests run the source
    const program = fileURLToPath(new URL(`../client/main.${ending}`, import.meta.url));
    const logPath = join(directory, "box.log");
    const log = openSync(logPath, "a", 0o600);
    try {
      const { TIDEMARK_ADDRESS: _address, TIDEMARK_DATA: _data, ...env } = process.env;
      const args = [...process.execArgv, program, "serve", "--data", join(directory, "box")];
      const child = spawn(process.execPath, args, { env, detached: true, stdio: ["ignore", "pipe", log] });
      return new BoxProcess(directory, logPath, child);
    } finally {
      closeSync(log);
    }
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Resolves when the box serves. Throws QuickstartFailure with the end of its log. */
  async ready(signal: AbortSignal): Promise<BoxAddresses> {
    const limit = new AbortController();
    try {
      return await Promise.race([this.#serving(), this.#tooLate(limit.signal), interruption(signal, limit.signal)]);
    } finally {
      limit.abort();
    }
  }

  async #serving(): Promise<BoxAddresses> {
    const { stdout } = this.#child;
    if (stdout === null) throw this.failure("the box has no output");
    for await (const line of createInterface({ input: stdout })) {
      const match = SERVING.exec(line);
      if (match?.[1] === undefined || match[2] === undefined) continue;
      stdout.destroy(); // it says nothing more there
      const api = match[1].split(",")[0] ?? match[1];
      const socket = /[?&]socket=([^&]+)/.exec(match[2])?.[1];
      if (socket === undefined) throw this.failure(`the box serves NBD at an unexpected address: ${match[2]}`);
      return { api, nbdSocket: decodeURIComponent(socket) };
    }
    throw this.failure(`the box ended while starting${this.#ended === undefined ? "" : ` (${this.#ended})`}`);
  }

  async #tooLate(signal: AbortSignal): Promise<never> {
    await systemClock.sleep(START_TIMEOUT_MS, signal);
    throw this.failure(`the box did not start within ${START_TIMEOUT_MS / 1000} s`);
  }

  /** A failure that shows the last lines of the box's log. */
  failure(message: string): QuickstartFailure {
    const tail = this.logTail();
    return new QuickstartFailure(tail === "" ? message : `${message}\n${tail}`, "the box's own words are above");
  }

  logTail(): string {
    try {
      return readFileSync(this.logPath, "utf8").trim().split("\n").slice(-LOG_LINES_SHOWN).join("\n");
    } catch {
      return ""; // it never wrote one
    }
  }

  /** Lets the box run on after this process has ended. */
  release(): void {
    this.#child.unref();
  }

  /** Stops the box, by force if it must be, and removes the directory. Idempotent. */
  async stop(): Promise<void> {
    const patience = new AbortController();
    const exited = new Promise<void>((resolve) => {
      if (this.#ended !== undefined) resolve();
      else this.#child.once("exit", () => resolve());
    });
    this.#child.kill("SIGTERM");
    await Promise.race([exited, systemClock.sleep(STOP_TIMEOUT_MS, patience.signal)]);
    patience.abort();
    if (this.#ended === undefined) {
      this.#child.kill("SIGKILL");
      await exited;
    }
    await rm(this.directory, { recursive: true, force: true });
  }

  /** The same without waiting, for a process that must end now. */
  stopNow(): void {
    if (this.#ended === undefined) this.#child.kill("SIGKILL");
    rmSync(this.directory, { recursive: true, force: true });
  }
}

async function interruption(signal: AbortSignal, over: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const stop = () => reject(new QuickstartFailure("interrupted", ""));
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    over.addEventListener("abort", () => signal.removeEventListener("abort", stop), { once: true });
  });
}
