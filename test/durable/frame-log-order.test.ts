/** Frame log: group commit, order, failures, and power losses at random instants. */
import test from "ava";
import type { TidemarkError } from "../../src/base/errors.ts";
import { STATE_LOG_FRAME_BYTES_MAX, STATE_LOG_QUEUE_BYTES_MAX } from "../../src/base/limits.ts";
import { FrameLog } from "../../src/engine/durable/frame-log.ts";
import {
  InjectedFailure,
  type MemoryStateFiles,
  memoryStateFiles,
} from "../../src/engine/durable/memory-state-files.ts";
import { directoryOf, type StateFiles } from "../../src/engine/durable/state-files.ts";
import { chanceFrom } from "./_chance.ts";

const PATH = "copied-1.log";
const payloadOf = (number: number, length = 8) => {
  const payload = new Uint8Array(length);
  new DataView(payload.buffer).setUint32(0, number, true);
  return payload;
};
const numberOf = (payload: Uint8Array) => new DataView(payload.buffer, payload.byteOffset).getUint32(0, true);
const create = (files: StateFiles) => FrameLog.create(files, PATH, "session", "c1", 1);
const upTo = (count: number) => Array.from({ length: count }, (_, index) => index + 1);

async function open(files: StateFiles) {
  const numbers: number[] = [];
  await files.syncDirectory(directoryOf(PATH)); // as recovery does
  const log = await FrameLog.open(files, PATH, "session", "c1", (payload) => numbers.push(numberOf(payload)));
  return { log, numbers };
}

async function turns(count = 60): Promise<void> {
  for (let index = 0; index < count; index++) await Promise.resolve();
}

/** Lets the test hold operations of one type; `held` are the ones that wait. */
function hold(files: MemoryStateFiles, type: string): (() => void)[] {
  const held: (() => void)[] = [];
  files.intercept = (operation) => (operation.type === type ? new Promise((resolve) => held.push(resolve)) : undefined);
  return held;
}

test("a sync joins only an fdatasync that starts after the call", async (t) => {
  const files = memoryStateFiles();
  const log = await create(files);
  const held = hold(files, "sync");
  const done: string[] = [];
  const note = (name: string) => () => done.push(name);

  await log.append(payloadOf(1));
  const first = log.sync().then(note("first"));
  await turns();
  t.is(held.length, 1);
  // The fdatasync that runs began before frame 2 was appended.
  await log.append(payloadOf(2));
  const second = log.sync().then(note("second"));
  await log.append(payloadOf(3));
  const third = log.sync().then(note("third"));
  await turns();
  t.is(held.length, 1);
  held[0]?.();
  await first;
  await turns();
  t.deepEqual(done, ["first"]);
  t.is(held.length, 2, "one fdatasync for the two that waited");
  held[1]?.();
  await Promise.all([second, third]);
  t.is(held.length, 2);
  t.true(log.isDurable);
  await log.sync();
  t.is(held.length, 2, "nothing to do");
});

test("a sync waits until what was appended before it is stored", async (t) => {
  const files = memoryStateFiles();
  const log = await create(files);
  const order: string[] = [];
  files.intercept = async ({ type }) => {
    if (type === "write") await turns(200);
    order.push(type);
  };
  const appended = log.append(payloadOf(1));
  await log.sync();
  await appended;
  t.deepEqual(order, ["write", "sync"]);
  files.crash(5);
  files.intercept = undefined;
  t.deepEqual((await open(files)).numbers, [1]);
});

test("appends are acknowledged in order, and what is acknowledged survives a kill", async (t) => {
  for (let seed = 0; seed < 200; seed++) {
    const files = memoryStateFiles();
    const log = await create(files);
    const chance = chanceFrom(seed);
    let left = 1 + Math.floor(chance() * 8);
    const stopped = new Promise<void>((resolve) => {
      files.intercept = async ({ type }) => {
        await turns(Math.floor(chance() * 20));
        if (type !== "write" || --left > 0) return;
        resolve();
        return new Promise<never>(() => undefined);
      };
    });
    const acknowledged: number[] = [];
    const work = (async () => {
      for (let number = 1; number < 200; ) {
        for (let burst = 1 + Math.floor(chance() * 5); burst > 0; burst--) {
          const mine = number++;
          log.append(payloadOf(mine, 8 + Math.floor(chance() * 900))).then(
            () => acknowledged.push(mine),
            () => undefined,
          );
        }
        await turns(Math.floor(chance() * 30));
      }
    })();
    await Promise.race([work, stopped]);
    files.kill(seed);
    files.intercept = undefined;
    t.deepEqual(acknowledged, upTo(acknowledged.length));
    const { numbers } = await open(files);
    t.deepEqual(numbers, upTo(numbers.length));
    t.true(numbers.length >= acknowledged.length, `seed ${seed}`);
  }
});

