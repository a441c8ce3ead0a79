/** Parts of the server that need no daemon: error table, conversions, options, addresses, state directory, encoder. */
import { chmod, mkdir, mkdtemp, readFile, realpath, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { status } from "@grpc/grpc-js";
import test, { type ExecutionContext } from "ava";
import fc from "fast-check";
import { ERROR_CODES, type ErrorCode, TidemarkError } from "../../src/base/errors.ts";
import { native } from "../../src/engine/device/native.ts";
import { ReadBlocksResponse } from "../../src/gen/tidemark/v1/data.ts";
import { parseListenAddress, removeStaleSocket } from "../../src/server/addresses.ts";
import { copyKind, exactNumber, toTimestamp } from "../../src/server/convert.ts";
import { ERROR_TABLE } from "../../src/server/error-table.ts";
import { parseOptions } from "../../src/server/options.ts";
import { toRpcError } from "../../src/server/rich-errors.ts";
import { serializeBlocks } from "../../src/server/services/read-blocks-bytes.ts";
import { openStateDirectory } from "../../src/server/state-directory.ts";
import { threadPoolSize } from "../../src/server/thread-pool.ts";
import { refusalOf } from "./fixture.ts";

async function temporaryDirectory(t: ExecutionContext): Promise<string> {
  const directory = await realpath(await mkdtemp(join(tmpdir(), "tidemark-parts-")));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

test("error table: every code has a status, and no other code is in it", (t) => {
  t.deepEqual(Object.keys(ERROR_TABLE).sort(), [...ERROR_CODES].sort());
  for (const code of ERROR_CODES) t.true(ERROR_TABLE[code].status in status, code);
});

test("errors: code, message, hint, field and facts arrive", (t) => {
  for (const code of ERROR_CODES.filter((known) => known !== "INTERNAL")) {
    const error = new TidemarkError(code, { message: "m", hint: "h", field: "f", metadata: { path: "/p" } });
    const refusal = refusalOf(toRpcError(error, () => t.fail()));
    t.deepEqual(refusal, {
      status: ERROR_TABLE[code].status,
      message: "m",
      reason: code,
      domain: "tidemark",
      metadata: { path: "/p", hint: "h" },
      field: "f",
    });
  }
});

test("errors: what is not ours, and INTERNAL, leaks nothing and is logged", (t) => {
  const secrets = [
    new Error("secret"),
    new TidemarkError("INTERNAL", { message: "secret", hint: "secret", metadata: { a: "secret" } }),
    "secret",
    undefined,
  ];
  for (const secret of secrets) {
    const logged: unknown[] = [];
    const error = toRpcError(secret, (value) => logged.push(value));
    t.deepEqual(logged, [secret]);
    t.is(error.code, status.INTERNAL);
    t.false(JSON.stringify([error.details, error.metadata.toJSON()]).includes("secret"));
    t.false(Buffer.from(error.metadata.get("grpc-status-details-bin")[0] as Buffer).includes("secret"));
  }
});

test("errors: texts are bounded, so that they fit into the trailers", (t) => {
  const error = new TidemarkError("INVALID_ARGUMENT", { message: "m".repeat(100_000), hint: "h".repeat(100_000) });
  const refusal = refusalOf(toRpcError(error, () => {}));
  t.true(refusal.message.length < 2000 && (refusal.metadata["hint"]?.length ?? 0) < 2000);
});

test("numbers beyond 2^53 are INVALID_ARGUMENT with their field", (t) => {
  t.is(exactNumber(2n ** 53n - 1n, "f"), 2 ** 53 - 1);
  for (const value of [2n ** 53n, 2n ** 64n - 1n]) {
    const error = t.throws(() => exactNumber(value, "size_bytes"), { instanceOf: TidemarkError });
    t.is(error?.code, "INVALID_ARGUMENT");
    t.is(error?.detail.field, "size_bytes");
  }
});

test("copy kinds: unset and unknown are INVALID_ARGUMENT", (t) => {
  t.is(copyKind(1), "opc");
  t.is(copyKind(2), "quickopc");
  for (const kind of [0, 3, -1])
    t.is(t.throws(() => copyKind(kind), { instanceOf: TidemarkError })?.code, "INVALID_ARGUMENT");
});

test("times keep their milliseconds", (t) => {
  t.deepEqual(toTimestamp(1_700_000_000_123), { seconds: 1_700_000_000n, nanos: 123_000_000 });
  t.deepEqual(toTimestamp(0), { seconds: 0n, nanos: 0 });
});

test("the encoder of ReadBlocks gives what the generated one gives", (t) => {
  const message = fc.record({
    offsetBytes: fc.oneof(fc.constant(0n), fc.bigInt({ min: 0n, max: 2n ** 53n - 1n })),
    data: fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc.constantFrom(127, 128, 16_383, 16_384, 1 << 20).map((length) => new Uint8Array(length).fill(7)),
    ),
  });
  fc.assert(
    fc.property(message, ({ offsetBytes, data }) => {
      const response = { offsetBytes, data: Buffer.from(data) };
      let released = 0;
      const message = serializeBlocks({ ...response, release: () => released++ });
      const ours = Buffer.alloc(message.byteLength + 5);
      message.copy(ours, 5);
      t.is(released, 1);
      t.is(Buffer.compare(ours.subarray(5), Buffer.from(ReadBlocksResponse.encode(response).finish())), 0);
    }),
    { numRuns: 300 },
  );
});

test("options: defaults, environment and every option", (t) => {
  t.deepEqual(parseOptions(["--data", "/d"], {}), {
    dataDirectory: "/d",
    addresses: [],
    nbd: undefined,
    boxNumber: undefined,
    logLevel: "info",
    scrub: "weekly",
  });
  t.like(parseOptions(["serve"], { TIDEMARK_DATA: "/e", TIDEMARK_LOG_LEVEL: "warn" }), {
    dataDirectory: "/e",
    logLevel: "warn",
  });
  const all = [
    "serve",
    "--data=/d",
    "--address",
    "unix:/a",
    "--address",
    "127.0.0.1:0",
    "--nbd",
    "none",
    "--box",
    "7",
    "--scrub=off",
  ];
  t.like(parseOptions(all, {}), {
    addresses: [
      { kind: "unix", path: "/a" },
      { kind: "tcp", host: "127.0.0.1", port: 0 },
    ],
    nbd: "none",
    boxNumber: 7,
    scrub: "off",
  });
  t.is(parseOptions(["--help"], {}), "help");
});

const wrongOptions: string[][] = [
  [],
  ["--data", ""],
  ["--data", "/d", "--box", "10000"],
  ["--data", "/d", "--box", "-1"],
  ["--data", "/d", "--box", "one"],
  ["--data", "/d", "--scrub", "daily"],
  ["--data", "/d", "--log-level", "loud"],
  ["--data", "/d", "--nonsense"],
  ["--data", "/d", "extra"],
  ["--data", "/d", "--address", "0.0.0.0:9000"],
  ["--data", "/d", "--address", "192.168.1.2:9000"],
  ["--data", "/d", "--address", "[::]:9000"],
  ["--data", "/d", "--address", "example.org:9000"],
  ["--data", "/d", "--address", "127.0.0.1:70000"],
  ["--data", "/d", "--address", "127.0.0.1"],
  ["--data", "/d", "--address", "unix:"],
  ["--data", "/d", "--address", `unix:/${"x".repeat(110)}`],
  ["--data", "/d", "--nbd", "0.0.0.0:10809"],
];
for (const args of wrongOptions)
  test(`options: ${args.join(" ").slice(0, 60) || "none"} is INVALID_ARGUMENT with a hint`, (t) => {
    const error = t.throws(() => parseOptions(args, {}), { instanceOf: TidemarkError });
    t.is(error?.code, "INVALID_ARGUMENT");
    t.truthy(error?.detail.hint);
  });

for (const [text, host] of [
  ["127.0.0.1:5", "127.0.0.1"],
  ["127.9.9.9:5", "127.9.9.9"],
  ["[::1]:5", "::1"],
  ["localhost:5", "localhost"],
] as const)
  test(`address ${text} is on the loopback interface`, (t) => {
    t.deepEqual(parseListenAddress(text, "--address"), { kind: "tcp", host, port: 5 });
  });

test("stale socket: left behind is removed, answered or no socket is refused, none is fine", async (t) => {
  const directory = await temporaryDirectory(t);
  const path = join(directory, "s");
  await removeStaleSocket(path);
  await writeFile(path, "data");
  const code = async () => (await t.throwsAsync(() => removeStaleSocket(path), { instanceOf: TidemarkError }))?.code;
  t.is(await code(), "INVALID_ARGUMENT" satisfies ErrorCode);
  t.is(await readFile(path, "utf8"), "data");
  await rm(path);
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.is(await code(), "INVALID_ARGUMENT");
  await new Promise<void>((resolve) => server.close(() => resolve()));
});

test("state directory: made for its owner only, locked once, given back", async (t) => {
  const directory = join(await temporaryDirectory(t), "a/b");
  const first = await openStateDirectory(directory, native?.lockExclusiveAsync);
  for (const path of [directory, first.run, first.engine, first.database]) t.is((await stat(path)).mode & 0o777, 0o700);
  t.is((await readFile(join(directory, "LOCK"), "utf8")).trim(), String(process.pid));
  const second = await t.throwsAsync(() => openStateDirectory(directory, native?.lockExclusiveAsync), {
    instanceOf: TidemarkError,
  });
  t.is(second?.code, "STATE_DIRECTORY_LOCKED");
  t.is(second?.detail.metadata?.["pid"], String(process.pid));
  t.true(second?.message.includes(String(process.pid)));
  await first.release();
  await (await openStateDirectory(directory, native?.lockExclusiveAsync)).release();
});

test("state directory: a file, or a place that cannot be made, is STATE_DIRECTORY_INVALID", async (t) => {
  const directory = await temporaryDirectory(t);
  await writeFile(join(directory, "file"), "");
  for (const path of [join(directory, "file"), join(directory, "file/below"), "/proc/none/x"]) {
    const error = await t.throwsAsync(() => openStateDirectory(path, undefined), { instanceOf: TidemarkError });
    t.is(error?.code, "STATE_DIRECTORY_INVALID", path);
    t.truthy(error?.detail.hint);
  }
  await mkdir(join(directory, "ok"));
  await chmod(join(directory, "ok"), 0o755);
  await (await openStateDirectory(join(directory, "ok"), undefined)).release();
});

test("thread pool: the size in the environment, four without", (t) => {
  t.is(threadPoolSize({}), 4);
  t.is(threadPoolSize({ UV_THREADPOOL_SIZE: "32" }), 32);
  t.is(threadPoolSize({ UV_THREADPOOL_SIZE: "x" }), 4);
});
