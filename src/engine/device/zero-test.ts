/** Finds zeros in a buffer by comparison with a buffer of zeros: memcmp speed, and it stops at the first other byte. */
import { GRANULE_SIZE_BYTES, MiB } from "../../base/units.ts";

const ZEROS = Buffer.alloc(1 * MiB);

/** True if `buffer[from, to)` holds zeros only. */
export function isZero(buffer: Buffer, from: number, to: number): boolean {
  for (let at = from; at < to; at += ZEROS.length) {
    const end = Math.min(to, at + ZEROS.length);
    if (buffer.compare(ZEROS, 0, end - at, at, end) !== 0) return false;
  }
  return true;
}

/**
 * End of the stretch of `buffer[from, to)` that is all zero or all other, in whole granules counted from `from`.
 * `zero` is the kind asked for; the result is `from` when the first granule is of the other kind.
 */
export function stretchEnd(buffer: Buffer, from: number, to: number, zero: boolean): number {
  // The usual cases in one comparison: all zero, or (it stops at the first byte) not.
  if (zero && isZero(buffer, from, to)) return to;
  let at = from;
  while (at < to) {
    const end = Math.min(to, at + GRANULE_SIZE_BYTES);
    if (isZero(buffer, at, end) !== zero) return at;
    at = end;
  }
  return to;
}
