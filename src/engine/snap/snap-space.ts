/**
 * Space of snap data volumes and pools, counted as the manuals count it.
 *
 * Role: figures and limits; arithmetic only. Stores take their space here before they write (`SnapBudget`).
 * Rules (spec/11 "Snap Data Volume / Pool", spec/41 14.8.2):
 *   1. Space is taken by granules, shown in sectors of 512 bytes, so every figure is a multiple of 16.
 *   2. A granule counts once, with the class that took it: *Copy* while a session runs, *Host* while none does. Rewriting it takes
 *      nothing. Host usage stays when a session starts, and goes when the volume is initialised.
 *   3. Used = Copy + Host inside the volume's own physical capacity; what exceeds it is taken from the pool. Host's comes first,
 *      because it is older than the session: so the split follows from the totals alone, whatever was moved or opened again.
 *   4. Rates are whole percent, cut off.
 *   5. The control information (0.1 % of the logical capacity) is set aside beside the physical capacity: an empty volume shows
 *      Used 0 of all of Physical, and a full one Used = Physical, so it is in neither, nor in the pool. It is a figure of its own,
 *      to be added when one asks what a volume takes on its disk.
 *   6. A threshold of a pool is crossed when the rate rises above it, and can be crossed again only after it was no longer above.
 *   7. SNAP_OVERFLOW takes nothing: an append has room for all of its granules or for none.
 */
import { assert } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";
import { GRANULE_SIZE_BYTES, SECTOR_SIZE_BYTES } from "../../base/units.ts";
import { snapOverflow } from "./snap-file.ts";
import type { SnapCipherName, SnapClass } from "./snap-format.ts";
import type { SnapBudget } from "./snap-store.ts";

export const SECTORS_PER_GRANULE = GRANULE_SIZE_BYTES / SECTOR_SIZE_BYTES;
const CONTROL_PARTS = 1000;

export type SnapPoolType = "normal" | "encrypted";
type Usage = Readonly<Record<SnapClass, number>>;

export interface SnapVolumeFigures {
  readonly logicalSectors: number;
  readonly physicalSectors: number;
  readonly usedSectors: number;
  readonly copySectors: number;
  readonly hostSectors: number;
  readonly poolSectors: number;
  readonly ratePercent: number;
  readonly controlSectors: number;
}

export interface SnapPoolFigures {
  readonly type: SnapPoolType;
  readonly totalSectors: number;
  readonly usedSectors: number;
  readonly copySectors: number;
  readonly hostSectors: number;
  readonly freeSectors: number;
  readonly ratePercent: number;
}

/** The pool that a volume may grow from: an encrypted one never spills into the clear. */
export function poolTypeOf(cipher: SnapCipherName): SnapPoolType {
  return cipher === "none" ? "normal" : "encrypted";
}

/** What the control information of a volume takes. */
export function controlSectors(logicalSectors: number): number {
  return Math.ceil(logicalSectors / CONTROL_PARTS / SECTORS_PER_GRANULE) * SECTORS_PER_GRANULE;
}

export function ratePercent(used: number, total: number): number {
  return total === 0 ? 0 : Math.floor((used * 100) / total);
}

// --- pools -----------------------------------------------------------------------------------------------------------

/** Crossing one is worth an event. */
export interface PoolThreshold {
  readonly percent: number;
  readonly advice: "consider-enlarging" | "enlarge-immediately";
}

export const POOL_THRESHOLDS: readonly PoolThreshold[] = [
  { percent: 50, advice: "consider-enlarging" },
  { percent: 70, advice: "enlarge-immediately" },
];

/** Those that the rate is above; exact, without rounding. */
export function thresholdsAbove(used: number, total: number): readonly PoolThreshold[] {
  return POOL_THRESHOLDS.filter(({ percent }) => used * 100 > percent * total);
}

export type PoolThresholdListener = (pool: SnapPool, crossed: PoolThreshold) => void;

export class SnapPool {
  readonly type: SnapPoolType;
  readonly #onCrossed: PoolThresholdListener;
  readonly #used: Record<SnapClass, number> = { copy: 0, host: 0 };
  #totalGranules: number;
  /** Thresholds that have been crossed and are still exceeded. */
  #above: readonly PoolThreshold[] = [];

