/**
 * Content that says what it is: every block of 4 KiB carries the number of the write that made it and its own place.
 *
 * A block that was torn, mixed of two writes, or copied to a wrong place has no value. All copies keep a block in its
 * place, so a block is the same on whatever volume it is found.
 * Invariant: write number 0 is a block of zeros, as a hole reads.
 */
export const BLOCK_BYTES = 4096;
export const BLOCKS_PER_GRANULE = 2;
const STAMP_BYTES = 16;
const STAMP_WORDS = STAMP_BYTES / 4;
const PLACE_MASK = 0x5a5a5a5a;

/** Bytes of one write: blocks `firstBlock ...`, all stamped with `write`. */
export function stamped(write: number, firstBlock: number, blockCount: number): Buffer {
  const bytes = Buffer.alloc(blockCount * BLOCK_BYTES);
  if (write !== 0)
    for (let at = 0; at < blockCount; at++)
      bytes.fill(stampOf(write, firstBlock + at), at * BLOCK_BYTES, (at + 1) * BLOCK_BYTES);
  return bytes;
}

function stampOf(write: number, block: number): Buffer {
  const stamp = Buffer.allocUnsafe(STAMP_BYTES);
  stamp.writeUInt32LE(write, 0);
  stamp.writeUInt32LE(block, 4);
  stamp.writeUInt32LE(~write >>> 0, 8);
  stamp.writeUInt32LE((block ^ PLACE_MASK) >>> 0, 12);
  return stamp;
}

/** The write that made this piece of `block`; undefined when no single one did. `bytes` is whole stamps. */
export function writeOf(bytes: Buffer, block: number): number | undefined {
  const write = bytes.readUInt32LE(0);
  if (write === 0) return isZero(bytes) ? 0 : undefined;
  if (bytes.readUInt32LE(4) !== block || bytes.readUInt32LE(8) !== ~write >>> 0) return undefined;
  if (bytes.readUInt32LE(12) !== (block ^ PLACE_MASK) >>> 0) return undefined;
  return repeats(bytes) ? write : undefined;
}

function isZero(bytes: Buffer): boolean {
  return bytes.readBigUInt64LE(0) === 0n && bytes.readBigUInt64LE(8) === 0n && repeats(bytes);
}

/** Whether the first stamp is all there is. */
function repeats(bytes: Buffer): boolean {
  const { length } = bytes;
  if (length <= STAMP_BYTES) return true;
  return bytes.compare(bytes, STAMP_BYTES, length, 0, length - STAMP_BYTES) === 0;
}

/** For a report: what is there. */
export function describeBlock(bytes: Buffer, block: number): string {
  const write = writeOf(bytes, block);
  if (write !== undefined) return `write ${write}`;
  const words = Array.from({ length: STAMP_WORDS }, (_, word) => bytes.readUInt32LE(word * 4).toString(16));
  return `no whole write of block ${block} (begins ${words.join(" ")})`;
}
