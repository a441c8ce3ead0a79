/** Option haggling: what each option is answered, and what each of its faults is answered. */
import test from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import type { Clock } from "../../src/base/ports.ts";
import { startLab, until } from "./lab.ts";
import { MemoryTarget } from "./memory-target.ts";
import { CMD, infoQuery, metaQuery, OPT, RawClient, text, uint16, uint32 } from "./raw-client.ts";

const LONG_NAME = "n".repeat(4097);

interface Row {
  readonly title: string;
  readonly option: number;
  readonly data?: Buffer;
  /** Types of the replies. */
  readonly replies: readonly string[];
}

const INFO_ANSWER = ["INFO", "INFO", "ACK"];

/** One option on a fresh connection, structured replies not negotiated. */
const OPTIONS: readonly Row[] = [
  { title: "LIST", option: OPT.LIST, replies: ["SERVER", "ACK"] },
  { title: "LIST with data", option: OPT.LIST, data: uint16(0), replies: ["ERR_INVALID"] },
  { title: "ABORT", option: OPT.ABORT, replies: ["ACK"] },
  { title: "STARTTLS", option: OPT.STARTTLS, replies: ["ERR_POLICY"] },
  { title: "STARTTLS with data", option: OPT.STARTTLS, data: uint16(0), replies: ["ERR_INVALID"] },
  { title: "INFO", option: OPT.INFO, data: infoQuery("x"), replies: INFO_ANSWER },
  { title: "INFO with unknown information", option: OPT.INFO, data: infoQuery("x", [77]), replies: INFO_ANSWER },
  {
    title: "INFO with everything",
    option: OPT.INFO,
    data: infoQuery("x", [0, 1, 2, 3]),
    replies: ["INFO", "INFO", "INFO", "INFO", "ACK"],
  },
  { title: "INFO of an unknown export", option: OPT.INFO, data: infoQuery("y"), replies: ["ERR_UNKNOWN"] },
  { title: "INFO of the empty name", option: OPT.INFO, data: infoQuery(""), replies: ["ERR_UNKNOWN"] },
  { title: "INFO without data", option: OPT.INFO, replies: ["ERR_INVALID"] },
  {
    title: "INFO with a name that is cut off",
    option: OPT.INFO,
    data: Buffer.concat([uint32(9), Buffer.from("x")]),
    replies: ["ERR_INVALID"],
  },
  {
    title: "INFO with fewer requests than said",
    option: OPT.INFO,
    data: Buffer.concat([text("x"), uint16(2), uint16(0)]),
    replies: ["ERR_INVALID"],
  },
  {
    title: "INFO with trailing bytes",
    option: OPT.INFO,
    data: Buffer.concat([infoQuery("x"), uint16(0)]),
    replies: ["ERR_INVALID"],
  },
  { title: "INFO with a name too long", option: OPT.INFO, data: infoQuery(LONG_NAME), replies: ["ERR_INVALID"] },
  {
    title: "INFO with a name that is not UTF-8",
    option: OPT.INFO,
    data: Buffer.concat([uint32(2), Buffer.from([0xc3, 0x28]), uint16(0)]),
    replies: ["ERR_INVALID"],
  },
  { title: "GO to an unknown export", option: OPT.GO, data: infoQuery("y"), replies: ["ERR_UNKNOWN"] },
  { title: "STRUCTURED_REPLY", option: OPT.STRUCTURED_REPLY, replies: ["ACK"] },
  { title: "STRUCTURED_REPLY with data", option: OPT.STRUCTURED_REPLY, data: uint16(0), replies: ["ERR_INVALID"] },
  {
    title: "LIST_META_CONTEXT before structured replies",
    option: OPT.LIST_META_CONTEXT,
    data: metaQuery("x", []),
    replies: ["ERR_INVALID"],
  },
  {
    title: "SET_META_CONTEXT before structured replies",
    option: OPT.SET_META_CONTEXT,
    data: metaQuery("x", []),
    replies: ["ERR_INVALID"],
  },
  { title: "PEEK_EXPORT, withdrawn", option: 4, replies: ["ERR_UNSUP"] },
  { title: "EXTENDED_HEADERS", option: OPT.EXTENDED_HEADERS, replies: ["ERR_UNSUP"] },
  { title: "an unknown option with data", option: 0x7fffffff, data: Buffer.alloc(100), replies: ["ERR_UNSUP"] },
  { title: "an option of 64 KiB", option: OPT.INFO, data: Buffer.alloc(65_536), replies: ["ERR_INVALID"] },
  { title: "an option above 64 KiB", option: OPT.INFO, data: Buffer.alloc(65_537), replies: ["ERR_TOO_BIG"] },
  { title: "an option of 3 MiB", option: OPT.LIST, data: Buffer.alloc(3 << 20), replies: ["ERR_TOO_BIG"] },
];

