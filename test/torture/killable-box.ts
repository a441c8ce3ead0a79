/** The real daemon as a process that is killed and started again, also while it starts. */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type Clients, connect } from "../server/fixture.ts";

const SERVING = /^tidemark: serving, address=([^,\s]+)\S*, nbd=(\S+), box=/;
/** Of a start or an orderly stop. */
const PATIENCE_MS = 60_000;

export class KillableBox {
  readonly directory: string;
  /** What stands behind `node`. */
  readonly #program: readonly string[];
  #child: ChildProcess | undefined;
  #exited: Promise<string> = Promise.resolve("it was not started");
  #clients: Clients | undefined;
  nbdSocket = "";

  constructor(directory: string, program: readonly string[]) {
    this.directory = directory;
    this.#program = program;
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  get clients(): Clients {
    if (this.#clients === undefined) throw new Error("the box does not serve");
    return this.#clients;
  }

  /** Begins a start; `serving` tells how it goes on. */
  spawn(): void {
    const { TIDEMARK_ADDRESS: _address, TIDEMARK_DATA: _data, ...inherited } = process.env;
    // As the service does it: without this the daemon replaces itself once, which only takes time.
    const env = { ...inherited, UV_THREADPOOL_SIZE: "32" };
    const args = [...this.#program, "serve", "--data", this.path("box"), "--log-level", "warn"];
    const log = openSync(this.path("box.log"), "a", 0o600);
    const child = spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", log] });
    closeSync(log);
    this.#child = child;
    this.#exited = new Promise((resolve) => {
      child.once("error", (error) => resolve(error.message));
      child.once("exit", (code, signal) => resolve(signal ?? `exit code ${code}`));
    });
  }

  /** Resolves when it serves. Throws when it ends instead, or takes too long. */
  async serving(): Promise<void> {
    const stdout = this.#child?.stdout;
    if (!stdout) throw new Error("the box was not started");
    const line = this.#servingLine(stdout);
    const ended = this.#exited.then((how) => Promise.reject(new Error(`the box ended while starting: ${how}`)));
    const { api, nbdSocket } = await withPatience(Promise.race([line, ended]), "the start of the box");
    this.nbdSocket = nbdSocket;
    this.#clients = connect(api);
  }

  async #servingLine(stdout: NodeJS.ReadableStream): Promise<{ api: string; nbdSocket: string }> {
    for await (const line of createInterface({ input: stdout })) {
      const match = SERVING.exec(line);
      const socket = /[?&]socket=([^&]+)/.exec(match?.[2] ?? "")?.[1];
      if (match?.[1] !== undefined && socket !== undefined)
        return { api: match[1], nbdSocket: decodeURIComponent(socket) };
    }
    return new Promise(() => undefined); // the exit tells
  }

  /** `kill -9`; resolves when the process is gone. How it ended otherwise, if it had ended by itself. */
  async kill(): Promise<string> {
    this.#child?.kill("SIGKILL");
    const how = await this.#exited;
    this.#forget();
    return how;
  }

  askToStop(): void {
    this.#child?.kill("SIGTERM");
  }

  /** Stops in order. Throws unless it ends with exit code 0. */
  async stop(): Promise<void> {
    this.askToStop();
    const how = await withPatience(this.#exited, "the stop of the box");
    this.#forget();
    if (how !== "exit code 0") throw new Error(`the box stopped with ${how}`);
  }

  #forget(): void {
    this.#clients?.close();
    this.#clients = undefined;
    this.#child = undefined;
  }
}

/** The result, or an error that says what took too long. */
export async function withPatience<T>(result: Promise<T>, what: string, patienceMs = PATIENCE_MS): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took more than ${patienceMs / 1000} s`)), patienceMs);
  });
  try {
    return await Promise.race([result, late]);
  } finally {
    clearTimeout(timer);
  }
}
