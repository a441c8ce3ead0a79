/** Defects that histories of the simulator have found, each as short as it can be told. */
import test from "ava";
import { LOG_HEADER_BYTES } from "../../src/engine/durable/frame.ts";
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

test("a copy that ends while its point is being written down leaves nothing behind: after a clean stop there is one empty points log", async (t) => {
  const lab = await CopyLab.start(t, [8 * G, 8 * G]);
  await lab.copy(t, "v1", "v2", "quickopc", { pace: 15 });
  await lab.lab.finish();
  let goOn: () => void = () => undefined;
  const slow = new Promise<void>((resolve) => {
    goOn = resolve;
  });
  // What the first point has to be written down in waits, so that a second point comes before it is done; then the copy ends.
  lab.lab.stateFiles.intercept = ({ type, path }) =>
    type === "write" && /^volumes.v1.(epoch|super)/.test(path) ? slow : undefined;
  await lab.touch("v1", [3]);
  await lab.engine.restartSessions(["c1"]);
  await lab.lab.settle();
  await lab.engine.restartSessions(["c1"]);
  await lab.engine.cancelSession("c1");
  await lab.engine.forgetSession("c1");
  const stopping = lab.engine.stop();
  await lab.lab.settle();
  goOn();
  await stopping;
  const logs = (await lab.lab.stateFiles.list("")).filter((name) => name.startsWith("points-"));
  t.is(logs.length, 1, logs.join());
  t.is(lab.lab.stateFiles.contents(logs[0] ?? "").length, LOG_HEADER_BYTES, "nothing but its header");
});