for (const { title, option, data, replies } of OPTIONS) {
  test(`option: ${title} is answered ${replies.join(" ")}`, async (t) => {
    const { base } = await startLab(t);
    const client = await RawClient.connect(base);
    t.is((await client.greet()).flags, 3);
    const answered = await client.option(option, data);
    t.deepEqual(
      answered.map(({ type }) => type),
      [...replies],
    );
    t.true(answered.every((reply) => reply.option === option));
    if (option === OPT.ABORT) t.true(await client.hungUp());
    else t.is((await client.option(OPT.INFO, infoQuery("x"))).at(-1)?.type, "ACK", "haggling goes on");
    client.close();
  });
}

test("error replies say why", async (t) => {
  const { base } = await startLab(t);
  const client = await RawClient.connect(base);
  await client.greet();
  const [reply] = await client.option(OPT.GO, infoQuery("g1d9"));
  t.is(reply?.data.toString(), 'export "g1d9" does not exist');
});

const CONTEXTS: readonly {
  readonly queries: readonly string[];
  readonly list: readonly string[];
  readonly set?: readonly string[];
}[] = [
  { queries: [], list: ["base:allocation", "qemu:dirty-bitmap:3", "qemu:dirty-bitmap:7"], set: [] },
  { queries: ["base:allocation"], list: ["base:allocation"] },
  { queries: ["base:"], list: ["base:allocation"] },
  { queries: ["qemu:"], list: ["qemu:dirty-bitmap:3", "qemu:dirty-bitmap:7"] },
  { queries: ["qemu:dirty-bitmap:"], list: ["qemu:dirty-bitmap:3", "qemu:dirty-bitmap:7"] },
  { queries: ["qemu:dirty-bitmap:7", "base:allocation"], list: ["base:allocation", "qemu:dirty-bitmap:7"] },
  {
    queries: ["qemu:dirty-bitmap:7", "qemu:", "qemu:dirty-bitmap:7"],
    list: ["qemu:dirty-bitmap:3", "qemu:dirty-bitmap:7"],
  },
  { queries: ["qemu:dirty-bitmap:4"], list: [] },
  { queries: ["qemu:dirty-bitmap:07"], list: [] },
  { queries: ["qemu:allocation-depth"], list: [] },
  { queries: ["base:none"], list: [] },
  { queries: ["x-other:", "x-other:thing"], list: [] },
];

for (const { queries, list, set = list } of CONTEXTS) {
  test(`contexts: [${queries.join(", ")}] lists ${list.length} and selects ${set.length}`, async (t) => {
    const { base, target } = await startLab(t);
    target.beginEpoch(3);
    target.beginEpoch(7);
    const client = await RawClient.connect(base);
    await client.greet();
    await client.negotiateStructured();
    const listed = await client.option(OPT.LIST_META_CONTEXT, metaQuery("x", queries));
    const selected = await client.option(OPT.SET_META_CONTEXT, metaQuery("x", queries));
    const names = (replies: typeof listed) => replies.slice(0, -1).map(({ data }) => data.toString("utf8", 4));
    const ids = (replies: typeof listed) => replies.slice(0, -1).map(({ data }) => data.readUInt32BE(0));
    t.deepEqual(names(listed), [...list]);
    t.true(ids(listed).every((id) => id === 0));
    t.deepEqual(names(selected), [...set]);
    t.is(new Set(ids(selected)).size, set.length);
    t.is(listed.at(-1)?.type, "ACK");
    t.is(selected.at(-1)?.type, "ACK");
    client.close();
  });
}

