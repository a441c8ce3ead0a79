/** Many requests at a time: order of answers, packets full of requests, slow readers, limits, turns. */
import test from "ava";
import { pattern, startLab, until } from "./lab.ts";
import { type Answer, CMD, RawClient } from "./raw-client.ts";

const MiB = 1024 * 1024;
const FORMS = [true, false];
const PATHS = ["inline", "deferred"] as const;

test("answers come in the order in which requests finish", async (t) => {
  const { base, target } = await startLab(t);
  target.bytes.set(pattern(target.sizeBytes, 6));
  target.path = "deferred";
  target.held.add("read");
  target.held.add("write");
  const client = await RawClient.open(base, "x");
  for (let cookie = 0; cookie < 4; cookie++) {
    client.send(client.encode({ command: CMD.READ, offset: cookie * 8192, length: 4096, cookie }));
  }
  client.send(client.encode({ command: CMD.WRITE, offset: 100_000, payload: pattern(9, 9), cookie: 4 }));
  client.send(client.encode({ command: CMD.FLUSH, cookie: 5 }));
  t.is((await client.answer()).cookie, 5n, "what need not wait does not wait");
  await target.whenWaiting(5);
  for (const [index, cookie] of [
    [2, 2],
    [3, 4],
    [0, 0],
    [1, 3],
    [0, 1],
  ] as const) {
    target.letGo(index);
    const answer: Answer = await client.answer();
    t.is(answer.cookie, BigInt(cookie));
    if (cookie < 4) {
      t.is(Buffer.compare(answer.data, target.bytes.subarray(cookie * 8192, cookie * 8192 + 4096)), 0);
    }
  }
});

for (const path of PATHS) {
  test(`a hundred requests in one packet are a hundred answers (${path})`, async (t) => {
    const { base, target } = await startLab(t);
    target.path = path;
    const client = await RawClient.open(base, "x");
    const writes = Array.from({ length: 50 }, (_, n) =>
      client.encode({ command: CMD.WRITE, offset: n * 5000, payload: pattern(3000 + n, n), cookie: n }),
    );
    client.send(...writes);
    const cookies = new Set<bigint>();
    for (let n = 0; n < 50; n++) cookies.add((await client.answer()).cookie);
    t.is(cookies.size, 50);
    const mixed = Array.from({ length: 100 }, (_, n) =>
      n % 2 === 0
        ? client.encode({ command: CMD.READ, offset: (n / 2) * 5000, length: 3000 + n / 2, cookie: n })
        : client.encode({ command: CMD.WRITE, offset: 500_000 + n * 512, payload: pattern(512, n), cookie: n }),
    );
    client.send(...mixed);
    for (let count = 0; count < 100; count++) {
      const answer = await client.answer();
      const n = Number(answer.cookie);
      t.is(answer.error, "ok");
      if (n % 2 === 0) t.is(Buffer.compare(answer.data, pattern(3000 + n / 2, n / 2)), 0);
      else t.is(Buffer.compare(target.bytes.subarray(500_000 + n * 512, 500_512 + n * 512), pattern(512, n)), 0);
    }
  });
}

test("a client that does not read its answers is not read, and loses nothing", async (t) => {
  const { base, target } = await startLab(t, { sizeBytes: 8 * MiB });
  target.bytes.set(pattern(target.sizeBytes, 8));
  for (const structured of FORMS) {
    const client = await RawClient.open(base, "x", { structured });
    const other = await RawClient.open(base, "x");
    client.socket.pause();
    const requests: Buffer[] = [];
    for (let n = 0; n < 64; n++) {
      const length = n % 3 === 0 ? 4096 : 1 * MiB;
      requests.push(client.encode({ command: CMD.READ, offset: (n % 7) * MiB + n, length, cookie: n }));
    }
    client.send(...requests);
    t.is((await other.request({ command: CMD.READ, length: 4096 })).error, "ok", "others are served meanwhile");
    client.socket.resume();
    await assertAllAnswers(client, 64, (n, data) => {
      const offset = (n % 7) * MiB + n;
      const length = n % 3 === 0 ? 4096 : 1 * MiB;
      t.is(Buffer.compare(data, target.bytes.subarray(offset, offset + length)), 0, `answer ${n}`);
    });
    client.close();
    other.close();
  }
});

/** Collects answers whose chunks may be mixed with one another, as several large reads at a time allow. */
async function assertAllAnswers(
  client: RawClient,
  count: number,
  check: (n: number, data: Buffer) => void,
): Promise<void> {
  if (!client.structured) {
    for (let left = count; left > 0; left--) {
      const answer = await client.answer();
      check(Number(answer.cookie), answer.data);
    }
    return;
  }
  const pieces = new Map<number, [number, Buffer][]>();
  for (let left = count; left > 0; ) {
    const header = await client.bytes(20);
    const n = Number(header.readBigUInt64BE(8));
    const payload = Buffer.from(await client.bytes(header.readUInt32BE(16)));
    if (header.readUInt16BE(6) !== 1) throw new Error("only data was expected");
    const list = pieces.get(n) ?? [];
    list.push([Number(payload.readBigUInt64BE(0)), payload.subarray(8)]);
    pieces.set(n, list);
    if ((header.readUInt16BE(4) & 1) === 0) continue;
    left--;
    list.sort(([a], [b]) => a - b);
    check(n, Buffer.concat(list.map(([, data]) => data)));
  }
}

test("more requests than may be in flight wait their turn", async (t) => {
  const { base, target } = await startLab(t);
  target.path = "deferred";
  target.held.add("read");
  const client = await RawClient.open(base, "x");
  const count = 1500;
  client.send(...Array.from({ length: count }, (_, n) => client.encode({ command: CMD.READ, length: 16, cookie: n })));
  await target.whenWaiting(1024);
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
  t.is(target.waiting.length, 1024, "no more are taken on");
  target.letAllGo();
  for (let left = count; left > 0; left--) await client.answer();
  t.pass();
});

test("more bytes than may be in flight wait their turn", async (t) => {
  const { base, target } = await startLab(t, { sizeBytes: 16 * MiB });
  target.path = "deferred";
  target.held.add("write");
  const client = await RawClient.open(base, "x");
  const payload = pattern(16 * MiB, 1);
  for (let n = 0; n < 6; n++) client.send(client.encode({ command: CMD.WRITE, payload, cookie: n }));
  await target.whenWaiting(4);
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
  t.is(target.waiting.length, 4);
  target.letAllGo();
  for (let left = 6; left > 0; left--) t.is((await client.answer()).error, "ok");
});

test("a busy client does not keep others from their turn", async (t) => {
  const { base } = await startLab(t);
  const busy = await RawClient.open(base, "x");
  const other = await RawClient.open(base, "x");
  let answered = 0;
  const count = 5000;
  busy.send(...Array.from({ length: count }, () => busy.encode({ command: CMD.READ, length: 4096 })));
  const reading = (async () => {
    for (; answered < count; answered++) await busy.answer();
  })();
  other.send(other.encode({ command: CMD.READ, length: 512 }));
  t.is((await other.answer()).error, "ok");
  t.true(answered < count, "the other was answered before the busy one had everything");
  await reading;
  await until(() => answered === count);
});
