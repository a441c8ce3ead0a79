/** Epochs put together at a start: regions of the activity log as bits of change maps, and back. */
import { REGION_BITS_BYTES, REGION_GRANULES, type RegionBits } from "../durable/activity-frames.ts";
import type { PagedBitmap } from "../map/paged-bitmap.ts";
import type { Epoch, EpochTrust } from "./change-chain.ts";
import type { Volume } from "./volume.ts";

/** The epoch of this id; a new, empty one is put in its place when the checkpoint did not have it. */
export function epochOf(epochs: Epoch[], id: number, volume: Volume): Epoch {
  const known = epochs.find((epoch) => epoch.id === id);
  if (known) return known;
  const trust: EpochTrust = "exact";
  const made: Epoch = { id, beginMs: 0, map: volume.chain.newMap(), trust };
  epochs.push(made);
  epochs.sort((a, b) => a.id - b.id);
  return made;
}

/** REGION_BITS_BYTES bytes. */
export function regionBits(map: PagedBitmap, region: number): Uint8Array {
  const bits = new Uint8Array(REGION_BITS_BYTES);
  const first = region * REGION_GRANULES;
  const limit = Math.min(first + REGION_GRANULES, map.bitCount);
  for (let run = nextIn(map, first, limit); run; run = nextIn(map, run.first + run.count, limit))
    for (let bit = run.first - first; bit < run.first - first + run.count; bit++)
      bits[bit >>> 3] = (bits[bit >>> 3] ?? 0) | (1 << (bit & 7));
  return bits;
}

function nextIn(map: PagedBitmap, from: number, limit: number): { first: number; count: number } | undefined {
  return from < limit ? map.nextRun(from, limit) : undefined;
}

export function addBits(epoch: Epoch, bits: ReadonlyMap<number, Uint8Array>): void {
  for (const [region, regionBytes] of bits) setRegionBits(epoch, region, regionBytes);
}

export function setRegionBits(epoch: Epoch, region: RegionBits["region"], bits: Uint8Array): void {
  const first = region * REGION_GRANULES;
  for (let bit = 0; bit < REGION_GRANULES && first + bit < epoch.map.bitCount; bit++)
    if (((bits[bit >>> 3] ?? 0) >>> (bit & 7)) & 1) epoch.map.setRange(first + bit, 1);
}

/** Every granule of it. */
export function setRegion(epoch: Epoch, region: number): void {
  const first = region * REGION_GRANULES;
  if (first >= epoch.map.bitCount) return;
  epoch.map.setRange(first, Math.min(REGION_GRANULES, epoch.map.bitCount - first));
}
