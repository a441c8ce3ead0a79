/** Small parts of the domain: lock, pages, extents, places, export URIs. */
import { mkdtemp, realpath, rm, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import fc from "fast-check";
import { type ErrorCode, TidemarkError } from "../../src/base/errors.ts";
import { mergeExtents } from "../../src/domain/data.ts";
import { exportUri } from "../../src/domain/exports.ts";
import { KeyedMutex } from "../../src/domain/keyed-mutex.ts";
import { LOCK_WAITERS_MAX } from "../../src/domain/limits.ts";
import { pageOf } from "../../src/domain/pages.ts";
import { checkPath, mayRegister, resolveNew, systemPaths } from "../../src/domain/paths.ts";

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

test("mutex: operations that share a key never overlap, whatever keys they take; all end", async (t) => {
  const operations = fc.array(fc.uniqueArray(fc.constantFrom("a", "b", "c", "d"), { minLength: 1, maxLength: 3 }), {
    maxLength: 20,
  });
  const property = fc.asyncProperty(operations, async (plan) => {
    const mutex = new KeyedMutex();
    const held = new Set<string>();
    const order = new Map<string, number[]>();
    await Promise.all(
      plan.map((keys, index) =>
        mutex.run(keys, async () => {
          for (const key of keys) {
            t.false(held.has(key));
            held.add(key);
            order.set(key, [...(order.get(key) ?? []), index]);
          }
          for (let i = 0; i < index % 3; i++) await turn();
          for (const key of keys) held.delete(key);
        }),
      ),
    );
    for (const indexes of order.values())
      t.deepEqual(
        indexes,
        [...indexes].sort((a, b) => a - b),
      );
    await turn();
    t.is(mutex.size, 0);
  });
  await fc.assert(property, { numRuns: 50 });
});

test("mutex: operations without a common key run at the same time", async (t) => {
  const mutex = new KeyedMutex();
  let release = () => {};
  const first = mutex.run(["a"], () => new Promise<void>((resolve) => (release = resolve)));
  t.is(await mutex.run(["b"], async () => "done"), "done");
  release();
  await first;
});

test("mutex: a failure goes to its caller and frees the key; a repeated key is one key", async (t) => {
  const mutex = new KeyedMutex();
  await t.throwsAsync(() => mutex.run(["a", "a"], async () => Promise.reject(new Error("no"))), { message: "no" });
  t.is(await mutex.run(["a"], async () => 1), 1);
});

test("mutex: waiters are bounded", async (t) => {
  const mutex = new KeyedMutex();
  let release = () => {};
  const first = mutex.run(["a"], () => new Promise<void>((resolve) => (release = resolve)));
  const waiting = Array.from({ length: LOCK_WAITERS_MAX - 1 }, () => mutex.run(["a"], async () => {}));
  const error = await t.throwsAsync(() => mutex.run(["a"], async () => {}), { instanceOf: TidemarkError });
  t.is(error?.code, "LIMIT_EXCEEDED");
  release();
  await Promise.all([first, ...waiting]);
  t.is(await mutex.run(["a"], async () => 1), 1);
});

const numbers = (items: number[], filter = "") => ({
  name: "numbers",
  filter,
  items,
  keyOf: String,
  compare: (item: number, key: string) => item - Number(key),
});

test("pages: following tokens gives every item once, also while others come and go", (t) => {
  const plan = fc.record({
    items: fc.uniqueArray(fc.nat(500), { maxLength: 60 }),
    extra: fc.uniqueArray(fc.nat(500), { maxLength: 20 }),
    pageSize: fc.integer({ min: 1, max: 20 }),
  });
  fc.assert(
    fc.property(plan, ({ items, extra, pageSize }) => {
      const kept = [...items].sort((a, b) => a - b);
      const seen: number[] = [];
      let pageToken = "";
      for (let round = 0; round < 200; round++) {
        // Every other page the extra items are there.
        const now = round % 2 === 0 ? kept : [...new Set([...kept, ...extra])].sort((a, b) => a - b);
        const page = pageOf(numbers(now), { pageSize, pageToken });
        t.true(page.items.length <= pageSize);
        seen.push(...page.items);
        pageToken = page.nextPageToken;
        if (pageToken === "") break;
      }
      t.deepEqual(
        [...seen].sort((a, b) => a - b),
        [...new Set(seen)].sort((a, b) => a - b),
        "no item twice",
      );
      const last = Math.max(-1, ...seen);
      t.deepEqual(
        kept.filter((item) => item <= last && !seen.includes(item)),
        [],
        "no item left out",
      );
    }),
  );
});

const badPages: [string, { pageSize: number; pageToken: string }, ErrorCode][] = [
  ["more than the largest page", { pageSize: 1001, pageToken: "" }, "INVALID_ARGUMENT"],
  ["nonsense", { pageSize: 5, pageToken: "nonsense" }, "PAGE_TOKEN_INVALID"],
  [
    "a token of another filter",
    { pageSize: 5, pageToken: pageOf(numbers([1, 2], "x"), { pageSize: 1, pageToken: "" }).nextPageToken },
    "PAGE_TOKEN_INVALID",
  ],
];
for (const [what, request, code] of badPages)
  test(`pages: ${what} is ${code}`, (t) => {
    t.is(t.throws(() => pageOf(numbers([1, 2, 3]), request), { instanceOf: TidemarkError })?.code, code);
  });

test("pages: a changed token is PAGE_TOKEN_INVALID", (t) => {
  const token = pageOf(numbers([1, 2, 3]), { pageSize: 1, pageToken: "" }).nextPageToken;
  for (let at = 0; at < token.length; at++) {
    const pageToken = `${token.slice(0, at)}${token[at] === "1" ? "2" : "1"}${token.slice(at + 1)}`;
    t.throws(() => pageOf(numbers([1, 2, 3]), { pageSize: 1, pageToken }), { instanceOf: TidemarkError });
  }
});

test("pages: 0 is the default size; an exact last page has no token", (t) => {
  const items = Array.from({ length: 200 }, (_, i) => i);
  const first = pageOf(numbers(items), { pageSize: 0, pageToken: "" });
  t.is(first.items.length, 100);
  const second = pageOf(numbers(items), { pageSize: 0, pageToken: first.nextPageToken });
  t.is(second.items.length, 100);
  t.is(second.nextPageToken, "");
});

test("extents: merging by pages gives the runs of the whole", (t) => {
  const plan = fc.record({ units: fc.uniqueArray(fc.nat(60)), cuts: fc.array(fc.integer({ min: 1, max: 7 })) });
  fc.assert(
    fc.property(plan, ({ units, cuts }) => {
      const sorted = [...units].sort((a, b) => a - b).map((unit) => ({ offsetBytes: unit * 8, lengthBytes: 8 }));
      const merged: { offsetBytes: number; lengthBytes: number }[] = [];
      let open: { offsetBytes: number; lengthBytes: number } | undefined;
      for (let at = 0, cut = 0; at < sorted.length; cut++) {
        const count = cuts[cut] ?? 3;
        const result = mergeExtents(open, sorted.slice(at, at + count));
        merged.push(...result.whole);
        open = result.open;
        at += count;
      }
      if (open !== undefined) merged.push(open);
      t.deepEqual(
        merged.flatMap(({ offsetBytes, lengthBytes }) =>
          Array.from({ length: lengthBytes / 8 }, (_, i) => offsetBytes / 8 + i),
        ),
        sorted.map(({ offsetBytes }) => offsetBytes / 8),
      );
      for (const [index, run] of merged.entries()) {
        const next = merged[index + 1];
        if (next !== undefined) t.true(run.offsetBytes + run.lengthBytes < next.offsetBytes);
      }
    }),
  );
});

const rules = { dataDirectory: "/var/lib/box", roots: [] };
const refused: [string, ErrorCode, readonly string[]][] = [
  ["/var/lib/box", "PATH_NOT_USABLE", []],
  ["/var/lib/box/state/x", "PATH_NOT_USABLE", []],
  ["/proc/kcore", "PATH_NOT_USABLE", []],
  ["/sys/x", "PATH_NOT_USABLE", []],
  ["/home/a.img", "PERMISSION_DENIED", ["/images", "/more"]],
  ["/imagesx/a.img", "PERMISSION_DENIED", ["/images"]],
];
for (const [path, code, roots] of refused)
  test(`place ${path} (roots ${roots.join(" ") || "none"}) is ${code}`, (t) => {
    t.is(t.throws(() => mayRegister(path, { ...rules, roots }), { instanceOf: TidemarkError })?.code, code);
  });
for (const [path, roots] of [
  ["/var/lib/boxes/a", []],
  ["/dev/shm/a.img", []],
  ["/dev/loop0", []],
  ["/images/a", ["/images"]],
  ["/a", ["/"]],
] as const)
  test(`place ${path} (roots ${roots.join(" ") || "none"}) is allowed`, (t) => {
    t.notThrows(() => mayRegister(path, { ...rules, roots }));
  });

for (const path of ["", "a.img", "./a", "/a\0b", `/${"a".repeat(4096)}`])
  test(`path ${JSON.stringify(path.slice(0, 10))} (${path.length}) is INVALID_ARGUMENT`, (t) => {
    t.is(t.throws(() => checkPath(path), { instanceOf: TidemarkError })?.code, "INVALID_ARGUMENT");
  });

test("paths: links are resolved, sizes and holes seen, nothing is nothing", async (t) => {
  const directory = await realpath(await mkdtemp(join(tmpdir(), "tidemark-paths-")));
  t.teardown(() => rm(directory, { recursive: true }));
  const file = join(directory, "a.img");
  await writeFile(file, "");
  await truncate(file, 1 << 20);
  await symlink(file, join(directory, "link"));
  t.is(await systemPaths.resolve(join(directory, "link")), file);
  t.deepEqual(await systemPaths.look(file), { kind: "file", sizeBytes: 1 << 20, allocatedBytes: 0 });
  await writeFile(file, "x".repeat(9000));
  t.true(((await systemPaths.look(file))?.allocatedBytes ?? 0) > 0);
  t.is(await systemPaths.look(join(directory, "none")), undefined);
  t.is((await systemPaths.look(directory))?.kind, "other");
  t.is(await resolveNew(systemPaths, join(directory, "new.img")), join(directory, "new.img"));
  const error = await t.throwsAsync(() => resolveNew(systemPaths, join(directory, "no/new.img")));
  t.is((error as TidemarkError).code, "PATH_NOT_FOUND");
  const space = await systemPaths.space(directory);
  t.true(space.freeBytes > 0 && space.freeBytes <= space.totalBytes);
});

for (const [server, name, uri] of [
  ["nbd+unix:///?socket=/run/nbd.sock", "g1d2", "nbd+unix:///g1d2?socket=/run/nbd.sock"],
  ["nbd://127.0.0.1:10809", "g1d2p1", "nbd://127.0.0.1:10809/g1d2p1"],
  ["nbd://127.0.0.1:10809/", "db#1", "nbd://127.0.0.1:10809/db%231"],
  ["", "g1d2", ""],
] as const)
  test(`export uri of ${name} at ${server || "nowhere"}`, (t) => {
    t.is(exportUri(server, name), uri);
  });
