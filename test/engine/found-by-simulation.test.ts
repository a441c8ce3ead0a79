/** Defects that histories of the simulator have found, each as short as it can be told. */
import test from "ava";
import { InjectedFailure } from "../../src/engine/durable/memory-state-files.ts";
import { CopyLab, FaultyDisk, G, pattern, same } from "../support/copy-lab.ts";

test("a copy that fails while a point of its source is being written down takes nothing from that point", async (t) => {
  const broken = new FaultyDisk(8 * G);
  const lab = await CopyLab.start(t, [8 * G, broken, 8 * G]);
  await lab.copy(t, "v1", "v2", "quickopc"); // two granules are copied, and not yet durable
  let goOn: () => void = () => undefined;
  const slow = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  lab.lab.stateFiles.intercept = ({ type, path }) => (type === "sync" && path.startsWith("points-") ? slow : undefined);
  const started = lab.engine.startSessions([
    { id: "c2", source: lab.extent("v1"), destination: lab.extent("v3"), kind: "quickopc", pace: 1 },
  ]);
  await lab.lab.settle();
  broken.faults.inject({ operation: "flush", effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await t.throwsAsync(() => lab.engine.flush("v2"));
  await lab.lab.settle();
  t.is((await lab.session("c1")).phase, "failed");
  goOn();
  const [status] = await started;
  t.is(status?.phase, "copying");
  lab.expectPoint({ source: lab.extent("v1"), destination: lab.extent("v3") });
  await lab.write("v1", 5 * G, G);
  same(t, await lab.read("v3", 5 * G, G), pattern(G, 1, 5 * G), "the source as it was at the point");
});

test("a stop empties the points log also when a copy of one of its points has ended since", async (t) => {
  const lab = await CopyLab.start(t, [8 * G, 8 * G]);
  let full = false;
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (type === "write" && full) throw new InjectedFailure("ENOSPC", 0);
    // From the point on: what it says does not get into the files of the copy.
    if (type === "sync" && path.startsWith("points-")) full = true;
  };
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.lab.settle();
  full = false;
  lab.lab.stateFiles.intercept = undefined;
  await lab.engine.cancelSession("c1");
  const logs = async () => (await lab.lab.stateFiles.list("")).filter((name) => name.startsWith("points-"));
  t.deepEqual(await logs(), ["points-1.log"]);
  await lab.engine.stop();
  t.deepEqual(await logs(), ["points-2.log"], "a new log, which has no points");
});
