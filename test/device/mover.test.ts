import fs from "node:fs";
import { join } from "node:path";
import type { Worker } from "node:worker_threads";
import test, { type ExecutionContext } from "ava";
import fc from "fast-check";
import { TidemarkError } from "../../src/base/errors.ts";
import { COPY_PIECE_BYTES } from "../../src/base/limits.ts";
import type { BlockDevice, MoveResult, MoveRun } from "../../src/base/ports.ts";
import { GiB, GRANULE_SIZE_BYTES, KiB, MiB } from "../../src/base/units.ts";
import { FaultDevice } from "../../src/engine/device/fault-device.ts";
import { MemoryDevice } from "../../src/engine/device/memory-device.ts";
import { createMover } from "../../src/engine/device/mover.ts";
import { PartitionDevice } from "../../src/engine/device/partition-device.ts";
import {
  fileOf,
  fuseFile,
  loopDevice,
  memoryFileSystem,
  mounted,
  opened,
  pattern,
  readBack,
  run,
  skippedWithoutRoot,
  sparseFile,
  stillClock,
  temporaryDirectory,
} from "./fixtures.ts";

const ALL = { budgetBytes: Number.MAX_SAFE_INTEGER };

/** Most tests share these: starting a worker from source takes a moment. */
const shared = { direct: createMover({ workers: 1 }), port: createMover({ workers: 0 }) };
test.after.always(() => Promise.all([shared.direct.close(), shared.port.close()]));

function ownMover(t: ExecutionContext) {
  const mover = createMover({ workers: 1 });
  t.teardown(() => mover.close());
  return mover;
}

const same = (offsetBytes: number, lengthBytes: number): MoveRun => ({
  fromOffsetBytes: offsetBytes,
  toOffsetBytes: offsetBytes,
  lengthBytes,
});

async function equalDevices(t: ExecutionContext, a: BlockDevice, b: BlockDevice, lengthBytes: number): Promise<void> {
  t.is(Buffer.compare(await readBack(a, 0, lengthBytes), await readBack(b, 0, lengthBytes)), 0, "same bytes");
}

function sumIsRight(t: ExecutionContext, result: MoveResult): void {
  t.is(result.doneBytes, result.copiedBytes + result.zeroedBytes + result.clonedBytes);
}

/** Three stretches of data in 4 MiB, the rest a hole. */
async function fillSparsely(device: BlockDevice): Promise<number> {
  await device.write(0, pattern(64 * KiB, 1));
  await device.write(MiB + 512 * KiB, pattern(MiB, 2));
  await device.write(4 * MiB - 8 * KiB, pattern(8 * KiB, 3));
  await device.flush();
  return 64 * KiB + MiB + 8 * KiB;
}

test("file to file: data is copied, holes stay holes and cost nothing", async (t) => {
  const directory = temporaryDirectory(t);
  const from = await opened(t, sparseFile(directory, "from", 4 * MiB));
  const to = await opened(t, sparseFile(directory, "to", 4 * MiB));
  const dataBytes = await fillSparsely(from);
  const result = await shared.direct.move(from, to, [same(0, 4 * MiB)], ALL);
  t.deepEqual(result, { doneBytes: 4 * MiB, copiedBytes: dataBytes, zeroedBytes: 4 * MiB - dataBytes, clonedBytes: 0 });
  await equalDevices(t, from, to, 4 * MiB);
  await to.flush();
  t.true(fs.statSync(join(directory, "to")).blocks * 512 <= dataBytes + 64 * KiB);
});

test("file to file: old data where the source has a hole is given back", async (t) => {
  const directory = temporaryDirectory(t);
  const from = await opened(t, sparseFile(directory, "from", 4 * MiB));
  const to = await opened(t, sparseFile(directory, "to", 4 * MiB));
  const dataBytes = await fillSparsely(from);
  await to.write(0, pattern(4 * MiB, 9));
  const result = await shared.direct.move(from, to, [same(0, 4 * MiB)], ALL);
  t.is(result.copiedBytes, dataBytes);
  await equalDevices(t, from, to, 4 * MiB);
  await to.flush();
  t.true(fs.statSync(join(directory, "to")).blocks * 512 <= dataBytes + 64 * KiB);
});

