import test from "ava";
import fc from "fast-check";
import { FRAME_HEADER_BYTES, LOG_HEADER_BYTES } from "../../src/engine/durable/frame.ts";
import { FrameLog } from "../../src/engine/durable/frame-log.ts";
import { memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import type { StateFiles } from "../../src/engine/durable/state-files.ts";
import { crc32c } from "../../src/engine/map/core.ts";

const PATH = "points-7.log";
const payloadOf = (number: number, length = 10 + (number % 50)) => new Uint8Array(length).fill(number);
const create = (files: StateFiles) => FrameLog.create(files, PATH, "box", "points", 7);

async function open(files: StateFiles, owner = "points", path = PATH) {
  const frames: { payload: Uint8Array; sequence: number }[] = [];
  const log = await FrameLog.open(files, path, "box", owner, (payload, sequence) => frames.push({ payload, sequence }));
  return { log, frames };
}

/** The numbers of the frames that `payloadOf` made, in the order of replay. */
async function replayed(files: StateFiles): Promise<number[]> {
  const { log, frames } = await open(files);
  await log.close();
  return frames.map(({ payload }) => payload[0] as number);
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index + 1);

test("any payloads come back in order, over several openings", async (t) => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.array(fc.uint8Array({ maxLength: 3000 }), { maxLength: 6 }), { maxLength: 4 }),
      async (rounds) => {
        const files = memoryStateFiles();
        await (await create(files)).close();
        const expected: Uint8Array[] = [];
        for (const round of rounds) {
          const { log, frames } = await open(files);
          t.deepEqual(
            frames.map(({ payload }) => payload),
            expected,
          );
          const sequences = await Promise.all(round.map((payload) => log.append(payload)));
          t.true(
            sequences.every((sequence, index) => index === 0 || sequence === (sequences[index - 1] as number) + 1),
          );
          expected.push(...round);
          await log.close();
        }
        t.deepEqual(
          (await open(files)).frames.map(({ payload }) => payload),
          expected,
        );
      },
    ),
    { numRuns: 60 },
  );
});

test("frames larger than the reading window and than a write group", async (t) => {
  const files = memoryStateFiles();
  const log = await create(files);
  const payloads = [3_000_000, 10, 1_100_000, 5_000_000].map((length, index) => payloadOf(index + 1, length));
  await Promise.all(payloads.map((payload) => log.append(payload)));
  await log.close();
  const { frames } = await open(files);
  t.deepEqual(
    frames.map(({ payload }) => payload.length),
    payloads.map((payload) => payload.length),
  );
  t.true(frames.every(({ payload }, index) => Buffer.compare(payload, payloads[index] as Uint8Array) === 0));
});

test("truncated at any byte, the log is a prefix, and usable", async (t) => {
  const files = memoryStateFiles();
  const log = await create(files);
  const ends: number[] = [];
  for (const number of upTo(6)) {
    await log.append(payloadOf(number));
    ends.push(log.sizeBytes);
  }
  await log.sync();
  const whole = files.contents(PATH);
  for (let length = 0; length <= whole.length; length++) {
    files.damage(PATH, whole.slice(0, length));
    if (length < LOG_HEADER_BYTES) {
      await t.throwsAsync(open(files), { code: "METADATA_CORRUPT", message: /^points-7\.log: / });
      continue;
    }
    const { log: cut, frames } = await open(files);
    const count = ends.filter((end) => end <= length).length;
    t.deepEqual(
      frames.map(({ sequence }) => sequence),
      upTo(count),
    );
    t.is(cut.tornBytes, length - (ends[count - 1] ?? LOG_HEADER_BYTES));
    await cut.appendDurable(payloadOf(99));
    await cut.close();
    t.deepEqual(await replayed(files), [...upTo(count), 99]);
  }
});

