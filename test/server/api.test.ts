/** The API of a real daemon, through real clients on its unix socket. */
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { stat, writeFile } from "node:fs/promises";
import { promisify } from "node:util";
import { credentials, makeGenericClientConstructor, type ServiceError, status } from "@grpc/grpc-js";
import anyTest, { type TestFn } from "ava";
import {
  type HealthCheckRequest,
  type HealthCheckResponse,
  HealthService,
} from "../../src/gen/grpc/health/v1/health.ts";
import type { ListChangedExtentsResponse, WriteBlocksRequest } from "../../src/gen/tidemark/v1/data.ts";
import { SERVICES } from "../../src/server/grpc-server.ts";
import { eventually } from "../domain/box-fixture.ts";
import { all, call, connect, DaemonFixture, refusalOf, refused } from "./fixture.ts";

const test = anyTest as TestFn<{ fixture: DaemonFixture }>;
const MiB = 1 << 20;
const page = { pageSize: 0, pageToken: "" };
const range = (name: string, offset = 0, length = 0) => ({
  name,
  offsetBytes: BigInt(offset),
  lengthBytes: BigInt(length),
});

const started = new WeakMap<object, () => unknown>();
test.beforeEach(async (t) => {
  const context = t.context;
  t.context.fixture = await DaemonFixture.start({ teardown: (end) => started.set(context, end) });
});
test.afterEach.always(async (t) => {
  await started.get(t.context)?.();
});

async function write(fixture: DaemonFixture, messages: Partial<WriteBlocksRequest>[]): Promise<bigint> {
  return new Promise((resolve, reject) => {
    const stream = fixture.clients.data.writeBlocks((error, response) =>
      error === null ? resolve(response.bytesWritten) : reject(error),
    );
    stream.on("error", () => {}); // told by the callback
    for (const message of messages)
      stream.write({ name: "", offsetBytes: 0n, data: Buffer.alloc(0), flush: false, ...message });
    stream.end();
  });
}

async function read(fixture: DaemonFixture, name: string, offset = 0, length = 0): Promise<Buffer> {
  const pieces = await all(fixture.clients.data.readBlocks(range(name, offset, length)));
  return Buffer.concat(pieces.map(({ data }) => data));
}

async function readNumbers(fixture: DaemonFixture, name: string, since: bigint): Promise<[number, number][]> {
  const request = { ...range(name), sinceEpoch: since, untilEpoch: 0n };
  const pieces = await all<ListChangedExtentsResponse>(fixture.clients.data.listChangedExtents(request));
  const extents = pieces.flatMap((piece) => piece.extents);
  return extents.map(({ offsetBytes, lengthBytes }) => [Number(offsetBytes), Number(lengthBytes)]);
}

test.serial("the socket is private, and nothing else is open", async (t) => {
  const { fixture } = t.context;
  t.is(fixture.address, `unix:${fixture.data}/run/api.sock`);
  t.is((await stat(`${fixture.data}/run/api.sock`)).mode & 0o777, 0o660);
  t.is((await stat(`${fixture.data}/run`)).mode & 0o777, 0o700);
  const { box } = await call(fixture.clients.box, "getBox", {});
  t.deepEqual(box?.addresses, [fixture.address]);
  t.is(box?.nbdAddress, `nbd+unix:///?socket=${fixture.data}/run/nbd.sock`);
  t.is(box?.dataDirectory, fixture.data);
  t.true((box?.memoryBytes ?? 0n) > 1_000_000n);
});

