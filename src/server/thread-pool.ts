/**
 * Thread pool: blocking file operations run in libuv's threads. Four, the default, let one stalled disk hold up all
 * others, so the daemon wants THREAD_POOL_SIZE.
 *
 * The size is read from the environment when the pool is first used, and loading the first module uses it. So the
 * process replaces itself, under the same pid, with the variable set (execve). Where that cannot be done it goes on, and
 * doctor reports the small pool.
 */
import { createRequire } from "node:module";

export const THREAD_POOL_SIZE = 32;
const VARIABLE = "UV_THREADPOOL_SIZE";
const DEFAULT_SIZE = 4;
/** fcntl: sets the flags of a descriptor, of which there is one: close on exec. */
const F_SETFD = 2;

/** Threads that blocking file operations have. */
export function threadPoolSize(environment: NodeJS.ProcessEnv): number {
  const size = Number(environment[VARIABLE]);
  return Number.isInteger(size) && size > 0 ? size : DEFAULT_SIZE;
}

/** Replaces the process unless the pool's size was chosen already. Returns only when nothing was replaced. */
export function ensureThreadPool(log: (message: string) => void): void {
  if (process.env[VARIABLE] !== undefined) return;
  const args = [process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const environment = { ...process.env, [VARIABLE]: String(THREAD_POOL_SIZE) };
  try {
    replaceProcess(process.execPath, args, environment);
  } catch (error) {
    log(`the thread pool keeps ${DEFAULT_SIZE} threads: ${error instanceof Error ? error.message : String(error)}`);
  }
}

interface Koffi {
  load(path: string | null): {
    func(name: string, result: string, parameters: string[]): (...values: unknown[]) => number;
  };
  errno(): number;
}

function replaceProcess(path: string, args: readonly string[], environment: NodeJS.ProcessEnv): never {
  const variables = Object.entries(environment).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name}=${value}`],
  );
  const koffi = createRequire(import.meta.url)("koffi") as Koffi;
  const library = koffi.load(null);
  const fcntl = library.func("fcntl", "int", ["int", "int", "int"]);
  const execve = library.func("execve", "int", ["str", "const char **", "const char **"]);
  // Node closes the standard streams when another program is started; this one goes on using them.
  for (const stream of [0, 1, 2]) fcntl(stream, F_SETFD, 0);
  execve(path, [...args, null], [...variables, null]);
  throw new Error(`execve failed with error ${koffi.errno()}`);
}
