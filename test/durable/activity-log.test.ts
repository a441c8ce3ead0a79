/** Activity log: the rules [T] of data-safety 1.3, one by one. The seeded crash model is in activity-crash.test.ts. */
import test from "ava";
import { AssertionError } from "../../src/base/assert.ts";
import { REGION_BITS_BYTES } from "../../src/engine/durable/activity-frames.ts";
import { ActivityLog, type ActivityLogOptions } from "../../src/engine/durable/activity-log.ts";
import { FRAME_HEADER_BYTES } from "../../src/engine/durable/frame.ts";
import {
  InjectedFailure,
  type MemoryStateFiles,
  memoryStateFiles,
} from "../../src/engine/durable/memory-state-files.ts";

const path = (number: number) => `activity-${number}.log`;

async function turns(count = 80): Promise<void> {
  for (let index = 0; index < count; index++) await Promise.resolve();
}

/** A log over a map in memory: `bits[region]` are the region's 64 bytes. */
async function setUp(slots: number, files = memoryStateFiles()) {
  const bits = new Map<number, Uint8Array>();
  const read: number[] = [];
  const options: ActivityLogOptions = {
    files,
    ownerId: "v1",
    path,
    slots,
    readRegionBits: (region) => {
      read.push(region);
      return (bits.get(region) ?? new Uint8Array(REGION_BITS_BYTES)).slice();
    },
  };
  const mark = (region: number, bit: number) => {
    const known = bits.get(region) ?? new Uint8Array(REGION_BITS_BYTES);
    known[bit >> 3] = (known[bit >> 3] as number) | (1 << (bit & 7));
    bits.set(region, known);
  };
  return { files, options, log: await ActivityLog.create(options, 1, 1), bits, mark, read };
}

/** As a volume does it: waits until the regions are hot. */
async function becomeHot(log: ActivityLog, first: number, last = first): Promise<void> {
  while (!log.isHot(first, last)) await log.activate(first, last);
}

async function crashAndReplay(files: MemoryStateFiles, options: ActivityLogOptions, numbers = [1], seed = 1) {
  files.intercept = undefined;
  files.crash(seed);
  const { log, replay } = await ActivityLog.open(options, numbers);
  await log.close();
  return replay;
}

function hold(files: MemoryStateFiles, type: string): (() => void)[] {
  const held: (() => void)[] = [];
  files.intercept = (operation) => (operation.type === type ? new Promise((resolve) => held.push(resolve)) : undefined);
  return held;
}

const setBits = (bits: Uint8Array | undefined) => {
  const found: number[] = [];
  for (let bit = 0; bit < REGION_BITS_BYTES * 8; bit++)
    if ((((bits ?? [])[bit >> 3] ?? 0) >> (bit & 7)) & 1) found.push(bit);
  return found;
};

test("a region is hot only when that is durable", async (t) => {
  const { files, options, log } = await setUp(4);
  const held = hold(files, "sync");
  let resolved = false;
  const activated = log.activate(7, 8).then(() => {
    resolved = true;
  });
  await turns();
  t.is(held.length, 1);
  t.false(resolved || log.isHot(7, 7) || log.isHot(8, 8));
  held[0]?.();
  await activated;
  t.true(log.isHot(7, 8));
  t.false(log.isHot(6, 7) || log.isHot(8, 9));
  for (let seed = 0; seed < 20; seed++) {
    const replay = await crashAndReplay(files, options, [1], seed);
    t.deepEqual([...replay.hotRegions], [7, 8]);
    t.is(replay.openEpoch, 1);
  }
});

test("requests made in one turn, and those made during an fdatasync, share one frame and one fdatasync", async (t) => {
  const { files, log } = await setUp(100);
  const counts = { write: 0, sync: 0 };
  files.intercept = async ({ type, lengthBytes }) => {
    await turns();
    const mark = type === "write" && lengthBytes === FRAME_HEADER_BYTES; // nobody waits for it
    if ((type === "write" && !mark) || type === "sync") counts[type]++;
  };
  const first = [1, 2, 3].map((region) => becomeHot(log, region));
  await turns(20);
  const second = [3, 4, 5, 6].map((region) => becomeHot(log, region));
  await Promise.all([...first, ...second]);
  t.deepEqual(counts, { write: 2, sync: 2 });
  t.is(log.hotCount, 6);
});