test.serial("volume data: what is written is read, in pieces of at most 1 MiB, at odd places", async (t) => {
  const { fixture } = t.context;
  await fixture.create("a", 5 * MiB + 512, "src");
  const bytes = randomBytes(3 * MiB + 777);
  const messages: Partial<WriteBlocksRequest>[] = [{ name: "src" }];
  for (let at = 0; at < bytes.length; at += MiB)
    messages.push({ offsetBytes: BigInt(1000 + at), data: bytes.subarray(at, at + MiB) });
  messages.push({ flush: true });
  t.is(await write(fixture, messages), BigInt(bytes.length));
  t.is(Buffer.compare(await read(fixture, "g1d1", 1000, bytes.length), bytes), 0);
  const pieces = await all(fixture.clients.data.readBlocks(range("g1d1")));
  t.true(pieces.every(({ data }) => data.length <= MiB));
  let expected = 0n;
  for (const { offsetBytes, data } of pieces) {
    t.is(offsetBytes, expected);
    expected += BigInt(data.length);
  }
  t.is(expected, BigInt(5 * MiB + 512));
  const allocated = await all(fixture.clients.data.listAllocatedExtents(range("g1d1")));
  const extents = allocated.flatMap((piece) => piece.extents);
  t.true(
    extents.every(({ offsetBytes, lengthBytes }) => offsetBytes + lengthBytes <= BigInt(4 * MiB)),
    "a hole at the end",
  );
});

test.serial("volume data: bad ranges and messages are refused by name", async (t) => {
  const { fixture } = t.context;
  await fixture.create("a", MiB);
  const reads = (name: string, offset: bigint, length: bigint) => () =>
    all(fixture.clients.data.readBlocks({ name, offsetBytes: offset, lengthBytes: length }));
  const beyond = await refused(t, reads("g1d1", 0n, BigInt(MiB + 1)), "RANGE_INVALID");
  t.is(beyond?.status, "OUT_OF_RANGE");
  await refused(t, reads("g1d1", BigInt(MiB + 1), 0n), "RANGE_INVALID");
  const huge = await refused(t, reads("g1d1", 2n ** 60n, 0n), "INVALID_ARGUMENT");
  t.is(huge?.field, "offset_bytes");
  await refused(t, reads("g1d9", 0n, 0n), "VOLUME_NOT_FOUND");
  await refused(t, () => write(fixture, []), "INVALID_ARGUMENT");
  await refused(t, () => write(fixture, [{ data: Buffer.alloc(10) }]), "INVALID_ARGUMENT");
  await refused(t, () => write(fixture, [{ name: "g1d1" }, { name: "g1d2" }]), "INVALID_ARGUMENT");
  await refused(t, () => write(fixture, [{ name: "g1d1", data: Buffer.alloc(MiB + 1) }]), "LIMIT_EXCEEDED");
  await refused(
    t,
    () => write(fixture, [{ name: "g1d1", offsetBytes: BigInt(MiB - 1), data: Buffer.alloc(2) }]),
    "RANGE_INVALID",
  );
  const gone = () =>
    all(fixture.clients.data.listChangedExtents({ ...range("g1d1"), sinceEpoch: 99n, untilEpoch: 0n }));
  t.is((await refused(t, gone, "EPOCH_NOT_FOUND"))?.status, "NOT_FOUND");
  t.is(await write(fixture, [{ name: "g1d1", data: Buffer.from("ok") }]), 2n);
});

