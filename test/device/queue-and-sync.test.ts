import test from "ava";
import { OperationQueue } from "../../src/engine/device/operation-queue.ts";
import { SharedRead } from "../../src/engine/device/shared-read.ts";
import { SharedSync } from "../../src/engine/device/shared-sync.ts";

/** A promise and the means to settle it. */
function gate() {
  let open: () => void = () => {};
  let fail: (error: Error) => void = () => {};
  const promise = new Promise<void>((resolve, reject) => {
    open = resolve;
    fail = reject;
  });
  return { promise, open, fail };
}
const settle = () => new Promise((resolve) => setImmediate(resolve));

test("the queue runs so many at once, the rest in order, and refuses beyond its limit", async (t) => {
  const queue = new OperationQueue({ activeMax: 2, waitingMax: 3 });
  const gates = Array.from({ length: 5 }, gate);
  const started: number[] = [];
  const results = gates.map((each, index) =>
    queue.run(async () => {
      started.push(index);
      await each.promise;
      return index;
    }),
  );
  await t.throwsAsync(
    queue.run(async () => {}),
    { code: "LIMIT_EXCEEDED" },
  );
  await settle();
  t.deepEqual(started, [0, 1]);
  gates[1]?.open();
  await settle();
  t.deepEqual(started, [0, 1, 2]);
  for (const each of gates) each.open();
  t.deepEqual(await Promise.all(results), [0, 1, 2, 3, 4]);
  t.deepEqual(started, [0, 1, 2, 3, 4]);
  await queue.idle();
});

test("a failing operation makes room too; idle waits for the last", async (t) => {
  const queue = new OperationQueue({ activeMax: 1, waitingMax: 10 });
  const failing = queue.run(async () => {
    throw new Error("no");
  });
  const last = gate();
  let ended = false;
  const second = queue.run(async () => {
    await last.promise;
    ended = true;
  });
  const idle = queue.idle().then(() => t.true(ended));
  await t.throwsAsync(failing, { message: "no" });
  last.open();
  await second;
  await idle;
});

test("many waiting operations keep their order", async (t) => {
  const queue = new OperationQueue({ activeMax: 1, waitingMax: 1000 });
  const order: number[] = [];
  await Promise.all(
    Array.from({ length: 500 }, (_, index) =>
      queue.run(async () => {
        order.push(index);
      }),
    ),
  );
  t.deepEqual(
    order,
    Array.from({ length: 500 }, (_, index) => index),
  );
});

test("a caller is served only by a sync that started after its call, and shares it", async (t) => {
  const gates: ReturnType<typeof gate>[] = [];
  const sync = new SharedSync(() => {
    const next = gate();
    gates.push(next);
    return next.promise;
  });
  const done: string[] = [];
  const first = sync.request().then(() => done.push("first"));
  const second = sync.request().then(() => done.push("second"));
  const third = sync.request().then(() => done.push("third"));
  await settle();
  t.is(gates.length, 1, "later callers wait for the next sync");
  gates[0]?.open();
  await settle();
  t.deepEqual(done, ["first"]);
  t.is(gates.length, 2, "and share one");
  const fourth = sync.request().then(() => done.push("fourth"));
  gates[1]?.open();
  await settle();
  t.is(gates.length, 3);
  gates[2]?.open();
  await Promise.all([first, second, third, fourth]);
  t.deepEqual(done, ["first", "second", "third", "fourth"]);
  await sync.idle();
});

test("a failed sync fails those who shared it, not those who came later", async (t) => {
  const gates: ReturnType<typeof gate>[] = [];
  const sync = new SharedSync(() => {
    const next = gate();
    gates.push(next);
    return next.promise;
  });
  const first = sync.request();
  const second = sync.request();
  gates[0]?.fail(new Error("lost"));
  await t.throwsAsync(first, { message: "lost" });
  await settle();
  gates[1]?.open();
  await t.notThrowsAsync(second);
});

test("a shared reading serves only those who asked before it began", async (t) => {
  const begun: ((value: number) => void)[] = [];
  const shared = new SharedRead(() => new Promise<number>((resolve) => begun.push(resolve)));
  const first = shared.request();
  const [second, third] = [shared.request(), shared.request()];
  t.is(begun.length, 1, "the others wait: the reading under way may have passed what they ask for");
  begun[0]?.(1);
  t.is(await first, 1);
  await settle();
  t.is(begun.length, 2);
  begun[1]?.(2);
  t.deepEqual(await Promise.all([second, third]), [2, 2]);
});

test("a shared reading that fails fails for its own callers only", async (t) => {
  let readings = 0;
  const shared = new SharedRead(async () => {
    if (++readings === 1) throw new Error("no table");
    return readings;
  });
  const first = shared.request();
  const second = shared.request();
  await t.throwsAsync(first, { message: "no table" });
  t.is(await second, 2);
});
