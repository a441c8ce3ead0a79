/**
 * Cases that are kept: the corpus in the repository, and findings of the last runs, which are not committed.
 *
 * One case a file, `corpus/DOOR/NAME.case`, as the door prints it. A finding that was understood moves into the corpus under a
 * name that says what it shows.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const HERE = fileURLToPath(new URL("./", import.meta.url));
const ENDING = ".case";

export interface KeptCase {
  readonly name: string;
  readonly text: string;
}

/** In the order of names. */
export function readCorpus(door: string): KeptCase[] {
  const directory = `${HERE}corpus/${door}`;
  if (!existsSync(directory)) return [];
  return readdirSync(directory)
    .filter((name) => name.endsWith(ENDING))
    .sort()
    .map((name) => ({ name: name.slice(0, -ENDING.length), text: readFileSync(`${directory}/${name}`, "utf8") }));
}

/** Adds a case that reaches code no other did; its name is made of its content. */
export function writeCorpus(door: string, text: string): void {
  const directory = `${HERE}corpus/${door}`;
  mkdirSync(directory, { recursive: true });
  const digest = createHash("sha256").update(text).digest("hex").slice(0, 12);
  writeFileSync(`${directory}/reach-${digest}${ENDING}`, text);
}

/** Path, from the root of the repository, under which the case was written. */
export function writeFinding(door: string, rule: string, text: string): string {
  const directory = `${HERE}findings/${door}`;
  mkdirSync(directory, { recursive: true });
  const digest = createHash("sha256").update(text).digest("hex").slice(0, 12);
  const words = rule
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "-")
    .slice(0, 40)
    .replace(/^-|-$/g, "");
  const name = `${words}-${digest}${ENDING}`;
  writeFileSync(`${directory}/${name}`, text);
  return `test/fuzz/findings/${door}/${name}`;
}
