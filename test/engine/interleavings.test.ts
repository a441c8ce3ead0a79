/**
 * Two things at once on one volume or session, in every order in which their steps can follow each other: one of them is
 * begun, a number of steps pass, then the other is begun.
 */
import test from "ava";
import { MiB } from "../../src/base/units.ts";
import { CopyLab, G } from "../support/copy-lab.ts";

/** Lets the others take some steps. */
async function steps(count: number): Promise<void> {
  for (let step = 0; step < count; step++) await Promise.resolve();
}

for (const ending of ["cancelSession", "stopTracking"] as const)
  for (const first of ["write", "ending"] as const)
    test(`a write into a cold region and ${ending}, the ${first} first`, async (t) => {
      for (let count = 0; count < 60; count++) {
        const lab = await CopyLab.start(t, [8 * G, 8 * G], { jobBytes: MiB });
        await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
        await lab.lab.finish();
        const write = () => lab.write("v1", 3 * G, 700);
        const end = () => lab.engine[ending]("c1");
        const begun = first === "write" ? write() : end();
        await steps(count);
        await Promise.all([begun, first === "write" ? end() : write()]);
        await lab.reads(t, "v1", `after ${count} steps`);
        t.deepEqual((await lab.engine.volumeStatus("v1")).epochs, []);
      }
    });

test("a copy ends and is written down while its next run is prepared; a kill then loses nothing", async (t) => {
  const lab = await CopyLab.start(t, [8 * G, 8 * G]);
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.lab.finish();
  const { stateFiles } = lab.lab;
  const syncDirectory = stateFiles.syncDirectory.bind(stateFiles);
  for (let count = 0; count < 60; count += 3) {
    await lab.touch("v1", [1, 3, 5]);
    await lab.restart("c1"); // two granules are copied, one waits for the clock
    t.is((await lab.session("c1")).pendingGranules, 1);
    await lab.touch("v1", [7]);
    // The disk takes its time for the directory in which the log of the next run has just been made.
    stateFiles.syncDirectory = async (directory) => {
      stateFiles.syncDirectory = syncDirectory;
      await lab.lab.settle();
      await syncDirectory(directory);
    };
    const again = lab.engine.restartSessions(["c1"]);
    await steps(count);
    lab.lab.clock.advance(500);
    const [status] = await again;
    if (status) lab.expectPoint(status);
    await lab.touch("v1", [0, 1, 2, 3, 4, 5, 6, 7]);
    await lab.lab.kill(count);
    t.not((await lab.session("c1")).phase, "failed", `after ${count} steps`);
    await lab.lab.finish();
    await lab.reads(t, "v2", `after ${count} steps`);
    await lab.restart("c1"); // what the kill has widened
    await lab.lab.finish();
  }
});