const WRONG_QUERIES: readonly [title: string, data: Buffer, reply: string][] = [
  ["no data", Buffer.alloc(0), "ERR_INVALID"],
  ["no colon", metaQuery("x", ["allocation"]), "ERR_INVALID"],
  ["an empty namespace", metaQuery("x", [":allocation"]), "ERR_INVALID"],
  ["an unknown export", metaQuery("y", ["base:"]), "ERR_UNKNOWN"],
  ["fewer queries than said", Buffer.concat([text("x"), uint32(2), text("base:")]), "ERR_INVALID"],
  ["trailing bytes", Buffer.concat([metaQuery("x", ["base:"]), uint32(0)]), "ERR_INVALID"],
  ["a query too long", metaQuery("x", [`x:${LONG_NAME}`]), "ERR_INVALID"],
  ["too many queries", metaQuery("x", new Array<string>(1025).fill("x:")), "ERR_TOO_BIG"],
  ["a number of queries that lies", Buffer.concat([text("x"), uint32(0xffffffff)]), "ERR_TOO_BIG"],
];

for (const [title, data, expected] of WRONG_QUERIES) {
  test(`contexts: a query with ${title} is refused and selects nothing`, async (t) => {
    const { base } = await startLab(t);
    const client = await RawClient.connect(base);
    await client.greet();
    await client.negotiateStructured();
    await client.option(OPT.SET_META_CONTEXT, metaQuery("x", ["base:allocation"]));
    t.is((await client.option(OPT.LIST_META_CONTEXT, data)).at(-1)?.type, expected);
    t.is((await client.option(OPT.SET_META_CONTEXT, data)).at(-1)?.type, expected);
    t.is((await client.option(OPT.GO, infoQuery("x"))).at(-1)?.type, "ACK");
    const answer = await client.request({ command: CMD.BLOCK_STATUS, length: 4096 });
    t.is(answer.error, "EINVAL", "the failed selection replaced the one before");
    client.close();
  });
}

test("contexts: more than a client may select are refused", async (t) => {
  const { base, target } = await startLab(t);
  for (let id = 1; id <= 128; id++) target.beginEpoch(id);
  const client = await RawClient.connect(base);
  await client.greet();
  await client.negotiateStructured();
  t.is((await client.option(OPT.SET_META_CONTEXT, metaQuery("x", ["qemu:", "base:"]))).at(-1)?.type, "ERR_TOO_BIG");
  t.is((await client.option(OPT.SET_META_CONTEXT, metaQuery("x", ["qemu:"]))).length, 129);
  t.is((await client.option(OPT.LIST_META_CONTEXT, metaQuery("x", []))).length, 130);
});

test("contexts: a selection made for another export does not count", async (t) => {
  const { base, exports } = await startLab(t);
  exports.targets.set("y", new MemoryTarget(8192));
  const client = await RawClient.connect(base);
  await client.greet();
  await client.negotiateStructured();
  await client.option(OPT.SET_META_CONTEXT, metaQuery("y", ["base:allocation"]));
  await client.option(OPT.GO, infoQuery("x"));
  t.is((await client.request({ command: CMD.BLOCK_STATUS, length: 4096 })).error, "EINVAL");
});

const HAS = 1;
const RO = 2;
const FLUSH_FUA = 4 | 8;
const TRIM_ZERO = 32 | 64 | 2048;
const DF = 128;
const MULTI_CACHE = 256 | 1024;

