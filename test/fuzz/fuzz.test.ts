/**
 * The corpus of every door, case by case, and a few seconds of new cases each.
 *
 * Data-safety 3.2 #9 (damaged and stale metadata pages are noticed) and 3.3 (fuzzing of NBD, gRPC and file parsers).
 */
import { execFile } from "node:child_process";
import { readdirSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import test, { type ExecutionContext } from "ava";
import { effort } from "../support/effort.ts";
import { Accidents } from "./accidents.ts";
import { readCorpus } from "./corpus.ts";
import type { Door } from "./door.ts";
import { FilesDoor } from "./files-door.ts";
import { fuzz } from "./fuzz-loop.ts";
import { NbdDoor } from "./nbd-door.ts";
import { PagesDoor } from "./pages-door.ts";

const run = promisify(execFile);
const SECONDS = effort({ short: 4, full: 60 });
/** Damaged pages. */
const PAGES = effort({ short: 200, full: 1000 });
const TIMEOUT_MS = 400_000;
const CORPUS_BYTES_MAX = 300 * 1024;
/** Fewer than a long run has: making them takes most of the time. */
const HISTORIES = 6;

test.serial("nbd: the corpus", async (t) => {
  await replay(t, "nbd", await NbdDoor.open());
});

for (const door of ["nbd", "grpc"])
  test.serial(`${door}: new cases for a few seconds, in a process of their own`, async (t) => {
    t.timeout(TIMEOUT_MS);
    const entry = fileURLToPath(new URL("./main.ts", import.meta.url));
    const args = ["--import", "tsx", entry, "--door", door, "--seconds", String(SECONDS), "--json"];
    const { stdout } = await run(process.execPath, args, { timeout: TIMEOUT_MS });
    const report = JSON.parse(stdout) as { cases: number; crashes: number; violations: number };
    t.like(report, { crashes: 0, violations: 0 });
    t.true(report.cases > 0);
  });

test.serial("files: the corpus, and new cases for a few seconds", async (t) => {
  await replayAndFuzz(t, "files", await FilesDoor.open(HISTORIES), { seconds: SECONDS });
});

test.serial(`pages: ${PAGES} damaged and stale metadata pages are noticed, or nothing differs`, async (t) => {
  await replayAndFuzz(t, "pages", await PagesDoor.open(HISTORIES), { seconds: TIMEOUT_MS / 1000, casesMax: PAGES });
});

test("the corpus stays small", (t) => {
  const root = fileURLToPath(new URL("./corpus/", import.meta.url));
  const files = readdirSync(root, { recursive: true, encoding: "utf8" }).map((name) => statSync(`${root}${name}`));
  const bytes = files.reduce((sum, file) => sum + (file.isFile() ? file.size : 0), 0);
  t.true(bytes < CORPUS_BYTES_MAX, `${bytes} bytes`);
});

async function replayAndFuzz<Input>(
  t: ExecutionContext,
  name: string,
  door: Door<Input>,
  until: { readonly seconds: number; readonly casesMax?: number },
): Promise<void> {
  const corpus = await replay(t, name, door);
  // What is found here is printed with the failure: the test writes no files.
  const keep = (rule: string, text: string) => `${rule}\n${text}`;
  const report = await fuzz(door, { door: name, ...until, seed: 1, corpus, keep });
  t.deepEqual(report.findings, []);
  t.true(report.cases >= (until.casesMax ?? 1));
  t.log(`${corpus.length} kept cases, ${report.cases} new ones`);
}

async function replay<Input>(
  t: ExecutionContext,
  name: string,
  door: Door<Input>,
): Promise<ReturnType<typeof readCorpus>> {
  t.timeout(TIMEOUT_MS);
  t.teardown(() => door.close());
  const corpus = readCorpus(name);
  const accidents = new Accidents();
  accidents.watch();
  for (const { name: kept, text } of corpus) {
    const violations = await door.run(door.parse(text));
    await new Promise((resolve) => setImmediate(resolve));
    t.deepEqual([...violations, ...accidents.take()], [], kept);
  }
  t.deepEqual(await door.check(), []);
  accidents.unwatch();
  return corpus;
}
