/** CRC-32C: published vectors, the bitwise definition, and continuation over any split. */
import test from "ava";
import fc from "fast-check";
import { smallCrc32c } from "../../src/base/crc32c.ts";
import { crc32c, getCore, instantiateCore, loadCore } from "../../src/engine/map/core.ts";

/** The definition: one bit at a time. */
function bitwise(bytes: Uint8Array, seed = 0): number {
  let register = ~seed;
  for (const byte of bytes) {
    register ^= byte;
    for (let i = 0; i < 8; i++) register = register & 1 ? (register >>> 1) ^ 0x82f63b78 : register >>> 1;
  }
  return ~register >>> 0;
}

function noise(length: number, seed: number): Uint8Array {
  let x = seed | 1;
  return Uint8Array.from({ length }, () => {
    x = Math.imul(x, 1664525) + 1013904223;
    return x >>> 24;
  });
}

test.before(async () => {
  await loadCore();
});

test("the vectors of RFC 3720 B.4 and the usual check value", (t) => {
  const rows: [string, Uint8Array, number][] = [
    ["nothing", new Uint8Array(0), 0],
    ["123456789", Buffer.from("123456789"), 0xe3069283],
    ["32 zeros", new Uint8Array(32), 0x8a9136aa],
    ["32 ones", new Uint8Array(32).fill(0xff), 0x62a8ab43],
    ["32 ascending", Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
    ["32 descending", Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
    [
      "an iSCSI read command",
      Buffer.from(
        "01c00000000000000000000000000000140000000000040000000014000000182800000000000000" + "0200000000000000",
        "hex",
      ),
      0xd9963a56,
    ],
  ];
  for (const [name, bytes, expected] of rows) t.is(crc32c(bytes), expected, name);
});

test("any length equals the bitwise definition, from any seed", (t) => {
  const length = fc.oneof(
    fc.nat(300),
    fc.nat(3000),
    fc.constantFrom(511, 512, 513, 639, 640, 16_383, 16_384, 16_385, 50_000),
  );
  fc.assert(
    fc.property(length, fc.integer(), fc.nat(0xffff_ffff), (n, noiseSeed, seed) => {
      const bytes = noise(n, noiseSeed);
      return crc32c(bytes, seed) === bitwise(bytes, seed);
    }),
    { numRuns: 200 },
  );
  t.pass();
});

test("every length around the folding sizes", (t) => {
  const bytes = noise(9000, 7);
  const wrong: number[] = [];
  for (let n = 0; n <= 1300; n++)
    if (crc32c(bytes.subarray(n % 17, (n % 17) + n)) !== bitwise(bytes.subarray(n % 17, (n % 17) + n))) wrong.push(n);
  for (let n = 3200; n <= 9000; n += 113)
    if (crc32c(bytes.subarray(0, n)) !== bitwise(bytes.subarray(0, n))) wrong.push(n);
  t.deepEqual(wrong, []);
});

test("the checksum of a whole is that of its parts, continued", (t) => {
  fc.assert(
    fc.property(fc.array(fc.nat(5000), { maxLength: 5 }), fc.integer(), (lengths, seed) => {
      const parts = lengths.map((length, i) => noise(length, seed + i));
      return parts.reduce((sum, part) => crc32c(part, sum), 0) === crc32c(Buffer.concat(parts));
    }),
    { numRuns: 100 },
  );
  t.pass();
});

test("one changed bit anywhere in a page changes the checksum", (t) => {
  const bytes = noise(4096, 99);
  const whole = crc32c(bytes);
  let same = 0;
  for (let bit = 0; bit < 4096 * 8; bit += 7) {
    bytes[bit >>> 3]! ^= 1 << (bit & 7);
    if (crc32c(bytes) === whole) same++;
    bytes[bit >>> 3]! ^= 1 << (bit & 7);
  }
  t.is(same, 0);
  t.is(crc32c(bytes), whole);
});

test("bytes inside the core's memory are taken where they are", async (t) => {
  const core = await instantiateCore();
  const buffer = core.createBuffer(100_000);
  buffer.bytes.set(noise(100_000, 3));
  const outside = Uint8Array.from(buffer.bytes);
  t.is(core.crc32c(buffer.bytes.subarray(5, 99_000)), core.crc32c(outside.subarray(5, 99_000)));
  t.is(buffer.crc32c(5, 98_995), core.crc32c(outside.subarray(5, 99_000)));
  t.is(buffer.crc32c(1000, 500, buffer.crc32c(0, 1000)), core.crc32c(outside.subarray(0, 1500)));
});

test("the plain code of the store computes the same", (t) => {
  const bytes = noise(5000, 11);
  t.is(smallCrc32c(Buffer.from("123456789")), 0xe3069283);
  for (const length of [0, 1, 7, 8, 4095, 5000])
    t.is(smallCrc32c(bytes.subarray(0, length)), crc32c(bytes.subarray(0, length)));
  t.is(smallCrc32c(bytes.subarray(77), smallCrc32c(bytes.subarray(0, 77))), crc32c(bytes));
});

test("the thread's core is loaded once", async (t) => {
  t.is(await loadCore(), getCore());
});
