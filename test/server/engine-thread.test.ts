/** The engine thread's client: what happens to calls when the thread answers, refuses, floods or dies. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import test from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import {
  ENGINE_CALLS_MAX,
  type EngineClient,
  type EngineExit,
  engineClientOf,
  startEngineThread,
} from "../../src/engine/worker/engine-client.ts";

/** A thread that does what `script` says with each batch of calls. */
function clientOf(script: string): { client: EngineClient; exit: Promise<EngineExit> } {
  const text = `const { parentPort } = require("node:worker_threads");
    parentPort.on("message", ({ calls }) => { ${script} });`;
  const worker = new Worker(text, { eval: true });
  const client = engineClientOf(worker);
  const exit = new Promise<EngineExit>((resolve) => client.onExit(resolve));
  return { client, exit };
}

const codeOf = async (run: Promise<unknown>) => {
  try {
    await run;
    return "answered";
  } catch (error) {
    return error instanceof TidemarkError ? error.code : String(error);
  }
};

test("calls of one turn travel together, in order; answers find their calls", async (t) => {
  const { client } = clientOf(`parentPort.postMessage({ messages: calls.map(({ id, args }) =>
    ({ kind: "answer", id, value: calls.length + ":" + args[0] })).reverse() });`);
  const answers = await Promise.all(["a", "b", "c"].map((uid) => client.volumeStatus(uid) as Promise<unknown>));
  t.deepEqual(answers, ["3:a", "3:b", "3:c"]);
  await client.stop();
});

test("refusals keep code, message, hint and facts; the unforeseen keeps its stack as the cause", async (t) => {
  const detail = { message: "m", hint: "h", field: "f", metadata: { path: "/p" } };
  const { client } = clientOf(`parentPort.postMessage({ messages: calls.map(({ id, args: [uid] }) => uid === "x"
    ? { kind: "refusal", id, error: { code: "VOLUME_BUSY", detail: ${JSON.stringify(detail)} }, trace: undefined }
    : uid === "y" ? { kind: "refusal", id, error: { code: "INTERNAL", detail: { message: "m" } }, trace: "the stack" }
    : { kind: "answer", id, value: undefined }) });`);
  const known = await t.throwsAsync(() => client.volumeStatus("x"), { instanceOf: TidemarkError });
  t.is(known?.code, "VOLUME_BUSY");
  t.deepEqual(known?.detail, detail);
  const unknown = await t.throwsAsync(() => client.volumeStatus("y"), { instanceOf: TidemarkError });
  t.is((unknown?.cause as Error | undefined)?.stack, "the stack");
  await client.stop();
});

for (const [how, script, exitCode] of [
  ["exits", "process.exit(3)", 3],
  ["throws", "throw new Error('broken')", 1],
] as const)
  test(`a thread that ${how} rejects every call, tells once, and refuses later calls`, async (t) => {
    const { client, exit } = clientOf(script);
    const codes = await Promise.all([codeOf(client.sessions()), codeOf(client.exportStatus()), codeOf(client.stop())]);
    t.deepEqual(codes, ["INTERNAL", "INTERNAL", "INTERNAL"]);
    const { expected, exitCode: code, error } = await exit;
    t.is(code, exitCode);
    t.is(error instanceof Error, how === "throws");
    t.false(expected, "stop had been called, but was not answered");
    t.not(await codeOf(client.sessions()), "answered");
  });

test("a thread that dies by itself is not expected", async (t) => {
  const { client, exit } = clientOf("process.exit(3)");
  t.is(await codeOf(client.sessions()), "INTERNAL");
  t.false((await exit).expected);
  t.is(await codeOf(client.sessions()), "INTERNAL");
  await client.stop();
});

test("unanswered calls are bounded", async (t) => {
  const { client } = clientOf(
    `parentPort.postMessage({ messages: calls.filter(({ method }) => method === "stop").map(({ id }) => ({ kind: "answer", id })) });`,
  );
  const waiting = Array.from({ length: ENGINE_CALLS_MAX }, () => codeOf(client.sessions()));
  t.is(await codeOf(client.sessions()), "LIMIT_EXCEEDED");
  await client.stop().catch(() => {});
  t.is(new Set(await Promise.all(waiting)).size, 1);
});

test("the real thread: answers, typed refusals, bytes that move, events, stop", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "tidemark-engine-"));
  t.teardown(() => rm(directory, { recursive: true, force: true }));
  const client = startEngineThread();
  const exit = new Promise<EngineExit>((resolve) => client.onExit(resolve));
  const events: string[] = [];
  client.onEvent(({ type }) => events.push(type));
  await client.start({ stateDirectory: directory, volumes: [] });
  t.is(await codeOf(client.volumeStatus("nobody")), "VOLUME_NOT_FOUND");
  t.is(
    await codeOf((client as unknown as { inspectPath(path: string): Promise<unknown> }).inspectPath("/none")),
    "PATH_NOT_FOUND",
  );
  for (const uid of ["a", "b"]) {
    const path = join(directory, `${uid}.img`);
    await client.createFile(path, 1 << 20);
    t.is((await client.addVolume({ uid, name: uid, path, sizeBytes: 1 << 20 })).sizeBytes, 1 << 20);
  }
  const extent = (volumeUid: string) => ({ volumeUid, name: volumeUid, offsetBytes: 0, lengthBytes: 1 << 20 });
  const data = new Uint8Array(100_000).fill(7);
  await client.write(extent("a"), 1000, data);
  t.is(data.length, 0, "bytes that own their memory moved");
  const part = new Uint8Array(200_000).fill(8).subarray(10, 20);
  await client.write(extent("a"), 0, part);
  t.is(part.length, 10, "others were copied");
  const read = await client.read(extent("a"), 0, 1100);
  t.deepEqual([read[0], read[9], read[10], read[1000], read.length], [8, 8, 0, 7, 1100]);
  await client.startSessions([{ id: "c1", source: extent("a"), destination: extent("b"), kind: "opc", pace: 15 }]);
  while (!events.includes("session.ended")) await new Promise((resolve) => setTimeout(resolve, 5));
  await Promise.all([client.stop(), client.stop()]);
  t.true((await exit).expected);
  t.is(await codeOf(client.sessions()), "STOPPING");
});
