import test from "ava";
import { type ErrorCode, TidemarkError } from "../../src/base/errors.ts";
import { EVENTS_MAX, REQUEST_ID_KEPT_MS, REQUEST_IDS_MAX } from "../../src/base/limits.ts";
import type { Clock } from "../../src/base/ports.ts";
import { Intents } from "../../src/domain/intents.ts";
import { Journal, type NewEvent } from "../../src/domain/journal.ts";
import { RequestIds, type StoreAnswer } from "../../src/domain/request-ids.ts";
import { openMemoryStore } from "../../src/store/memory/memory.ts";
import type { EventRow } from "../../src/store/rows.ts";
import type { Change, Store } from "../../src/store/store.ts";

function manualClock(): Clock & { now: number } {
  return { now: 1000, nowMs() { return this.now; }, monotonicMs() { return this.now; }, sleep: async () => {} };
} // biome-ignore format: one line

const event = (subject: string): NewEvent => ({ type: "volume.registered", subject, message: "registered" });

test("journal: rows and events are one commit; numbers go on after a restart", async (t) => {
  const disk = new Map();
  const first = await openMemoryStore(disk);
  const journal = new Journal(first, manualClock(), () => undefined);
  await journal.load();
  await journal.commit([{ table: "counters", put: { name: "x", value: 1 } }], [event("a"), event("b")]);
  t.deepEqual(
    journal.events.map(({ id, subject }) => [id, subject]),
    [
      [1, "a"],
      [2, "b"],
    ],
  );
  t.is((await first.get("counters", "x"))?.value, 1);
  await first.close();
  const again = new Journal(await openMemoryStore(disk), manualClock(), () => undefined);
  await again.load();
  await again.commit([], [event("c")]);
  t.deepEqual(
    again.events.map(({ id }) => id),
    [1, 2, 3],
  );
});

/** A store whose commits end when, and how, the test says. */
function steppedStore(store: Store): Store & { steps: { done(): void; fail(error: Error): void }[] } {
  const steps: { done(): void; fail(error: Error): void }[] = [];
  return {
    steps,
    get: (table, key) => store.get(table, key),
    list: (table, options) => store.list(table, options),
    scan: (table) => store.scan(table),
    inspect: (table) => store.inspect(table),
    close: () => store.close(),
    commit: (changes) =>
      new Promise((resolve, reject) => {
        steps.push({ done: () => store.commit(changes).then(resolve, reject), fail: reject });
      }),
  };
}

test("journal: events are seen in the order of their numbers and only when durable", async (t) => {
  const store = steppedStore(await openMemoryStore());
  const journal = new Journal(store, manualClock(), () => undefined);
  await journal.load();
  let told = 0;
  journal.subscribe(() => told++);
  const commits = ["a", "b", "c"].map((subject) => journal.commit([], [event(subject)]));
  store.steps[1]?.done();
  await commits[1];
  t.deepEqual(journal.events, [], "b waits for a");
  store.steps[0]?.fail(new Error("disk"));
  await t.throwsAsync(() => commits[0] as Promise<void>, { message: "disk" });
  t.deepEqual(
    journal.events.map(({ subject }) => subject),
    ["b"],
  );
  store.steps[2]?.done();
  await commits[2];
  t.deepEqual(
    journal.events.map(({ id, subject }) => [id, subject]),
    [
      [2, "b"],
      [3, "c"],
    ],
  );
  t.is(told, 2);
});

test("journal: at most EVENTS_MAX events are kept, in memory and in the store", async (t) => {
  const store = await openMemoryStore();
  for (let id = 1; id <= EVENTS_MAX; id += 1000)
    await store.commit(
      Array.from({ length: 1000 }, (_, i): Change => {
        const put: EventRow = { id: id + i, timeMs: 0, type: "x", subject: "", message: "", attributes: {} };
        return { table: "events", put };
      }),
    );
  const journal = new Journal(store, manualClock(), () => undefined);
  await journal.load();
  await journal.commit(
    [],
    Array.from({ length: 10 }, (_, i) => event(`s${i}`)),
  );
  t.is(journal.events.length, EVENTS_MAX);
  t.is(journal.events[0]?.id, 11);
  let count = 0;
  for await (const _ of store.scan("events")) count++;
  t.is(count, EVENTS_MAX);
  t.is((await store.list("events", { limit: 1 }))[0]?.id, 11);
  t.is(journal.since(EVENTS_MAX).length, 10);
  t.is(journal.since(EVENTS_MAX + 10).length, 0);
  const error = t.throws(() => journal.since(3), { instanceOf: TidemarkError });
  t.is(error?.code, "LIMIT_EXCEEDED");
});

