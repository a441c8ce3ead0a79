/**
 * CRC-32C (Castagnoli, reflected, as in iSCSI and RFC 3720).
 *
 * Method. The register is a linear map of the bytes over GF(2), so a long range is folded before it is divided:
 *   1. Keep a state of 128 bytes that is congruent to everything read so far: its checksum is theirs.
 *   2. Each next 128 bytes: state = F(state) xor bytes, where F appends 128 zero bytes. Bytes 32 apart (j, j+32, j+64,
 *      j+96) of the state hold one element of GF(2)^32 each, and in that basis F is the same 32 x 32 bit matrix for all
 *      32 columns. A nibble of a column's byte then contributes 4 bytes, looked up by `i8x16.swizzle` for 16 columns at
 *      once: 8 nibbles x 4 result bytes = 32 tables of 16 bytes.
 *   3. The state, and then the rest of the range, is divided by the common tables, 8 bytes a step.
 * F = B^-1 A B, with A "append 128 zero bytes to a register" and B "register of a column's four bytes"; B can be
 * inverted for distances of 32 bytes (not for 16), which `crc32cInit` asserts.
 */

const POLYNOMIAL: u32 = 0x82f6_3b78;
const STATE_BYTES: u32 = 128;
const COLUMN_STRIDE_BYTES: u32 = 32;
/** Folding pays from here on: it ends with the division of a whole state. */
const FOLD_BYTES_MIN: usize = 512;

/** Eight tables of 256 words: the register after a byte and 0..7 zero bytes. */
const TABLES: usize = memory.data(8 * 1024, 16);
/** 32 tables of 16 bytes: [byte of column][low, high nibble][byte of result]. */
const FOLDS: usize = memory.data(32 * 16, 16);
/** 32 pairs (image, preimage) while B is inverted; later the state while it is divided. */
const WORK: usize = memory.data(256, 16);

/** Builds the tables; to be called once, before `crc32c`. */
export function crc32cInit(): void {
  for (let i: u32 = 0; i < 256; i++) {
    let c = i;
    for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ POLYNOMIAL : c >>> 1;
    store<u32>(TABLES + (<usize>i << 2), c);
  }
  for (let t: usize = 1; t < 8; t++) {
    for (let i: usize = 0; i < 256; i++) {
      const c = load<u32>(TABLES + ((t - 1) << 10) + (i << 2));
      store<u32>(TABLES + (t << 10) + (i << 2), appendZeros(c, 1));
    }
  }
  invertColumns();
  for (let bytePlace: u32 = 0; bytePlace < 4; bytePlace++) {
    for (let half: u32 = 0; half < 2; half++) {
      for (let nibble: u32 = 0; nibble < 16; nibble++) {
        const folded = foldColumn(nibble << (bytePlace * 8 + half * 4));
        for (let result: u32 = 0; result < 4; result++) {
          const table = FOLDS + <usize>((bytePlace * 2 + half) * 4 + result) * 16;
          store<u8>(table + nibble, <u8>(folded >>> (result * 8)));
        }
      }
    }
  }
}

function appendZeros(register: u32, count: u32): u32 {
  for (; count > 0; count--) register = load<u32>(TABLES + (<usize>(register & 0xff) << 2)) ^ (register >>> 8);
  return register;
}

/** B: the register of a column, whose byte k (bits 8k..8k+7 of `column`) lies 32 * k bytes after the first. */
function columnRegister(column: u32): u32 {
  let register: u32 = 0;
  for (let k: u32 = 0; k < 4; k++) {
    const byte = (column >>> (8 * k)) & 0xff;
    register ^= appendZeros(load<u32>(TABLES + (<usize>byte << 2)), (3 - k) * COLUMN_STRIDE_BYTES);
  }
  return register;
}

/** Gauss-Jordan: afterwards pair i of WORK is (1 << i, B^-1(1 << i)). */
function invertColumns(): void {
  for (let i: u32 = 0; i < 32; i++) {
    store<u32>(WORK + (<usize>i << 3), columnRegister(1 << i));
    store<u32>(WORK + (<usize>i << 3), 1 << i, 4);
  }
  for (let bit: u32 = 0; bit < 32; bit++) {
    const target = WORK + (<usize>bit << 3);
    let row = bit;
    while (row < 32 && ((load<u32>(WORK + (<usize>row << 3)) >>> bit) & 1) == 0) row++;
    assert(row < 32, "columns of the fold state are dependent");
    const found = load<u64>(WORK + (<usize>row << 3));
    store<u64>(WORK + (<usize>row << 3), load<u64>(target));
    store<u64>(target, found);
    for (let other: u32 = 0; other < 32; other++) {
      const at = WORK + (<usize>other << 3);
      if (other != bit && (load<u32>(at) >>> bit) & 1) store<u64>(at, load<u64>(at) ^ found);
    }
  }
}

/** F for one column: B^-1 (append 128 zero bytes (B column)). */
function foldColumn(column: u32): u32 {
  const register = appendZeros(columnRegister(column), STATE_BYTES);
  let folded: u32 = 0;
  for (let bit: u32 = 0; bit < 32; bit++) {
    if ((register >>> bit) & 1) folded ^= load<u32>(WORK + (<usize>bit << 3), 4);
  }
  return folded;
}

