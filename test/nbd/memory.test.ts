/** Memory in flight of all clients together: bounded, shared in turn, and not held for ever by a client that stands still. */
import test from "ava";
import fc from "fast-check";
import { NBD_MEMORY_STALL_MS } from "../../src/base/limits.ts";
import { InFlightMemory, type MemoryUser } from "../../src/engine/nbd/in-flight-memory.ts";
import { LabClock } from "../support/engine-lab.ts";
import { type Lab, pattern, startLab, until } from "./lab.ts";
import { CMD, RawClient } from "./raw-client.ts";

const MiB = 1024 * 1024;
const LIMIT = 36 * MiB;

async function turns(count = 30): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** Tells when somebody has come to wait for memory: then the server looks for clients that stand still. */
class WatchedClock extends LabClock {
  #lines = 0;

  override sleep(ms: number, signal?: AbortSignal): Promise<void> {
    if (ms === NBD_MEMORY_STALL_MS) this.#lines++;
    return super.sleep(ms, signal);
  }

  async someoneWaits(): Promise<void> {
    await until(() => this.#lines > 0);
  }
}

const clientsOf = (lab: Lab, count: number, structured = true) =>
  Promise.all(Array.from({ length: count }, () => RawClient.open(lab.base, "x", { structured })));

test("more bytes than all may hold together wait their turn, whoever asks; small requests of others go on", async (t) => {
  const lab = await startLab(t, { sizeBytes: 16 * MiB, memoryBytes: LIMIT });
  const { target } = lab;
  target.path = "deferred";
  target.held.add("write");
  const clients = await clientsOf(lab, 3);
  const payload = pattern(16 * MiB, 1);
  for (const client of clients)
    for (let n = 0; n < 2; n++) client.send(client.encode({ command: CMD.WRITE, payload, cookie: n }));
  await target.whenWaiting(2);
  await turns();
  t.is(target.waiting.length, 2, "36 MiB have room for two");
  const other = await RawClient.open(lab.base, "x");
  t.is((await other.request({ command: CMD.READ, length: 65_536 })).error, "ok");
  other.send(other.encode({ command: CMD.WRITE, payload: pattern(1000, 2), cookie: 9 }));
  await target.whenWaiting(3);
  t.pass("a client that holds nothing may take its share");
  let answered = 0;
  const all = clients.map(async (client) => {
    for (let n = 0; n < 2; n++, answered++) t.is((await client.answer()).error, "ok");
  });
  while (answered < 6) {
    t.true(target.waiting.length <= 3);
    if (target.waiting.length > 0) target.letGo(0);
    await turns(1);
  }
  await Promise.all(all);
  target.letAllGo();
  t.is((await other.answer()).error, "ok");
});

test("the large request that asked first is served first, however many small ones come", async (t) => {
  const clock = new WatchedClock();
  const lab = await startLab(t, { sizeBytes: 32 * MiB, memoryBytes: LIMIT, clock });
  const { target } = lab;
  target.path = "deferred";
  target.held.add("write");
  const [holder, large, small] = (await clientsOf(lab, 3)) as [RawClient, RawClient, RawClient];
  holder.send(holder.encode({ command: CMD.WRITE, payload: pattern(8 * MiB, 1), cookie: 1 }));
  await target.whenWaiting(1);
  large.send(large.encode({ command: CMD.WRITE, payload: pattern(32 * MiB, 2), cookie: 2 }));
  await clock.someoneWaits();
  const pieces = Array.from({ length: 8 }, (_, n) =>
    small.encode({ command: CMD.WRITE, payload: pattern(512 * 1024, n), cookie: n }),
  );
  small.send(...pieces);
  await target.whenWaiting(2);
  await turns();
  t.is(target.waiting.length, 2, "its share, but not what the large one waits for");
  target.letGo(0);
  t.is((await holder.answer()).cookie, 1n);
  target.held.delete("write");
  target.letAllGo();
  t.is((await large.answer()).error, "ok");
  for (let n = 0; n < 8; n++) t.is((await small.answer()).error, "ok");
});

for (const how of ["does not read its replies", "sends half of its payload"] as const)
  test(`a client that ${how} is hung up on when others wait for the memory it holds`, async (t) => {
    const clock = new WatchedClock();
    const lab = await startLab(t, { sizeBytes: 32 * MiB, memoryBytes: LIMIT, clock });
    const [still, waiting] = (await clientsOf(lab, 2, false)) as [RawClient, RawClient];
    lab.target.path = "deferred";
    const closed = new Promise<void>((resolve) => still.socket.once("close", () => resolve()));
    if (how === "does not read its replies") {
      still.socket.pause();
      lab.target.held.add("read");
      still.send(still.encode({ command: CMD.READ, length: 32 * MiB, cookie: 1 }));
      await lab.target.whenWaiting(1);
      lab.target.letGo(0);
    } else {
      const whole = still.encode({ command: CMD.WRITE, payload: pattern(32 * MiB, 3), cookie: 1 });
      still.send(whole.subarray(0, 16 * MiB));
    }
    await turns(200);
    waiting.send(waiting.encode({ command: CMD.WRITE, payload: pattern(16 * MiB, 4), cookie: 2 }));
    const answer = waiting.answer();
    await clock.someoneWaits();
    t.is(lab.events.filter((event) => event.startsWith("disconnect")).length, 0, "not before its time is over");
    clock.advance(NBD_MEMORY_STALL_MS + 1);
    await turns(50);
    clock.advance(NBD_MEMORY_STALL_MS + 1); // it may still have moved in the first period
    t.is((await answer).error, "ok");
    still.socket.resume();
    await closed;
    await until(() => lab.events.some((event) => event.startsWith("disconnect")));
  });

test("a client whose device stalls is not hung up on", async (t) => {
  const clock = new WatchedClock();
  const lab = await startLab(t, { sizeBytes: 32 * MiB, memoryBytes: LIMIT, clock });
  const [slow, waiting] = (await clientsOf(lab, 2)) as [RawClient, RawClient];
  lab.target.path = "deferred";
  lab.target.held.add("write");
  slow.send(slow.encode({ command: CMD.WRITE, payload: pattern(32 * MiB, 5), cookie: 1 }));
  await lab.target.whenWaiting(1);
  waiting.send(waiting.encode({ command: CMD.WRITE, payload: pattern(16 * MiB, 6), cookie: 2 }));
  await clock.someoneWaits();
  for (let period = 0; period < 4; period++) {
    clock.advance(NBD_MEMORY_STALL_MS + 1);
    await turns(50);
  }
  t.is(lab.target.waiting.length, 1);
  lab.target.letGo(0);
  t.is((await slow.answer()).error, "ok");
  await lab.target.whenWaiting(1);
  lab.target.letGo(0);
  t.is((await waiting.answer()).error, "ok");
});

test("a client that leaves while it waits does not hold up the line", async (t) => {
  const lab = await startLab(t, { sizeBytes: 32 * MiB, memoryBytes: LIMIT });
  const { target } = lab;
  target.path = "deferred";
  target.held.add("write");
  const [holder, leaver, last] = (await clientsOf(lab, 3)) as [RawClient, RawClient, RawClient];
  holder.send(holder.encode({ command: CMD.WRITE, payload: pattern(32 * MiB, 1), cookie: 1 }));
  await target.whenWaiting(1);
  for (const client of [leaver, last]) {
    client.send(client.encode({ command: CMD.WRITE, payload: pattern(32 * MiB, 2), cookie: 2 }));
    await turns(100);
  }
  leaver.socket.destroy();
  target.letGo(0); // only now its end is noticed: nothing was read from it meanwhile
  await target.whenWaiting(1);
  target.letGo(0);
  t.is((await last.answer()).error, "ok");
});

/** Takes what it wants, one request after the other, and holds each until the test gives it back. */
class Model implements MemoryUser {
  readonly taken: number[] = [];
  readonly #memory: InFlightMemory;
  readonly wanted: number[] = [];