const bytes = (text: string) => new TextEncoder().encode(text);

async function requestIds() {
  const store = await openMemoryStore();
  const clock = manualClock();
  const requests = new RequestIds(store, clock, new Intents(clock), () => true);
  await requests.load();
  let runs = 0;
  const execute = async (remember: StoreAnswer) => {
    const answer = bytes(`answer ${++runs}`);
    await store.commit(remember(answer));
    return answer;
  };
  const ask = async (id: string, text = "r", method = "/m", run = execute) =>
    new TextDecoder().decode(await requests.once({ id, method, bytes: bytes(text) }, run));
  return { store, clock, requests, ask, runs: () => runs };
}

test("request ids: a repetition gets the first answer, also after a restart", async (t) => {
  const { store, clock, ask, runs } = await requestIds();
  t.is(await ask("1"), "answer 1");
  t.is(await ask("1"), "answer 1");
  t.is(await ask("2"), "answer 2");
  t.is(runs(), 2);
  const again = new RequestIds(store, clock, new Intents(clock), () => true);
  await again.load();
  const answer = await again.once({ id: "1", method: "/m", bytes: bytes("r") }, async () => bytes("new"));
  t.is(new TextDecoder().decode(answer), "answer 1");
});

const reuse: [string, string, string][] = [
  ["another request", "other", "/m"],
  ["another method", "r", "/other"],
];
for (const [what, text, method] of reuse)
  test(`request ids: the same id with ${what} is REQUEST_ID_REUSED, before and after the answer`, async (t) => {
    const { ask } = await requestIds();
    const first = ask("1");
    const during = await t.throwsAsync(() => ask("1", text, method), { instanceOf: TidemarkError });
    t.is(during?.code, "REQUEST_ID_REUSED" satisfies ErrorCode);
    t.is(await first, "answer 1");
    const after = await t.throwsAsync(() => ask("1", text, method), { instanceOf: TidemarkError });
    t.is(after?.code, "REQUEST_ID_REUSED");
  });

test("request ids: repetitions that come while the first is under way wait for it", async (t) => {
  const { ask, runs } = await requestIds();
  t.deepEqual(await Promise.all([ask("1"), ask("1"), ask("1")]), ["answer 1", "answer 1", "answer 1"]);
  t.is(runs(), 1);
});

test("request ids: a failure is not remembered", async (t) => {
  const { ask } = await requestIds();
  const fail = async () => Promise.reject(new TidemarkError("NO_SPACE", { message: "full" }));
  await t.throwsAsync(() => ask("1", "r", "/m", fail), { instanceOf: TidemarkError });
  t.is(await ask("1"), "answer 1");
});

test("request ids: an answer is forgotten after REQUEST_ID_KEPT_MS, its row with the next answers", async (t) => {
  const { store, clock, ask } = await requestIds();
  await ask("1");
  clock.now += REQUEST_ID_KEPT_MS - 1;
  t.is(await ask("1"), "answer 1");
  clock.now += 1;
  t.is(await ask("1", "another request"), "answer 2");
  clock.now += REQUEST_ID_KEPT_MS;
  await ask("2");
  t.is(await store.get("requests", "1"), undefined);
});

test("request ids: at most REQUEST_IDS_MAX are kept, the newest", async (t) => {
  const { store, clock, ask } = await requestIds();
  const row = (n: number): Change => ({
    table: "requests",
    put: { id: `old-${n}`, method: "/m", requestDigest: bytes("x"), response: bytes("y"), answeredMs: n },
  });
  for (let n = 0; n < REQUEST_IDS_MAX; n += 1000)
    await store.commit(Array.from({ length: 1000 }, (_, i) => row(n + i)));
  clock.now = REQUEST_IDS_MAX;
  const requests = new RequestIds(store, clock, new Intents(clock), () => true);
  await requests.load();
  await requests.once({ id: "new", method: "/m", bytes: bytes("r") }, async (remember) => {
    await store.commit(remember(bytes("z")));
    return bytes("z");
  });
  t.is(await store.get("requests", "old-0"), undefined);
  t.truthy(await store.get("requests", "old-1"));
  t.truthy(await store.get("requests", "new"));
  t.is(await ask("unrelated"), "answer 1");
});

test("request ids: too long an id is INVALID_ARGUMENT", async (t) => {
  const { ask } = await requestIds();
  const error = await t.throwsAsync(() => ask("x".repeat(65)), { instanceOf: TidemarkError });
  t.is(error?.code, "INVALID_ARGUMENT");
  t.is(error?.detail.field, "request_id");
});