test("[T] region and slot are reserved before the first await: two requests for one region take one slot", async (t) => {
  const { files, options, log } = await setUp(2);
  const held = hold(files, "sync");
  const both = [log.activate(5, 5), log.activate(5, 5)];
  await turns();
  const third = log.activate(5, 5);
  await turns();
  held[0]?.();
  files.intercept = undefined;
  await Promise.all([...both, third]);
  t.is(log.hotCount, 1);
  const replay = await crashAndReplay(files, options);
  t.deepEqual([...replay.hotRegions], [5]);
});

test("the least recently used region is evicted, with the bits it has, and may become hot again", async (t) => {
  const { files, options, log, mark } = await setUp(2);
  await becomeHot(log, 1);
  mark(1, 17);
  await becomeHot(log, 2);
  mark(2, 0);
  t.true(log.isHot(1, 1));
  await becomeHot(log, 3);
  t.true(log.isHot(1, 1) && log.isHot(3, 3));
  t.false(log.isHot(2, 2));
  await becomeHot(log, 2);
  mark(2, 511);
  await becomeHot(log, 4);
  await becomeHot(log, 5);
  const replay = await crashAndReplay(files, options);
  t.deepEqual([...replay.hotRegions].sort(), [4, 5]);
  t.deepEqual(setBits(replay.regionBits.get(1)), [17]);
  t.deepEqual(setBits(replay.regionBits.get(2)), [0, 511]);
  t.deepEqual(setBits(replay.regionBits.get(3)), []);
});

test("[T] a region with a write in flight is not evicted; its bits are read only when the last write has left", async (t) => {
  const { files, options, log, mark, read } = await setUp(1);
  await becomeHot(log, 1);
  log.enter(1, 1);
  log.enter(1, 1);
  mark(1, 3);
  let hot = false;
  const waiting = becomeHot(log, 2).then(() => {
    hot = true;
  });
  await turns();
  log.leave(1, 1);
  await turns();
  t.false(hot);
  t.deepEqual(read, []);
  mark(1, 4); // by the write still in flight
  log.leave(1, 1);
  await waiting;
  t.deepEqual(read, [1]);
  const replay = await crashAndReplay(files, options);
  t.deepEqual(setBits(replay.regionBits.get(1)), [3, 4]);
  t.deepEqual([...replay.hotRegions], [2]);
});

test("[T] of two regions the one with a write in flight stays, though it was used longer ago", async (t) => {
  const { files, options, log, mark, read } = await setUp(2);
  await becomeHot(log, 1);
  log.enter(1, 1);
  mark(1, 1);
  await becomeHot(log, 2);
  await becomeHot(log, 3);
  t.deepEqual(read, [2]);
  t.true(log.isHot(1, 1) && log.isHot(3, 3));
  mark(1, 2); // by the write in flight
  log.leave(1, 1);
  const replay = await crashAndReplay(files, options);
  t.deepEqual([...replay.hotRegions], [1, 3]);
});

test("[T] a region takes no write between the reading of its bits and the end of its eviction", async (t) => {
  const { files, options, log, mark, read } = await setUp(1);
  await becomeHot(log, 1);
  const held = hold(files, "write");
  const evicting = becomeHot(log, 2);
  await turns();
  t.deepEqual(read, [1]);
  t.is(held.length, 1);
  // The bits are on their way; a write that came in now would be in no record.
  t.false(log.isHot(1, 1));
  t.throws(() => log.enter(1, 1), { instanceOf: AssertionError });
  const again = becomeHot(log, 1).then(() => mark(1, 9));
  await turns();
  files.intercept = undefined;
  held[0]?.();
  await Promise.all([evicting, again]);
  const replay = await crashAndReplay(files, options);
  t.true(replay.hotRegions.has(1) || setBits(replay.regionBits.get(1)).includes(9));
});

