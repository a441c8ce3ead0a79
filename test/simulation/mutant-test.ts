/**
 * Mutants that histories hardly ever meet, or whose rule has a second line of defence behind it, are shown by a test of the
 * part that keeps the rule: it runs in the mutant's tree, and has to fail there. That it passes in the project every run of the
 * tests shows.
 */
import { spawn } from "node:child_process";
import { plantMutant } from "./mutant-tree.ts";
import type { Mutant, NamedTest } from "./mutants.ts";

const ENDS_WITHIN_MS = 300_000;

/** Title of the test when it failed. Throws when it did not run: that says nothing about the mutant. */
export async function runTestOf(mutant: Mutant, { file, title }: NamedTest): Promise<string | undefined> {
  const tree = await plantMutant(mutant, "with-tests");
  try {
    const lines = (await runAva(tree.directory, file, title)).split("\n");
    const ends = lines.flatMap((line) => /^(not ok|ok) \d+ - (.*)$/.exec(line)?.slice(1) ?? []);
    const at = ends.findIndex((text) => text.startsWith(title));
    if (at < 0) throw new Error(`${file}: "${title}" did not run with ${mutant.name}:\n${lines.join("\n")}`);
    return ends[at - 1] === "not ok" ? ends[at] : undefined;
  } finally {
    await tree.remove();
  }
}

function runAva(directory: string, file: string, title: string): Promise<string> {
  const words = ["node_modules/ava/entrypoints/cli.mjs", file, "--tap", `--match=${title}*`];
  const child = spawn(process.execPath, words, {
    cwd: directory,
    stdio: ["ignore", "pipe", "inherit"],
    timeout: ENDS_WITHIN_MS,
  });
  const output: Buffer[] = [];
  child.stdout.on("data", (piece: Buffer) => output.push(piece));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (_, signal) => {
      if (signal === null) resolve(Buffer.concat(output).toString());
      else reject(new Error(`${file} did not end within ${ENDS_WITHIN_MS / 1000} s`));
    });
  });
}
