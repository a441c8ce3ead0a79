/**
 * The end of the process, in every state of it.
 *
 * `process.exit` waits for threads: the engine's, and those of the pool. One that is stuck in a call of a device that does not
 * answer would keep the process for good.
 */
import { createRequire } from "node:module";

interface Koffi {
  load(path: string | null): { func(name: string, result: string, parameters: string[]): (code: number) => void };
}

/** Nothing is waited for; what was written to the standard streams is there. */
export function exitNow(code: number): never {
  try {
    const koffi = createRequire(import.meta.url)("koffi") as Koffi;
    koffi.load(null).func("_exit", "void", ["int"])(code);
  } catch {
    // No native calls on this platform: what follows is as good as it gets.
  }
  process.exit(code);
}
