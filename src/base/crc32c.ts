/**
 * CRC-32C (Castagnoli, reflected, initial value and final xor 0xFFFFFFFF) of small pieces, in plain code.
 *
 * Role: for parts that do not load the copy core, whose kernel computes the same, much faster (engine/map/core.ts).
 */
const POLYNOMIAL = 0x82f63b78;

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
  return value;
});

/** `seed` is the checksum of the bytes before: then the two are checked as one piece. */
export function smallCrc32c(bytes: Uint8Array, seed = 0): number {
  let value = ~seed;
  for (const byte of bytes) value = (value >>> 8) ^ (TABLE[(value ^ byte) & 0xff] as number);
  return ~value >>> 0;
}
