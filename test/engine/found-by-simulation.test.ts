/** Defects that histories of the simulator have found, each as short as it can be told. */
import test from "ava";
import { LOG_HEADER_BYTES } from "../../src/engine/durable/frame.ts";
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

test("a stop empties the points log also when a volume of one of its points has left the box", async (t) => {
  const lab = await CopyLab.start(t, [8 * G, 8 * G]);
  let full = false;
  lab.lab.stateFiles.intercept = ({ type, path }) => {
    if (type === "write" && full) throw new InjectedFailure("ENOSPC", 0);
    // From the point on: what it says does not get into the files of the volumes.
    if (type === "sync" && path.startsWith("points-")) full = true;
  };
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.lab.settle();
  full = false;
  lab.lab.stateFiles.intercept = undefined;
  await lab.engine.cancelSession("c1");
  await lab.engine.forgetSession("c1");
  await lab.engine.removeVolume("v2");
  const logs = async () => (await lab.lab.stateFiles.list("")).filter((name) => name.startsWith("points-"));
  t.deepEqual(await logs(), ["points-1.log"]);
  await lab.engine.stop();
  t.deepEqual(await logs(), ["points-2.log"], "a new log, which has no points");
});

test("a volume whose removal was cut off leaves nothing behind when it is removed again", async (t) => {
  const lab = await CopyLab.start(t, [8 * G, 8 * G]);
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.engine.cancelSession("c1");
  await lab.engine.forgetSession("c1");
  lab.lab.stateFiles.intercept = ({ type, path }) =>
    type === "remove" && path.startsWith("volumes/v2/") && path !== "volumes/v2/super"
      ? new Promise<void>(() => undefined)
      : undefined;
  void lab.engine.removeVolume("v2");
  await lab.lab.settle();
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.kill(1);
  const names = () => lab.lab.stateFiles.list("volumes");
  t.deepEqual(await names(), ["v1", "v2"], "half of it is left, and the volume is registered");
  await lab.engine.removeVolume("v2");
  t.deepEqual(await names(), ["v1"]);
});

test("a power loss in the middle of a volume's removal leaves its tracking whole or not at all", async (t) => {
  for (let seed = 1; seed <= 24; seed++) {
    const lab = await CopyLab.start(t, [8 * G, 8 * G]);
    await lab.copy(t, "v1", "v2", "quickopc");
    await lab.engine.cancelSession("c1");
    await lab.engine.forgetSession("c1");
    lab.lab.stateFiles.intercept = ({ type }) =>
      type === "removeDirectory" ? new Promise<void>(() => undefined) : undefined;
    void lab.engine.removeVolume("v2");
    await lab.lab.settle();
    lab.lab.stateFiles.intercept = undefined;
    lab.lab.stateFiles.crash(seed);
    await lab.lab.kill(seed);
    const troubles = lab.lab.events.filter(({ type }) => type === "engine.trouble");
    t.deepEqual(troubles, [], `power loss ${seed}`);
  }
});

test("a point has another time than the last one of the copy, also within one millisecond: a repeated request is told by it", async (t) => {
  const lab = await CopyLab.start(t, [8 * G, 8 * G]);
  lab.lab.clock.nowMs = () => 1_700_000_000_000;
  const first = await lab.copy(t, "v1", "v2", "quickopc");
  const second = await lab.restart("c1");
  const third = await lab.restart("c1");
  t.not(second.pointMs, first.pointMs);
  t.not(third.pointMs, second.pointMs);
});

test("data-safety 1.4: a write that waits for its granule's record does not go on because the destination has lost the granule", async (t) => {
  const broken = new FaultyDisk(8 * G);
  const lab = await CopyLab.start(t, [8 * G, broken]);
  await lab.copy(t, "v1", "v2", "quickopc"); // two granules are copied, and not yet durable
  for (let turn = 0; turn < 3; turn++) await lab.lab.settle();
  broken.faults.inject({ operation: "flush", effect: { kind: "error", code: "MEDIUM_ERROR" } });
  // That the copy has failed takes its time to become durable: no write may be answered before.
  lab.lab.stateFiles.intercept = ({ type, path }) =>
    type === "open" && /c1.(pending|super)/.test(path) ? new Promise(() => undefined) : undefined;
  const answered: number[] = [];
  for (const granule of [0, 1]) {
    void lab.write("v1", granule * G, 512).then(
      () => answered.push(granule),
      () => undefined,
    );
    await Promise.resolve();
  }
  for (let turn = 0; turn < 5; turn++) await lab.lab.settle();
  t.deepEqual(answered, []);
  lab.lab.stateFiles.intercept = undefined;
  await lab.lab.kill(1);
  t.is((await lab.session("c1")).pendingGranules, 8);
});