test("[T] the slot of an evicted region is used only when its bits are durable: one frame has both", async (t) => {
  const { files, options, log, mark } = await setUp(1);
  await becomeHot(log, 1);
  mark(1, 8);
  const held = hold(files, "sync");
  let hot = false;
  const waiting = becomeHot(log, 2).then(() => {
    hot = true;
  });
  await turns();
  t.is(held.length, 1);
  t.false(hot);
  const outcomes = new Set<string>();
  files.crash(0);
  void waiting.catch(() => undefined);
  files.intercept = undefined;
  for (let seed = 0; seed < 60; seed++) {
    const other = await setUp(1);
    await becomeHot(other.log, 1);
    other.mark(1, 8);
    const stuck = hold(other.files, "sync");
    void becomeHot(other.log, 2).catch(() => undefined);
    await turns();
    t.is(stuck.length, 1);
    const replay = await crashAndReplay(other.files, other.options, [1], seed);
    const regions = [...replay.hotRegions].join();
    outcomes.add(regions);
    if (regions === "2") t.deepEqual(setBits(replay.regionBits.get(1)), [8]);
    else t.is(regions, "1");
  }
  t.deepEqual([...outcomes].sort(), ["1", "2"]);
  t.is(options.slots, 1);
});

test("more waiting regions than slots are served in order", async (t) => {
  const { log, mark } = await setUp(2);
  const order: number[] = [];
  const write = async (region: number) => {
    await becomeHot(log, region);
    log.enter(region, region);
    mark(region, 1);
    order.push(region);
    await turns(30);
    log.leave(region, region);
  };
  const regions = Array.from({ length: 40 }, (_, index) => index);
  await Promise.all(regions.map(write));
  t.deepEqual(order, regions);
  t.true(log.hotCount <= 2);
});

test("a request for more regions than there are slots gets them once it is alone; later the slots count again", async (t) => {
  const { files, options, log } = await setUp(2);
  await becomeHot(log, 50);
  log.enter(50, 50);
  let wide = false;
  const waiting = becomeHot(log, 10, 14).then(() => {
    log.enter(10, 14);
    wide = true;
  });
  await turns();
  t.false(wide);
  t.false(log.isHot(50, 50), "what stands in the way takes no new writes");
  log.leave(50, 50);
  await waiting;
  t.is(log.hotCount, 5);
  const behind = becomeHot(log, 60);
  await turns();
  t.false(log.isHot(60, 60));
  log.leave(10, 14);
  await behind;
  t.true(log.hotCount <= 2);
  const replay = await crashAndReplay(files, options);
  t.is(replay.hotRegions.size, 2);
});

test("busy regions cannot keep a cold one waiting for ever", async (t) => {
  const { log } = await setUp(2);
  let stop = false;
  let writes = 0;
  // Two writers for each of two regions, so that neither region is ever without a write in flight.
  const busy = async (region: number, offset: number) => {
    await turns(offset);
    while (!stop) {
      await becomeHot(log, region);
      log.enter(region, region);
      writes++;
      await turns(20);
      log.leave(region, region);
    }
  };
  const workers = [busy(1, 0), busy(1, 10), busy(2, 5), busy(2, 15)];
  await turns(200);
  for (const cold of [3, 4, 5]) {
    const before = writes;
    await becomeHot(log, cold);
    log.enter(cold, cold);
    log.leave(cold, cold);
    t.true(writes - before < 50);
  }
  stop = true;
  await Promise.all(workers);
  t.pass();
});

test("a point: bits of the sealed epoch in hot regions are exact, the open epoch begins with the same hot regions", async (t) => {
  const { files, options, log, bits, mark } = await setUp(2);
  for (const region of [1, 2, 3]) {
    await becomeHot(log, region);
    mark(region, region);
  }
  const hotBits = log.hotBits();
  t.deepEqual(hotBits.map(({ region }) => region).sort(), [2, 3]);
  const noted = log.point({ sealedEpoch: 1, openedEpoch: 4, hotBits });
  bits.clear();
  await noted;
  mark(3, 30);
  await becomeHot(log, 5);
  const replay = await crashAndReplay(files, options);
  t.is(replay.openEpoch, 4);
  t.deepEqual(
    replay.sealed.map(({ epoch }) => epoch),
    [1],
  );
  for (const region of [1, 2, 3]) t.deepEqual(setBits(replay.sealed[0]?.regionBits.get(region)), [region]);
  t.deepEqual([...replay.hotRegions].sort(), [3, 5]);
  t.deepEqual([...replay.regionBits.keys()], [2], "region 2 was evicted in the open epoch, without bits");
});