test("small holes are written as zeros and counted as such", async (t) => {
  const directory = temporaryDirectory(t);
  const from = await opened(t, sparseFile(directory, "from", 64 * KiB));
  const to = await opened(t, fileOf(directory, "to", pattern(64 * KiB, 9)));
  await from.write(8 * KiB, pattern(8 * KiB, 1));
  await from.flush();
  const result = await shared.direct.move(from, to, [same(0, 32 * KiB)], ALL);
  t.deepEqual(result, { doneBytes: 32 * KiB, copiedBytes: 8 * KiB, zeroedBytes: 24 * KiB, clonedBytes: 0 });
  await equalDevices(t, from, to, 32 * KiB);
  t.is(
    Buffer.compare(await readBack(to, 32 * KiB, 32 * KiB), pattern(64 * KiB, 9).subarray(32 * KiB)),
    0,
    "not beyond",
  );
});

for (const kind of ["direct", "port"] as const) {
  test(`${kind}: the budget ends a move at a granule of its run; going on from there gives the whole`, async (t) => {
    const directory = temporaryDirectory(t);
    const sizeBytes = 3 * MiB + 512;
    const from = await opened(t, fileOf(directory, "from", pattern(sizeBytes, 1)));
    const to = await opened(t, sparseFile(directory, "to", sizeBytes));
    const mover = shared[kind];
    // Runs that begin at odd sectors: the boundary counts from the run's start.
    const runs = [same(512, MiB + 1024), same(2 * MiB + 512, MiB)];
    let left = runs;
    let moves = 0;
    while (left.length > 0) {
      const result = await mover.move(from, to, left, { budgetBytes: 300 * KiB + 1 });
      sumIsRight(t, result);
      moves++;
      let done = result.doneBytes;
      left = left.flatMap((each) => {
        const part = Math.min(done, each.lengthBytes);
        done -= part;
        if (part < each.lengthBytes) t.is(part % GRANULE_SIZE_BYTES, 0, "a granule from the run's start");
        const rest = each.lengthBytes - part;
        return rest === 0
          ? []
          : [
              {
                fromOffsetBytes: each.fromOffsetBytes + part,
                toOffsetBytes: each.toOffsetBytes + part,
                lengthBytes: rest,
              },
            ];
      });
      t.true(result.doneBytes > 0, "every move makes progress");
      t.true(result.copiedBytes < 300 * KiB + 1 + GRANULE_SIZE_BYTES, "and keeps to its budget");
    }
    t.is(moves, 7);
    const expected = Buffer.alloc(sizeBytes);
    for (const each of runs) {
      pattern(sizeBytes, 1).copy(
        expected,
        each.toOffsetBytes,
        each.fromOffsetBytes,
        each.fromOffsetBytes + each.lengthBytes,
      );
    }
    t.is(Buffer.compare(await readBack(to, 0, sizeBytes), expected), 0);
  });
}

for (const kind of ["direct", "port"] as const) {
  test(`${kind}: data that begins inside a granule is copied without a gap between the pieces`, async (t) => {
    const directory = temporaryDirectory(t);
    const from = await opened(t, sparseFile(directory, "from", 4 * MiB));
    const to = await opened(t, sparseFile(directory, "to", 4 * MiB));
    await from.write(4 * KiB, pattern(3 * MiB, 1));
    const result = await shared[kind].move(from, to, [same(0, 4 * MiB)], ALL);
    t.like(result, { doneBytes: 4 * MiB, copiedBytes: 3 * MiB });
    await equalDevices(t, from, to, 4 * MiB);
  });
}

