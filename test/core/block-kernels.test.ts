/** Byte and block kernels, and the buffer that offers them, against naive twins. */
import test from "ava";
import fc from "fast-check";
import { instantiateCore } from "../../src/engine/map/core.ts";
import { sameBytes } from "./bits-model.ts";

const AREA_BYTES = 20_000;
const core = await instantiateCore();
const k = core.kernels;
const a = core.createBuffer(AREA_BYTES);
const b = core.createBuffer(AREA_BYTES);
const mask = core.createBuffer(4096);

const span = fc.tuple(fc.nat(300), fc.nat(2000)).map(([offset, length]) => ({ offset, length }));
/** Places where a byte is not zero (or differs). */
const spots = fc.array(fc.nat(2300), { maxLength: 3 });
const blocks = fc.record({
  size: fc.constantFrom(16, 48, 512, 1024),
  count: fc.integer({ min: 1, max: 18 }),
  offset: fc.nat(70),
});

function zeroExcept(places: readonly number[]): Uint8Array {
  a.bytes.fill(0);
  for (const at of places) a.bytes[at] = 1 + (at % 255);
  return a.bytes;
}

function equalExcept(places: readonly number[]): void {
  for (let i = 0; i < AREA_BYTES; i++) a.bytes[i] = b.bytes[i] = (i * 167) >>> 3;
  for (const at of places) b.bytes[at]! ^= 1 << (at % 8);
}

function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

function maskOf(flags: readonly boolean[]): Uint8Array {
  const bytes = new Uint8Array(Math.ceil(flags.length / 8));
  for (const [i, flag] of flags.entries()) if (flag) bytes[i >>> 3]! |= 1 << (i & 7);
  return bytes;
}

function blockFlags(size: number, count: number, offset: number, flag: (at: number) => boolean): boolean[] {
  return Array.from({ length: count }, (_, i) => flag(offset + i * size));
}

test("bytesZero finds a byte anywhere and looks nowhere else", (t) => {
  fc.assert(
    fc.property(span, spots, ({ offset, length }, places) => {
      const bytes = zeroExcept(places);
      const expected = isZero(bytes.subarray(offset, offset + length));
      return k.bytesZero(a.address + offset, length) === expected && a.isZero(offset, length) === expected;
    }),
    { numRuns: 500 },
  );
  t.pass();
});

test("bytesEqual and firstDifference agree with a loop", (t) => {
  fc.assert(
    fc.property(span, spots, ({ offset, length }, places) => {
      equalExcept(places);
      let first = 0;
      while (first < length && a.bytes[offset + first] === b.bytes[offset + first]) first++;
      return (
        k.bytesEqual(a.address + offset, b.address + offset, length) === (first === length) &&
        a.equals(offset, b, offset, length) === (first === length) &&
        k.firstDifference(a.address + offset, b.address + offset, length) === first &&
        a.firstDifference(offset, b, offset, length) === first
      );
    }),
    { numRuns: 500 },
  );
  t.pass();
});

test("zeroBlocks marks the blocks that are all zeros", (t) => {
  fc.assert(
    fc.property(blocks, spots, ({ size, count, offset }, places) => {
      const bytes = zeroExcept(places);
      const flags = blockFlags(size, count, offset, (at) => isZero(bytes.subarray(at, at + size)));
      mask.bytes.fill(0xff);
      const found = k.zeroBlocks(a.address + offset, size, count, mask.address);
      const expected = maskOf(flags);
      return found === flags.filter(Boolean).length && sameBytes(mask.bytes.subarray(0, expected.length), expected);
    }),
  );
  t.pass();
});

test("diffBlocks marks the blocks that differ", (t) => {
  fc.assert(
    fc.property(blocks, spots, ({ size, count, offset }, places) => {
      equalExcept(places);
      const differs = (at: number) => !sameBytes(a.bytes.subarray(at, at + size), b.bytes.subarray(at, at + size));
      const flags = blockFlags(size, count, offset, differs);
      mask.bytes.fill(0xff);
      const found = k.diffBlocks(a.address + offset, b.address + offset, size, count, mask.address);
      const expected = maskOf(flags);
      return found === flags.filter(Boolean).length && sameBytes(mask.bytes.subarray(0, expected.length), expected);
    }),
  );
  t.pass();
});

test("zeroRun cuts a range, with a short last block, into runs of one kind", (t) => {
  fc.assert(
    fc.property(blocks, fc.nat(60), spots, ({ size, count, offset }, rest, places) => {
      const bytes = zeroExcept(places);
      const end = offset + size * count + rest;
      for (let at = offset; at < end; ) {
        const run = a.zeroRun(at, end - at, size);
        let stop = at;
        while (stop < end && isZero(bytes.subarray(stop, Math.min(end, stop + size))) === run.zero) stop += size;
        if (run.lengthBytes !== Math.min(stop, end) - at) return false;
        at += run.lengthBytes;
      }
      return true;
    }),
  );
  t.pass();
});

test("copyTo copies, also to an overlapping place; fill fills only its range", (t) => {
  fc.assert(
    fc.property(span, fc.nat(2500), ({ offset, length }, place) => {
      equalExcept([]);
      const expected = Uint8Array.from(a.bytes);
      expected.copyWithin(place, offset, offset + length);
      a.copyTo(offset, a, place, length);
      const copied = sameBytes(a.bytes, expected);
      expected.fill(0x5c, offset, offset + length);
      a.fill(0x5c, offset, length);
      return copied && sameBytes(a.bytes, expected);
    }),
  );
  t.pass();
});

test("wrong blocks and ranges are refused", (t) => {
  t.throws(() => k.zeroBlocks(a.address, 24, 1, mask.address), { message: /multiple of 16/ });
  t.throws(() => k.diffBlocks(a.address, b.address, 0, 1, mask.address), { message: /multiple of 16/ });
  t.throws(() => k.zeroRun(a.address, 16, 0), { message: /a run needs a block/ });
  t.throws(() => k.zeroRun(a.address, 0x4000_0000, 3), { message: /exceed the memory/ });
  t.throws(() => a.isZero(1, AREA_BYTES), { message: /beyond the buffer/ });
  t.throws(() => a.isZero(-1, 1), { message: /before the buffer/ });
});
