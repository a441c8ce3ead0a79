/** Histories of the simulator in every run (data-safety 3.1 to 3.3): of chance, and of two steps; long runs are `npm run simulate`. */
import { fileURLToPath } from "node:url";
import test, { type ExecutionContext } from "ava";
import { effort } from "../support/effort.ts";
import { BOUNDED_HISTORIES } from "./bounded.ts";
import type { Histories } from "./history.ts";
import { INVARIANTS } from "./invariants.ts";
import type { Report } from "./messages.ts";
import { runPool } from "./pool.ts";

const TREE = fileURLToPath(new URL("../../", import.meta.url));
const SEEDS = effort({ short: 300, full: 2000 });
const BOUNDED = effort({ short: 300, full: 2000 });
/** A history takes some hundredths of a second; a loaded machine takes longer. */
const TIMEOUT_MS = 900_000;

async function hold(
  t: ExecutionContext,
  run: { readonly seeds: number; readonly stride: number; readonly histories: Histories },
): Promise<Report> {
  t.timeout(TIMEOUT_MS);
  const report = await runPool({
    ...run,
    ...{ from: 1, jobs: 1, tree: TREE, minimise: "first-failure" },
    enough: ({ failures }) => failures.length > 0,
  });
  for (const { seed, invariant, message, history } of report.failures)
    t.log(history ?? `seed ${seed}: ${invariant} (${INVARIANTS[invariant]}): ${message}`);
  t.deepEqual(
    report.failures.map(({ seed }) => seed),
    [],
  );
  t.is(report.seeds, run.seeds);
  return report;
}

test.serial(`data-safety 3.2: ${SEEDS} histories hold`, async (t) => {
  const { crashes, recoveryCrashes, points } = await hold(t, { seeds: SEEDS, stride: 1, histories: "seeded" });
  t.true(crashes > SEEDS && recoveryCrashes > 0 && points > SEEDS, `${crashes} crashes, ${points} points`);
});

test.serial(`data-safety 3.3: ${BOUNDED} of all histories of two steps hold`, async (t) => {
  // Odd, and no divisor of any choice: over all numbers each pair of steps comes with each beginning.
  const stride = Math.floor(BOUNDED_HISTORIES / BOUNDED) | 1;
  const seeds = Math.min(BOUNDED, Math.floor((BOUNDED_HISTORIES - 1) / stride));
  const { crashes } = await hold(t, { seeds, stride, histories: "bounded" });
  t.true(crashes >= seeds, `${crashes} crashes`);
});
