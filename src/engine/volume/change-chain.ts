/**
 * The change chain of one volume: for each epoch the set of granules written in it.
 *
 * Role: the one mechanism of change tracking. A write marks the open epoch once, whatever the number of sessions;
 * "what changed since?" is a union of epochs.
 * Invariants:
 *   1. Epochs are in ascending order of id; only the last one is open; ids are never reused.
 *   2. The first epoch is held by somebody; a chain that nobody holds is empty, and the volume is not tracked.
 *   3. A sealed epoch that nobody holds is part of its predecessor: only boundaries that somebody needs are kept.
 * Source: DESIGN section 4 "One change chain per volume"; spec/11 "Copy session" (tracking bitmaps).
 */
import { assert } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";
import type { Core } from "../map/core.ts";
import { PagedBitmap } from "../map/paged-bitmap.ts";

export interface Epoch {
  readonly id: number;
  readonly beginMs: number;
  readonly map: PagedBitmap;
  /** `widened`: regions were added after an unclean stop. `lost`: the map could not be read and says "everything". */
  trust: EpochTrust;
}

export type EpochTrust = "exact" | "widened" | "lost";
const TRUST_ORDER: readonly EpochTrust[] = ["exact", "widened", "lost"];

/** The less trustworthy of two. */
export function leastTrust(a: EpochTrust, b: EpochTrust): EpochTrust {
  return TRUST_ORDER.indexOf(a) > TRUST_ORDER.indexOf(b) ? a : b;
}

export class ChangeChain {
  readonly #core: Core;
  readonly #volumeName: string;
  #granuleCount: number;
  readonly #epochs: Epoch[] = [];
  readonly #holders = new Map<number, Set<string>>();
  #nextId: number;

  constructor(core: Core, volumeName: string, granuleCount: number, nextId: number) {
    this.#core = core;
    this.#volumeName = volumeName;
    this.#granuleCount = granuleCount;
    this.#nextId = nextId;
  }

  get tracked(): boolean {
    return this.#epochs.length > 0;
  }

  get epochs(): readonly Epoch[] {
    return this.#epochs;
  }

  /** Granules a new map covers. */
  get granuleCount(): number {
    return this.#granuleCount;
  }

  get nextId(): number {
    return this.#nextId;
  }

  get open(): Epoch {
    const last = this.#epochs.at(-1);
    assert(last !== undefined, "a tracked volume has an open epoch");
    return last;
  }

  /** Puts a chain back together at start, before anybody holds it. */
  restore(epochs: readonly Epoch[], nextId: number): void {
    assert(!this.tracked, "a chain is restored once");
    this.#epochs.push(...epochs);
    this.#nextId = Math.max(nextId, (epochs.at(-1)?.id ?? 0) + 1);
  }

  newMap(): PagedBitmap {
    return new PagedBitmap(this.#core, this.#granuleCount, "empty");
  }

  /** The volume changed its size while nothing tracked it. */
  resize(granuleCount: number): void {
    assert(!this.tracked, "a tracked volume keeps its size");
    this.#granuleCount = granuleCount;
  }

  mark(first: number, count: number): void {
    this.open.map.setRange(first, count);
  }

  /** Seals the open epoch and opens the next; returns the new epoch's id. */
  seal(nowMs: number): number {
    const id = this.#nextId++;
    this.#epochs.push({ id, beginMs: nowMs, map: this.newMap(), trust: "exact" });
    return id;
  }

  holdersOf(id: number): readonly string[] {
    return [...(this.#holders.get(id) ?? [])];
  }

  hold(id: number, holder: string): void {
    assert(this.has(id), "only an existing epoch is held");
    const holders = this.#holders.get(id) ?? new Set();
    holders.add(holder);
    this.#holders.set(id, holders);
  }

  /** Lets go without forgetting anything yet; `prune` does that. */
  release(id: number, holder: string): void {
    const holders = this.#holders.get(id);
    if (!holders) return;
    holders.delete(holder);
    if (holders.size === 0) this.#holders.delete(id);
  }

  get held(): boolean {
    return this.#holders.size > 0;
  }

  has(id: number): boolean {
    return this.#epochs.some((epoch) => epoch.id === id);
  }

  /** Forgets what nobody holds (invariants 2 and 3). */
  prune(): void {
    while (this.#epochs.length > 0) {
      const first = this.#epochs[0];
      if (first === undefined || this.#holders.has(first.id)) break;
      first.map.dispose();
      this.#epochs.shift();
    }
    for (let index = 1; index < this.#epochs.length - 1; ) {
      const epoch = this.#epochs[index];
      const before = this.#epochs[index - 1];
      assert(epoch !== undefined && before !== undefined, "index is inside");
      if (this.#holders.has(epoch.id)) {
        index++;
        continue;
      }
      before.map.union(epoch.map);
      before.trust = leastTrust(before.trust, epoch.trust);
      epoch.map.dispose();
      this.#epochs.splice(index, 1);
    }
  }

  /**
   * Adds to `target` what changed in epochs `[since, until)` (until 0: up to now), for granules
   * `[first, first + count)` of the volume, moved so that `first` becomes `targetFirst`.
   * EPOCH_NOT_FOUND when a boundary is not kept.
   */
  unionInto(
    target: PagedBitmap,
    range: { since: number; until: number; first: number; count: number; targetFirst: number },
  ): void {
    for (const epoch of this.between(range.since, range.until)) {
      if (epoch.map.count === 0) continue;
      target.union(epoch.map, { otherFirst: range.first, first: range.targetFirst, count: range.count });
    }
  }

  /** Epochs `[since, until)`; EPOCH_NOT_FOUND when a boundary is not kept. */
  between(since: number, until: number): readonly Epoch[] {
    const from = this.#indexOf(since);
    const to = until === 0 ? this.#epochs.length : this.#indexOf(until);
    return this.#epochs.slice(from, Math.max(from, to));
  }

  #indexOf(id: number): number {
    const index = this.#epochs.findIndex((epoch) => epoch.id === id);
    if (index >= 0) return index;
    const kept = this.#epochs.map((epoch) => epoch.id).join(", ") || "none";
    throw new TidemarkError("EPOCH_NOT_FOUND", {
      message: `epoch ${id} of volume ${this.#volumeName} is not kept (kept: ${kept})`,
      hint: "ask for one of the epochs that `tidemark volume get` lists; an epoch is kept while a copy session tracks it",
      metadata: { epoch: String(id) },
    });
  }

  dispose(): void {
    for (const epoch of this.#epochs.splice(0)) epoch.map.dispose();
    this.#holders.clear();
  }
}
