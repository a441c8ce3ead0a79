import test from "ava";
import { systemClock } from "../../src/base/clock.ts";
import { InlineGate } from "../../src/engine/device/inline-gate.ts";

function gateAt() {
  const time = { ms: 1000 };
  const gate = new InlineGate({ ...systemClock, monotonicMs: () => time.ms });
  /** An inline write of this length; false when the gate was closed. */
  const write = (tookMs: number): boolean => {
    const began = gate.begin();
    if (began < 0) return false;
    time.ms += tookMs;
    gate.ended(began);
    return true;
  };
  return { time, gate, write };
}

test("quick writes, and one slow one, leave the gate open", (t) => {
  const { write } = gateAt();
  for (let index = 0; index < 100; index++) t.true(write(1));
  t.true(write(150));
  t.true(write(1));
});

test("two slow writes close it for a second", (t) => {
  const { time, write } = gateAt();
  t.true(write(80));
  t.true(write(80));
  t.false(write(1));
  time.ms += 999;
  t.false(write(1));
  time.ms += 2;
  t.true(write(1));
});

test("one stall closes it, for twice as long each time it comes again, and not for ever longer", (t) => {
  const { time, write } = gateAt();
  t.true(write(500));
  for (const pauseMs of [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]) {
    time.ms += pauseMs - 1;
    t.false(write(1), `closed for ${pauseMs} ms`);
    time.ms += 1;
    t.true(write(80));
  }
});

test("after a long good time the pause is short again", (t) => {
  const { time, write } = gateAt();
  t.true(write(500));
  time.ms += 1000;
  t.true(write(500));
  time.ms += 100_000;
  t.true(write(500));
  t.false(write(1));
  time.ms += 1000;
  t.true(write(1));
});

test("it is closed while an asynchronous operation is overdue, and remembers slow transfers only", (t) => {
  const { time, gate, write } = gateAt();
  const flush = gate.asyncBegan();
  t.true(write(1));
  time.ms += 250;
  const slowWrite = gate.asyncBegan();
  t.false(write(1));
  gate.asyncEnded(flush, "other");
  t.true(write(1), "a slow flush is not held against the device");
  time.ms += 250;
  gate.asyncEnded(slowWrite, "write");
  t.false(write(1), "a slow write is");
  time.ms += 1000;
  t.true(write(1));
});
