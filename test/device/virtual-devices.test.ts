import test from "ava";
import fc from "fast-check";
import { systemClock } from "../../src/base/clock.ts";
import type { BlockDevice, Clock } from "../../src/base/ports.ts";
import { KiB, MiB, TiB } from "../../src/base/units.ts";
import { FaultDevice } from "../../src/engine/device/fault-device.ts";
import { MemoryDevice } from "../../src/engine/device/memory-device.ts";
import { PartitionDevice } from "../../src/engine/device/partition-device.ts";
import {
  loopDevice,
  opened,
  pattern,
  readBack,
  skippedWithoutRoot,
  sparseFile,
  temporaryDirectory,
} from "./fixtures.ts";

const SECTORS = 512;
const SIZE_BYTES = SECTORS * 512;

type Step =
  | { readonly do: "write" | "tryWrite"; readonly sector: number; readonly sectors: number; readonly seed: number }
  | { readonly do: "zero"; readonly sector: number; readonly sectors: number; readonly release: "allow" | "keep" }
  | { readonly do: "read" | "tryRead" | "allocation"; readonly sector: number; readonly sectors: number }
  | { readonly do: "flush" };

const range = { sector: fc.nat(SECTORS - 1), sectors: fc.integer({ min: 1, max: 64 }) };
const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ do: fc.constantFrom("write" as const, "tryWrite" as const), ...range, seed: fc.nat(1000) }),
  fc.record({
    do: fc.constant("zero" as const),
    ...range,
    release: fc.constantFrom("allow" as const, "keep" as const),
  }),
  fc.record({ do: fc.constantFrom("read" as const, "tryRead" as const, "allocation" as const), ...range }),
  fc.record({ do: fc.constant("flush" as const) }),
);

/** Does one step on the device and on the byte array; throws when they differ. */
async function apply(device: BlockDevice, model: Buffer, each: Step): Promise<void> {
  if (each.do === "flush") return device.flush();
  const offset = each.sector * 512;
  const length = Math.min(each.sectors * 512, SIZE_BYTES - offset);
  const expected = model.subarray(offset, offset + length);
  switch (each.do) {
    case "write":
    case "tryWrite": {
      const data = pattern(length, each.seed);
      if (each.do === "write" || !device.tryWrite(offset, data)) await device.write(offset, data);
      data.copy(model, offset);
      return;
    }
    case "zero":
      await device.zero(offset, length, { release: each.release });
      expected.fill(0);
      return;
    case "allocation": {
      let at = offset;
      for (const extent of await device.allocation(offset, length, 1000)) {
        if (extent.offsetBytes !== at) throw new Error(`extent at ${extent.offsetBytes}, expected ${at}`);
        at += extent.lengthBytes;
        if (extent.zero && !model.subarray(extent.offsetBytes, at).every((byte) => byte === 0))
          throw new Error("not zero");
      }
      if (at !== offset + length) throw new Error(`extents end at ${at}`);
      return;
    }
    default: {
      const back = Buffer.alloc(length, 0xee);
      if (each.do === "read" || !device.tryRead(offset, back)) await device.read(offset, back);
      if (back.compare(expected) !== 0) throw new Error(`bytes at ${offset}, ${length} differ`);
    }
  }
}

async function holdsForRandomSteps(make: () => Promise<BlockDevice>, runs: number): Promise<void> {
  const device = await make();
  const model = Buffer.alloc(SIZE_BYTES);
  await device.read(0, model);
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      for (const each of steps) await apply(device, model, each);
      const all = Buffer.alloc(SIZE_BYTES);
      await device.read(0, all);
      if (all.compare(model) !== 0) throw new Error("device and model differ");
    }),
    { numRuns: runs, endOnFailure: true },
  );
}

test("random I/O equals a byte array: memory", async (t) => {
  await t.notThrowsAsync(holdsForRandomSteps(async () => new MemoryDevice(SIZE_BYTES), 200));
});

test("random I/O equals a byte array: file", async (t) => {
  const path = sparseFile(temporaryDirectory(t), "file", SIZE_BYTES);
  await t.notThrowsAsync(holdsForRandomSteps(() => opened(t, path), 60));
});

test("random I/O equals a byte array: block device", async (t) => {
  if (skippedWithoutRoot(t)) return;
  const path = loopDevice(t, sparseFile(temporaryDirectory(t), "file", SIZE_BYTES));
  await t.notThrowsAsync(holdsForRandomSteps(() => opened(t, path), 30));
});

test("random I/O equals a byte array: partition at an odd sector", async (t) => {
  const disk = new MemoryDevice(2 * SIZE_BYTES);
  const around = pattern(2 * SIZE_BYTES, 1);
  await disk.write(0, around);
  const extent = { offsetBytes: 63 * 512, lengthBytes: SIZE_BYTES };
  await t.notThrowsAsync(holdsForRandomSteps(async () => new PartitionDevice(disk, extent), 60));
  t.is(Buffer.compare(await readBack(disk, 0, 63 * 512), around.subarray(0, 63 * 512)), 0);
  const after = 63 * 512 + SIZE_BYTES;
  t.is(Buffer.compare(await readBack(disk, after, 2 * SIZE_BYTES - after), around.subarray(after)), 0);
});

