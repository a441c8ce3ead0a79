/**
 * The regions that are hot, are becoming hot, or are just being evicted, in memory.
 *
 * Role: counts writes in flight, remembers use, chooses victims. No I/O, no waiting.
 * States: activating → hot → evicting → gone; hot → draining → hot, while a request waits for the region to be left.
 * Invariants:
 *   1. Only a hot region is entered; whoever is in it keeps it in the table until `leave`.
 *   2. A region is never twice in the table, whatever its state.
 */
import { assert } from "../../base/assert.ts";

export type RegionState = "activating" | "hot" | "draining" | "evicting";

export interface Region {
  readonly region: number;
  state: RegionState;
  inFlight: number;
  lastUse: number;
}

export class RegionTable {
  readonly slots: number;
  readonly #regions = new Map<number, Region>();
  #useClock = 0;
  /** Regions with a write in flight. */
  #pinned = 0;
  readonly #onIdle: () => void;

  /** `onIdle` is called when the last write has left a region. */
  constructor(slots: number, hotRegions: Iterable<number>, onIdle: () => void) {
    assert(slots > 0, "at least one slot");
    this.slots = slots;
    this.#onIdle = onIdle;
    for (const region of hotRegions) this.#regions.set(region, { region, state: "hot", inFlight: 0, lastUse: 0 });
  }

  get size(): number {
    return this.#regions.size;
  }

  get pinned(): number {
    return this.#pinned;
  }

  numbers(): number[] {
    return [...this.#regions.keys()];
  }

  isHot(first: number, last: number): boolean {
    for (let region = first; region <= last; region++) {
      const entry = this.#regions.get(region);
      if (entry === undefined || entry.state !== "hot") return false;
      entry.lastUse = ++this.#useClock;
    }
    return true;
  }

  enter(first: number, last: number): void {
    for (let region = first; region <= last; region++) {
      const entry = this.#regions.get(region);
      assert(entry !== undefined && entry.state === "hot", `region ${region} is hot`);
      this.#pin(entry);
    }
  }

  leave(first: number, last: number): void {
    for (let region = first; region <= last; region++) {
      const entry = this.#regions.get(region);
      assert(entry !== undefined && entry.inFlight > 0, `somebody is in region ${region}`);
      if (--entry.inFlight > 0) continue;
      this.#pinned--;
      this.#onIdle();
    }
  }

  /** Whether the regions can all be hot at once, beside those with writes in flight; a request that is alone always fits. */
  fits(first: number, last: number): boolean {
    let inside = 0;
    for (let region = first; region <= last; region++) if ((this.#regions.get(region)?.inFlight ?? 0) > 0) inside++;
    const others = this.#pinned - inside;
    return others === 0 || others + (last - first + 1) <= this.slots;
  }

  /** Enters the regions for a request; those that were not in the table are now, activating. Returns them. */
  reserve(first: number, last: number): Region[] {
    const added: Region[] = [];
    for (let region = first; region <= last; region++) {
      let entry = this.#regions.get(region);
      if (entry === undefined) {
        entry = { region, state: "activating", inFlight: 0, lastUse: 0 };
        this.#regions.set(region, entry);
        added.push(entry);
      }
      entry.lastUse = ++this.#useClock;
      this.#pin(entry);
    }
    return added;
  }

  /** The regions that stand in the way of a request, least recently used first, take no new writes. */
  drainFor(first: number, last: number): void {
    const inTheWay = [...this.#regions.values()].filter(
      (entry) => entry.inFlight > 0 && (entry.region < first || entry.region > last),
    );
    const excess = inTheWay.length + (last - first + 1) - this.slots;
    inTheWay.sort((a, b) => a.lastUse - b.lastUse);
    for (const entry of inTheWay.slice(0, excess)) entry.state = "draining";
  }

  drainAll(): void {
    for (const entry of this.#regions.values()) entry.state = "draining";
  }

  /** What was drained and not evicted takes writes again. */
  undrain(): void {
    for (const entry of this.#regions.values()) if (entry.state === "draining") entry.state = "hot";
  }

  /** Up to `count` regions without writes in flight, least recently used first; none of them is hot from here on. */
  takeVictims(count: number): Region[] {
    if (count <= 0) return [];
    const idle = [...this.#regions.values()].filter((entry) => entry.inFlight === 0);
    const victims = count < idle.length ? leastRecentlyUsed(idle, count) : idle;
    for (const entry of victims) entry.state = "evicting";
    return victims;
  }

  remove(regions: readonly Region[]): void {
    for (const { region } of regions) this.#regions.delete(region);
  }

  makeHot(regions: readonly Region[]): void {
    for (const entry of regions) entry.state = "hot";
  }

  #pin(entry: Region): void {
    if (entry.inFlight++ === 0) this.#pinned++;
  }
}

/** A few are picked one by one, which is cheaper than sorting all. */
function leastRecentlyUsed(regions: Region[], count: number): Region[] {
  if (count > 8) return regions.sort((a, b) => a.lastUse - b.lastUse).slice(0, count);
  const picked: Region[] = [];
  for (let left = count; left > 0; left--) {
    let oldest: Region | undefined;
    for (const entry of regions)
      if ((oldest === undefined || entry.lastUse < oldest.lastUse) && !picked.includes(entry)) oldest = entry;
    assert(oldest !== undefined, "fewer are asked for than there are");
    picked.push(oldest);
  }
  return picked;
}