test("a budget of nearly nothing still moves a granule", async (t) => {
  const directory = temporaryDirectory(t);
  const from = await opened(t, fileOf(directory, "from", pattern(64 * KiB, 1)));
  const to = await opened(t, sparseFile(directory, "to", 64 * KiB));
  const result = await shared.direct.move(from, to, [same(0, 64 * KiB)], { budgetBytes: 1 });
  t.is(result.doneBytes, GRANULE_SIZE_BYTES);
});

test("block devices: zeros are found by reading and left out", async (t) => {
  if (skippedWithoutRoot(t)) return;
  const directory = temporaryDirectory(t);
  const sourceImage = sparseFile(directory, "from", 4 * MiB);
  const from = await opened(t, loopDevice(t, sourceImage));
  const dataBytes = await fillSparsely(from);
  const target = join(directory, "to");
  const to = await opened(t, sparseFile(directory, "to", 4 * MiB));
  const mover = shared.direct;
  const result = await mover.move(from, to, [same(0, 4 * MiB)], ALL);
  t.deepEqual(result, { doneBytes: 4 * MiB, copiedBytes: dataBytes, zeroedBytes: 4 * MiB - dataBytes, clonedBytes: 0 });
  await equalDevices(t, from, to, 4 * MiB);
  await to.flush();
  t.true(fs.statSync(target).blocks * 512 <= dataBytes + 64 * KiB);
  // And onto a block device that holds something else.
  const block = await opened(t, loopDevice(t, fileOf(directory, "block", pattern(4 * MiB, 9))));
  const back = await mover.move(to, block, [same(0, 4 * MiB)], ALL);
  t.is(back.doneBytes, 4 * MiB);
  await equalDevices(t, from, block, 4 * MiB);
});

test("partitions: offsets count from the partition, also inside one disk", async (t) => {
  const disk = await opened(t, fileOf(temporaryDirectory(t), "disk", pattern(4 * MiB, 1)));
  const before = await readBack(disk, 0, 4 * MiB);
  const from = new PartitionDevice(disk, { offsetBytes: 512 * KiB, lengthBytes: MiB });
  const to = new PartitionDevice(disk, { offsetBytes: 2 * MiB + 512, lengthBytes: MiB });
  const result = await shared.direct.move(from, to, [same(0, MiB)], ALL);
  t.is(result.copiedBytes, MiB);
  const expected = Buffer.from(before);
  before.copy(expected, 2 * MiB + 512, 512 * KiB, 512 * KiB + MiB);
  t.is(Buffer.compare(await readBack(disk, 0, 4 * MiB), expected), 0);
});

for (const kind of ["xfs", "btrfs"] as const) {
  test(`${kind}: files share extents, whatever the budget; odd places are copied`, async (t) => {
    if (skippedWithoutRoot(t, "mkfs.xfs", "mkfs.btrfs")) return;
    const point = mounted(t, temporaryDirectory(t), kind, kind === "xfs" ? 320 * MiB : 192 * MiB);
    const from = await opened(t, fileOf(point, "from", pattern(16 * MiB, 1)));
    const to = await opened(t, sparseFile(point, "to", 16 * MiB));
    await from.flush();
    const mover = shared.direct;
    const result = await mover.move(from, to, [same(0, 16 * MiB)], { budgetBytes: 64 * KiB });
    t.true(result.clonedBytes > 0);
    t.is(result.copiedBytes, 0);
    const rest = await mover.move(from, to, [same(0, 16 * MiB)], ALL);
    t.deepEqual(rest, { doneBytes: 16 * MiB, copiedBytes: 0, zeroedBytes: 0, clonedBytes: 16 * MiB });
    await equalDevices(t, from, to, 16 * MiB);
    // The tail of an odd length is copied, and a range that is no multiple of a block is copied altogether.
    const odd = await mover.move(from, to, [{ fromOffsetBytes: MiB, toOffsetBytes: 0, lengthBytes: MiB + 512 }], ALL);
    t.deepEqual(odd, { doneBytes: MiB + 512, copiedBytes: 512, zeroedBytes: 0, clonedBytes: MiB });
    const shifted = await mover.move(from, to, [{ fromOffsetBytes: 512, toOffsetBytes: 0, lengthBytes: MiB }], ALL);
    t.is(shifted.copiedBytes, MiB);
    t.is(Buffer.compare(await readBack(to, 0, MiB), pattern(16 * MiB, 1).subarray(512, MiB + 512)), 0);
    // What is shared is not the same: a write to one does not show in the other.
    await from.write(8 * MiB, Buffer.alloc(8192, 1));
    t.is(Buffer.compare(await readBack(to, 8 * MiB, 8192), pattern(16 * MiB, 1).subarray(8 * MiB, 8 * MiB + 8192)), 0);
  });
}