for (const readOnly of [false, true]) {
  for (const structured of [false, true]) {
    test(`flags: ${readOnly ? "read-only" : "writable"}, ${structured ? "structured" : "simple"} replies`, async (t) => {
      const { base, target } = await startLab(t, { sizeBytes: 5 * 2 ** 20 + 512 });
      target.readOnly = readOnly;
      const client = await RawClient.connect(base);
      await client.greet();
      if (structured) await client.negotiateStructured();
      const replies = await client.option(OPT.GO, infoQuery("x", [0, 1, 2, 3]));
      const info = (type: number) => replies.find(({ data }) => data.length > 1 && data.readUInt16BE(0) === type)?.data;
      const flags = HAS | FLUSH_FUA | MULTI_CACHE | (readOnly ? RO : TRIM_ZERO) | (structured ? DF : 0);
      t.is(Number(info(0)?.readBigUInt64BE(2)), 5 * 2 ** 20 + 512);
      t.is(info(0)?.readUInt16BE(10), flags);
      t.is(info(1)?.toString("utf8", 2), "x");
      t.is(info(2)?.toString("utf8", 2), "Tidemark volume x");
      t.deepEqual([info(3)?.readUInt32BE(2), info(3)?.readUInt32BE(6), info(3)?.readUInt32BE(10)], [1, 4096, 32 << 20]);
      t.is((await client.request({ command: CMD.READ, length: 512 })).error, "ok");
    });
  }
}

for (const [clientFlags, padding] of [
  [3, 0],
  [1, 124],
  [2, 0],
  [0, 124],
] as const) {
  test(`EXPORT_NAME with client flags ${clientFlags} is followed by ${padding} zeroes`, async (t) => {
    const { base } = await startLab(t, { sizeBytes: 12_345 });
    const client = await RawClient.connect(base);
    await client.greet(clientFlags);
    client.send(Buffer.from("IHAVEOPT"), uint32(OPT.EXPORT_NAME), text("x"));
    const reply = await client.bytes(10 + padding);
    t.is(Number(reply.readBigUInt64BE(0)), 12_345);
    t.is(reply.readUInt16BE(8), HAS | FLUSH_FUA | MULTI_CACHE | TRIM_ZERO);
    t.true(reply.subarray(10).every((byte) => byte === 0));
    t.is((await client.request({ command: CMD.READ, length: 100 })).data.length, 100);
  });
}

const HANG_UPS: readonly [title: string, clientFlags: number, bytes: Buffer][] = [
  ["an unknown client flag", 4, Buffer.alloc(0)],
  ["a wrong option magic", 3, Buffer.concat([Buffer.from("IHAVEOPS"), uint32(OPT.LIST), uint32(0)])],
  ["EXPORT_NAME of an unknown export", 3, Buffer.concat([Buffer.from("IHAVEOPT"), uint32(OPT.EXPORT_NAME), text("y")])],
  [
    "EXPORT_NAME with a name too long",
    3,
    Buffer.concat([Buffer.from("IHAVEOPT"), uint32(OPT.EXPORT_NAME), text(LONG_NAME)]),
  ],
  ["EXPORT_NAME of 70,000 bytes", 3, Buffer.concat([Buffer.from("IHAVEOPT"), uint32(OPT.EXPORT_NAME), uint32(70_000)])],
  ["an option of 4 GiB", 3, Buffer.concat([Buffer.from("IHAVEOPT"), uint32(OPT.LIST), uint32(0xffffffff)])],
  ["LIST without fixed newstyle", 0, Buffer.concat([Buffer.from("IHAVEOPT"), uint32(OPT.LIST), uint32(0)])],
];

