/**
 * A copy of the engine, the domain, the store and the simulator in a temporary folder, with the text of one mutant in it.
 *
 * Only the workers run there. What the copy needs besides is linked: dependencies, the built kernels, the code from the contract.
 */
import { rmSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Mutant } from "./mutants.ts";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const COPIED = [
  ...["src/base", "src/engine", "src/domain", "src/store", "test/simulation"],
  ...["package.json", "tsconfig.json"],
];
const LINKED = ["core-wasm", "node_modules", "src/gen"];
/** What tests need besides. */
const FOR_TESTS = ["src/client", "src/server", "proto", "test", "ava.config.js"];

export interface MutantTree {
  readonly directory: string;
  remove(): Promise<void>;
}

const planted = new Set<string>();

/** Throws when a text of the mutant is not found exactly once. */
export async function plantMutant(
  mutant: Mutant,
  extent: "simulator" | "with-tests" = "simulator",
): Promise<MutantTree> {
  const directory = await mkdtemp(join(tmpdir(), "tidemark-mutant-"));
  planted.add(directory);
  const remove = async () => {
    await rm(directory, { recursive: true, force: true });
    planted.delete(directory);
  };
  try {
    for (const path of extent === "with-tests" ? [...COPIED, ...FOR_TESTS] : COPIED) {
      await mkdir(dirname(join(directory, path)), { recursive: true });
      await cp(join(ROOT, path), join(directory, path), { recursive: true });
    }
    for (const path of LINKED) await symlink(join(ROOT, path), join(directory, path));
    for (const [file, text] of await mutatedFiles(mutant)) await writeFile(join(directory, file), text);
    return { directory, remove };
  } catch (error) {
    await remove();
    throw error;
  }
}

/** When the process has to end at once. */
export function removePlantedMutants(): void {
  for (const directory of planted) rmSync(directory, { recursive: true, force: true });
}

/** The files that a mutant changes, as it has them. Throws when a text of it is not found exactly once. */
export async function mutatedFiles(mutant: Mutant): Promise<ReadonlyMap<string, string>> {
  const texts = new Map<string, string>();
  for (const { file, find, put } of mutant.edits) {
    const text = texts.get(file) ?? (await readFile(join(ROOT, file), "utf8"));
    texts.set(file, replaceOnce(text, find, put, `${mutant.name}: ${file}`));
  }
  return texts;
}

function replaceOnce(text: string, find: string, put: string, where: string): string {
  const parts = text.split(find);
  if (parts.length === 2) return parts.join(put);
  throw new Error(`the mutant's text is found ${parts.length - 1} times, not once: ${where}\n${find}`);
}
