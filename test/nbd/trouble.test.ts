/** Clients that vanish, stop halfway or send nonsense; and the end of a server with work in flight. */
import test from "ava";
import type { Clock } from "../../src/base/ports.ts";
import type { Transport } from "../../src/engine/nbd/channel.ts";
import { pattern, startLab, until } from "./lab.ts";
import { CMD, FLAG, infoQuery, metaQuery, OPT, RawClient, text, uint16, uint32 } from "./raw-client.ts";

const MiB = 1024 * 1024;
const TRANSPORTS: readonly Transport[] = ["direct", "stream"];

/** Lets everything that is already under way arrive. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
}

for (const transport of TRANSPORTS) {
  test(`a whole dialogue cut at every byte (${transport})`, async (t) => {
    const { base, target } = await startLab(t, { transport });
    target.beginEpoch(1);
    target.bytes.set(pattern(target.sizeBytes, 1));
    const option = (number: number, data: Buffer) =>
      Buffer.concat([Buffer.from("IHAVEOPT"), uint32(number), uint32(data.length), data]);
    const probe = await RawClient.connect(base);
    const dialogue = Buffer.concat([
      uint32(3),
      option(OPT.STRUCTURED_REPLY, Buffer.alloc(0)),
      option(OPT.SET_META_CONTEXT, metaQuery("x", ["base:", "qemu:"])),
      option(OPT.GO, infoQuery("x", [3])),
      probe.encode({ command: CMD.WRITE, flags: FLAG.FUA, offset: 3, payload: Buffer.from("hello"), cookie: 1 }),
      probe.encode({ command: CMD.READ, offset: 2, length: 7, cookie: 2 }),
      probe.encode({ command: CMD.WRITE, offset: 2 ** 40, payload: Buffer.from("beyond"), cookie: 3 }),
      probe.encode({ command: CMD.BLOCK_STATUS, length: 8192, cookie: 4 }),
      probe.encode({ command: CMD.FLUSH, cookie: 5 }),
      probe.encode({ command: CMD.DISC }),
    ]);
    probe.close();
    const play = async (parts: readonly Buffer[]): Promise<string> => {
      const client = await RawClient.connect(base);
      client.structured = true;
      // What a read is answered can be understood only by who asked.
      client.encode({ command: CMD.READ, offset: 2, length: 7, cookie: 2 });
      client.socket.setNoDelay(true);
      await client.bytes(18);
      for (const part of parts) {
        await new Promise<void>((resolve) => client.socket.write(part, () => resolve()));
        await new Promise((resolve) => setImmediate(resolve));
      }
      const replies = [await client.optionReplies(), await client.optionReplies(), await client.optionReplies()];
      const answers = [];
      for (let count = 0; count < 5; count++) {
        const { cookie, error, data, chunks } = await client.answer();
        answers.push(`${cookie} ${error} ${data.toString("hex")} ${chunks.map((chunk) => chunk.type).join()}`);
      }
      t.true(await client.hungUp());
      return JSON.stringify([replies.flat().map(({ type }) => type), answers.sort()]);
    };
    const whole = await play([dialogue]);
    t.true(whole.includes("ENOSPC"));
    for (let cut = 1; cut < dialogue.length; cut++) {
      t.is(await play([dialogue.subarray(0, cut), dialogue.subarray(cut)]), whole, `cut at ${cut}`);
    }
    t.is(await play(Array.from(dialogue, (_, at) => dialogue.subarray(at, at + 1))), whole, "byte by byte");
  });

  test(`payloads of every size around the limits, cut in three (${transport})`, async (t) => {
    const { base, target } = await startLab(t, { transport, sizeBytes: 2 * MiB });
    const client = await RawClient.open(base, "x");
    for (const length of [65_535, 65_536, 65_537, 262_144, 262_145, 524_288, 700_001]) {
      for (const cut of [1, 27, 28, 29, 1000, 65_000]) {
        const payload = pattern(length, length + cut);
        const bytes = Buffer.concat([
          client.encode({ command: CMD.WRITE, offset: cut, payload }),
          client.encode({ command: CMD.READ, offset: cut, length }),
        ]);
        for (const part of [bytes.subarray(0, cut), bytes.subarray(cut, length), bytes.subarray(length)]) {
          await new Promise<void>((resolve) => client.socket.write(part, () => resolve()));
          await settle();
        }
        t.is((await client.answer()).error, "ok");
        t.is(Buffer.compare((await client.answer()).data, payload), 0);
        t.is(Buffer.compare(target.bytes.subarray(cut, cut + length), payload), 0);
      }
    }
  });

  test(`a client that vanishes in the middle of a write harms nobody (${transport})`, async (t) => {
    const { base, target, server } = await startLab(t, { transport });
    target.bytes.fill(5);
    const other = await RawClient.open(base, "x");
    for (const length of [4096, 65_536, 300_000]) {
      for (const sent of [0, 1, 27, 28, 29, 4000]) {
        const client = await RawClient.open(base, "x");
        const bytes = client.encode({ command: CMD.WRITE, payload: Buffer.alloc(length, 6) });
        await new Promise<void>((resolve) => client.socket.write(bytes.subarray(0, sent), () => resolve()));
        client.close();
        await until(() => server.connections("x") === 1);
      }
    }
    t.true(
      target.bytes.every((byte) => byte === 5),
      "a write without its payload is not done",
    );
    t.is((await other.request({ command: CMD.READ, length: 512 })).error, "ok");
  });

  test(`garbage instead of a request ends only its own connection (${transport})`, async (t) => {
    const { base, target } = await startLab(t, { transport });
    const other = await RawClient.open(base, "x");
    const client = await RawClient.open(base, "x");
    client.send(
      client.encode({ command: CMD.WRITE, payload: pattern(512, 1) }),
      client.encode({ command: CMD.READ, length: 512, magic: 0x25609514 }),
      client.encode({ command: CMD.WRITE, offset: 4096, payload: pattern(512, 2) }),
    );
    t.is((await client.answer()).error, "ok", "what came before it is answered");
    t.true(await client.hungUp());
    t.is(Buffer.compare(target.bytes.subarray(0, 512), pattern(512, 1)), 0);
    t.is(target.bytes[4096], 0, "nothing after it is done");
    t.is((await other.request({ command: CMD.READ, length: 512 })).error, "ok");
  });

  test(`operations in flight outlive their client and keep their buffers (${transport})`, async (t) => {
    const { base, target, server, events } = await startLab(t, { transport, sizeBytes: 4 * MiB });
    target.path = "deferred";
    target.held.add("write");
    target.held.add("read");
    const client = await RawClient.open(base, "x");
    client.send(
      client.encode({ command: CMD.WRITE, offset: 0, payload: pattern(4096, 1) }),
      client.encode({ command: CMD.WRITE, offset: MiB, payload: pattern(MiB, 2) }),
      client.encode({ command: CMD.READ, offset: 0, length: MiB }),
    );
    await target.whenWaiting(3);
    client.close();
    await settle();
    t.is(server.connections("x"), 1, "the export counts as used until its operations have ended");
    target.held.clear();
    // Another client's payloads must not land in the buffers of the first.
    const other = await RawClient.open(base, "x");
    for (let n = 0; n < 8; n++) {
      const answer = await other.request({ command: CMD.WRITE, offset: 3 * MiB, payload: pattern(MiB - 64, 10 + n) });
      t.is(answer.error, "ok");
    }
    target.letAllGo();
    await until(() => server.connections("x") === 1);
    t.deepEqual(events.slice(-1), ["disconnect x unix"]);
    t.is(Buffer.compare(target.bytes.subarray(0, 4096), pattern(4096, 1)), 0);
    t.is(Buffer.compare(target.bytes.subarray(MiB, 2 * MiB), pattern(MiB, 2)), 0);
  });

  test(`a client may close its sending side and still get every answer (${transport})`, async (t) => {
    const { base, target } = await startLab(t, { transport, sizeBytes: 4 * MiB });
    target.bytes.set(pattern(target.sizeBytes, 3));
    target.path = "deferred";
    const client = await RawClient.open(base, "x");
    client.socket.end(
      Buffer.concat([
        client.encode({ command: CMD.READ, offset: 5, length: 1000 }),
        client.encode({ command: CMD.READ, offset: 0, length: 3 * MiB }),
      ]),
    );
    t.is(Buffer.compare((await client.answer()).data, target.bytes.subarray(5, 1005)), 0);
    t.is(Buffer.compare((await client.answer()).data, target.bytes.subarray(0, 3 * MiB)), 0);
    t.true(await client.hungUp());
  });

  test(`DISC is obeyed after what is in flight (${transport})`, async (t) => {
    const { base, target, server } = await startLab(t, { transport });
    target.held.add("flush");
    const client = await RawClient.open(base, "x");
    client.send(
      client.encode({ command: CMD.FLUSH, cookie: 1 }),
      client.encode({ command: CMD.DISC }),
      client.encode({ command: CMD.WRITE, payload: pattern(512, 1), cookie: 2 }),
    );
    await target.whenWaiting(1);
    await settle();
    target.letAllGo();
    t.is((await client.answer()).cookie, 1n);
    t.true(await client.hungUp());
    t.is(target.bytes[0], 0, "nothing after DISC is done");
    await until(() => server.connections("x") === 0);
  });

  test(`several connections at once over one volume, large and small (${transport})`, async (t) => {
    const { base, target } = await startLab(t, { transport, sizeBytes: 8 * MiB });
    const clients = await Promise.all([1, 2, 3, 4].map(() => RawClient.open(base, "x")));
    await Promise.all(
      clients.map(async (client, part) => {
        for (let round = 0; round < 20; round++) {
          const length = round % 2 === 0 ? 4096 : 1 * MiB;
          const offset = part * 2 * MiB + round * 100;
          const payload = pattern(length, part * 100 + round);
          t.is((await client.request({ command: CMD.WRITE, offset, payload })).error, "ok");
          t.is(Buffer.compare((await client.request({ command: CMD.READ, offset, length })).data, payload), 0);
        }
      }),
    );
    t.is(target.waiting.length, 0);
  });
}

test("a refused write of more than can be thrown away is answered, then the connection ends", async (t) => {
  const { base } = await startLab(t);
  const client = await RawClient.open(base, "x");
  client.send(client.encode({ command: CMD.WRITE, length: 0xffffffff }));
  t.is((await client.answer()).error, "EINVAL");
  t.true(await client.hungUp());
});

test("refused writes are thrown away whole, also in one packet with what follows", async (t) => {
  const { base, target } = await startLab(t, { sizeBytes: MiB });
  const client = await RawClient.open(base, "x");
  client.send(
    client.encode({ command: CMD.WRITE, offset: MiB, payload: pattern(100, 1), cookie: 1 }),
    client.encode({ command: CMD.WRITE, offset: MiB - 1, payload: pattern(300_000, 2), cookie: 2 }),
    client.encode({ command: CMD.WRITE, offset: 0, payload: pattern(300_000, 3), cookie: 3 }),
    client.encode({ command: CMD.WRITE, offset: 1, flags: FLAG.DF, payload: pattern(100, 4), cookie: 4 }),
    client.encode({ command: CMD.READ, offset: 0, length: 512, cookie: 5 }),
  );
  const errors = [];
  for (let count = 0; count < 5; count++) errors.push((await client.answer()).error);
  t.deepEqual(errors, ["ENOSPC", "ENOSPC", "ok", "EINVAL", "ok"]);
  t.is(Buffer.compare(target.bytes.subarray(0, 300_000), pattern(300_000, 3)), 0);
});

test("disconnect hangs up on the clients of one export and waits for their operations", async (t) => {
  const { base, target, server, exports } = await startLab(t);
  exports.targets.set("y", target);
  const x = await RawClient.open(base, "x");
  const y = await RawClient.open(base, "y");
  target.held.add("flush");
  x.send(x.encode({ command: CMD.FLUSH }));
  await target.whenWaiting(1);
  let done = false;
  const disconnected = server.disconnect("x").then(() => {
    done = true;
  });
  t.true(await x.hungUp());
  await settle();
  t.false(done, "its flush is still running");
  target.letAllGo();
  await disconnected;
  t.is(server.connections("x"), 0);
  t.is((await y.request({ command: CMD.READ, length: 512 })).error, "ok");
  await server.disconnect("nobody");
});

test("close answers what is in flight, then ends", async (t) => {
  const { base, target, server } = await startLab(t);
  const client = await RawClient.open(base, "x");
  const looker = await RawClient.connect(base);
  await looker.greet();
  target.held.add("flush");
  client.send(client.encode({ command: CMD.FLUSH, cookie: 7 }));
  await target.whenWaiting(1);
  const closed = server.close({ graceMs: 60_000 });
  t.true(await looker.hungUp());
  target.letAllGo();
  t.is((await client.answer()).cookie, 7n);
  t.true(await client.hungUp());
  await closed;
  await t.throwsAsync(RawClient.connect(base), undefined, "nobody listens any more");
  await t.throwsAsync(server.listen("127.0.0.1:0"), { code: "STOPPING" } as never);
});

test("close cuts connections after the grace, and still waits for operations", async (t) => {
  const { base, target, server } = await startLab(t);
  const client = await RawClient.open(base, "x");
  target.held.add("flush");
  client.send(client.encode({ command: CMD.FLUSH }));
  await target.whenWaiting(1);
  let done = false;
  const closed = server.close({ graceMs: 1 }).then(() => {
    done = true;
  });
  t.true(await client.hungUp());
  await settle();
  t.false(done);
  target.letAllGo();
  await closed;
});

test("one client more than there may be is hung up on", async (t) => {
  // Time stands still, so that none of them is hung up on for being slow.
  const clock: Clock = {
    nowMs: () => 0,
    monotonicMs: () => 0,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        if (ms === 0) resolve();
        signal?.addEventListener("abort", () => resolve());
      }),
  };
  const { base } = await startLab(t, { clock });
  const clients = await Promise.all(Array.from({ length: 256 }, () => RawClient.connect(base)));
  await Promise.all(clients.map((client) => client.greet()));
  const last = await RawClient.connect(base);
  t.true(await last.hungUp());
  clients[0]?.close();
  const replaced = async () => {
    const client = await RawClient.connect(base);
    return client.hungUp();
  };
  while (await replaced());
  for (const client of clients) client.close();
  t.pass();
});

test("an option that stops halfway is not answered and holds up nobody", async (t) => {
  const { base } = await startLab(t);
  const client = await RawClient.connect(base);
  await client.greet();
  client.send(Buffer.from("IHAVEOPT"), uint32(OPT.GO), uint32(100), text("x"), uint16(0));
  const other = await RawClient.open(base, "x");
  t.is((await other.request({ command: CMD.READ, length: 512 })).error, "ok");
  client.socket.end();
  t.true(await client.hungUp());
});
