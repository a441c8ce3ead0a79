/** When a small batch is sent at once and when after one more look at the socket. */
import test from "ava";
import { ReplyHold } from "../../src/engine/nbd/reply-hold.ts";

/** One round of the event loop: what was set to run after the next look has run. */
async function oneLook(): Promise<void> {
  for (let turn = 0; turn < 3; turn++) await new Promise((resolve) => setImmediate(resolve));
}

test("a client with one request outstanding is answered at once, but for a probe now and then", async (t) => {
  let sent = 0;
  const hold = new ReplyHold(() => sent++);
  let heldBatches = 0;
  for (let batch = 0; batch < 96; batch++) {
    const before = sent;
    hold.batchDone(1);
    if (sent === before) heldBatches++;
    await oneLook();
    t.is(sent, before + 1, "what was held is sent after one look");
  }
  t.is(heldBatches, 3);
});

test("a client that sends more meanwhile is held, until it stops doing so", async (t) => {
  let sent = 0;
  const hold = new ReplyHold(() => sent++);
  while (true) {
    const before = sent;
    hold.batchDone(2);
    if (sent === before) break;
  }
  hold.batchDone(1);
  const before = sent;
  await oneLook();
  t.is(sent, before + 1, "both batches were sent together");
  let held = 0;
  for (let batch = 0; batch < 20; batch++) {
    const earlier = sent;
    hold.batchDone(1);
    if (sent === earlier) held++;
    await oneLook();
  }
  t.true(held >= 8 && held <= 9, `held ${held} times without gain`);
});

test("a large batch is never held, an empty one sends what there is", (t) => {
  let sent = 0;
  const hold = new ReplyHold(() => sent++);
  for (let batch = 0; batch < 100; batch++) hold.batchDone(batch % 2 === 0 ? 4 : 0);
  t.is(sent, 100);
});