test.serial("spec/11: QuickOPC over the API: copy, change, differential restart, restore", async (t) => {
  const { fixture } = t.context;
  const { copies } = fixture.clients;
  await fixture.create("a", 4 * MiB, "src");
  await fixture.create("b", 4 * MiB, "dst");
  const content = randomBytes(MiB);
  await write(fixture, [{ name: "src", data: content }]);
  const request = { pairs: [{ source: "src", destination: "dst" }], kind: 2 as const, pace: 0, requestId: "" };
  const [copy] = (await call(copies, "startCopy", request)).copies;
  t.is(copy?.reason, 1);
  await write(fixture, [{ name: "src", offsetBytes: BigInt(64 * 1024), data: Buffer.alloc(8192, 7) }]);
  const watched = await all(copies.watchCopy({ id: "c1", keepFollowing: false }));
  t.is(watched.at(-1)?.copy?.phase, 2);
  t.is(watched.at(-1)?.copy?.executePercent, 100);
  t.is(Buffer.compare(await read(fixture, "dst", 0, MiB), content), 0, "the copy is the source at the point");

  const plan = await call(copies, "explainCopy", { source: "g1d1", destination: "g1d2", kind: 2 });
  t.is(plan.reason, 2);
  t.is(plan.existingId, "c1");
  t.is(plan.plannedGranules, 1n);
  t.truthy(plan.explanation);
  t.deepEqual(await readNumbers(fixture, "src", copy?.sourceEpoch ?? 0n), [[64 * 1024, 8192]]);

  const again = (await call(copies, "restartCopy", { ids: ["c1"], requestId: "" })).copies[0];
  t.is(again?.reason, 2);
  t.is(again?.plannedGranules, 1n);
  await all(copies.watchCopy({ id: "c1", keepFollowing: false }));
  t.is(Buffer.compare(await read(fixture, "dst", 0, MiB), await read(fixture, "src", 0, MiB)), 0);

  const before = await read(fixture, "dst", 0, MiB);
  await write(fixture, [{ name: "src", offsetBytes: 0n, data: Buffer.alloc(8192, 9) }]);
  const back = { pairs: [{ source: "dst", destination: "src" }], kind: 1 as const, pace: 0, requestId: "" };
  const restore = (await call(copies, "startCopy", back)).copies[0];
  t.is(restore?.reason, 5);
  t.is(restore?.plannedGranules, 1n);
  await all(copies.watchCopy({ id: restore?.id ?? "", keepFollowing: false }));
  t.is(Buffer.compare(await read(fixture, "src", 0, MiB), before), 0);
});

test.serial(
  "request ids: a repetition changes nothing and gets the same answer, also from another client and after a restart",
  async (t) => {
    const { fixture } = t.context;
    const request = { path: fixture.path("a.img"), sizeBytes: BigInt(MiB), lu: 0, label: "x", requestId: "one" };
    const first = await call(fixture.clients.volumes, "createVolume", request);
    t.deepEqual(await call(fixture.clients.volumes, "createVolume", request), first);
    const other = connect(fixture.address);
    t.teardown(() => other.close());
    t.deepEqual(await call(other.volumes, "createVolume", request), first);
    const reused = await refused(
      t,
      () => call(other.volumes, "createVolume", { ...request, label: "y" }),
      "REQUEST_ID_REUSED",
    );
    t.is(reused?.field, "request_id");
    await refused(
      t,
      () => call(other.volumes, "deleteVolume", { name: "x", deleteFile: false, requestId: "one" }),
      "REQUEST_ID_REUSED",
    );
    await fixture.stop();
    await fixture.start();
    t.deepEqual(await call(fixture.clients.volumes, "createVolume", request), first);
    t.is((await call(fixture.clients.volumes, "listVolumes", page)).volumes.length, 1);
    const remove = { name: "x", deleteFile: true, requestId: "two" };
    await call(fixture.clients.volumes, "deleteVolume", remove);
    t.deepEqual(await call(fixture.clients.volumes, "deleteVolume", remove), {});
  },
);

test.serial("request ids: a point is fired once, whoever repeats it", async (t) => {
  const { fixture } = t.context;
  await fixture.create("a");
  await fixture.create("b");
  const request = { pairs: [{ source: "g1d1", destination: "g1d2" }], kind: 2 as const, pace: 0, requestId: "p" };
  const answers = await Promise.all([1, 2, 3].map(() => call(fixture.clients.copies, "startCopy", request)));
  t.deepEqual(
    answers.map(({ copies }) => copies[0]?.generation),
    [1n, 1n, 1n],
  );
  t.deepEqual(await call(fixture.clients.copies, "startCopy", request), answers[0]);
});

