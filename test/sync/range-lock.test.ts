import test from "ava";
import fc from "fast-check";
import { Gate } from "../../src/engine/sync/gate.ts";
import { RangeLock } from "../../src/engine/sync/range-lock.ts";

const LIMIT = 40;
const range = fc.record({ first: fc.nat(LIMIT - 1), count: fc.integer({ min: 1, max: 12 }) });

test("the next free stretch: as a search granule by granule finds it, and it can be locked", async (t) => {
  const property = fc.property(fc.array(range, { maxLength: 8 }), fc.nat(LIMIT), (ranges, from) => {
    const lock = new RangeLock();
    for (const { first, count } of ranges) void lock.acquire(first, count); // held, or waiting behind one that is
    const taken = (granule: number) => ranges.some((r) => granule >= r.first && granule < r.first + r.count);
    let first = from;
    while (first < LIMIT && taken(first)) first++;
    let end = first;
    while (end < LIMIT && !taken(end)) end++;
    const expected = first < LIMIT ? { first, count: end - first } : undefined;
    const found = lock.nextFree(from, LIMIT);
    if (JSON.stringify(found) !== JSON.stringify(expected)) return false;
    return found === undefined || lock.tryAcquire(found.first, found.count) !== undefined;
  });
  t.notThrows(() => fc.assert(property, { numRuns: 2000 }));
});

test("a holder is told when somebody waits for a part of its range, and not otherwise", async (t) => {
  const lock = new RangeLock();
  let told = 0;
  const held = lock.tryAcquire(10, 10, () => told++);
  t.truthy(held);
  const beside = await lock.acquire(20, 5);
  t.is(lock.tryAcquire(19, 2), undefined);
  t.is(told, 0, "who only tries does not wait");
  const waiting = lock.acquire(19, 1);
  t.is(told, 1);
  const released = lock.released();
  lock.release(held!);
  await released;
  lock.release(await waiting);
  lock.release(beside);
  t.deepEqual(lock.nextFree(0, 100), { first: 0, count: 100 }, "nobody holds or awaits anything");
});

test("a gate that closes tells who is inside for long; it has drained when they have left", async (t) => {
  const gate = new Gate();
  let told = 0;
  const forget = gate.onClosing(() => {
    told++;
    gate.leave(); // at once
  });
  t.true(gate.tryEnter());
  await gate.close();
  t.is(told, 1);
  gate.open();
  forget();
  t.true(gate.tryEnter());
  const closing = gate.close();
  t.is(told, 1);
  gate.leave();
  await closing;
});
