/**
 * The corpus of every door, case by case, and a few seconds of new cases each.
 *
 * Data-safety 3.2 #9 (damaged and stale metadata pages are noticed) and 3.3 (fuzzing of NBD, gRPC and file parsers).
 */
import { readdirSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import test, { type ExecutionContext } from "ava";
import { Accidents } from "./accidents.ts";
import { readCorpus } from "./corpus.ts";
import type { Door } from "./door.ts";
import { FilesDoor } from "./files-door.ts";
import { fuzz } from "./fuzz-loop.ts";
import { GrpcDoor } from "./grpc-door.ts";
import { NbdDoor } from "./nbd-door.ts";
import { PagesDoor } from "./pages-door.ts";

const SECONDS = 4;
const CORPUS_BYTES_MAX = 300 * 1024;
/** Fewer than a long run has: making them takes most of the time. */
const HISTORIES = 6;

test.serial("nbd: the corpus, and new cases for a few seconds", async (t) => {
  await replayAndFuzz(t, "nbd", await NbdDoor.open());
});

test.serial("grpc: the corpus, and new cases for a few seconds", async (t) => {
  await replayAndFuzz(t, "grpc", await GrpcDoor.open());
});

test.serial("files: the corpus, and new cases for a few seconds", async (t) => {
  await replayAndFuzz(t, "files", await FilesDoor.open(HISTORIES));
});

test.serial("pages: damaged and stale metadata pages are noticed, or nothing differs", async (t) => {
  await replayAndFuzz(t, "pages", await PagesDoor.open(HISTORIES));
});

test("the corpus stays small", (t) => {
  const root = fileURLToPath(new URL("./corpus/", import.meta.url));
  const files = readdirSync(root, { recursive: true, encoding: "utf8" }).map((name) => statSync(`${root}${name}`));
  const bytes = files.reduce((sum, file) => sum + (file.isFile() ? file.size : 0), 0);
  t.true(bytes < CORPUS_BYTES_MAX, `${bytes} bytes`);
});

async function replayAndFuzz<Input>(t: ExecutionContext, name: string, door: Door<Input>): Promise<void> {
  t.timeout(100_000);
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
  // What is found here is printed with the failure: the test writes no files.
  const keep = (rule: string, text: string) => `${rule}\n${text}`;
  const report = await fuzz(door, { door: name, seconds: SECONDS, seed: 1, corpus, keep });
  t.deepEqual(report.findings, []);
  t.true(report.cases > 0);
  t.log(`${corpus.length} kept cases, ${report.cases} new ones`);
}