test.serial("requests are checked before anything happens", async (t) => {
  const { fixture } = t.context;
  const { volumes, copies, box } = fixture.clients;
  await fixture.create("a");
  await fixture.create("b");
  const pair = { source: "g1d1", destination: "g1d2" };
  const start = (more: object) => () =>
    call(copies, "startCopy", { pairs: [pair], kind: 1 as const, pace: 0, requestId: "", ...more });
  t.is((await refused(t, start({ kind: 0 }), "INVALID_ARGUMENT"))?.field, "kind");
  await refused(t, start({ kind: 77 }), "INVALID_ARGUMENT");
  await refused(t, start({ pairs: [] }), "INVALID_ARGUMENT");
  await refused(t, start({ pairs: Array(257).fill(pair) }), "LIMIT_EXCEEDED");
  await refused(t, start({ pace: 99 }), "INVALID_ARGUMENT");
  await refused(t, start({ requestId: "x".repeat(65) }), "INVALID_ARGUMENT");
  const size = { path: fixture.path("c.img"), lu: 0, label: "", requestId: "", sizeBytes: 2n ** 63n };
  t.is((await refused(t, () => call(volumes, "createVolume", size), "INVALID_ARGUMENT"))?.field, "size_bytes");
  await refused(t, () => call(volumes, "listVolumes", { pageSize: 1001, pageToken: "" }), "INVALID_ARGUMENT");
  await refused(t, () => call(volumes, "listVolumes", { pageSize: 1, pageToken: "zz" }), "PAGE_TOKEN_INVALID");
  await refused(t, () => call(box, "listEvents", { pageSize: 1, pageToken: "zz", subject: "" }), "PAGE_TOKEN_INVALID");
  t.deepEqual((await call(copies, "listCopies", { ...page, volume: "", includeEnded: true })).copies, []);
  t.is(fixture.logged.length, 0, "nothing of this is a fault of ours");
});

test.serial("messages above the limit are refused, the daemon goes on", async (t) => {
  const { fixture } = t.context;
  await fixture.create("a");
  const error = await t.throwsAsync(() => write(fixture, [{ name: "g1d1", data: Buffer.alloc(5 * MiB) }]));
  t.is((error as ServiceError).code, status.RESOURCE_EXHAUSTED);
  t.truthy(await call(fixture.clients.box, "getBox", {}));
});

test.serial("lists of volumes follow their tokens", async (t) => {
  const { fixture } = t.context;
  await Promise.all(Array.from({ length: 7 }, (_, i) => fixture.create(`v${i}`, 512)));
  const names: string[] = [];
  let pageToken = "";
  do {
    const answer = await call(fixture.clients.volumes, "listVolumes", { pageSize: 3, pageToken });
    names.push(...answer.volumes.map(({ name }) => name));
    pageToken = answer.nextPageToken;
  } while (pageToken !== "");
  t.deepEqual(
    names,
    [1, 2, 3, 4, 5, 6, 7].map((lu) => `g1d${lu}`),
  );
});

test.serial("exports: added, found by label, offered again after a restart, removed", async (t) => {
  const { fixture } = t.context;
  await fixture.create("a", MiB, "db#1");
  const added = await call(fixture.clients.exports, "addExport", { name: "db#1", readOnly: true, requestId: "" });
  t.is(added.export?.name, "g1d1");
  t.is(added.export?.label, "db#1");
  t.is(added.export?.uri, `nbd+unix:///g1d1?socket=${fixture.data}/run/nbd.sock`);
  await refused(
    t,
    () => call(fixture.clients.exports, "addExport", { name: "g1d1", readOnly: true, requestId: "" }),
    "EXPORT_EXISTS",
  );
  await fixture.stop();
  await fixture.start();
  const found = await call(fixture.clients.exports, "getExport", { name: "db#1" });
  t.deepEqual({ ...found.export }, { ...added.export });
  t.is((await call(fixture.clients.exports, "listExports", page)).exports.length, 1);
  await call(fixture.clients.exports, "removeExport", { name: "db#1", force: false, requestId: "" });
  await refused(t, () => call(fixture.clients.exports, "getExport", { name: "g1d1" }), "EXPORT_NOT_FOUND");
});

