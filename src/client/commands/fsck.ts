/**
 * `tidemark fsck ...`
 *
 * Role: checks the data directory of a box that does not run, in this process. Reaches into src/server at run time, as
 * serve.ts does (the architecture test names both files as the exceptions).
 */
import { Failure } from "../failure.ts";

interface FsckModule {
  main(argv: string[]): Promise<number>;
}

/** Hands everything but `fsck` to the server's part as it stands; resolves to the exit code. */
export async function fsck(argv: readonly string[]): Promise<number> {
  const ending = import.meta.url.endsWith(".ts") ? "ts" : "js";
  const url = new URL(`../../server/fsck-main.${ending}`, import.meta.url);
  const module: unknown = await import(url.href);
  if (!isFsckModule(module))
    throw new Failure("INTERNAL", "this installation has no server", { hint: "npm run build" });
  const at = argv.indexOf("fsck");
  return module.main([...argv.slice(2, at), ...argv.slice(at + 1)]); // --json may stand before the command
}

function isFsckModule(module: unknown): module is FsckModule {
  return typeof module === "object" && module !== null && "main" in module && typeof module.main === "function";
}