test("two file systems: nothing is shared, everything is copied", async (t) => {
  if (skippedWithoutRoot(t, "mkfs.xfs", "mkfs.btrfs")) return;
  const directory = temporaryDirectory(t);
  const from = await opened(t, fileOf(mounted(t, directory, "xfs", 320 * MiB), "from", pattern(2 * MiB, 1)));
  const to = await opened(t, sparseFile(mounted(t, directory, "btrfs", 128 * MiB), "to", 2 * MiB));
  // Even when the devices claim one domain, the move finds out.
  const claims = Object.assign(Object.create(to) as BlockDevice, {});
  Object.defineProperties(claims, {
    capabilities: { value: { ...to.capabilities, cloneDomain: from.capabilities.cloneDomain } },
    direct: { value: to.direct },
  });
  const result = await shared.direct.move(from, claims, [same(0, 2 * MiB)], ALL);
  t.is(result.copiedBytes, 2 * MiB);
  await equalDevices(t, from, to, 2 * MiB);
});

test("a read-only destination is refused before anything is read", async (t) => {
  const path = fileOf(temporaryDirectory(t), "from", pattern(64 * KiB, 1));
  const from = await opened(t, path);
  const to = new MemoryDevice(64 * KiB, { readOnly: true });
  const error = await t.throwsAsync(shared.direct.move(from, to, [same(0, 64 * KiB)], ALL), { code: "READ_ONLY" });
  t.like(error, { detail: { metadata: { side: "destination", doneBytes: "0" } } });
});

/** A source whose bytes [64 KiB, 72 KiB) cannot be read. */
async function badSource(t: ExecutionContext, directory: string): Promise<string> {
  const content = fileOf(directory, "content", pattern(MiB, 1));
  const pread = `if [ $4 -lt 73728 ] && [ $(($4 + $3)) -gt 65536 ]; then echo EIO bad sector >&2; exit 1; fi
dd if=${content} iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none`;
  return fuseFile(t, directory, "eval", "get_size=echo 1M", `pread=${pread}`);
}

test("a bad source granule: side, place and what was done before are in the error", async (t) => {
  if (skippedWithoutRoot(t, "nbdkit", "nbdfuse")) return;
  const directory = temporaryDirectory(t);
  const from = await opened(t, await badSource(t, directory));
  const to = await opened(t, sparseFile(directory, "to", MiB));
  const error = await t.throwsAsync(shared.direct.move(from, to, [same(0, MiB)], ALL), { instanceOf: TidemarkError });
  t.is(error.code, "MEDIUM_ERROR");
  t.like(error.detail.metadata, {
    side: "source",
    offsetBytes: String(64 * KiB),
    lengthBytes: String(GRANULE_SIZE_BYTES),
    doneBytes: String(64 * KiB),
    copiedBytes: String(64 * KiB),
  });
  t.is(Buffer.compare(await readBack(to, 0, 64 * KiB), pattern(MiB, 1).subarray(0, 64 * KiB)), 0);
  const rest = await shared.direct.move(from, to, [same(72 * KiB, MiB - 72 * KiB)], ALL);
  t.is(rest.doneBytes, MiB - 72 * KiB);
});

