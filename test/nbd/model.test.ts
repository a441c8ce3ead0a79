/** Random requests over several connections against an array of bytes: what is read is what was written. */
import test from "ava";
import fc from "fast-check";
import type { Transport } from "../../src/engine/nbd/channel.ts";
import { pattern, startLab } from "./lab.ts";
import { CMD, FLAG, RawClient, statusOf } from "./raw-client.ts";

const SIZE = 1_500_003;
const GRANULE = 8192;

const range = fc
  .tuple(
    fc.nat(SIZE - 1),
    fc.oneof({ weight: 6, arbitrary: fc.nat(20_000) }, fc.nat(200_000), { weight: 1, arbitrary: fc.nat(SIZE) }),
  )
  .map(([offset, length]) => ({ offset, length: Math.min(length, SIZE - offset) }));

const step = fc.record({
  connection: fc.nat(2),
  kind: fc.constantFrom("read", "read", "write", "write", "write fua", "zero", "zero keep", "trim", "flush", "status"),
  range,
  deferred: fc.boolean(),
});

for (const transport of ["direct", "stream"] as Transport[]) {
  for (const structured of [true, false]) {
    test(`random requests (${transport}, ${structured ? "structured" : "simple"})`, async (t) => {
      await fc.assert(
        fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 60 }), async (steps) => {
          const lab = await startLab(t, { transport, sizeBytes: SIZE });
          const { target, base } = lab;
          target.beginEpoch(1);
          const contexts = structured ? { contexts: ["qemu:dirty-bitmap:1"] } : {};
          const clients = await Promise.all(
            [0, 1, 2].map(() => RawClient.open(base, "x", { structured, ...contexts })),
          );
          const model = Buffer.alloc(SIZE);
          const dirty = new Uint8Array(Math.ceil(SIZE / GRANULE));
          let seed = 1;
          const change = (offset: number, length: number) => {
            if (length > 0) dirty.fill(1, Math.floor(offset / GRANULE), Math.ceil((offset + length) / GRANULE));
          };
          for (const { connection, kind, range: place, deferred } of steps) {
            const { offset, length } = place;
            target.path = deferred ? "deferred" : "inline";
            const client = clients[connection]!;
            if (kind === "read") {
              const { data } = await client.request({ command: CMD.READ, offset, length });
              if (Buffer.compare(data, model.subarray(offset, offset + length)) !== 0) throw new Error("read differs");
            } else if (kind.startsWith("write")) {
              const payload = pattern(length, seed++);
              const flags = kind === "write fua" ? FLAG.FUA : 0;
              const { error } = await client.request({ command: CMD.WRITE, flags, offset, payload });
              if (error !== "ok") throw new Error(error);
              model.set(payload, offset);
              change(offset, length);
            } else if (kind === "flush") {
              await client.request({ command: CMD.FLUSH });
              if (Buffer.compare(target.durable, model) !== 0) throw new Error("not durable");
            } else if (kind === "status") {
              if (!structured || length === 0) continue;
              const { chunks } = await client.request({ command: CMD.BLOCK_STATUS, offset, length });
              let at = offset;
              for (const [extent, flags] of statusOf(chunks[0]!).extents) {
                for (const end = at + extent; at < end; at++) {
                  if (dirty[Math.floor(at / GRANULE)] !== flags) throw new Error(`status differs at ${at}`);
                }
              }
              if (at !== offset + length) throw new Error("status is incomplete");
            } else {
              const command = kind === "trim" ? CMD.TRIM : CMD.WRITE_ZEROES;
              const flags = kind === "zero keep" ? FLAG.NO_HOLE : 0;
              await client.request({ command, flags, offset, length });
              model.fill(0, offset, offset + length);
              change(offset, length);
            }
          }
          for (const client of clients) client.close();
          await lab.server.close({ graceMs: 0 });
          if (Buffer.compare(target.bytes, model) !== 0) throw new Error("volume differs");
        }),
        { numRuns: 25 },
      );
      t.pass();
    });
  }
}

test("random requests, all outstanding at once, in areas of their own", async (t) => {
  const area = 20_000;
  const areas = 200;
  await fc.assert(
    fc.asyncProperty(
      fc.array(
        fc.record({
          area: fc.nat(areas - 1),
          connection: fc.nat(2),
          length: fc.integer({ min: 1, max: area }),
        }),
        { minLength: 1, maxLength: 150 },
      ),
      fc.boolean(),
      async (wanted, deferred) => {
        const lab = await startLab(t, { sizeBytes: area * areas });
        lab.target.path = deferred ? "deferred" : "inline";
        const clients = await Promise.all([0, 1, 2].map(() => RawClient.open(lab.base, "x")));
        const chosen = [...new Map(wanted.map((request) => [request.area, request])).values()];
        const model = Buffer.alloc(area * areas);
        for (const command of [CMD.WRITE, CMD.READ]) {
          const outstanding = [0, 0, 0];
          for (const request of chosen) {
            const client = clients[request.connection]!;
            const offset = request.area * area;
            const payload = pattern(request.length, request.area);
            if (command === CMD.WRITE) model.set(payload, offset);
            const body = command === CMD.WRITE ? { payload } : { length: request.length };
            client.send(client.encode({ command, offset, cookie: request.area, ...body }));
            outstanding[request.connection]!++;
          }
          for (const [connection, count] of outstanding.entries()) {
            for (let left = count; left > 0; left--) {
              const answer = await clients[connection]!.answer();
              if (answer.error !== "ok") throw new Error(answer.error);
              const offset = Number(answer.cookie) * area;
              const expected = model.subarray(offset, offset + answer.data.length);
              if (command === CMD.READ && Buffer.compare(answer.data, expected) !== 0) throw new Error("read differs");
            }
          }
        }
        for (const client of clients) client.close();
        await lab.server.close({ graceMs: 0 });
        if (Buffer.compare(lab.target.bytes, model) !== 0) throw new Error("volume differs");
      },
    ),
    { numRuns: 20 },
  );
  t.pass();
});