test("out of space: the failed frames are gone durably, later appends are taken", async (t) => {
  for (const storedBytes of [0, 1, 30, 47, 60, 100]) {
    const files = memoryStateFiles();
    const log = await create(files);
    await log.append(payloadOf(1));
    let full = true;
    files.intercept = ({ type }) => {
      if (type === "write" && full) throw new InjectedFailure("ENOSPC", storedBytes);
    };
    const failed = await Promise.allSettled([
      log.append(payloadOf(2)),
      log.append(payloadOf(3)),
      log.append(payloadOf(4)),
    ]);
    for (const result of failed) {
      t.is(result.status, "rejected");
      if (result.status === "rejected") {
        t.is(result.reason.code, "METADATA_WRITE_FAILED");
        t.is(result.reason.detail.metadata.systemCode, "ENOSPC");
      }
    }
    full = false;
    const sequence = await log.append(payloadOf(5));
    t.is(sequence, 2);
    await log.sync();
    files.crash(storedBytes);
    const { log: again, numbers } = await open(files);
    t.deepEqual(numbers, [1, 5]);
    t.is(again.tornBytes, 0);
  }
});

test("out of space that cannot be undone, a medium error and a failed sync are final", async (t) => {
  const cases: { name: string; fails: Record<string, string> }[] = [
    { name: "truncate", fails: { write: "ENOSPC", truncate: "EIO" } },
    { name: "sync after truncate", fails: { write: "ENOSPC", sync: "EIO" } },
    { name: "medium error", fails: { write: "EIO" } },
    { name: "sync", fails: { sync: "EIO" } },
    { name: "sync out of space", fails: { sync: "ENOSPC" } },
  ];
  for (const { name, fails } of cases) {
    const files = memoryStateFiles();
    const log = await create(files);
    await log.appendDurable(payloadOf(1));
    files.intercept = ({ type }) => {
      const code = fails[type];
      if (code) throw new InjectedFailure(code, 20);
    };
    await t.throwsAsync(log.appendDurable(payloadOf(2)), { code: "METADATA_WRITE_FAILED" }, name);
    await turns();
    files.intercept = undefined;
    await t.throwsAsync(log.append(payloadOf(3)), { code: "METADATA_WRITE_FAILED" }, name);
    await t.throwsAsync(log.sync(), { code: "METADATA_WRITE_FAILED" }, name);
    await log.close();
    const { numbers } = await open(files);
    t.deepEqual(numbers.slice(0, 1), [1], name);
    t.false(numbers.includes(3), name);
  }
});

test("a clean stop on a full disk leaves only the mark out", async (t) => {
  const files = memoryStateFiles();
  const log = await create(files);
  await log.append(payloadOf(1));
  files.intercept = ({ type }) => {
    if (type === "write") throw new InjectedFailure("ENOSPC", 7);
  };
  await log.close();
  files.intercept = undefined;
  files.crash(1);
  t.deepEqual((await open(files)).numbers, [1]);
});

test("opening and closing again and again does not let the log grow", async (t) => {
  const files = memoryStateFiles();
  const log = await create(files);
  await log.append(payloadOf(1));
  await log.close();
  await log.close();
  const { length } = files.contents(PATH);
  for (let round = 0; round < 3; round++) await (await open(files)).log.close();
  t.is(files.contents(PATH).length, length);
});

test("bounds: the largest frame is taken, a larger one and a longer queue are refused without harm", async (t) => {
  const files = memoryStateFiles();
  const log = await create(files);
  await t.throwsAsync(log.append(new Uint8Array(STATE_LOG_FRAME_BYTES_MAX + 1)), { code: "LIMIT_EXCEEDED" });
  const held = hold(files, "write");
  const writing = log.append(payloadOf(1));
  await turns();
  const large = new Uint8Array(STATE_LOG_FRAME_BYTES_MAX);
  large.set(payloadOf(2));
  const waiting = [log.append(large), log.append(payloadOf(3, STATE_LOG_QUEUE_BYTES_MAX - STATE_LOG_FRAME_BYTES_MAX))];
  await t.throwsAsync(log.append(payloadOf(4)), { code: "LIMIT_EXCEEDED" });
  files.intercept = undefined;
  for (const go of held) go();
  t.deepEqual(await Promise.all([writing, ...waiting]), [1, 2, 3]);
  t.is(await log.append(payloadOf(5)), 4);
  await log.close();
  t.deepEqual((await open(files)).numbers, [1, 2, 3, 5]);
});