test("a full destination: NO_SPACE, side and what was done before", async (t) => {
  if (skippedWithoutRoot(t)) return;
  const directory = temporaryDirectory(t);
  const from = await opened(t, fileOf(directory, "from", pattern(8 * MiB, 1)));
  const to = await opened(t, sparseFile(memoryFileSystem(t, directory, MiB), "to", 8 * MiB));
  const error = await t.throwsAsync(shared.direct.move(from, to, [same(0, 8 * MiB)], ALL), {
    instanceOf: TidemarkError,
  });
  t.is(error.code, "NO_SPACE");
  t.is(error.detail.metadata?.["side"], "destination");
  const doneBytes = Number(error.detail.metadata?.["doneBytes"]);
  t.true(doneBytes > 0 && doneBytes < 8 * MiB);
  t.is(Buffer.compare(await readBack(to, 0, doneBytes), pattern(8 * MiB, 1).subarray(0, doneBytes)), 0);
});

test("through the port: errors name their side and what was done before", async (t) => {
  const from = new FaultDevice(new MemoryDevice(MiB), stillClock);
  const to = new FaultDevice(new MemoryDevice(MiB), stillClock);
  await from.write(0, pattern(MiB, 1));
  const mover = shared.port;
  const bad = from.inject({
    operation: "read",
    range: { offsetBytes: 600 * KiB, lengthBytes: 512 },
    effect: { kind: "error", code: "MEDIUM_ERROR" },
  });
  const first = await t.throwsAsync(mover.move(from, to, [same(0, MiB)], ALL), { code: "MEDIUM_ERROR" });
  t.like(first, { detail: { metadata: { side: "source", doneBytes: String(512 * KiB) } } });
  bad.remove();
  to.inject({ operation: "write", fromCall: 2, effect: { kind: "error", code: "NO_SPACE" } });
  const second = await t.throwsAsync(mover.move(from, to, [same(0, MiB)], ALL), { code: "NO_SPACE" });
  t.like(second, { detail: { metadata: { side: "destination", doneBytes: String(256 * KiB) } } });
});

const GRANULES = 64;
const SIZE_BYTES = GRANULES * GRANULE_SIZE_BYTES;
/** Runs in sectors that do not overlap at the destination. */
const runsOf = fc
  .array(fc.record({ from: fc.nat(1023), gap: fc.nat(40), sectors: fc.integer({ min: 1, max: 200 }) }), {
    maxLength: 12,
  })
  .map((items) => {
    const runs: MoveRun[] = [];
    let to = 0;
    for (const item of items) {
      const start = to + item.gap * 512;
      const lengthBytes = Math.min(item.sectors * 512, SIZE_BYTES - start, SIZE_BYTES - item.from * 512);
      if (lengthBytes <= 0) break;
      runs.push({ fromOffsetBytes: item.from * 512, toOffsetBytes: start, lengthBytes });
      to = start + lengthBytes;
    }
    return runs;
  });

for (const kind of ["direct", "port"] as const) {
  test(`${kind}: random runs over random holes equal a copy of byte arrays`, async (t) => {
    const directory = temporaryDirectory(t);
    const mover = shared[kind];
    const from = await opened(t, sparseFile(directory, "from", SIZE_BYTES));
    const to = await opened(t, sparseFile(directory, "to", SIZE_BYTES));
    const islands = fc.array(fc.record({ granule: fc.nat(GRANULES - 1), seed: fc.nat(99) }), { maxLength: 20 });
    const property = fc.asyncProperty(islands, islands, runsOf, async (source, destination, runs) => {
      for (const [device, data] of [
        [from, source],
        [to, destination],
      ] as const) {
        await device.zero(0, SIZE_BYTES, { release: "allow" });
        for (const island of data)
          await device.write(island.granule * GRANULE_SIZE_BYTES, pattern(GRANULE_SIZE_BYTES, island.seed));
      }
      const expected = await readBack(to, 0, SIZE_BYTES);
      const content = await readBack(from, 0, SIZE_BYTES);
      let total = 0;
      for (const each of runs) {
        content.copy(expected, each.toOffsetBytes, each.fromOffsetBytes, each.fromOffsetBytes + each.lengthBytes);
        total += each.lengthBytes;
      }
      const result = await mover.move(from, to, runs, ALL);
      if (result.doneBytes !== total) throw new Error(`${result.doneBytes} done of ${total}`);
      if ((await readBack(to, 0, SIZE_BYTES)).compare(expected) !== 0) throw new Error("bytes differ");
    });
    await t.notThrowsAsync(fc.assert(property, { numRuns: 60 }));
  });
}