/** Checksum of `length` bytes that follow bytes whose checksum is `seed` (0: none). */
export function crc32c(at: usize, length: usize, seed: u32): u32 {
  let register = ~seed;
  if (length >= FOLD_BYTES_MIN) {
    const whole = length & ~(<usize>STATE_BYTES - 1);
    foldRange(at, whole, register);
    register = divide(0, WORK, STATE_BYTES);
    at += whole;
    length -= whole;
  }
  return ~divide(register, at, length);
}

function divide(register: u32, at: usize, length: usize): u32 {
  for (; length >= 8; length -= 8) {
    const low = load<u32>(at) ^ register;
    const high = load<u32>(at, 4);
    register =
      load<u32>(TABLES + (<usize>(low & 0xff) << 2), 7 * 1024) ^
      load<u32>(TABLES + (<usize>((low >>> 8) & 0xff) << 2), 6 * 1024) ^
      load<u32>(TABLES + (<usize>((low >>> 16) & 0xff) << 2), 5 * 1024) ^
      load<u32>(TABLES + (<usize>(low >>> 24) << 2), 4 * 1024) ^
      load<u32>(TABLES + (<usize>(high & 0xff) << 2), 3 * 1024) ^
      load<u32>(TABLES + (<usize>((high >>> 8) & 0xff) << 2), 2 * 1024) ^
      load<u32>(TABLES + (<usize>((high >>> 16) & 0xff) << 2), 1024) ^
      load<u32>(TABLES + (<usize>(high >>> 24) << 2));
    at += 8;
  }
  for (; length > 0; length--) {
    register = load<u32>(TABLES + (<usize>((register ^ <u32>load<u8>(at)) & 0xff) << 2)) ^ (register >>> 8);
    at++;
  }
  return register;
}

// @ts-ignore: decorator
@inline
function low4(x: v128): v128 {
  return v128.and(x, i8x16.splat(15));
}

// @ts-ignore: decorator
@inline
function high4(x: v128): v128 {
  return v128.and(i16x8.shr_u(x, 4), i8x16.splat(15));
}

/** What the nibble `x` of 16 columns contributes to result byte `result`; `place` counts the nibbles of a column. */
// @ts-ignore: decorator
@inline
function contribution(x: v128, place: usize, result: usize): v128 {
  return i8x16.swizzle(v128.load(FOLDS + ((place << 2) + result) * 16), x);
}

/** Result byte `result` of F for 16 columns, of which `bytes0`..`bytes3` are the four bytes, added to `next`. */
// @ts-ignore: decorator
@inline
function foldInto(next: v128, bytes0: v128, bytes1: v128, bytes2: v128, bytes3: v128, result: usize): v128 {
  const a = v128.xor(contribution(low4(bytes0), 0, result), contribution(high4(bytes0), 1, result));
  const b = v128.xor(contribution(low4(bytes1), 2, result), contribution(high4(bytes1), 3, result));
  const c = v128.xor(contribution(low4(bytes2), 4, result), contribution(high4(bytes2), 5, result));
  const d = v128.xor(contribution(low4(bytes3), 6, result), contribution(high4(bytes3), 7, result));
  return v128.xor(v128.xor(next, v128.xor(a, b)), v128.xor(c, d));
}

/** Folds `length` bytes (a multiple of 128, at least 128) that follow `register` into WORK. */
function foldRange(at: usize, length: usize, register: u32): void {
  const end = at + length;
  // p0..p3 are the four bytes of columns 0..15, q0..q3 those of columns 16..31.
  let p0 = v128.xor(v128.load(at), i32x4.replace_lane(i32x4.splat(0), 0, register));
  let q0 = v128.load(at, 16);
  let p1 = v128.load(at, 32);
  let q1 = v128.load(at, 48);
  let p2 = v128.load(at, 64);
  let q2 = v128.load(at, 80);
  let p3 = v128.load(at, 96);
  let q3 = v128.load(at, 112);
  for (at += STATE_BYTES; at < end; at += STATE_BYTES) {
    const a0 = foldInto(v128.load(at), p0, p1, p2, p3, 0);
    const a1 = foldInto(v128.load(at, 32), p0, p1, p2, p3, 1);
    const a2 = foldInto(v128.load(at, 64), p0, p1, p2, p3, 2);
    p3 = foldInto(v128.load(at, 96), p0, p1, p2, p3, 3);
    p0 = a0;
    p1 = a1;
    p2 = a2;
    const b0 = foldInto(v128.load(at, 16), q0, q1, q2, q3, 0);
    const b1 = foldInto(v128.load(at, 48), q0, q1, q2, q3, 1);
    const b2 = foldInto(v128.load(at, 80), q0, q1, q2, q3, 2);
    q3 = foldInto(v128.load(at, 112), q0, q1, q2, q3, 3);
    q0 = b0;
    q1 = b1;
    q2 = b2;
  }
  v128.store(WORK, p0);
  v128.store(WORK, q0, 16);
  v128.store(WORK, p1, 32);
  v128.store(WORK, q1, 48);
  v128.store(WORK, p2, 64);
  v128.store(WORK, q2, 80);
  v128.store(WORK, p3, 96);
  v128.store(WORK, q3, 112);
}
