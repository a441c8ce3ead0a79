/** The power losses of `npm run torture`, few. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { effort } from "../support/effort.ts";
import { runPowerLosses } from "./power/power-run.ts";

const LOSSES = effort({ short: 40, full: 100 });
const SEED = 20_240_602;

test("data-safety 3.2, 1, 3, 6, 7, 13, 17: after a power loss at many instants of a run everything promised is there", async (t) => {
  t.timeout(600_000);
  const directory = await mkdtemp(join(tmpdir(), "tidemark-torture-"));
  const options = { points: LOSSES, seed: SEED, directory, progress: () => undefined };
  const tally = await runPowerLosses(options).catch((error: unknown) => {
    t.log(`seed ${SEED}; everything is left in ${directory}`);
    throw error;
  });
  t.is(tally.losses, LOSSES);
  t.true(tally.points > 0 && tally.restarts > 0, JSON.stringify(tally));
  await rm(directory, { recursive: true, force: true });
});