test("a flip of any byte of a closed log is found; the frame that only marks the end may be torn", async (t) => {
  const files = memoryStateFiles();
  const log = await create(files);
  for (const number of upTo(5)) await log.append(payloadOf(number));
  await log.close();
  const whole = files.contents(PATH);
  const markAt = whole.length - FRAME_HEADER_BYTES;
  for (let at = 0; at < whole.length; at++) {
    const damaged = whole.slice();
    damaged[at] = (damaged[at] as number) ^ (1 << (at % 8));
    files.damage(PATH, damaged);
    if (at < markAt) {
      const error = await t.throwsAsync(open(files), { code: "METADATA_CORRUPT" }, `byte ${at}`);
      t.regex(error.message, /^points-7\.log: /);
    } else {
      t.deepEqual(await replayed(files), upTo(5), `byte ${at}`);
    }
  }
});

test("data-safety 3.2, 9: with its end known, a flip of any byte of a log is told, every length is, and a log that has grown is whole", async (t) => {
  const files = memoryStateFiles();
  const log = await create(files);
  for (const number of upTo(5)) await log.append(payloadOf(number));
  await log.close();
  const whole = files.contents(PATH);
  const markAt = whole.length - FRAME_HEADER_BYTES;
  let lostMarks = 0;
  const expected = { ...log.end, onLostMark: () => lostMarks++ };
  const find = async () => {
    const found = await FrameLog.find(files, PATH, "box", "points", () => undefined, expected);
    await found.abandon();
    return found.end;
  };
  t.deepEqual(await find(), log.end);
  t.is(lostMarks, 0);
  const toldAs = async (damaged: Uint8Array, isMarkOnly: boolean, what: string) => {
    files.damage(PATH, damaged);
    lostMarks = 0;
    if (isMarkOnly) await find();
    else await t.throwsAsync(find(), { code: "METADATA_CORRUPT", message: /^points-7\.log: / }, what);
    t.is(lostMarks, isMarkOnly ? 1 : 0, what);
  };
  for (let at = 0; at < whole.length; at++) {
    const damaged = whole.slice();
    damaged[at] = (damaged[at] as number) ^ (1 << (at % 8));
    await toldAs(damaged, at >= markAt, `byte ${at}`);
  }
  for (let length = 0; length < whole.length; length++)
    await toldAs(whole.slice(0, length), length >= markAt, `length ${length}`);
  // Another log up to there: the same frames but for the content of the last.
  const other = await create(files);
  for (const number of [1, 2, 3, 4, 6]) await other.append(payloadOf(number));
  await other.close();
  await t.throwsAsync(find(), { message: /frame 5 is not the one that the last stop has left/ });
  files.damage(PATH, whole);
  const { log: again } = await open(files);
  await again.append(payloadOf(6));
  await again.close();
  lostMarks = 0;
  t.true((await find()).sequence > log.end.sequence);
  t.is(lostMarks, 0);
});

test("damage at or below a durable frame is corruption and names the place; above it is a torn tail", async (t) => {
  const files = memoryStateFiles();
  const log = await create(files);
  const begins: number[] = [];
  for (const number of upTo(9)) {
    begins.push(log.sizeBytes);
    await log.append(payloadOf(number));
    if (number === 4) await log.sync();
  }
  const whole = files.contents(PATH);
  for (let index = 0; index < 9; index++) {
    const damaged = whole.slice();
    const at = (begins[index] as number) + FRAME_HEADER_BYTES + 2;
    damaged[at] = (damaged[at] as number) ^ 1;
    files.damage(PATH, damaged);
    if (index < 4) {
      const error = await t.throwsAsync(open(files), { code: "METADATA_CORRUPT" });
      t.true(error.message.includes(`frame ${index + 1} at offset ${begins[index]} is damaged`));
    } else {
      t.deepEqual(await replayed(files), upTo(index));
    }
  }
  // Nothing is skipped: of a log whose frame 6 is torn, 7 to 9 are gone for good.
  const torn = whole.slice();
  torn[(begins[5] as number) + 1] = 0;
  files.damage(PATH, torn);
  const { log: cut } = await open(files);
  t.is(files.contents(PATH).length, begins[5] as number);
  await cut.close();
});