  constructor(type: SnapPoolType, totalSectors: number, onCrossed: PoolThresholdListener = () => undefined) {
    this.type = type;
    this.#totalGranules = granulesOf(totalSectors, "the capacity of a pool");
    this.#onCrossed = onCrossed;
  }

  get freeGranules(): number {
    return Math.max(0, this.#totalGranules - this.#used.copy - this.#used.host);
  }

  get figures(): SnapPoolFigures {
    const used = this.#used.copy + this.#used.host;
    return {
      type: this.type,
      totalSectors: this.#totalGranules * SECTORS_PER_GRANULE,
      usedSectors: used * SECTORS_PER_GRANULE,
      copySectors: this.#used.copy * SECTORS_PER_GRANULE,
      hostSectors: this.#used.host * SECTORS_PER_GRANULE,
      freeSectors: this.freeGranules * SECTORS_PER_GRANULE,
      ratePercent: ratePercent(used, this.#totalGranules),
    };
  }

  /** SIZE_INVALID: less than is used, or no multiple of 16 sectors. */
  resize(totalSectors: number): void {
    const granules = granulesOf(totalSectors, "the capacity of a pool");
    if (granules < this.#used.copy + this.#used.host)
      throw sizeInvalid(`the ${this.type} pool has ${this.figures.usedSectors} sectors in use`);
    this.#totalGranules = granules;
    this.#tellCrossed();
  }

  /** One volume's share changes; the volume has seen to it that there is room. `told`: thresholds are reported. */
  change(before: Usage, after: Usage, thresholds: "told" | "taken over"): void {
    for (const kind of ["copy", "host"] as const) {
      this.#used[kind] += after[kind] - before[kind];
      assert(this.#used[kind] >= 0, "a pool gets back what was taken from it");
    }
    if (thresholds === "told") this.#tellCrossed();
    else this.#above = this.#thresholdsAbove();
  }

  #thresholdsAbove(): readonly PoolThreshold[] {
    return thresholdsAbove(this.#used.copy + this.#used.host, this.#totalGranules);
  }

  #tellCrossed(): void {
    const before = this.#above;
    this.#above = this.#thresholdsAbove();
    for (const threshold of this.#above) if (!before.includes(threshold)) this.#onCrossed(this, threshold);
  }
}

// --- volumes ---------------------------------------------------------------------------------------------------------

export interface SnapSpaceOptions {
  readonly owner: string;
  readonly logicalSectors: number;
  readonly physicalSectors: number;
  /** Absent: the physical capacity is all there is. */
  readonly pool?: SnapPool;
}

export class SnapSpace implements SnapBudget {
  readonly #owner: string;
  readonly #logicalSectors: number;
  readonly #physicalGranules: number;
  readonly #pool: SnapPool | undefined;
  #used: Usage = { copy: 0, host: 0 };

  /** SIZE_INVALID: no multiple of 16 sectors, nothing, or more physical than logical capacity. */
  constructor({ owner, logicalSectors, physicalSectors, pool }: SnapSpaceOptions) {
    this.#owner = owner;
    this.#logicalSectors = logicalSectors;
    this.#physicalGranules = granulesOf(physicalSectors, "the physical capacity");
    if (!(Number.isSafeInteger(logicalSectors) && logicalSectors > 0 && this.#physicalGranules > 0))
      throw sizeInvalid("a snap data volume has a logical and a physical capacity");
    if (physicalSectors > Math.ceil(logicalSectors / SECTORS_PER_GRANULE) * SECTORS_PER_GRANULE)
      throw sizeInvalid(`the physical capacity (${physicalSectors}) exceeds the logical one (${logicalSectors})`);
    this.#pool = pool;
  }

  get figures(): SnapVolumeFigures {
    const { own, pool } = splitUsage(this.#used, this.#physicalGranules);
    return {
      logicalSectors: this.#logicalSectors,
      physicalSectors: this.#physicalGranules * SECTORS_PER_GRANULE,
      usedSectors: (own.copy + own.host) * SECTORS_PER_GRANULE,
      copySectors: own.copy * SECTORS_PER_GRANULE,
      hostSectors: own.host * SECTORS_PER_GRANULE,
      poolSectors: (pool.copy + pool.host) * SECTORS_PER_GRANULE,
      ratePercent: ratePercent(own.copy + own.host, this.#physicalGranules),
      controlSectors: controlSectors(this.#logicalSectors),
    };
  }

  /** Granules that can still be taken. */
  get freeGranules(): number {
    const { own } = splitUsage(this.#used, this.#physicalGranules);
    return this.#physicalGranules - own.copy - own.host + (this.#pool?.freeGranules ?? 0);
  }

  take(granuleCount: number, kind: SnapClass): void {
    if (granuleCount > this.freeGranules) {
      const full =
        this.#pool === undefined ? "its physical capacity is used up" : `its ${this.#pool.type} pool is used up`;
      throw snapOverflow(this.#owner, full);
    }
    this.#setUsed({ ...this.#used, [kind]: this.#used[kind] + granuleCount }, "told");
  }

  giveBack(granuleCount: number, kind: SnapClass): void {
    assert(granuleCount <= this.#used[kind], "a volume gives back what it has taken");
    this.#setUsed({ ...this.#used, [kind]: this.#used[kind] - granuleCount }, "taken over");
  }

  adopt(granules: Usage): void {
    this.#setUsed({ copy: granules.copy, host: granules.host }, "taken over");
  }

  #setUsed(after: Usage, thresholds: "told" | "taken over"): void {
    const before = this.#used;
    this.#used = after;
    this.#pool?.change(
      splitUsage(before, this.#physicalGranules).pool,
      splitUsage(after, this.#physicalGranules).pool,
      thresholds,
    );
  }
}

/** Rule 3. */
export function splitUsage(used: Usage, physicalGranules: number): { readonly own: Usage; readonly pool: Usage } {
  const host = Math.min(used.host, physicalGranules);
  const copy = Math.min(used.copy, physicalGranules - host);
  return { own: { copy, host }, pool: { copy: used.copy - copy, host: used.host - host } };
}

// --- what a restore costs --------------------------------------------------------------------------------------------

export interface RestorePrediction {
  /** What the newest generation will have to store. */
  readonly updateSectors: number;
  readonly poolUsedAfterSectors: number;
  readonly poolRatePercent: number;
  readonly possible: boolean;
  readonly advice: "none" | "enlarge-afterwards" | "enlarge-first";
}

/**
 * What restoring generation `number` (1 is the oldest) of `generations` costs: the newest has to preserve what differs, at most
 * Copy and Pool of the generations from that one on, but for the newest itself. INVALID_ARGUMENT: there is no such generation.
 */
export function predictRestore(
  generations: readonly Pick<SnapVolumeFigures, "copySectors" | "poolSectors">[],
  number: number,
  pool: Pick<SnapPoolFigures, "usedSectors" | "totalSectors">,
): RestorePrediction {
  if (!Number.isSafeInteger(number) || number < 1 || number > generations.length) {
    throw new TidemarkError("INVALID_ARGUMENT", {
      message: `there is no generation ${number}; there are ${generations.length}`,
      hint: "1 is the oldest",
    });
  }
  const concerned = generations.slice(number - 1, -1);
  const updateSectors = concerned.reduce((sum, { copySectors, poolSectors }) => sum + copySectors + poolSectors, 0);
  const after = pool.usedSectors + updateSectors;
  const above = thresholdsAbove(after, pool.totalSectors).at(-1)?.advice;
  return {
    updateSectors,
    poolUsedAfterSectors: after,
    poolRatePercent: ratePercent(after, pool.totalSectors),
    possible: after < pool.totalSectors,
    advice: above === "enlarge-immediately" ? "enlarge-first" : above === undefined ? "none" : "enlarge-afterwards",
  };
}

function granulesOf(sectors: number, what: string): number {
  const granules = sectors / SECTORS_PER_GRANULE;
  if (Number.isSafeInteger(granules) && granules >= 0) return granules;
  throw sizeInvalid(`${what} is a multiple of ${SECTORS_PER_GRANULE} sectors, not ${sectors}`);
}

function sizeInvalid(message: string): TidemarkError {
  return new TidemarkError("SIZE_INVALID", {
    message,
    hint: "capacities are counted in granules of 8 KiB; the physical capacity is at most the logical one",
  });
}
