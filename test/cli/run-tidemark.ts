/** Runs the real program as a process of its own. */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

export interface RunResult {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Bytes for standard input; without them it is empty. */
  readonly input?: Uint8Array;
  /** Called with the process once it runs. */
  readonly started?: (child: ReturnType<typeof spawn>) => void;
}

/** `npm test` runs what it has built; a single test file run by hand takes the source. */
const BUILT = process.env["TIDEMARK_TEST_BUILD"] === "dist";
const MAIN = fileURLToPath(new URL(BUILT ? "../../dist/client/main.js" : "../../src/client/main.ts", import.meta.url));
const NODE_ARGUMENTS = BUILT ? [] : ["--import=tsx"];
/** What stands behind `node` to run the program. */
export function programArguments(): string[] {
  return [...NODE_ARGUMENTS, MAIN];
}

/** Programs that run at a time: the tests of a file all start at once. */
const PROCESSES_MAX = 3;
const waiting: (() => void)[] = [];
let running = 0;

async function takeTurn(): Promise<() => void> {
  if (running >= PROCESSES_MAX) await new Promise<void>((resolve) => waiting.push(resolve));
  else running++;
  return () => {
    const next = waiting.shift();
    if (next === undefined) running--;
    else next();
  };
}

/** Runs `tidemark ...args`. Nothing of the caller's environment about servers reaches it. */
export async function runTidemark(args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const { bytes, ...rest } = await runTidemarkBytes(args, options);
  return { ...rest, stdout: bytes.toString("utf8") };
}

/** As runTidemark, with standard output as bytes. */
export async function runTidemarkBytes(
  args: readonly string[],
  options: RunOptions = {},
): Promise<Omit<RunResult, "stdout"> & { readonly bytes: Buffer }> {
  const endTurn = await takeTurn();
  try {
    return await run(args, options);
  } finally {
    endTurn();
  }
}

function run(
  args: readonly string[],
  options: RunOptions,
): Promise<Omit<RunResult, "stdout"> & { readonly bytes: Buffer }> {
  const { TIDEMARK_ADDRESS: _address, TIDEMARK_DATA: _data, TIDEMARK_DEBUG: _debug, ...inherited } = process.env;
  const env = { ...inherited, ...options.env };
  const child = spawn(process.execPath, [...programArguments(), ...args], { env, stdio: ["pipe", "pipe", "pipe"] });
  const stdout: Buffer[] = [];
  let stderr = "";
  child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    stderr += chunk;
  });
  child.stdin.on("error", () => {}); // a command that refuses early does not read its input
  child.stdin.end(options.input ?? Buffer.alloc(0));
  options.started?.(child);
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve({ code, signal, bytes: Buffer.concat(stdout), stderr }));
  });
}