test.serial("events: listed by object, watched as they happen, a watch from an id misses none", async (t) => {
  const { fixture } = t.context;
  const live = fixture.clients.box.watchEvents({ afterId: 0n, subject: "" });
  const seen: string[] = [];
  live.on("data", ({ event }) => event !== undefined && seen.push(event.type));
  live.on("error", () => {});
  await new Promise((resolve) => live.once("metadata", resolve));
  await fixture.create("a");
  await fixture.create("b");
  await eventually(() => (seen.length >= 2 ? true : undefined));
  t.deepEqual(seen, ["volume.created", "volume.created"]);
  const listed = await call(fixture.clients.box, "listEvents", { ...page, subject: "" });
  t.deepEqual(
    listed.events.map(({ type }) => type),
    ["box.started", "volume.created", "volume.created"],
  );
  t.is((await call(fixture.clients.box, "listEvents", { ...page, subject: "g1d2" })).events.length, 1);
  const late = fixture.clients.box.watchEvents({ afterId: 1n, subject: "" });
  const missed: bigint[] = [];
  late.on("data", ({ event }) => event !== undefined && missed.push(event.id));
  late.on("error", () => {});
  await eventually(() => (missed.length >= 2 ? true : undefined));
  t.deepEqual(missed, [2n, 3n]);
  live.cancel();
  late.cancel();
});

test.serial("a watch beats while nothing happens", async (t) => {
  const { fixture } = t.context;
  const watch = fixture.clients.box.watchEvents({ afterId: 0n, subject: "nobody" });
  watch.on("error", () => {});
  const first = await new Promise<{ event: unknown }>((resolve) => watch.once("data", resolve));
  t.is(first.event, undefined);
  watch.cancel();
});

test.serial("deadlines and cancellation end streams on the server too", async (t) => {
  const { fixture } = t.context;
  const { box } = fixture.clients;
  const short = box.watchEvents({ afterId: 0n, subject: "" }, { deadline: Date.now() + 200 } as never);
  const error = await new Promise<ServiceError>((resolve) => short.on("data", () => {}).on("error", resolve));
  t.is(error.code, status.DEADLINE_EXCEEDED);
  // 256 watches fit; cancelled ones make room again.
  for (let round = 0; round < 3; round++) {
    const watches = Array.from({ length: 200 }, () => box.watchEvents({ afterId: 0n, subject: "" }));
    for (const watch of watches) watch.on("error", () => {}).on("data", () => {});
    await Promise.all(watches.map((watch) => new Promise((resolve) => watch.once("metadata", resolve))));
    for (const watch of watches) watch.cancel();
    await eventually(async () => {
      const probe = box.watchEvents({ afterId: 1n, subject: "" });
      probe.on("error", () => {});
      const answer = await new Promise<boolean>((resolve) => {
        probe.once("data", () => resolve(true));
        probe.once("end", () => resolve(false));
        probe.once("error", () => resolve(false));
        void fixture.create(`r${round}-${performance.now()}`, 512).catch(() => {});
      });
      probe.cancel();
      return answer || undefined;
    });
  }
});

test.serial("a client that goes away in the middle of reading or writing leaves the daemon well", async (t) => {
  const { fixture } = t.context;
  await fixture.create("a", 64 * MiB);
  for (let round = 0; round < 5; round++) {
    const reading = fixture.clients.data.readBlocks(range("g1d1"));
    reading.on("error", () => {});
    await new Promise((resolve) => reading.once("data", resolve));
    reading.cancel();
    const writing = fixture.clients.data.writeBlocks(() => {});
    writing.on("error", () => {});
    writing.write({ name: "g1d1", offsetBytes: 0n, data: Buffer.alloc(MiB), flush: false });
    await new Promise((resolve) => setImmediate(resolve));
    writing.cancel();
  }
  t.is((await read(fixture, "g1d1", 0, 8192)).length, 8192);
  t.is(fixture.logged.length, 0);
});

