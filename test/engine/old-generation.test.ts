/**
 * data-safety 1.4: what is recorded as copied counts for the run that copied it. A commit round may begin after a point has
 * looked for one, and end when the next run has copied the same granules again: they are not durable by that.
 */
import test from "ava";
import { CopyLab, FaultyDisk, G, pattern } from "../support/copy-lab.ts";

/** Makes calls of one operation wait until they are let go, in order. */
function holding(
  disk: FaultyDisk,
  operation: "write" | "flush",
): { hold(): void; letGo(): void; end(): void; readonly waiting: number } {
  const { faults } = disk;
  const original = faults[operation].bind(faults) as (...parts: unknown[]) => Promise<void>;
  const waiting: (() => void)[] = [];
  let isHeld = false;
  const held = async (...parts: unknown[]): Promise<void> => {
    if (isHeld) await new Promise<void>((resolve) => waiting.push(resolve));
    return original(...parts);
  };
  Object.assign(faults, operation === "write" ? { write: held, tryWrite: () => false } : { flush: held });
  return {
    hold: () => {
      isHeld = true;
    },
    letGo: () => waiting.shift()?.(),
    end: () => {
      isHeld = false;
      for (const go of waiting.splice(0)) go();
    },
    get waiting() {
      return waiting.length;
    },
  };
}

test("data-safety 1.4: a commit round of the run before does not make durable what this run has copied", async (t) => {
  const [source, destination] = [new FaultyDisk(4 * G), new FaultyDisk(4 * G)];
  const lab = await CopyLab.start(t, [source, destination]);
  await lab.copy(t, "v1", "v2", "quickopc");
  await lab.lab.finish();
  const copied = holding(destination, "write");
  const durable = holding(destination, "flush");
  const atPoint = holding(source, "flush");
  t.teardown(() => {
    for (const one of [copied, durable, atPoint]) one.end();
  });
  await lab.touch("v1", [3]);
  copied.hold();
  await lab.restart("c1");
  await lab.lab.step();
  t.is(copied.waiting, 1, "run 2 copies its only granule");
  const restarting = lab.engine.restartSessions(["c1"]);
  await lab.lab.settle();
  atPoint.hold();
  durable.hold();
  copied.letGo();
  await lab.lab.settle();
  t.is(durable.waiting, 1, "run 2 has copied it, and a round makes it durable");
  t.is(atPoint.waiting, 1, "the point of run 3 is being fired");
  atPoint.letGo();
  const [status] = await restarting;
  t.like(status, { generation: 3, pendingGranules: 1 });
  const write = (seed: number) => {
    let answered = false;
    const writing = lab.engine.write(lab.extent("v1"), 3 * G, pattern(G, seed)).then(() => {
      answered = true;
    });
    return { writing, isAnswered: () => answered };
  };
  const first = write(71);
  await lab.lab.settle();
  copied.letGo(); // run 3 has copied the granule for the first write, which waits for a round of its own
  await lab.lab.settle();
  durable.letGo();
  await lab.lab.settle();
  t.is(durable.waiting, 1, "the round of run 2 is over, the one of run 3 is under way");
  const second = write(72);
  await lab.lab.settle();
  const answered = [first.isAnswered(), second.isAnswered()];
  durable.letGo();
  await Promise.all([first.writing, second.writing]);
  t.deepEqual(answered, [false, false]);
});