test("a point that a full disk kept out comes before anything else", async (t) => {
  const { files, options, log, bits, mark } = await setUp(1);
  await becomeHot(log, 1);
  mark(1, 1);
  let full = true;
  files.intercept = ({ type }) => {
    if (full && type === "write") throw new InjectedFailure("ENOSPC", 13);
  };
  const noted = log.point({ sealedEpoch: 1, openedEpoch: 2, hotBits: log.hotBits() });
  bits.clear();
  await t.throwsAsync(noted, { code: "METADATA_WRITE_FAILED" });
  await t.throwsAsync(log.activate(2, 2), { code: "METADATA_WRITE_FAILED" });
  await t.throwsAsync(log.sync(), { code: "METADATA_WRITE_FAILED" });
  t.true(log.isHot(1, 1), "what is hot stays hot");
  mark(1, 2);
  full = false;
  await becomeHot(log, 2);
  const replay = await crashAndReplay(files, options);
  t.deepEqual(setBits(replay.sealed[0]?.regionBits.get(1)), [1]);
  t.deepEqual(setBits(replay.regionBits.get(1)), [2]);
  t.deepEqual([...replay.hotRegions], [2]);
});

test("out of space: the request fails, everything is as before, and it works again when there is room", async (t) => {
  const { files, options, log, mark } = await setUp(1);
  await becomeHot(log, 1);
  mark(1, 1);
  let full = true;
  files.intercept = ({ type }) => {
    if (full && type === "write") throw new InjectedFailure("ENOSPC", 41);
  };
  await t.throwsAsync(log.activate(2, 2), { code: "METADATA_WRITE_FAILED" });
  t.true(log.isHot(1, 1));
  t.false(log.isHot(2, 2));
  mark(1, 2);
  full = false;
  await becomeHot(log, 2);
  const replay = await crashAndReplay(files, options);
  t.deepEqual([...replay.hotRegions], [2]);
  t.deepEqual(setBits(replay.regionBits.get(1)), [1, 2]);
});

test("after a failed sync nothing becomes hot any more, and a region that may have been evicted takes no writes", async (t) => {
  for (const code of ["EIO", "ENOSPC"]) {
    const { files, options, log, mark } = await setUp(2);
    await becomeHot(log, 1);
    await becomeHot(log, 2);
    files.intercept = ({ type }) => {
      if (type === "sync") throw new InjectedFailure(code);
    };
    await t.throwsAsync(log.activate(3, 3), { code: "METADATA_WRITE_FAILED" });
    files.intercept = undefined;
    await t.throwsAsync(log.activate(3, 3), { code: "METADATA_WRITE_FAILED" });
    t.false(log.isHot(3, 3));
    t.true(log.isHot(2, 2));
    t.false(log.isHot(1, 1), "its eviction is stored");
    mark(2, 2);
    await log.close();
    files.kill(1);
    const { replay } = await ActivityLog.open(options, [1]);
    t.deepEqual([...replay.hotRegions].sort(), [2, 3]);
  }
});

