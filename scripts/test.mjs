// `npm test [-- FILES AND OPTIONS OF AVA]`: installs test tools, builds, runs the tests and closes with the line
// `N passed, N failed, N skipped`. A complete run leaves build/test-results.json for `npm run conformance`.
// With CI set a skipped test is a failure: there everything must be able to run.
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { splitTitle, TapReader } from "./tap.mjs";
import { ensureTestTools } from "./test-tools.mjs";

const RESULTS_FILE = "build/test-results.json";
const CONCURRENCY = 2;
const PROGRESS_INTERVAL_MS = 20_000;

process.chdir(fileURLToPath(new URL("../", import.meta.url)));
const args = process.argv.slice(2);
const strict = process.env.CI !== undefined && process.env.CI !== "" && process.env.CI !== "false";

ensureTestTools();
const built = spawnSync("npm", ["run", "--silent", "build"], { stdio: "inherit" });
if (built.status !== 0) fail("the build failed: no test was run");

const startedMs = performance.now();
const reader = new TapReader();
const exitCode = await runAva(args, reader);
const complete = args.length === 0;
const files = complete ? testFiles("test") : args.filter((name) => name.endsWith(".test.ts"));
const results = reader.results.map((result) => ({ ...result, ...splitTitle(result.title, files) }));
summarise(results);

async function runAva(extra, tap) {
  const entry = "node_modules/ava/entrypoints/cli.mjs";
  const child = spawn(process.execPath, [entry, "--tap", "--concurrency", String(CONCURRENCY), ...extra], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, TIDEMARK_TEST_BUILD: "dist" },
  });
  const closed = new Promise((resolve) => child.once("close", (code, signal) => resolve(code ?? signal)));
  const progress = setInterval(() => showProgress(tap), PROGRESS_INTERVAL_MS);
  for await (const line of createInterface({ input: child.stdout })) {
    const done = tap.line(line);
    if (done?.outcome === "failed") showFailure(done);
  }
  clearInterval(progress);
  const last = tap.results.at(-1);
  if (last?.outcome === "failed") showFailure(last);
  return closed;
}

function showProgress(tap) {
  const seconds = Math.round((performance.now() - startedMs) / 1000);
  console.log(`test: ${tap.results.length} tests done after ${seconds} s`);
}

function showFailure({ title, detail }) {
  console.log(`FAILED  ${title}`);
  for (const line of detail) console.log(`    ${line}`);
}

function summarise(results) {
  const of = (outcome) => results.filter((result) => result.outcome === outcome);
  const [passed, failed, skipped] = [of("passed"), of("failed"), of("skipped")];
  if (complete) writeResults(results);
  const seconds = Math.round((performance.now() - startedMs) / 1000);
  if (skipped.length > 0) console.log("\nskipped:");
  for (const { title, reason } of skipped) console.log(`  ${title}: ${reason}`);
  if (failed.length > 0) console.log("\nfailed:");
  for (const { title, file } of failed) console.log(`  ${file === "" ? "" : `${file}: `}${title}`);
  if (strict && skipped.length > 0) console.log("\nCI is set: skipped tests count as a failure of the run");
  const wrong = exitCode !== 0 || failed.length > 0 || passed.length === 0 || (strict && skipped.length > 0);
  if (exitCode !== 0 && failed.length === 0) console.log(`\nthe test runner ended with ${exitCode}`);
  process.exitCode = wrong ? (typeof exitCode === "number" && exitCode !== 0 ? exitCode : 1) : 0;
  console.log(`\n${results.length} tests in ${seconds} s`);
  console.log(`${passed.length} passed, ${failed.length} failed, ${skipped.length} skipped`);
}

function writeResults(results) {
  const head = spawnSync("git", ["rev-parse", "HEAD"], { encoding: "utf8" });
  mkdirSync("build", { recursive: true });
  const tests = results.map(({ title, file, outcome, reason }) => ({ title, file, outcome, reason }));
  const commit = head.status === 0 ? head.stdout.trim() : "";
  writeFileSync(RESULTS_FILE, `${JSON.stringify({ commit, finished: new Date().toISOString(), tests }, null, 1)}\n`);
}

function testFiles(directory) {
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".test.ts"))
    .map((name) => join(directory, name))
    .sort((left, right) => right.length - left.length);
}

function fail(message) {
  console.log(`test: ${message}`);
  console.log("0 passed, 1 failed, 0 skipped");
  process.exit(1);
}
