/**
 * Kernels over byte ranges and rows of equal blocks: copy, fill, zero detection, comparison.
 *
 * Invariants: any address and length may be given to the byte kernels; a block's size is a multiple of 16; a bit mask
 * has bit `i & 7` of byte `i >>> 3` for block `i`, and its unused bits of the last byte are 0.
 */

export function bytesCopy(to: usize, from: usize, length: usize): void {
  memory.copy(to, from, length);
}

export function bytesFill(to: usize, value: u32, length: usize): void {
  memory.fill(to, <u8>value, length);
}

// @ts-ignore: decorator
@inline
function or4(at: usize): v128 {
  return v128.or(v128.or(v128.load(at), v128.load(at, 16)), v128.or(v128.load(at, 32), v128.load(at, 48)));
}

// @ts-ignore: decorator
@inline
function difference4(a: usize, b: usize): v128 {
  return v128.or(
    v128.or(v128.xor(v128.load(a), v128.load(b)), v128.xor(v128.load(a, 16), v128.load(b, 16))),
    v128.or(v128.xor(v128.load(a, 32), v128.load(b, 32)), v128.xor(v128.load(a, 48), v128.load(b, 48))),
  );
}

/** True when every byte is 0. */
export function bytesZero(at: usize, length: usize): bool {
  const end = at + length;
  while (at + 256 <= end) {
    if (v128.any_true(v128.or(v128.or(or4(at), or4(at + 64)), v128.or(or4(at + 128), or4(at + 192))))) return false;
    at += 256;
  }
  while (at + 64 <= end) {
    if (v128.any_true(or4(at))) return false;
    at += 64;
  }
  while (at + 8 <= end) {
    if (load<u64>(at) != 0) return false;
    at += 8;
  }
  while (at < end) {
    if (load<u8>(at) != 0) return false;
    at++;
  }
  return true;
}

/** True when both ranges hold the same bytes. */
export function bytesEqual(a: usize, b: usize, length: usize): bool {
  const end = a + length;
  while (a + 128 <= end) {
    if (v128.any_true(v128.or(difference4(a, b), difference4(a + 64, b + 64)))) return false;
    a += 128;
    b += 128;
  }
  while (a + 8 <= end) {
    if (load<u64>(a) != load<u64>(b)) return false;
    a += 8;
    b += 8;
  }
  while (a < end) {
    if (load<u8>(a) != load<u8>(b)) return false;
    a++;
    b++;
  }
  return true;
}

/** Index of the first byte that differs, or `length`. */
export function firstDifference(a: usize, b: usize, length: usize): usize {
  let i: usize = 0;
  while (i + 64 <= length && !v128.any_true(difference4(a + i, b + i))) i += 64;
  while (i + 8 <= length) {
    const x = load<u64>(a + i) ^ load<u64>(b + i);
    if (x != 0) return i + (<usize>ctz<u64>(x) >>> 3);
    i += 8;
  }
  while (i < length && load<u8>(a + i) == load<u8>(b + i)) i++;
  return i;
}

// @ts-ignore: decorator
@inline
function checkBlocks(blockBytes: usize, count: u32): void {
  assert(blockBytes >= 16 && (blockBytes & 15) == 0, "block size must be a multiple of 16");
  assert(<u64>blockBytes * <u64>count <= 0x8000_0000, "blocks exceed the memory");
}

/** Marks in `mask` which of `count` blocks are all zeros; returns how many are. */
export function zeroBlocks(at: usize, blockBytes: usize, count: u32, mask: usize): u32 {
  checkBlocks(blockBytes, count);
  memory.fill(mask, 0, (<usize>count + 7) >>> 3);
  let found: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    if (bytesZero(at, blockBytes)) {
      const byte = mask + (<usize>i >>> 3);
      store<u8>(byte, <u8>(<u32>load<u8>(byte) | (<u32>1 << (i & 7))));
      found++;
    }
    at += blockBytes;
  }
  return found;
}

/**
 * Length of the run of blocks that begins at `at` and is all zeros (answer > 0) or has no zero block (answer < 0,
 * its length negated). `count` > 0.
 */
export function zeroRun(at: usize, blockBytes: usize, count: u32): i32 {
  checkBlocks(blockBytes, count);
  assert(count > 0, "a run needs a block");
  const zero = bytesZero(at, blockBytes);
  let run: u32 = 1;
  at += blockBytes;
  while (run < count && bytesZero(at, blockBytes) == zero) {
    run++;
    at += blockBytes;
  }
  return zero ? <i32>run : -(<i32>run);
}

/** Marks in `mask` which of `count` blocks differ between `a` and `b`; returns how many do. */
export function diffBlocks(a: usize, b: usize, blockBytes: usize, count: u32, mask: usize): u32 {
  checkBlocks(blockBytes, count);
  memory.fill(mask, 0, (<usize>count + 7) >>> 3);
  let found: u32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    if (!bytesEqual(a, b, blockBytes)) {
      const byte = mask + (<usize>i >>> 3);
      store<u8>(byte, <u8>(<u32>load<u8>(byte) | (<u32>1 << (i & 7))));
      found++;
    }
    a += blockBytes;
    b += blockBytes;
  }
  return found;
}