test("a checkpoint lists the hot regions; each log alone and both together say the same", async (t) => {
  const { files, options, log, bits, mark } = await setUp(2);
  for (const region of [1, 2, 3]) {
    await becomeHot(log, region);
    mark(region, 1);
  }
  // Points noted while the log is being changed belong to the new one.
  const held = hold(files, "rename");
  const changing = log.checkpoint(2);
  await turns();
  t.is(held.length, 1);
  const hotBits = log.hotBits();
  const noted = log.point({ sealedEpoch: 1, openedEpoch: 2, hotBits });
  const map = new Map([...bits].map(([region, content]) => [region, content.slice()]));
  bits.clear();
  held[0]?.();
  files.intercept = undefined;
  await Promise.all([changing, noted]);
  t.is(log.number, 2);
  await becomeHot(log, 4);
  mark(4, 4);
  await log.sync();
  const both = await crashAndReplay(files, options, [1, 2]);
  t.deepEqual([...both.hotRegions].sort(), [3, 4]);
  t.is(both.openEpoch, 2);
  for (const region of [1, 2, 3]) t.deepEqual(setBits(both.sealed[0]?.regionBits.get(region)), [1]);
  await files.remove(path(1));
  const alone = await crashAndReplay(files, options, [2]);
  t.deepEqual(alone.hotRegions, both.hotRegions);
  t.deepEqual(setBits(map.get(1)), [1]);
  t.is(alone.sealed[0]?.regionBits.has(1), false, "region 1 was evicted before: its bits are in the map");
});

test("a checkpoint that fails leaves the old log in use and nothing behind", async (t) => {
  for (const failing of ["open", "write", "sync", "rename", "syncDirectory"]) {
    const { files, options, log } = await setUp(2);
    await becomeHot(log, 1);
    let fails = true;
    files.intercept = ({ type, path: at }) => {
      if (fails && type === failing && (type === "syncDirectory" || at.startsWith(path(2)))) {
        fails = false;
        throw new InjectedFailure("ENOSPC", 5000);
      }
    };
    await t.throwsAsync(log.checkpoint(2), undefined, failing);
    t.is(log.number, 1);
    t.false(await files.exists(path(2)));
    await becomeHot(log, 2);
    await log.checkpoint(3);
    const replay = await crashAndReplay(files, options, [1, 3]);
    t.deepEqual([...replay.hotRegions], [1, 2]);
  }
});

test("evictAll waits for writes in flight and leaves no hot region", async (t) => {
  const { files, options, log, mark } = await setUp(4);
  await becomeHot(log, 1, 3);
  log.enter(2, 2);
  let done = false;
  const stopping = log.evictAll().then(() => {
    done = true;
  });
  await turns();
  t.false(done);
  mark(2, 20);
  log.leave(2, 2);
  await stopping;
  t.is(log.hotCount, 0);
  const replay = await crashAndReplay(files, options);
  t.is(replay.hotRegions.size, 0);
  t.deepEqual(setBits(replay.regionBits.get(2)), [20]);
});

test("opened again, the log goes on with its hot regions, also when there are more than slots now", async (t) => {
  const { files, options, log, mark } = await setUp(8);
  await becomeHot(log, 1, 6);
  await log.close();
  const { log: again, replay } = await ActivityLog.open({ ...options, slots: 2 }, [1]);
  t.is(replay.hotRegions.size, 6);
  t.true(again.isHot(1, 6));
  mark(1, 1);
  await becomeHot(again, 9);
  t.true(again.hotCount <= 2);
  await again.close();
  const { replay: last } = await ActivityLog.open(options, [1]);
  t.is(last.hotRegions.size, 2);
  t.deepEqual(setBits(last.regionBits.get(1)), [1]);
  t.deepEqual(await files.list(""), [path(1)]);
});

test("logs of another volume, logs that do not follow each other, and an empty log are refused", async (t) => {
  const { files, options, log } = await setUp(2);
  await becomeHot(log, 1);
  await log.checkpoint(2);
  await becomeHot(log, 2);
  await log.checkpoint(3);
  await log.close();
  await t.throwsAsync(ActivityLog.open({ ...options, ownerId: "v2" }, [1]), {
    code: "METADATA_CORRUPT",
    message: /^activity-1\.log: belongs to volume v1/,
  });
  await t.throwsAsync(ActivityLog.open(options, [1, 3]), {
    code: "METADATA_CORRUPT",
    message: /^activity-2\.log: is missing/,
  });
  await t.throwsAsync(ActivityLog.open(options, [4]), { code: "PATH_NOT_FOUND" });
  files.damage(path(1), files.contents(path(1)).slice(0, 4096));
  await t.throwsAsync(ActivityLog.open(options, [1]), {
    code: "METADATA_CORRUPT",
    message: /activity-1\.log: is empty/,
  });
});
