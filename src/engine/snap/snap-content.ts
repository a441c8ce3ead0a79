/**
 * What a snap store knows in memory: slots of its granules, the state of its segments, how many granules of which class.
 *
 * Role: keeps the three in step, for the replay and for the running store. No I/O.
 * Invariants:
 *   1. `held` has a bit for every granule that has a slot. When memory for bits is exhausted it may say more; `index` is the truth.
 *   2. A granule keeps the class it took its space with (spec/11: usage is what consumed the space).
 */
import { type Core, getCore } from "../map/core.ts";
import { PagedBitmap } from "../map/paged-bitmap.ts";
import { SegmentTable } from "./segment-table.ts";
import { SlotIndex } from "./slot-index.ts";
import type { SnapClass, SnapEntry } from "./snap-format.ts";
import type { SnapGeometry } from "./snap-geometry.ts";

export class SnapContent {
  readonly index = new SlotIndex();
  readonly segments: SegmentTable;
  readonly held: PagedBitmap;
  readonly live: Record<SnapClass, number> = { copy: 0, host: 0 };
  /** Granules that hosts had written before the present incarnation and that still count as used. */
  heldHost = 0;

  constructor(geometry: SnapGeometry, core: Core = getCore()) {
    this.segments = new SegmentTable(geometry);
    this.held = new PagedBitmap(core, geometry.granuleCount, "empty");
  }

  /** The granule lies at `slot` now. */
  put(entry: SnapEntry, slot: number): void {
    const before = this.index.get(entry.granule);
    const kind = before?.class ?? entry.class;
    this.index.set(entry.granule, { slot, checksum: entry.checksum, class: kind });
    this.segments.moved(before?.slot ?? 0, slot);
    if (before !== undefined) return;
    this.live[kind]++;
    this.held.setRange(entry.granule, 1);
  }

  clear(): void {
    this.index.clear();
    this.segments.clear();
    this.held.clear();
    this.live.copy = 0;
    this.live.host = 0;
  }

  dispose(): void {
    this.held.dispose();
  }
}
