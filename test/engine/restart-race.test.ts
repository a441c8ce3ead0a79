/** A point right after a point: the files of the first are still being written when those of the second are made. */
import test from "ava";
import { memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import type { ExtentRef } from "../../src/engine/engine-api.ts";
import { loadCore } from "../../src/engine/map/core.ts";
import { PagedBitmap } from "../../src/engine/map/paged-bitmap.ts";
import { SESSIONS_DIRECTORY, SessionFiles } from "../../src/engine/session/session-files.ts";
import type { SessionRecord } from "../../src/engine/session/session-record.ts";

const extent = (name: string): ExtentRef => ({ volumeUid: name, name, offsetBytes: 0, lengthBytes: 8192 * 20 });
const RECORD: SessionRecord = {
  ...{ id: "c1", state: "live", kind: "quickopc", tracking: true, source: extent("v1"), destination: extent("v2") },
  ...{ pace: 15, createdMs: 1, pointMs: 1, generation: 1, reason: "FIRST_COPY", plannedGranules: 20 },
  ...{ bytesPlanned: 0, bytesCopied: 0, bytesZeroed: 0, bytesCloned: 0, sourceEpoch: 1, destinationEpoch: 1 },
  ...{ barrierMicroseconds: 0, failure: undefined, mapFile: undefined, logFile: "" },
};

test("a checkpoint leaves alone the log that a point is preparing", async (t) => {
  const core = await loadCore();
  const files = memoryStateFiles();
  await files.makeDirectory(SESSIONS_DIRECTORY);
  const session = await SessionFiles.create(files, RECORD);
  let goOn = () => {};
  const held = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  files.intercept = async ({ type, path }) => {
    if (type === "rename" && path.includes("copied-2")) await held;
  };
  const preparing = session.prepareGeneration();
  for (let turn = 0; turn < 50; turn++) await Promise.resolve(); // the new log is written, but not yet named
  await session.checkpoint(RECORD, new PagedBitmap(core, 20, "full"));
  goOn();
  t.is(await preparing, "copied-2.log");
  session.adoptGeneration();
  await session.appendCopied(2, [{ first: 0, count: 1 }]);
  t.true((await files.list(`${SESSIONS_DIRECTORY}/c1`)).includes("copied-2.log"));
  await session.close();
});
