/** One process of the simulator: runs the seeds it is given, one after the other, and reports. Ends when its parent does. */
import { type Histories, historyOf, simulateSeed, tell } from "./history.ts";
import { type Failure, NOTHING, type Report, sum, type Task } from "./messages.ts";
import { minimise } from "./minimise.ts";

process.on("disconnect", () => process.exit(0));
process.on("message", (task: Task) => {
  run(task).then(
    (report) => process.send?.(report),
    (error: unknown) => {
      process.stderr.write(`simulate: ${error instanceof Error ? error.stack : String(error)}\n`);
      process.exit(1);
    },
  );
});

async function run(task: Task): Promise<Report> {
  let report = NOTHING;
  for (let index = 0; index < task.count; index++) {
    const seed = task.from + index * task.stride;
    report = sum(report, { ...NOTHING, seeds: 1 });
    const { features } = historyOf(seed, task.histories).world;
    if (!task.features.every((feature) => features.has(feature))) continue;
    // Errors are made by the thousand; their stacks are wanted only when one is told.
    Error.stackTraceLimit = 0;
    const { violation, ...figures } = await simulateSeed(seed, task.histories);
    Error.stackTraceLimit = 10;
    const failures: Failure[] = [];
    if (violation) {
      const first = report.failures.length === 0 && task.minimise === "first-failure";
      failures.push({ seed, ...violation, history: first ? await toldInShort(seed, task.histories) : undefined });
    }
    report = sum(report, { ...figures, seeds: 0, failures });
  }
  return report;
}

async function toldInShort(seed: number, histories: Histories): Promise<string> {
  const { world, steps } = historyOf(seed, histories);
  const outcome = await simulateSeed(seed, histories);
  return tell(seed, world, await minimise(world, steps, outcome));
}