  constructor(memory: InFlightMemory) {
    this.#memory = memory;
  }

  get heldBytes(): number {
    return this.taken.reduce((sum, bytes) => sum + bytes, 0);
  }

  ask(): void {
    for (let [bytes] = this.wanted; bytes !== undefined; [bytes] = this.wanted) {
      if (!this.#memory.take(this, bytes)) return;
      this.wanted.shift();
      this.taken.push(bytes);
    }
  }

  memoryFreed(): void {
    this.ask();
  }

  give(): void {
    const bytes = this.taken.shift();
    if (bytes !== undefined) this.#memory.give(bytes);
  }
}

test("whatever is asked for and given back: never more than the limit and one share each, and everybody is served", async (t) => {
  const request = fc.record({ user: fc.nat(4), bytes: fc.integer({ min: 1, max: 32 }), give: fc.nat(6) });
  const property = fc.asyncProperty(fc.array(request, { maxLength: 40 }), async (requests) => {
    const memory = new InFlightMemory(LIMIT, () => undefined);
    const users = Array.from({ length: 5 }, () => new Model(memory));
    const held = () => users.reduce((sum, user) => sum + user.heldBytes, 0);
    for (const { user, bytes, give } of requests) {
      users[user]?.wanted.push(bytes * MiB);
      users[user]?.ask();
      users[give]?.give();
      await turns(1);
      t.is(held(), memory.usedBytes);
      t.true(held() <= LIMIT + users.length * MiB);
    }
    for (let round = 0; round < 400 && users.some(({ wanted, taken }) => wanted.length + taken.length > 0); round++) {
      for (const user of users) user.give();
      await turns(2);
    }
    t.is(memory.usedBytes, 0);
    t.false(memory.isAwaited);
    t.true(users.every(({ wanted }) => wanted.length === 0));
  });
  await fc.assert(property, { numRuns: 40 });
});
