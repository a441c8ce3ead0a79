/** The torture of `npm run torture`, short: what it finds in a long run it must be able to find here. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { programArguments } from "../cli/run-tidemark.ts";
import { effort } from "../support/effort.ts";
import { runKills } from "./kill-run.ts";

const KILLS = effort({ short: 10, full: 50 });
const SEED = 20_240_601;

test("data-safety 3.2, 1, 2, 7, 13, 16, 17, 19: killed again and again under load, nothing acknowledged is lost and no difference becomes a full copy", async (t) => {
  t.timeout(900_000);
  const directory = await mkdtemp(join(tmpdir(), "tidemark-torture-"));
  const options = { kills: KILLS, seed: SEED, directory, program: programArguments(), progress: () => undefined };
  const tally = await runKills(options).catch((error: unknown) => {
    t.log(`seed ${SEED}; everything is left in ${directory}`);
    throw error;
  });
  t.is(tally.kills, KILLS);
  t.is(tally.fullCopies, 0);
  t.true(tally.writesAcknowledged > 100 && tally.points > 0, JSON.stringify(tally));
  await rm(directory, { recursive: true, force: true });
});
