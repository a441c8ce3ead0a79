/**
 * A copy of the engine and of the simulator in a temporary folder, with the text of one mutant in it.
 *
 * Only the workers run there. What the copy needs besides is linked: dependencies, and the built kernels.
 */
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Mutant } from "./mutants.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const COPIED = ["src/base", "src/engine", "test/simulation", "package.json", "tsconfig.json"];
const LINKED = ["core-wasm", "node_modules"];

export interface MutantTree {
  readonly directory: string;
  remove(): Promise<void>;
}

/** Throws when a text of the mutant is not found exactly once. */
export async function plantMutant(mutant: Mutant): Promise<MutantTree> {
  const directory = await mkdtemp(join(tmpdir(), "tidemark-mutant-"));
  const remove = () => rm(directory, { recursive: true, force: true });
  try {
    for (const path of COPIED) {
      await mkdir(dirname(join(directory, path)), { recursive: true });
      await cp(join(ROOT, path), join(directory, path), { recursive: true });
    }
    for (const path of LINKED) await symlink(join(ROOT, path), join(directory, path));
    for (const { file, find, put } of mutant.edits) {
      const text = await readFile(join(directory, file), "utf8");
      await writeFile(join(directory, file), replaceOnce(text, find, put, `${mutant.name}: ${file}`));
    }
    return { directory, remove };
  } catch (error) {
    await remove();
    throw error;
  }
}

function replaceOnce(text: string, find: string, put: string, where: string): string {
  const parts = text.split(find);
  if (parts.length === 2) return parts.join(put);
  throw new Error(`the mutant's text is found ${parts.length - 1} times, not once: ${where}\n${find}`);
}