test("a torn tail of many whole frames is passed in one sweep", async (t) => {
  const files = memoryStateFiles();
  const log = await create(files);
  await Promise.all(Array.from({ length: 60_000 }, () => log.append(payloadOf(1, 30))));
  const whole = files.contents(PATH);
  whole[LOG_HEADER_BYTES + 50] = 0xff;
  files.damage(PATH, whole);
  let reads = 0;
  files.intercept = ({ type }) => {
    if (type === "read") reads++;
  };
  const { log: cut, frames } = await open(files);
  t.is(frames.length, 0);
  t.is(cut.sizeBytes, LOG_HEADER_BYTES);
  t.true(reads < 20, `${reads} reads`);
});

test("a log of another owner, a log under another number's name, frames of another log, a newer format", async (t) => {
  const files = memoryStateFiles();
  const log = await create(files);
  for (const number of upTo(3)) await log.append(payloadOf(number));
  await log.close();
  await t.throwsAsync(open(files, "c1"), { code: "METADATA_CORRUPT", message: /belongs to box points, not to box c1/ });
  const ours = files.contents(PATH);
  files.damage("points-8.log", ours);
  await t.throwsAsync(open(files, "points", "points-8.log"), {
    code: "METADATA_CORRUPT",
    message: /^points-8\.log: holds log number 7/,
  });

  const other = await FrameLog.create(files, "points-9.log", "box", "points", 9);
  for (const number of upTo(3)) await other.append(payloadOf(number));
  await other.close();
  const mixed = ours.slice();
  mixed.set(files.contents("points-9.log").subarray(LOG_HEADER_BYTES), LOG_HEADER_BYTES);
  files.damage(PATH, mixed);
  t.deepEqual(await replayed(files), [], "frames of another log are no frames here");

  const newer = ours.slice();
  newer[8] = 2;
  new DataView(newer.buffer).setUint32(LOG_HEADER_BYTES - 4, crc32c(newer.subarray(0, LOG_HEADER_BYTES - 4)), true);
  files.damage(PATH, newer);
  await t.throwsAsync(open(files), { code: "SCHEMA_TOO_NEW" });
});

test("a frame repeated or left out breaks the chain", async (t) => {
  const files = memoryStateFiles();
  const log = await create(files);
  const ends = [LOG_HEADER_BYTES];
  for (const number of upTo(4)) {
    await log.append(payloadOf(number, 20));
    ends.push(log.sizeBytes);
  }
  const whole = files.contents(PATH);
  const frame = (index: number) => whole.subarray(ends[index] as number, ends[index + 1]);
  for (const order of [
    [0, 1, 1, 3],
    [0, 2, 3],
    [1, 0],
    [0, 1, 3, 2],
  ]) {
    files.damage(PATH, Buffer.concat([whole.subarray(0, LOG_HEADER_BYTES), ...order.map(frame)]));
    const good = order.findIndex((index, place) => index !== place);
    t.deepEqual(await replayed(files), upTo(good));
  }
});

test("a stale frame with the right number, from an earlier log of the same name, breaks the chain", async (t) => {
  const images: Uint8Array[] = [];
  const ends = [LOG_HEADER_BYTES];
  for (const base of [10, 20]) {
    const files = memoryStateFiles();
    const log = await create(files);
    for (const number of upTo(3)) {
      await log.append(payloadOf(base + number, 30));
      if (base === 10) ends.push(log.sizeBytes);
    }
    images.push(files.contents(PATH));
  }
  const [now, before] = images as [Uint8Array, Uint8Array];
  t.deepEqual(now.subarray(0, LOG_HEADER_BYTES), before.subarray(0, LOG_HEADER_BYTES));
  for (let index = 0; index < 3; index++) {
    const mixed = now.slice();
    mixed.set(before.subarray(ends[index] as number, ends[index + 1]), ends[index] as number);
    const files = memoryStateFiles();
    files.damage(PATH, mixed);
    // The first frame follows the header, which is the same: there the second one no longer fits.
    t.deepEqual(await replayed(files), index === 0 ? [21] : upTo(index).map((number) => 10 + number));
  }
});
