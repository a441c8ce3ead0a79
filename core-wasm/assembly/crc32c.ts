/**
 * CRC-32C (Castagnoli, reflected, as in iSCSI and RFC 3720).
 *
 * Method. A checksum is a remainder: bytes may be replaced by anything congruent modulo the polynomial P.
 *   1. P divides S(y) = y^209 + y^144 + y^54 + y^39 + y^14 + 1 at y = x, and hence, since squaring keeps a root, at
 *      y = x^16. So in units of two bytes: a unit at the front may be removed by adding it (xor) to the units 65, 155,
 *      170, 195 and 209 places further on (209 minus each exponent). Seen from there it is a recurrence without tables
 *      and shifts, v[i] = unit[i] ^ v[i - 65] ^ v[i - 155] ^ v[i - 170] ^ v[i - 195] ^ v[i - 209], and as no distance is
 *      shorter than 16 bytes, eight units are done at once.
 *   2. The last units are not removed; with what was added to them they have the checksum of the whole.
 *   3. They, and ranges too short for this, are divided by tables, 16 bytes a turn.
 * Units of two bytes serve best: shorter ones make loads wait for stores just done, longer ones leave more to step 3.
 */

const POLYNOMIAL: u32 = 0x82f6_3b78;

/** What is not removed: at least 209 units, in whole vectors. Also the history the recurrence looks back on. */
const HISTORY_BYTES: usize = 432;
/** Bytes removed before the history is moved back to the front: all of it stays in the first-level cache. */
const ROW_BYTES: usize = 16_384;
/** The recurrence pays when it removes about what it leaves. */
const RECURRENCE_BYTES_MIN: usize = 2 * HISTORY_BYTES;

/** Sixteen tables of 256 words: the register after a byte and 0..15 zero bytes. */
const TABLES: usize = memory.data(16 * 1024, 16);
/** History and row: HISTORY_BYTES + ROW_BYTES. */
const ROW: usize = memory.data(432 + 16_384, 16);
/** The units that were not removed: HISTORY_BYTES. */
const LEFT: usize = memory.data(432, 16);

/** Builds the tables; to be called once, before `crc32c`. */
export function crc32cInit(): void {
  for (let i: u32 = 0; i < 256; i++) {
    let c = i;
    for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ POLYNOMIAL : c >>> 1;
    store<u32>(TABLES + (<usize>i << 2), c);
  }
  for (let at = TABLES; at < TABLES + 15 * 1024; at += 4) {
    const c = load<u32>(at);
    store<u32>(at, load<u32>(TABLES + (<usize>(c & 0xff) << 2)) ^ (c >>> 8), 1024);
  }
}

/** Checksum of `length` bytes that follow bytes whose checksum is `seed` (0: none). */
export function crc32c(at: usize, length: usize, seed: u32): u32 {
  let register = ~seed;
  if (length >= RECURRENCE_BYTES_MIN) {
    const whole = length & ~(<usize>15);
    reduce(at, whole, register);
    register = divide(0, LEFT, HISTORY_BYTES);
    at += whole;
    length -= whole;
  }
  return ~divide(register, at, length);
}

/** What the four bytes of `word` become when `place` to `place` + 3 bytes follow them, the last one first. */
// @ts-ignore: decorator
@inline
function lookUp(word: u32, place: usize): u32 {
  const table = TABLES + (place << 10);
  const low = load<u32>(table + (<usize>(word >>> 24) << 2)) ^ load<u32>(table + 1024 + (<usize>((word >>> 16) & 0xff) << 2));
  const high = load<u32>(table + 2048 + (<usize>((word >>> 8) & 0xff) << 2));
  return low ^ high ^ load<u32>(table + 3072 + (<usize>(word & 0xff) << 2));
}

/** The register after `length` bytes. */
function divide(register: u32, at: usize, length: usize): u32 {
  for (; length >= 16; length -= 16) {
    const rest = lookUp(load<u32>(at, 4), 8) ^ lookUp(load<u32>(at, 8), 4) ^ lookUp(load<u32>(at, 12), 0);
    register = rest ^ lookUp(load<u32>(at) ^ register, 12);
    at += 16;
  }
  for (; length > 0; length--) {
    register = load<u32>(TABLES + (<usize>((register ^ <u32>load<u8>(at)) & 0xff) << 2)) ^ (register >>> 8);
    at++;
  }
  return register;
}

/** Eight units plus what S adds to them; `history` lies HISTORY_BYTES before their place in the row. */
// @ts-ignore: decorator
@inline
function sum(units: usize, history: usize): v128 {
  const far = v128.xor(v128.load(history, 432 - 2 * 209), v128.load(history, 432 - 2 * 195));
  const middle = v128.xor(v128.load(history, 432 - 2 * 170), v128.load(history, 432 - 2 * 155));
  return v128.xor(v128.xor(far, middle), v128.xor(v128.load(units), v128.load(history, 432 - 2 * 65)));
}

/** Reduces `length` bytes (a multiple of 16, more than HISTORY_BYTES) that follow `register` to the bytes of LEFT. */
function reduce(at: usize, length: usize, register: u32): void {
  memory.fill(ROW, 0, HISTORY_BYTES);
  v128.store(ROW, v128.xor(v128.load(at), i32x4.replace_lane(i32x4.splat(0), 0, register)), HISTORY_BYTES);
  at += 16;
  let history = ROW + 16;
  let left = length - HISTORY_BYTES - 16;
  for (;;) {
    const end = min<usize>(history + left, ROW + ROW_BYTES);
    left -= end - history;
    for (; history + 64 <= end; history += 64) {
      v128.store(history, sum(at, history), HISTORY_BYTES);
      v128.store(history, sum(at + 16, history + 16), HISTORY_BYTES + 16);
      v128.store(history, sum(at + 32, history + 32), HISTORY_BYTES + 32);
      v128.store(history, sum(at + 48, history + 48), HISTORY_BYTES + 48);
      at += 64;
    }
    for (; history < end; history += 16) {
      v128.store(history, sum(at, history), HISTORY_BYTES);
      at += 16;
    }
    memory.copy(ROW, history, HISTORY_BYTES);
    history = ROW;
    if (left == 0) break;
  }
  memory.fill(ROW + HISTORY_BYTES, 0, HISTORY_BYTES);
  for (let i: usize = 0; i < HISTORY_BYTES; i += 16) v128.store(LEFT + i, sum(at + i, ROW + i));
}