test.serial("two clients at once: names, points and bytes stay consistent", async (t) => {
  const { fixture } = t.context;
  const two = [connect(fixture.address), connect(fixture.address)];
  t.teardown(() => {
    for (const clients of two) clients.close();
  });
  const made = await Promise.all(
    two.flatMap((clients, who) =>
      Array.from({ length: 8 }, (_, i) =>
        call(clients.volumes, "createVolume", {
          path: fixture.path(`w${who}-${i}.img`),
          sizeBytes: BigInt(MiB),
          lu: 0,
          label: `w${who}-${i}`,
          requestId: `${who}-${i}`,
        }),
      ),
    ),
  );
  t.is(new Set(made.map(({ volume }) => volume?.name)).size, 16);
  const wins = await Promise.allSettled(
    two.map((clients) =>
      call(clients.copies, "startCopy", {
        pairs: Array.from({ length: 4 }, (_, i) => ({ source: `w0-${i}`, destination: `w1-${i}` })),
        kind: 2 as const,
        pace: 0,
        requestId: "",
      }),
    ),
  );
  const generations = wins.flatMap((win) => (win.status === "fulfilled" ? [win.value.copies[0]?.generation] : []));
  t.deepEqual([...generations].sort(), [1n, 2n].slice(0, generations.length), "one after the other, or one refused");
  const { copies } = await call(two[0]?.copies ?? fixture.clients.copies, "listCopies", {
    ...page,
    volume: "",
    includeEnded: false,
  });
  t.is(copies.length, 4);
});

test.serial("diagnose: all is well, then a finding for a volume that is gone", async (t) => {
  const { fixture } = t.context;
  const findings = async () => (await call(fixture.clients.box, "diagnose", {})).findings.map(({ check }) => check);
  // Whoever runs the tests may have a small pool or a full disk; volumes are what counts here.
  t.false((await findings()).includes("volume-unavailable"));
  await fixture.create("a");
  await fixture.stop();
  await promisify(execFile)("rm", [fixture.path("a.img")]);
  await fixture.start();
  t.true((await findings()).includes("volume-unavailable"));
  const { volume } = await call(fixture.clients.volumes, "getVolume", { name: "g1d1" });
  t.is(volume?.state, 2);
  t.truthy(volume?.stateReason);
});

test.serial("health is served for the whole and each service, unknown ones are not found", async (t) => {
  const { fixture } = t.context;
  const Client = makeGenericClientConstructor(HealthService, "health");
  const client = new Client(fixture.address, credentials.createInsecure());
  t.teardown(() => client.close());
  const check = (service: string) =>
    new Promise<HealthCheckResponse>((resolve, reject) => {
      const method = client["check"] as unknown as (
        request: HealthCheckRequest,
        callback: (error: ServiceError | null, response: HealthCheckResponse) => void,
      ) => void;
      method.call(client, { service }, (error, response) => (error === null ? resolve(response) : reject(error)));
    });
  for (const service of ["", ...SERVICES]) t.is((await check(service)).status, 1, service);
  const unknown = await t.throwsAsync(() => check("tidemark.v1.Nobody"));
  t.is((unknown as ServiceError).code, status.NOT_FOUND);
  // Found by fuzzing: the name came back in the status, which is larger than headers may be, and nothing was answered.
  const long = await t.throwsAsync(() => check("x".repeat(1_000_000)));
  t.is((long as ServiceError).code, status.NOT_FOUND);
});

