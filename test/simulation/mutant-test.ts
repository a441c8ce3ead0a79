/**
 * Mutants that histories hardly ever meet, or whose rule has a second line of defence behind it, are shown by a test of the
 * part that keeps the rule: it runs in the mutant's tree, and has to fail there. That it passes in the project every run of the
 * tests shows.
 */
import { spawn } from "node:child_process";
import { plantMutant } from "./mutant-tree.ts";
import type { Mutant } from "./mutants.ts";

const ENDS_WITHIN_MS = 300_000;

export interface TestedMutant {
  /** Title of the first test that failed; undefined when none did. */
  readonly failed: string | undefined;
  readonly passed: number;
}

/** Throws when the tests did not run at all: that says nothing about the mutant. */
export async function runTestOf(mutant: Mutant, file: string): Promise<TestedMutant> {
  const tree = await plantMutant(mutant, "with-tests");
  try {
    const lines = (await runAva(tree.directory, file)).split("\n");
    const passed = lines.filter((line) => /^ok \d/.test(line)).length;
    const failed = lines.map((line) => /^not ok \d+ - (.*)$/.exec(line)?.[1]).find((title) => title !== undefined);
    if (passed === 0) throw new Error(`${file} did not run with ${mutant.name}:\n${lines.slice(0, 40).join("\n")}`);
    return { failed, passed };
  } finally {
    await tree.remove();
  }
}

function runAva(directory: string, file: string): Promise<string> {
  const child = spawn(process.execPath, ["node_modules/ava/entrypoints/cli.mjs", file, "--tap"], {
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
