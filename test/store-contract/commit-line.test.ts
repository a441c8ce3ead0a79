/** The line of commits before an engine that fails in every way a log on disk can. */
import test from "ava";
import fc from "fast-check";
import { TidemarkError } from "../../src/base/errors.ts";
import { CommitLine } from "../../src/store/commit-line.ts";
import type { KeyValue, KeyValueChange } from "../../src/store/key-value.ts";
import { COMMIT_CHANGES_MAX, COMMITS_WAITING_MAX } from "../../src/store/limits.ts";
import { TALLY_KEY, TalliedEngine } from "../../src/store/tally.ts";

type Fault = "none" | "lost" | "turns up at reopening";

/** An engine whose failed batches may turn up when it is opened anew, as what a log's buffer still held does. */
class FaultyEngine implements KeyValue {
  values = new Map<string, string>();
  readonly batches: (readonly KeyValueChange[])[] = [];
  fault: Fault = "none";
  reopenings = 0;
  reopening: "works" | "fails" = "works";
  reading: "works" | "fails" = "works";
  #torn: readonly KeyValueChange[] | undefined;

  async get(key: string): Promise<Uint8Array | undefined> {
    if (this.reading === "fails") throw new Error("medium error");
    const value = this.values.get(key);
    return value === undefined ? undefined : Buffer.from(value, "latin1");
  }

  getMany(keys: readonly string[]): Promise<(Uint8Array | undefined)[]> {
    return Promise.all(keys.map((key) => this.get(key)));
  }

  async *entries(): AsyncGenerator<[string, Uint8Array]> {
    for (const [key, value] of this.values) yield [key, Buffer.from(value, "latin1")];
  }

  async batch(changes: readonly KeyValueChange[]): Promise<void> {
    await Promise.resolve();
    if (this.#torn !== undefined) throw new Error("written behind a torn record");
    this.batches.push(changes);
    if (this.fault !== "none") {
      this.#torn = this.fault === "lost" ? [] : changes;
      throw new Error("no space left");
    }
    this.#apply(changes);
  }

  async reopen(): Promise<void> {
    this.reopenings++;
    if (this.reopening === "fails")
      throw new TidemarkError("METADATA_WRITE_FAILED", { message: "no room", hint: "make room" });
    this.#apply(this.#torn ?? []);
    this.#torn = undefined;
  }

  async close(): Promise<void> {}

  #apply(changes: readonly KeyValueChange[]): void {
    for (const change of changes)
      if (change.type === "put") this.values.set(change.key, Buffer.from(change.value).toString("latin1"));
      else this.values.delete(change.key);
  }
}

const put = (key: string, value: string): KeyValueChange => ({ type: "put", key, value: Buffer.from(value) });
const del = (key: string): KeyValueChange => ({ type: "del", key });
const codeOf = (run: Promise<void>) =>
  run.then(
    () => "stored",
    (error: unknown) => (error instanceof TidemarkError ? error.code : String(error)),
  );

test("what is added while a batch is under way travels together, in order, at most COMMIT_CHANGES_MAX changes at once", async (t) => {
  const engine = new FaultyEngine();
  const line = new CommitLine(engine);
  const first = line.add([put("k", "0")]);
  await Promise.resolve();
  await Promise.resolve();
  const many = Array.from({ length: COMMIT_CHANGES_MAX - 1 }, (_, n) => put(`m${n}`, "x"));
  await Promise.all([first, line.add([put("k", "1")]), line.add(many), line.add([put("k", "2"), put("l", "3")])]);
  t.deepEqual(
    engine.batches.map((batch) => batch.length),
    [1, COMMIT_CHANGES_MAX, 2],
  );
  t.is(engine.values.get("k"), "2");
});

test("a refused commit never turns up later, whatever the log makes of it", async (t) => {
  const engine = new FaultyEngine();
  const line = new CommitLine(engine);
  await line.add([put("old", "1"), put("gone", "1")]);
  engine.fault = "turns up at reopening";
  t.is(await codeOf(line.add([put("old", "2"), put("new", "2"), del("gone")])), "METADATA_WRITE_FAILED");
  engine.fault = "none";
  await line.add([put("next", "3")]);
  t.deepEqual(Object.fromEntries(engine.values), { old: "1", gone: "1", next: "3" });
  t.is(engine.reopenings, 1);
});