/** Workers that the mover starts from now on. */
function watchWorkers(t: ExecutionContext): Worker[] {
  const workers: Worker[] = [];
  const seen = (worker: Worker) => workers.push(worker);
  process.on("worker", seen);
  t.teardown(() => process.off("worker", seen));
  return workers;
}

test.serial("a worker that dies fails its own job only; the next job has a new one", async (t) => {
  const directory = temporaryDirectory(t);
  const workers = watchWorkers(t);
  const mover = ownMover(t);
  const from = await opened(t, fileOf(directory, "from", pattern(64 * MiB, 1)));
  const to = await opened(t, sparseFile(directory, "to", 64 * MiB));
  await mover.move(from, to, [same(0, 8192)], ALL);
  t.is(workers.length, 1);
  const first = mover.move(from, to, [same(0, 64 * MiB)], ALL);
  const second = mover.move(from, to, [same(8192, 8192)], ALL);
  void workers[0]?.terminate();
  const error = await t.throwsAsync(first, { instanceOf: TidemarkError });
  t.is(error.code, "INTERNAL");
  t.is((await second).doneBytes, 8192);
  t.is(workers.length, 2);
});

test.serial("close ends what runs and refuses what waits and what comes", async (t) => {
  const directory = temporaryDirectory(t);
  const mover = createMover({ workers: 1 });
  const from = await opened(t, fileOf(directory, "from", pattern(16 * MiB, 1)));
  const to = await opened(t, sparseFile(directory, "to", 16 * MiB));
  const running = mover.move(from, to, [same(0, 16 * MiB)], ALL);
  const waiting = mover.move(from, to, [same(0, 8192)], ALL);
  const closed = mover.close();
  await t.throwsAsync(waiting, { code: "STOPPING" });
  t.is((await running).doneBytes, 16 * MiB);
  await closed;
  await t.throwsAsync(mover.move(from, to, [same(0, 8192)], ALL), { code: "STOPPING" });
  await equalDevices(t, from, to, MiB);
});

test.serial("workers stuck in a stalled device do not stop the copies of others", async (t) => {
  if (skippedWithoutRoot(t, "nbdkit", "nbdfuse")) return;
  const directory = temporaryDirectory(t);
  const stalled = await opened(t, await fuseFile(t, directory, "--filter=delay", "memory", "1M", "rdelay=8"));
  const from = await opened(t, fileOf(directory, "from", pattern(MiB, 1)));
  const to = await opened(t, sparseFile(directory, "to", MiB));
  const sink = await opened(t, sparseFile(directory, "sink", MiB));
  const mover = ownMover(t);
  const order: string[] = [];
  const stuck = mover.move(stalled, sink, [same(0, 8192)], ALL).then(() => order.push("stalled"));
  await mover.move(from, to, [same(0, MiB)], ALL).then(() => order.push("healthy"));
  t.deepEqual(order, ["healthy"]);
  await equalDevices(t, from, to, MiB);
  await stuck;
});

/** A source of 8 MiB whose reads wait until `go` is called. */
async function heldSource(t: ExecutionContext, directory: string): Promise<{ path: string; go: () => void }> {
  const sign = join(directory, "go");
  const pread = `while [ ! -e ${sign} ]; do sleep 0.02; done; head -c $3 /dev/zero | tr '\\0' x`;
  const path = await fuseFile(t, directory, "eval", "get_size=echo 8M", `pread=${pread}`);
  const go = () => fs.writeFileSync(sign, "");
  t.teardown(go); // FUSE must not stay held when the test fails
  return { path, go };
}