test("a partition offers its disk's descriptor at its own place", async (t) => {
  const disk = await opened(t, sparseFile(temporaryDirectory(t), "file", MiB));
  const partition = new PartitionDevice(disk, { offsetBytes: 64 * KiB, lengthBytes: 128 * KiB });
  t.deepEqual(partition.direct, { fd: disk.direct.fd, baseOffsetBytes: 64 * KiB });
  await partition.write(0, pattern(4096, 1));
  t.is(Buffer.compare(await readBack(disk, 64 * KiB, 4096), pattern(4096, 1)), 0);
  await partition.resize(128 * KiB);
  await t.throwsAsync(partition.resize(64 * KiB), { code: "SIZE_INVALID" });
  await partition.close();
  await t.notThrowsAsync(disk.flush());
  t.throws(() => partition.tryRead(128 * KiB, Buffer.alloc(512)), { name: "AssertionError" });
});

test("a memory device of 16 TiB costs what was written", async (t) => {
  const device = new MemoryDevice(16 * TiB);
  await device.write(15 * TiB, pattern(4096, 1));
  t.deepEqual(await device.allocation(0, 16 * TiB, 10), [
    { offsetBytes: 0, lengthBytes: 15 * TiB, zero: true },
    { offsetBytes: 15 * TiB, lengthBytes: 64 * KiB, zero: false },
    { offsetBytes: 15 * TiB + 64 * KiB, lengthBytes: TiB - 64 * KiB, zero: true },
  ]);
  await device.zero(0, 16 * TiB);
  t.deepEqual(await device.allocation(0, 16 * TiB, 10), [{ offsetBytes: 0, lengthBytes: 16 * TiB, zero: true }]);
  const readOnly = new MemoryDevice(MiB, { readOnly: true });
  await t.throwsAsync(readOnly.write(0, Buffer.alloc(512)), { code: "READ_ONLY" });
  await device.close();
  await t.throwsAsync(device.read(0, Buffer.alloc(512)), { code: "DEVICE_GONE" });
});

test("faults: errors on a range, from the n-th call, for so many calls", async (t) => {
  const device = new FaultDevice(new MemoryDevice(MiB), systemClock);
  const bad = device.inject({
    operation: "read",
    range: { offsetBytes: 8192, lengthBytes: 8192 },
    fromCall: 2,
    calls: 2,
    effect: { kind: "error", code: "MEDIUM_ERROR" },
  });
  const buffer = Buffer.alloc(4096);
  t.true(device.tryRead(8192, buffer), "the first call passes");
  t.true(device.tryRead(0, buffer), "outside the range");
  t.false(device.tryRead(8192, buffer), "the second meets the fault, in the asynchronous form");
  t.is(bad.hits, 0);
  const error = await t.throwsAsync(device.read(12288, buffer), { code: "MEDIUM_ERROR" });
  t.like(error, { detail: { metadata: { offsetBytes: "12288", lengthBytes: "4096" } } });
  await t.throwsAsync(device.read(8192, buffer), { code: "MEDIUM_ERROR" });
  await t.notThrowsAsync(device.read(8192, buffer));
  t.is(bad.hits, 2);
});

test("faults: a torn write stores its first sectors", async (t) => {
  const inner = new MemoryDevice(MiB);
  const device = new FaultDevice(inner, systemClock);
  const fault = device.inject({ operation: "write", effect: { kind: "torn", sectors: 3, code: "DEVICE_GONE" } });
  t.false(device.tryWrite(0, pattern(4096, 1)));
  await t.throwsAsync(device.write(0, pattern(4096, 1)), { code: "DEVICE_GONE" });
  const back = await readBack(inner, 0, 4096);
  t.is(Buffer.compare(back.subarray(0, 1536), pattern(4096, 1).subarray(0, 1536)), 0);
  t.true(back.subarray(1536).every((byte) => byte === 0));
  fault.remove();
  t.true(device.tryWrite(0, pattern(4096, 1)));
});

test("faults: a stalled call waits until it is released; a delayed one asks the clock", async (t) => {
  const slept: number[] = [];
  const clock: Clock = { ...systemClock, sleep: async (ms) => void slept.push(ms) };
  const device = new FaultDevice(new MemoryDevice(MiB), clock);
  const stall = device.inject({ operation: "write", calls: 1, effect: { kind: "stall" } });
  let ended = false;
  const write = device.write(0, pattern(512, 1)).then(() => {
    ended = true;
  });
  await stall.reached(1);
  t.true(device.tryWrite(8192, pattern(512, 2)), "other calls go on");
  t.false(ended);
  stall.remove();
  await write;
  t.is(Buffer.compare(await readBack(device, 0, 512), pattern(512, 1)), 0);
  device.inject({ operation: "zero", effect: { kind: "delay", ms: 250 } });
  await device.zero(0, 512, { release: "allow" });
  t.deepEqual(slept, [250]);
});

test("faults: a failed flush fails the device for good, as the port demands", async (t) => {
  const device = new FaultDevice(new MemoryDevice(MiB), systemClock);
  device.inject({ operation: "flush", calls: 1, effect: { kind: "error", code: "MEDIUM_ERROR" } });
  await t.throwsAsync(device.flush(), { code: "MEDIUM_ERROR" });
  await t.throwsAsync(device.flush(), { code: "DEVICE_GONE" });
  await t.throwsAsync(device.write(0, Buffer.alloc(512)), { code: "DEVICE_GONE" });
  t.false(device.tryRead(0, Buffer.alloc(512)));
  await device.close();
});