test("creating is all or nothing, with its first frame, and replaces what a crash has left", async (t) => {
  let existed = 0;
  for (let seed = 0; seed < 200; seed++) {
    const files = memoryStateFiles();
    let left = 1 + (seed % 9);
    const stopped = new Promise<void>((resolve) => {
      files.intercept = () => {
        if (--left > 0) return;
        resolve();
        return new Promise(() => undefined);
      };
    });
    const made = FrameLog.create(files, PATH, "session", "c1", 1, payloadOf(1)).then(
      () => undefined,
      () => undefined,
    );
    await Promise.race([made, stopped]);
    if (seed % 2 === 0) files.kill(seed);
    else files.crash(seed);
    files.intercept = undefined;
    if (await files.exists(PATH)) {
      existed++;
      t.deepEqual((await open(files)).numbers, [1]);
      // What was found is durable, name and all.
      files.crash(seed + 1);
      t.deepEqual((await open(files)).numbers, [1]);
    }
    const log = await FrameLog.create(files, PATH, "session", "c1", 1, payloadOf(9));
    await log.close();
    t.deepEqual((await open(files)).numbers, [9]);
  }
  t.true(existed > 0 && existed < 200);
});

/**
 * One life: appends with and without sync, stopped at a random operation. Gives what may be there afterwards: at least
 * `durable`, at most `asked`, in order, nothing else.
 */
async function live(files: MemoryStateFiles, log: FrameLog, begin: number, chance: () => number) {
  let left = 1 + Math.floor(chance() * 30);
  const full = chance() < 0.2;
  let durable = 0;
  const asked: number[] = [];
  const refused = new Set<number>();
  const stopped = new Promise<void>((resolve) => {
    files.intercept = async ({ type }) => {
      await turns(Math.floor(chance() * 10));
      if (--left <= 0) {
        resolve();
        return new Promise<never>(() => undefined);
      }
      if (full && type === "write" && chance() < 0.3) throw new InjectedFailure("ENOSPC", Math.floor(chance() * 200));
    };
  });
  let number = begin;
  const append = async (sync: boolean) => {
    const mine = number++;
    asked.push(mine);
    const place = asked.length;
    const payload = payloadOf(mine, 4 + Math.floor(chance() * 700));
    try {
      await (sync ? log.appendDurable(payload) : log.append(payload));
      if (sync) durable = Math.max(durable, place);
    } catch (error) {
      // What the crash itself ended may well be in the log.
      if ((error as TidemarkError).code !== "DEVICE_GONE") refused.add(mine);
    }
  };
  const worker = async () => {
    while (left > 0) await append(chance() < 0.4);
  };
  await Promise.race([Promise.all([worker(), worker(), worker()]), stopped]);
  files.intercept = undefined;
  return { asked, durable, refused, next: number };
}

test("800 power losses and kills, up to 4 lives each: durable frames are there, in order, and nothing that was refused", async (t) => {
  for (let seed = 0; seed < 800; seed++) {
    const chance = chanceFrom(seed);
    const files = memoryStateFiles();
    let { log, numbers } = { log: await create(files), numbers: [] as number[] };
    let next = 1;
    for (let lives = 1 + Math.floor(chance() * 4); lives > 0; lives--) {
      const before = numbers;
      const life = await live(files, log, next, chance);
      next = life.next;
      if (chance() < 0.3) files.kill(seed);
      else files.crash(seed * 7 + lives);
      ({ log, numbers } = await open(files));
      const accepted = life.asked.filter((number) => !life.refused.has(number));
      const certain = life.asked.slice(0, life.durable).filter((number) => !life.refused.has(number));
      const found = numbers.slice(before.length);
      t.deepEqual(numbers.slice(0, before.length), before, `seed ${seed}: what was replayed once stays`);
      t.deepEqual(found, accepted.slice(0, found.length), `seed ${seed}: a prefix`);
      t.true(found.length >= certain.length, `seed ${seed}: ${found.length} of ${certain.length} durable frames`);
    }
  }
});
