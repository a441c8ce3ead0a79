/** The quickstart's witness must itself be right: replay against byte arrays, and a comparison that finds what differs. */
import { randomBytes } from "node:crypto";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import test from "ava";
import fc from "fast-check";
import { granulesTouched } from "../../src/base/units.ts";
import { compareWithReplay } from "../../src/quickstart/compare.ts";
import { type Image, makeImage } from "../../src/quickstart/image.ts";
import { NbdClient } from "../../src/quickstart/nbd-client.ts";
import { PIECE_BYTES, RecordLog } from "../../src/quickstart/record-log.ts";
import { temporaryDirectory } from "./run-quickstart.ts";

const SIZE_BYTES = 3 * PIECE_BYTES + 1536;
const SECTORS = SIZE_BYTES / 512;

const writes = fc.array(
  fc.tuple(fc.nat(SECTORS - 1), fc.integer({ min: 1, max: 40 })).map(([first, count]) => ({
    offsetBytes: first * 512,
    lengthBytes: Math.min(count, SECTORS - first) * 512,
  })),
  { minLength: 1, maxLength: 60 },
);

/** The whole content after records 1 to `upTo`, the simple way. */
function naive(original: Buffer, log: RecordLog, upTo: number): Buffer {
  const content = Buffer.from(original);
  for (let number = 1; number <= upTo; number++) log.contentOf(number).copy(content, log.offsetOf(number));
  return content;
}

test("replay, touched granules and the last record present agree with a byte array", async (t) => {
  const original = randomBytes(SIZE_BYTES);
  await fc.assert(
    fc.asyncProperty(writes, fc.nat(60), fc.nat(60), async (all, a, b) => {
      const log = new RecordLog(Buffer.alloc(16, 7));
      for (const { offsetBytes, lengthBytes } of all) log.add(offsetBytes, lengthBytes);
      const upTo = Math.min(Math.max(a, b), log.last);
      const from = Math.min(a, b, upTo);
      const expected = naive(original, log, upTo);
      for (let at = 0; at < SIZE_BYTES; at += PIECE_BYTES) {
        const piece = Buffer.from(original.subarray(at, at + PIECE_BYTES));
        log.replay(piece, at, upTo);
        t.is(Buffer.compare(piece, expected.subarray(at, at + PIECE_BYTES)), 0);
      }
      const read = async (offset: number, length: number) => expected.subarray(offset, offset + length);
      t.is(await log.lastPresent(read, { from, to: log.last }), upTo);
      const touched = new Set<number>();
      for (const { offsetBytes, lengthBytes } of all.slice(from, upTo))
        for (let byte = offsetBytes; byte < offsetBytes + lengthBytes; byte += 512)
          touched.add(granulesTouched(byte, 512).first);
      t.is(log.granulesBetween(from, upTo), touched.size);
    }),
    { numRuns: 40 },
  );
});

test("the comparison finds a record too many, one that is missing, and a single wrong byte", async (t) => {
  const directory = temporaryDirectory(t);
  const original = randomBytes(SIZE_BYTES);
  const originalPath = join(directory, "original.img");
  writeFileSync(originalPath, original);
  const log = new RecordLog(Buffer.alloc(16, 9));
  log.add(4096, 8192);
  log.add(PIECE_BYTES - 512, 4096);
  log.add(2 * PIECE_BYTES, 512);
  const image: Image = {
    ...{ kind: "given", originalPath, workingPath: "", sizeBytes: SIZE_BYTES, dataBytes: 0, description: "" },
    verifyUntouched: async () => undefined,
  };
  const content = naive(original, log, 2);
  const path = join(directory, "nbd.sock");
  const server = createServer((socket) => serveBytes(socket, content));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  t.teardown(() => server.close());
  const client = await NbdClient.connect(path, "any", new AbortController().signal);
  t.teardown(() => client.close());
  const firstDifference = async (upTo: number) => (await compareWithReplay(client, image, log, upTo)).firstDifference;
  const same = await compareWithReplay(client, image, log, 2);
  t.is(same.firstDifference, undefined);
  t.is(same.actualSha256, same.expectedSha256);
  t.is(await firstDifference(1), PIECE_BYTES - 512);
  t.is(await firstDifference(3), 2 * PIECE_BYTES);
  content[SIZE_BYTES - 1] = (content[SIZE_BYTES - 1] ?? 0) ^ 1;
  const wrong = await compareWithReplay(client, image, log, 2);
  t.is(wrong.firstDifference, SIZE_BYTES - 1);
  t.not(wrong.actualSha256, wrong.expectedSha256);
});

test("without mke2fs an image of data and holes is made", async (t) => {
  const directory = temporaryDirectory(t);
  const signal = new AbortController().signal;
  const image = await makeImage(20 * 1024 * 1024 + 512, directory, { signal, programs: [] });
  t.is(image.kind, "synthetic");
  t.is(image.sizeBytes, 20 * 1024 * 1024 + 512);
  t.is(statSync(image.workingPath).size, image.sizeBytes);
  t.is(Buffer.compare(readFileSync(image.workingPath), readFileSync(image.originalPath)), 0);
  t.true(image.dataBytes > 0 && image.dataBytes < image.sizeBytes, "it has holes");
});

/** The least of an NBD server: it agrees to every export and reads from a buffer. */
function serveBytes(socket: import("node:net").Socket, content: Buffer): void {
  socket.write(Buffer.concat([Buffer.from("NBDMAGICIHAVEOPT"), Buffer.from([0, 3])]));
  let pending = Buffer.alloc(0);
  let open = false;
  socket.on("data", (data: Buffer) => {
    pending = Buffer.concat([pending, data]);
    if (!open) {
      if (pending.length < 20 || pending.length < 20 + pending.readUInt32BE(16)) return;
      pending = pending.subarray(20 + pending.readUInt32BE(16));
      open = true;
      const size = Buffer.alloc(12);
      size.writeBigUInt64BE(BigInt(content.length), 2);
      socket.write(Buffer.concat([optionReply(3, size), optionReply(1, Buffer.alloc(0))]));
    }
    for (; pending.length >= 28; pending = pending.subarray(28)) {
      if (pending.readUInt16BE(6) === 2) return socket.end();
      const offset = Number(pending.readBigUInt64BE(16));
      const head = Buffer.alloc(16);
      head.writeUInt32BE(0x67446698, 0);
      pending.copy(head, 8, 8, 16);
      socket.write(Buffer.concat([head, content.subarray(offset, offset + pending.readUInt32BE(24))]));
    }
  });
}

function optionReply(type: number, data: Buffer): Buffer {
  const head = Buffer.alloc(20);
  head.writeBigUInt64BE(0x0003e889045565a9n, 0);
  head.writeUInt32BE(7, 8);
  head.writeUInt32BE(type, 12);
  head.writeUInt32BE(data.length, 16);
  return Buffer.concat([head, data]);
}
