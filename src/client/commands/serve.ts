/**
 * `tidemark serve ...`
 *
 * Role: starts the server in this process. This is the one place where the client reaches into src/server, and it
 * does so at run time only (the architecture test names this file as the exception).
 */
import { Failure } from "../failure.ts";

interface ServerModule {
  main(argv: string[]): Promise<void>;
}

/** Hands everything after `serve` to the server as it stands. */
export async function serve(argv: readonly string[], environment: Readonly<Record<string, string | undefined>>) {
  const ending = import.meta.url.endsWith(".ts") ? "ts" : "js";
  const url = new URL(`../../server/main.${ending}`, import.meta.url);
  const module: unknown = await import(url.href);
  if (!isServerModule(module))
    throw new Failure("INTERNAL", "this installation has no server", { hint: "npm run build" });
  const at = argv.indexOf("serve");
  const before = argv.slice(2, at); // global options may stand before the command
  const given = [...before, ...argv.slice(at + 1)];
  const address = environment["TIDEMARK_ADDRESS"];
  const named = given.some((word) => word === "--address" || word.startsWith("--address="));
  await module.main(named || address === undefined ? given : [...given, "--address", address]);
}

function isServerModule(module: unknown): module is ServerModule {
  return typeof module === "object" && module !== null && "main" in module && typeof module.main === "function";
}
