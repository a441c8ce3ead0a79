import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Metadata, type ServiceError, status } from "@grpc/grpc-js";
import test from "ava";
import { DEFAULT_ADDRESS, parseAddress } from "../../src/client/address.ts";
import { asFailure, EXIT_CODES, Failure, failureJson, failureText, type StatusCode } from "../../src/client/failure.ts";
import { failureOfCall } from "../../src/client/rpc-failure.ts";
import { ErrorInfo } from "../../src/gen/google/rpc/error_details.ts";
import { Status } from "../../src/gen/google/rpc/status.ts";

const EXPECTED: Readonly<Record<StatusCode, number>> = {
  CANCELLED: 130,
  UNKNOWN: 1,
  INVALID_ARGUMENT: 2,
  DEADLINE_EXCEEDED: 8,
  NOT_FOUND: 3,
  ALREADY_EXISTS: 4,
  PERMISSION_DENIED: 6,
  RESOURCE_EXHAUSTED: 1,
  FAILED_PRECONDITION: 4,
  ABORTED: 4,
  OUT_OF_RANGE: 2,
  UNIMPLEMENTED: 1,
  INTERNAL: 1,
  UNAVAILABLE: 5,
  DATA_LOSS: 1,
  UNAUTHENTICATED: 6,
  USAGE: 2,
  COPY_FAILED: 7,
  INTERRUPTED: 130,
};

test("every status code has its documented exit code", (t) => {
  const documented = EXIT_CODES.map(([code]) => code);
  for (const [code, exitCode] of Object.entries(EXPECTED) as [StatusCode, number][]) {
    t.is(new Failure(code, "x").exitCode, exitCode, code);
    t.true(documented.includes(exitCode), `${exitCode} is in the help`);
  }
  for (const name of Object.keys(status).filter((key) => Number.isNaN(Number(key)) && key !== "OK")) {
    t.true(name in EXPECTED, `${name} of gRPC has an exit code`);
  }
});

/** What grpc-js hands to a callback. */
function serviceError(code: status, details: string, info?: ErrorInfo): ServiceError {
  const metadata = new Metadata();
  if (info !== undefined) {
    const any = {
      typeUrl: "type.googleapis.com/google.rpc.ErrorInfo",
      value: Buffer.from(ErrorInfo.encode(info).finish()),
    };
    const rich = Status.encode(Status.fromPartial({ code, message: details, details: [any] })).finish();
    metadata.set("grpc-status-details-bin", Buffer.from(rich));
  }
  return Object.assign(new Error(`${code}: ${details}`), { code, details, metadata });
}

test("a rich error keeps its reason, hint and facts", (t) => {
  const info = {
    reason: "VOLUME_NOT_FOUND",
    domain: "tidemark",
    metadata: { hint: "tidemark volume list", name: "g1d9" },
  };
  const failure = failureOfCall(serviceError(status.NOT_FOUND, "there is no volume g1d9", info), DEFAULT_ADDRESS);
  t.is(failure?.exitCode, 3);
  t.is(failureText(failure!), "tidemark: there is no volume g1d9 (VOLUME_NOT_FOUND)\n  try: tidemark volume list\n");
  t.deepEqual(JSON.parse(failureJson(failure!)), {
    code: "NOT_FOUND",
    reason: "VOLUME_NOT_FOUND",
    message: "there is no volume g1d9",
    hint: "tidemark volume list",
    metadata: { name: "g1d9" },
  });
});

test("an error without details is told by its code", (t) => {
  const failure = failureOfCall(serviceError(status.INTERNAL, ""), DEFAULT_ADDRESS);
  t.is(failure?.reason, "INTERNAL");
  t.is(failure?.message, "the server answered INTERNAL");
});

test("an error without a hint is one line", (t) => {
  t.is(failureText(new Failure("INTERRUPTED", "interrupted")), "tidemark: interrupted (INTERRUPTED)\n");
});

test("what the server answers with details is not taken for a lost server", (t) => {
  const info = { reason: "STOPPING", domain: "tidemark", metadata: {} };
  const failure = failureOfCall(serviceError(status.UNAVAILABLE, "the box is stopping", info), DEFAULT_ADDRESS);
  t.is(failure?.reason, "STOPPING");
  t.is(failure?.exitCode, 5);
});

test("an unreachable server is explained by what is at its address", (t) => {
  const directory = mkdtempSync(join(tmpdir(), "tidemark-address-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const at = (name: string) => failureOfCall(serviceError(status.UNAVAILABLE, "x"), `unix:${join(directory, name)}`);
  writeFileSync(join(directory, "file"), "");
  t.regex(at("nothing")?.message ?? "", /there is no such socket/);
  t.regex(at("file")?.message ?? "", /is not a socket/);
  t.is(at("file")?.exitCode, 5);
  t.regex(at("nothing")?.hint ?? "", /tidemark serve/);
});

test("a socket that nobody serves any more is told as such", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "tidemark-address-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const path = join(directory, "s");
  const server = createServer().listen(path);
  await new Promise((resolve) => server.once("listening", resolve));
  t.teardown(() => server.close());
  const failure = failureOfCall(serviceError(status.UNAVAILABLE, "x"), `unix:${path}`);
  t.regex(failure?.message ?? "", /nothing listens there/);
});

test("an unknown error is an internal one and keeps its cause", (t) => {
  const cause = new Error("boom");
  t.like(asFailure(cause), { code: "INTERNAL", message: "boom", cause });
  t.is(asFailure(Object.assign(new Error("no"), { code: "EACCES" })).exitCode, 6);
  const gone = asFailure(Object.assign(new Error("uv_cwd"), { code: "ENOENT", syscall: "uv_cwd" }));
  t.like(gone, { exitCode: 2, message: "the working directory no longer exists" });
});

const ADDRESSES: readonly (readonly [text: string, address: string])[] = [
  ["unix:/run/t.sock", "unix:/run/t.sock"],
  ["unix:///run/t.sock", "unix:/run/t.sock"],
  ["/run/t.sock", "unix:/run/t.sock"],
  ["127.0.0.1:7400", "127.0.0.1:7400"],
  ["[::1]:7400", "[::1]:7400"],
  ["box.example:7400", "box.example:7400"],
];
for (const [text, address] of ADDRESSES) test(`address ${text}`, (t) => t.is(parseAddress(text), address));

for (const text of [
  "",
  "unix:",
  "box",
  "box:",
  "box:0",
  "box:70000",
  ":7400",
  "http://box:1",
  `unix:/${"x".repeat(120)}`,
]) {
  test(`address \`${text.slice(0, 20)}\` of ${text.length} characters is refused`, (t) => {
    t.is(t.throws(() => parseAddress(text), { instanceOf: Failure })?.code, "USAGE");
  });
}
