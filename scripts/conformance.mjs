// `npm run conformance [-- --json]`: which numbered cases of the specification are proven by a test, refused with a
// reason (docs/conformance.md) or still open. Derived from the last complete test run; runs nothing itself.
//
// A test proves the cases its title names, `spec/11 #30 #31: ...`. A case is proven when every test that names it
// passed; a case with a failed or skipped test is open, whatever the document says.
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const RESULTS_FILE = "build/test-results.json";
const CASES_FILE = "test/spec/cases.json";
const REFUSALS_FILE = "docs/conformance.md";

process.chdir(fileURLToPath(new URL("../", import.meta.url)));
const json = process.argv.includes("--json");

if (!existsSync(RESULTS_FILE)) {
  console.error("conformance: there is no test run to derive from; run `npm test` first");
  process.exit(1);
}
const run = JSON.parse(readFileSync(RESULTS_FILE, "utf8"));
const cases = JSON.parse(readFileSync(CASES_FILE, "utf8"));
const tests = testsByCase(run.tests);
const refusals = existsSync(REFUSALS_FILE) ? refusalsOf(readFileSync(REFUSALS_FILE, "utf8")) : new Map();

warnIfStale(run);
warnOfUnknown([...tests.keys(), ...refusals.keys()]);
const judged = Object.entries(cases).flatMap(([digest, list]) => list.map((item) => judge(digest, item)));
if (json) for (const item of judged) console.log(JSON.stringify(item));
else print(judged);

// Tests that name each case, by `11#23`.
function testsByCase(all) {
  const found = new Map();
  for (const test of all) {
    for (const key of casesNamedBy(test.title)) found.set(key, [...(found.get(key) ?? []), test]);
  }
  return found;
}

// `spec/11 #30 #31: text` names 11#30 and 11#31; a title may name several digests.
function casesNamedBy(title) {
  return [...title.matchAll(/spec\/(\d+)((?:[ ,]*#\d+)+)/g)].flatMap(([, digest, numbers]) =>
    [...numbers.matchAll(/#(\d+)/g)].map(([, number]) => `${digest}#${number}`),
  );
}

// Rows `| spec/11 #23 | refused | reason |` of any table in the document.
function refusalsOf(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const cells = line.split(/(?<!\\)\|/).map((cell) => cell.trim());
    if (cells.length < 5 || cells[2]?.toLowerCase() !== "refused") continue;
    for (const key of casesNamedBy(cells[1].startsWith("spec/") ? cells[1] : `spec/${cells[1]}`)) {
      found.set(key, cells.slice(3, -1).join("|"));
    }
  }
  return found;
}

function judge(digest, { case: number, title }) {
  const key = `${digest}#${number}`;
  const naming = tests.get(key) ?? [];
  const titles = naming.map((test) => test.title);
  const notPassed = naming.filter((test) => test.outcome !== "passed");
  const base = { digest, case: number, title };
  if (notPassed.length > 0) {
    const reason = notPassed.map((test) => `${test.outcome}: ${test.title}`).join("; ");
    return { ...base, status: "open", tests: titles, reason };
  }
  if (naming.length > 0) return { ...base, status: "proven", tests: titles, reason: "" };
  const refusal = refusals.get(key);
  if (refusal !== undefined) return { ...base, status: "refused", tests: [], reason: refusal };
  return { ...base, status: "open", tests: [], reason: "no test names it" };
}

function print(items) {
  console.log("digest  cases  proven  refused  open");
  for (const digest of [...new Set(items.map((item) => item.digest)), "all"]) {
    const mine = items.filter((item) => digest === "all" || item.digest === digest);
    const count = (status) => mine.filter((item) => item.status === status).length;
    const cells = [digest.padEnd(6), String(mine.length).padStart(5), String(count("proven")).padStart(6)];
    console.log([...cells, String(count("refused")).padStart(7), String(count("open")).padStart(4)].join("  "));
  }
  const broken = items.filter((item) => item.status === "open" && item.tests.length > 0);
  for (const { digest, case: number, reason } of broken) console.log(`spec/${digest} #${number} is open: ${reason}`);
  for (const { digest, case: number, reason } of items.filter((item) => item.status === "refused")) {
    console.log(`spec/${digest} #${number} is refused: ${reason}`);
  }
}

function warnIfStale({ commit }) {
  const head = spawnSync("git", ["rev-parse", "HEAD"], { encoding: "utf8" });
  if (head.status !== 0 || head.stdout.trim() === commit) return;
  console.error(
    `conformance: the test run is of commit ${commit.slice(0, 12)}, not of the present one; run \`npm test\``,
  );
}

function warnOfUnknown(keys) {
  const known = new Set(
    Object.entries(cases).flatMap(([digest, list]) => list.map((item) => `${digest}#${item.case}`)),
  );
  for (const key of new Set(keys)) {
    if (!known.has(key)) console.error(`conformance: spec/${key.replace("#", " #")} is not in ${CASES_FILE}`);
  }
}