test.serial("reflection: buf curl lists, describes and calls over the unix socket", async (t) => {
  const { fixture } = t.context;
  await fixture.create("a", MiB, "x");
  const buf = new URL("../../node_modules/.bin/buf", import.meta.url).pathname;
  const socket = fixture.address.slice("unix:".length);
  const curl = async (...args: string[]) => {
    const common = ["curl", "--protocol", "grpc", "--http2-prior-knowledge", "--unix-socket", socket];
    return (await promisify(execFile)(buf, [...common, ...args])).stdout;
  };
  const services = (await curl("--list-services", "http://localhost")).trim().split("\n");
  for (const service of SERVICES) t.true(services.includes(service));
  const methods = await curl("--list-methods", "http://localhost");
  t.true(methods.includes("tidemark.v1.CopyService/StartCopy"));
  const answer = JSON.parse(await curl("-d", '{"name":"x"}', "http://localhost/tidemark.v1.VolumeService/GetVolume"));
  t.is(answer.volume.name, "g1d1");
  const refusedCall = await t.throwsAsync(() =>
    curl("-d", '{"name":"y"}', "http://localhost/tidemark.v1.VolumeService/GetVolume"),
  );
  t.true(String((refusedCall as unknown as { stderr: string }).stderr).includes("not_found"));
});

test.serial("reflection: what cannot be read is refused, also behind a question that is being answered", async (t) => {
  const { fixture } = t.context;
  const raw = (value: Buffer) => value;
  const path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
  const services = Buffer.from([0x3a, 0x01, 0x2a]);
  // A number of four bytes, of which three are missing; what follows is not looked at any more.
  const unreadable = Buffer.from([0x3d, 0x01]);
  for (const questions of [0, 1, 1, 1, 2, 3])
    for (const wrong of [1, 2]) {
      const stream = fixture.clients.box.makeBidiStreamRequest(path, raw, raw, { deadline: Date.now() + 20_000 });
      const answers: Buffer[] = [];
      const ended = new Promise<ServiceError>((resolve) => stream.on("error", resolve));
      stream.on("data", (bytes: Buffer) => answers.push(bytes));
      for (let count = 0; count < questions; count++) stream.write(services);
      for (let count = 0; count < wrong; count++) stream.write(unreadable);
      stream.end();
      const error = await ended;
      t.is(error.code, status.INVALID_ARGUMENT, error.details);
      t.is(answers.length, questions);
    }
});

test.serial("unknown methods and services are UNIMPLEMENTED", async (t) => {
  const { fixture } = t.context;
  const identity = (value: Buffer) => value;
  for (const path of ["/tidemark.v1.BoxService/Nothing", "/nobody.Service/Get"]) {
    const error = await new Promise<ServiceError | null>((resolve) => {
      fixture.clients.box.makeUnaryRequest(path, identity, identity, Buffer.alloc(0), (failure) => resolve(failure));
    });
    t.is(error?.code, status.UNIMPLEMENTED);
  }
});

test.serial("bytes that are no message are refused, the daemon goes on", async (t) => {
  const { fixture } = t.context;
  const identity = (value: Buffer) => value;
  for (const garbage of [Buffer.from([0x0a, 0xff]), Buffer.from([0xff, 0xff, 0xff]), randomBytes(300)]) {
    const error = await new Promise<ServiceError | null>((resolve) => {
      const path = "/tidemark.v1.VolumeService/GetVolume";
      fixture.clients.box.makeUnaryRequest(path, identity, identity, garbage, (failure) => resolve(failure));
    });
    const refusal = refusalOf(error as ServiceError);
    t.like(refusal, { status: "INVALID_ARGUMENT", reason: "INVALID_ARGUMENT" });
    t.truthy(refusal.metadata["hint"]);
  }
  t.deepEqual(fixture.logged, [], "it is the client's mistake, not ours");
  t.truthy(await call(fixture.clients.box, "getBox", {}));
  await writeFile(fixture.path("end"), "");
});
