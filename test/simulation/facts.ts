/** What the simulation tells the oracle of: sectors of volumes, and sessions as a box shows them. */

export const SECTORS_A_GRANULE = 16;
export const SECTORS_A_REGION = 8192;

/** Sectors of a volume. */
export interface Extent {
  readonly volume: number;
  readonly first: number;
  readonly count: number;
}

export interface SessionFacts {
  readonly id: string;
  readonly source: Extent;
  readonly destination: Extent;
  readonly kind: string;
  readonly phase: string;
  readonly tracking: boolean;
  readonly pace: number;
  readonly generation: number;
  readonly reason: string;
  readonly plannedGranules: number;
}

export type Side = "source" | "destination";

export function endOf(extent: Extent): number {
  return extent.first + extent.count;
}

export function overlaps(one: Extent, other: Extent): boolean {
  return one.volume === other.volume && one.first < endOf(other) && other.first < endOf(one);
}

/** Granules of `side` that `extent` touches, from 0 on; a granule counts in whole, also past the end of `side`. */
export function granulesTouched(side: Extent, extent: Extent): number[] {
  if (side.volume !== extent.volume) return [];
  const first = Math.max(granuleOf(side.first), granuleOf(extent.first));
  const last = Math.min(granuleOf(endOf(side) - 1), granuleOf(endOf(extent) - 1));
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => first + index - granuleOf(side.first));
}

export function granuleOf(sector: number): number {
  return Math.floor(sector / SECTORS_A_GRANULE);
}

/** The first sector of a granule. */
export function sectorOf(granule: number): number {
  return granule * SECTORS_A_GRANULE;
}

export function regionOf(sector: number): number {
  return Math.floor(sector / SECTORS_A_REGION);
}

/** "3-7, 12": numbers in rising order, told in short. */
export function runsOf(numbers: readonly number[]): string {
  const runs: [first: number, last: number][] = [];
  for (const number of numbers.toSorted((a, b) => a - b)) {
    const run = runs.at(-1);
    if (run && run[1] + 1 >= number) run[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(", ");
}
