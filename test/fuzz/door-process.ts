/**
 * The process in which a door is fuzzed; `main.ts` starts it and notices when it dies.
 *
 * Arguments: the options as JSON, and the file in which the case at hand is kept for the event that it ends this process.
 * Sends its report as one message.
 */
import { ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { readCorpus, writeCorpus } from "./corpus.ts";
import { Coverage } from "./coverage.ts";
import { openDoor } from "./doors.ts";
import { fuzz } from "./fuzz-loop.ts";
import type { FuzzOptions } from "./options.ts";

/** Larger cases are not worth their place in the repository. */
const GROWN_BYTES_MAX = 1500;
const [optionsText = "", casePath = ""] = process.argv.slice(2);
const options = JSON.parse(optionsText) as FuzzOptions;
process.on("disconnect", () => process.exit(1)); // nobody hears the report any more
const door = await openDoor(options.door);
if (options.replay === undefined) {
  const file = openSync(casePath, "w");
  const coverage = options.door === "pages" ? undefined : new Coverage();
  const report = await fuzz(door, {
    door: options.door,
    seconds: options.seconds,
    seed: options.seed,
    ...(options.count === undefined ? {} : { casesMax: options.count }),
    corpus: readCorpus(options.door),
    coverage,
    onGrown: options.grow ? (text) => text.length <= GROWN_BYTES_MAX && writeCorpus(options.door, text) : undefined,
    onCase: (text) => {
      ftruncateSync(file);
      writeSync(file, text, 0);
    },
  });
  await tell({ report: { ...report, blocks: coverage?.blocks ?? 0 } });
} else {
  const violations = await door.run(door.parse(readFileSync(options.replay, "utf8")));
  await tell({ violations: [...violations, ...(await door.check())] });
}
await door.close();
// Connections that a case has left open would keep the process.
process.exit(0);

function tell(message: object): Promise<void> {
  return new Promise((resolve) => process.send?.(message, () => resolve()));
}