for (const [title, clientFlags, bytes] of HANG_UPS) {
  test(`hangs up: ${title}`, async (t) => {
    const { base, server } = await startLab(t);
    const client = await RawClient.connect(base);
    await client.greet(clientFlags);
    client.send(bytes);
    t.true(await client.hungUp());
    const other = await RawClient.open(base, "x");
    t.is((await other.request({ command: CMD.READ, length: 512 })).error, "ok", "nobody else is harmed");
    t.is(server.connections("x"), 1);
  });
}

test("an export that cannot be opened says why", async (t) => {
  const { base, exports } = await startLab(t);
  const client = await RawClient.connect(base);
  await client.greet();
  exports.refusal = new TidemarkError("VOLUME_UNAVAILABLE", { message: "g1d2 is offline: its file is gone" });
  const refused = (await client.option(OPT.GO, infoQuery("x"))).at(-1);
  t.is(refused?.type, "ERR_POLICY");
  t.is(refused?.data.toString(), "g1d2 is offline: its file is gone");
  exports.refusal = new TidemarkError("STOPPING", { message: "stopping" });
  t.is((await client.option(OPT.INFO, infoQuery("x"))).at(-1)?.type, "ERR_SHUTDOWN");
  client.send(Buffer.from("IHAVEOPT"), uint32(OPT.EXPORT_NAME), text("x"));
  t.true(await client.hungUp());
});

test("LIST of more exports than one packet holds", async (t) => {
  const { base, exports } = await startLab(t);
  for (let n = 0; n < 4095; n++) exports.targets.set(`export-${n}-${"n".repeat(100)}`, new MemoryTarget(512));
  const client = await RawClient.connect(base);
  await client.greet();
  const replies = await client.option(OPT.LIST);
  t.is(replies.length, 4097);
  t.is(replies[4095]?.data.toString("utf8", 4), `export-4094-${"n".repeat(100)}`);
});

test("many options in one packet are answered in order, and a client that does not read them is not read", async (t) => {
  const { base, exports } = await startLab(t);
  for (let n = 0; n < 1000; n++) exports.targets.set(`export-${n}-${"n".repeat(100)}`, new MemoryTarget(512));
  const client = await RawClient.connect(base);
  await client.greet();
  client.socket.pause();
  const list = Buffer.concat([Buffer.from("IHAVEOPT"), uint32(OPT.LIST), uint32(0)]);
  const count = 100;
  client.send(...new Array<Buffer>(count).fill(list));
  client.socket.resume();
  for (let n = 0; n < count; n++) t.is((await client.optionReplies()).length, 1002);
  t.is((await client.option(OPT.GO, infoQuery("x"))).at(-1)?.type, "ACK");
});

test("a client that does not finish its handshake in time is hung up on", async (t) => {
  let expire = () => {};
  const clock: Clock = {
    nowMs: () => 0,
    monotonicMs: () => 0,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        if (ms === 10_000) expire = resolve;
        signal?.addEventListener("abort", () => resolve());
      }),
  };
  const { base } = await startLab(t, { clock });
  const done = await RawClient.open(base, "x");
  expire();
  t.is((await done.request({ command: CMD.READ, length: 512 })).error, "ok", "the limit ends with the handshake");
  const slow = await RawClient.connect(base);
  await slow.greet();
  expire();
  t.true(await slow.hungUp());
});

test("the server reports who comes and who goes", async (t) => {
  const { base, server, events } = await startLab(t);
  const looker = await RawClient.connect(base);
  await looker.greet();
  await looker.option(OPT.INFO, infoQuery("x"));
  t.is(server.connections("x"), 0, "asking is not using");
  const first = await RawClient.open(base, "x");
  const second = await RawClient.open(base, "x");
  t.is(server.connections("x"), 2);
  first.close();
  await until(() => server.connections("x") === 1);
  second.send(second.encode({ command: CMD.DISC }));
  t.true(await second.hungUp());
  await until(() => server.connections("x") === 0);
  looker.close();
  t.deepEqual(events, ["connect x unix", "connect x unix", "disconnect x unix", "disconnect x unix"]);
});