test("while the engine cannot be opened anew each commit is refused after one try; closing tries once more", async (t) => {
  const engine = new FaultyEngine();
  const line = new CommitLine(engine);
  await line.add([put("a", "1")]);
  engine.fault = "turns up at reopening";
  await codeOf(line.add([put("a", "2")]));
  engine.fault = "none";
  engine.reopening = "fails";
  for (let count = 1; count <= 3; count++) {
    t.is(await codeOf(line.add([put("a", "3")])), "METADATA_WRITE_FAILED");
    t.is(engine.reopenings, count);
  }
  engine.reopening = "works";
  await line.close();
  t.deepEqual(Object.fromEntries(engine.values), { a: "1" });
});

test("a state that cannot be read is not guessed: commits are refused until the next start", async (t) => {
  const engine = new FaultyEngine();
  const line = new CommitLine(engine);
  await line.add([put("a", "1")]);
  engine.fault = "turns up at reopening";
  engine.reading = "fails";
  await codeOf(line.add([put("a", "2")]));
  engine.fault = "none";
  engine.reading = "works";
  t.is(await codeOf(line.add([put("b", "3")])), "METADATA_WRITE_FAILED");
  t.is(engine.reopenings, 0);
});

test("commits that wait are bounded", async (t) => {
  const engine = new FaultyEngine();
  const line = new CommitLine(engine);
  const waiting = Array.from({ length: COMMITS_WAITING_MAX }, (_, n) => codeOf(line.add([put("k", String(n))])));
  t.is(await codeOf(line.add([put("k", "x")])), "LIMIT_EXCEEDED");
  t.true((await Promise.all(waiting)).every((code) => code === "stored"));
  t.is(engine.values.get("k"), String(COMMITS_WAITING_MAX - 1));
});

test("any run of commits and faults leaves exactly what was acknowledged", async (t) => {
  const change = fc
    .tuple(fc.constantFrom("a", "b", "c", "d"), fc.option(fc.string({ maxLength: 3 })))
    .map(([key, value]) => (value === null ? del(key) : put(key, value)));
  const step = fc.record({
    commits: fc.array(fc.array(change, { minLength: 1, maxLength: 3 }), { minLength: 1, maxLength: 3 }),
    fault: fc.constantFrom<Fault>("none", "none", "lost", "turns up at reopening"),
    reopening: fc.constantFrom<"works" | "fails">("works", "works", "fails"),
  });
  const property = fc.asyncProperty(fc.array(step, { maxLength: 12 }), async (steps) => {
    const engine = new FaultyEngine();
    const tallied = await TalliedEngine.open(engine);
    const line = new CommitLine(tallied);
    const model = new Map<string, string>();
    let batches = 0;
    for (const { commits, fault, reopening } of steps) {
      Object.assign(engine, { fault, reopening });
      const codes = await Promise.all(commits.map((changes) => codeOf(line.add(changes))));
      for (const [index, changes] of commits.entries())
        for (const one of codes[index] === "stored" ? changes : [])
          if (one.type === "put") model.set(one.key, Buffer.from(one.value).toString());
          else model.delete(one.key);
      t.true(tallied.tally.batches >= batches, "the number of batches never goes back");
      batches = tallied.tally.batches;
    }
    Object.assign(engine, { fault: "none", reopening: "works" });
    await line.add([put("last", "1")]);
    t.deepEqual((await tallied.examine()).tally, tallied.tally, "what is stored is what is known");
    const fresh = await TalliedEngine.open(new FaultyEngine());
    await fresh.batch([...model].map(([key, value]) => put(key, value)).concat(put("last", "1")));
    const { values, digest } = fresh.tally;
    t.like(tallied.tally, { values, digest }, "and true of what is there");
    engine.values.delete(TALLY_KEY);
    t.deepEqual(Object.fromEntries(engine.values), { ...Object.fromEntries(model), last: "1" });
  });
  await fc.assert(property, { numRuns: 300 });
});
