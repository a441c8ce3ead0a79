/**
 * The engine with one rule left out, rule by rule: the simulator notices each (data-safety 3.3), or the tests of the part that
 * keeps the rule. `npm run simulate -- --mutant all` does the same and tells by what.
 */
import { fileURLToPath } from "node:url";
import test from "ava";
import { effort } from "../support/effort.ts";
import { runTestOf } from "./mutant-test.ts";
import { mutatedFiles, plantMutant } from "./mutant-tree.ts";
import { MUTANTS } from "./mutants.ts";
import { type PoolRun, runPool } from "./pool.ts";

const TREE = fileURLToPath(new URL("../../", import.meta.url));
const SAMPLED = MUTANTS.filter((_, index) => index % effort({ short: 8, full: 1 }) === 0);
const SEEDS = 2500;
const TIMEOUT_MS = 900_000;

test("every mutant's text is found exactly once", async (t) => {
  t.is(new Set(MUTANTS.map(({ name }) => name)).size, MUTANTS.length);
  for (const mutant of MUTANTS) await t.notThrowsAsync(() => mutatedFiles(mutant), mutant.name);
});

for (const mutant of SAMPLED) {
  const { name, rule, noticedBy } = mutant;
  if (noticedBy)
    test.serial(`data-safety 3.3: ${noticedBy.file} notices a box without ${name} (${rule})`, async (t) => {
      t.timeout(TIMEOUT_MS);
      t.not(await runTestOf(mutant, noticedBy), undefined);
    });
}

for (const mutant of SAMPLED.filter(({ noticedBy }) => noticedBy === undefined))
  test.serial(`data-safety 3.3: the simulator notices a box without ${mutant.name} (${mutant.rule})`, async (t) => {
    t.timeout(TIMEOUT_MS);
    const run: Omit<PoolRun, "tree"> = {
      ...{ from: 1, seeds: SEEDS, jobs: 1, minimise: "no", features: mutant.needs ?? [] },
      enough: ({ failures }) => failures.length > 0,
    };
    const tree = await plantMutant(mutant);
    t.teardown(() => tree.remove());
    const [failure] = (await runPool({ ...run, tree: tree.directory })).failures;
    if (!failure) return t.fail(`${SEEDS} histories, and none is wrong`);
    const itself = await runPool({ ...run, from: failure.seed, seeds: 1, features: [], tree: TREE });
    t.deepEqual(itself.failures, [], `seed ${failure.seed} is right with the engine as it is`);
  });