test.serial("a move that is to stop ends at its next piece, one that waits at once, with nothing done", async (t) => {
  if (skippedWithoutRoot(t, "nbdkit", "nbdfuse")) return;
  const directory = temporaryDirectory(t);
  const source = await heldSource(t, directory);
  const from = await opened(t, source.path);
  const to = await opened(t, sparseFile(directory, "to", 8 * MiB));
  const mover = ownMover(t);
  const stop = new AbortController();
  const options = { ...ALL, stop: stop.signal };
  const running = mover.move(from, to, [same(0, 8 * MiB)], options);
  const waiting = mover.move(from, to, [same(0, 8 * MiB)], options);
  stop.abort();
  t.is((await waiting).doneBytes, 0);
  t.is((await mover.move(from, to, [same(0, 8 * MiB)], options)).doneBytes, 0);
  source.go();
  const { doneBytes, copiedBytes } = await running;
  t.true(doneBytes <= COPY_PIECE_BYTES);
  t.is(doneBytes % GRANULE_SIZE_BYTES, 0);
  t.is(copiedBytes, doneBytes);
  const rest = await mover.move(from, to, [same(doneBytes, 8 * MiB - doneBytes)], ALL);
  t.is(rest.doneBytes, 8 * MiB - doneBytes);
  await equalDevices(t, from, to, 8 * MiB);
});

test.serial("a move that a host waits for goes ahead of others and makes one that runs end early", async (t) => {
  if (skippedWithoutRoot(t, "nbdkit", "nbdfuse")) return;
  const directory = temporaryDirectory(t);
  const source = await heldSource(t, directory);
  const from = await opened(t, source.path);
  const to = await opened(t, sparseFile(directory, "to", 8 * MiB));
  const mover = ownMover(t);
  const background = { ...ALL, stop: new AbortController().signal };
  const order: string[] = [];
  const moved = (name: string) => (result: MoveResult) => {
    order.push(name);
    return result.doneBytes;
  };
  const running = mover.move(from, to, [same(0, 4 * MiB)], background).then(moved("running"));
  const waiting = mover.move(from, to, [same(4 * MiB, 8192)], background).then(moved("waiting"));
  const demand = mover.move(from, to, [same(5 * MiB, MiB)], ALL).then(moved("demand"));
  const second = mover.move(from, to, [same(6 * MiB, MiB)], ALL).then(moved("second demand"));
  source.go();
  t.true((await running) <= COPY_PIECE_BYTES);
  t.deepEqual(await Promise.all([waiting, demand, second]), [8192, MiB, MiB]);
  t.deepEqual(order, ["running", "demand", "second demand", "waiting"]);
});

test("a hole of a terabyte is passed over in one move", async (t) => {
  if (skippedWithoutRoot(t, "mkfs.xfs")) return;
  const point = mounted(t, temporaryDirectory(t), "xfs", 320 * MiB);
  const sizeBytes = 1024 * GiB;
  const ext4 = mounted(t, temporaryDirectory(t), "ext4", 64 * MiB);
  const from = await opened(t, sparseFile(point, "from", sizeBytes));
  const to = await opened(t, sparseFile(ext4, "to", sizeBytes));
  await from.write(sizeBytes - MiB, pattern(64 * KiB, 1));
  await from.flush();
  const result = await shared.direct.move(from, to, [same(0, sizeBytes)], { budgetBytes: 4 * MiB });
  t.is(result.doneBytes, sizeBytes);
  t.is(result.copiedBytes, 64 * KiB);
  t.is(Buffer.compare(await readBack(to, sizeBytes - MiB, 64 * KiB), pattern(64 * KiB, 1)), 0);
  t.is(run("stat", "-c", "%s", from.path).trim(), String(sizeBytes));
});
