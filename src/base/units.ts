/** Sizes and their conversions. An index, a count and a size are converted only through the functions of this file. */

export const KiB = 1024;
export const MiB = 1024 * KiB;
export const GiB = 1024 * MiB;
export const TiB = 1024 * GiB;

/** The unit of copying and tracking (spec/11 "I/O rules per session"). */
export const GRANULE_SIZE_BYTES = 8 * KiB;
/** The unit of host I/O and of a volume's size. */
export const SECTOR_SIZE_BYTES = 512;

/** Granules needed to hold `sizeBytes`; the last one may be partial. */
export function granuleCountOf(sizeBytes: number): number {
  return Math.ceil(sizeBytes / GRANULE_SIZE_BYTES);
}

/** Index of the granule that holds byte `offsetBytes`. */
export function granuleIndexOf(offsetBytes: number): number {
  return Math.floor(offsetBytes / GRANULE_SIZE_BYTES);
}

/** Granules `[first, first + count)` that the bytes `[offsetBytes, offsetBytes + lengthBytes)` touch. */
export function granulesTouched(offsetBytes: number, lengthBytes: number): { first: number; count: number } {
  if (lengthBytes === 0) return { first: granuleIndexOf(offsetBytes), count: 0 };
  const first = granuleIndexOf(offsetBytes);
  return { first, count: granuleIndexOf(offsetBytes + lengthBytes - 1) - first + 1 };
}
