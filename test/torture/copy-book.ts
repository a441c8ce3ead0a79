/**
 * Oracle: which copies there are, and the most that each may have to copy.
 *
 * A difference may hold: what its last run had left, what hosts or other copies changed on either side since its point,
 * and after a kill the regions of 4 MiB that were written since the last clean stop. Nothing else, so a full copy is seen.
 */
import type { Volume, Write } from "./contents.ts";
import type { PointPair } from "./cut.ts";
import { Granules, granulesOf, REGION_GRANULES } from "./granules.ts";
import { BLOCKS_PER_GRANULE } from "./stamps.ts";
import { require, type Tally } from "./violations.ts";

export type Kind = "opc" | "quickopc";

/** What the box says of a copy, in its answers and lists. */
export interface CopyFacts {
  readonly id: string;
  readonly source: string;
  readonly destination: string;
  readonly kind: Kind;
  readonly phase: "copying" | "tracking" | "failed" | "completed" | "cancelled";
  readonly tracking: boolean;
  readonly generation: number;
  readonly reason: string;
  readonly plannedGranules: number;
  readonly pendingGranules: number;
  readonly failureMessage: string;
}

export interface KnownCopy {
  readonly id: string;
  readonly source: Volume;
  readonly destination: Volume;
  kind: Kind;
  tracking: boolean;
  generation: number;
  /** At most this was to be copied at the point. */
  planned: Granules;
  /** Nothing is left of it. */
  finished: boolean;
  /** At most this has changed since the point. */
  changed: Granules;
  /** No kill since the point. */
  exact: boolean;
}

const DIFFERENCES = ["DIFFERENCE", "RESTORE_DIFFERENCE", "MAP_WIDENED"];
const FULL = ["FIRST_COPY", "NOT_TRACKED", "KIND_CHANGED"];

export class CopyBook {
  readonly copies = new Map<string, KnownCopy>();
  readonly #tally: Tally;
  /** Regions of each volume that may be hot. */
  readonly #warm = new Map<Volume, Set<number>>();
  #lastNumber = 0;

  constructor(tally: Tally) {
    this.#tally = tally;
  }

  find(id: string): KnownCopy | undefined {
    return this.copies.get(id);
  }

  /** Copies that enter or leave a volume. */
  of(volume: Volume): KnownCopy[] {
    return [...this.copies.values()].filter((copy) => copy.source === volume || copy.destination === volume);
  }

  /** The most that a run of this pair may copy, and whether it has to be a difference. */
  expect(source: Volume, destination: Volume, kind: Kind): { most: Granules; difference: boolean } {
    const all = new Granules(granulesOf(Math.min(source.blockCount, destination.blockCount)), "full");
    const existing = [...this.copies.values()].find(
      (copy) => copy.source === source && copy.destination === destination,
    );
    const reversed = [...this.copies.values()].find(
      (copy) => copy.source === destination && copy.destination === source,
    );
    const base = reversed?.tracking ? reversed : existing;
    if (base === undefined || !base.tracking || (base === existing && kind === "opc"))
      return { most: all, difference: false };
    const most = new Granules(all.size);
    most.addAll(base.changed);
    if (!base.finished) most.addAll(base.planned);
    return { most, difference: true };
  }

  /** Before a write is sent. */
  wrote(volume: Volume, { firstBlock, blockCount }: Pick<Write, "firstBlock" | "blockCount">): void {
    for (const copy of this.of(volume)) if (copy.tracking) addInside(copy.changed, firstBlock, blockCount);
    const warm = this.#warm.get(volume) ?? new Set();
    this.#warm.set(volume, warm);
    const regionBlocks = REGION_GRANULES * BLOCKS_PER_GRANULE;
    const last = Math.floor((firstBlock + blockCount - 1) / regionBlocks);
    for (let region = Math.floor(firstBlock / regionBlocks); region <= last; region++) warm.add(region);
  }

  /** A point has happened: what the box says of one of its copies must be what can be. */
  fired(facts: CopyFacts, pair: PointPair, window: readonly Write[]): void {
    const { source, destination } = pair;
    const before = this.copies.get(facts.id);
    const what = `${facts.id} (${source.label} to ${destination.label}, ${facts.kind})`;
    if (before === undefined) require(this.isNewNumber(facts.id), () => `${what}: the number was used before`);
    this.#lastNumber = Math.max(this.#lastNumber, Number(facts.id.slice(1)));
    const { most, difference } = this.expect(source, destination, facts.kind);
    this.#checkReason(facts, difference, what);
    require(facts.plannedGranules <= most.count, () =>
      `${what}: ${facts.reason} copies ${facts.plannedGranules} granules, at most ${most.count} can differ`);
    require(facts.generation === (before?.generation ?? 0) + 1, () =>
      `${what}: generation ${facts.generation} follows ${before?.generation ?? 0}`);
    this.#tally.points++;
    if (before !== undefined) this.#tally.restarts++;
    if (facts.reason === "MAP_WIDENED") this.#tally.widened++;
    for (const other of this.of(destination)) if (other.tracking && other.id !== facts.id) other.changed.addAll(most);
    const changed = new Granules(granulesOf(pair.blockCount));
    for (const write of window) addInside(changed, write.firstBlock, write.blockCount);
    this.copies.set(facts.id, {
      ...{ id: facts.id, source, destination, kind: facts.kind, tracking: facts.kind === "quickopc" },
      ...{ generation: facts.generation, planned: most, finished: false, changed, exact: true },
    });
  }

  #checkReason(facts: CopyFacts, difference: boolean, what: string): void {
    const allowed = difference ? DIFFERENCES : FULL;
    if (difference && !allowed.includes(facts.reason)) this.#tally.fullCopies++;
    require(allowed.includes(facts.reason), () =>
      `${what}: reason ${facts.reason}, expected one of ${allowed.join(", ")}`);
  }

  /** No copy that has been fired has this number or a higher one. */
  isNewNumber(id: string): boolean {
    return Number(id.slice(1)) > this.#lastNumber;
  }

  /** The daemon was killed: what is hot counts as changed. */
  killed(): void {
    for (const copy of this.copies.values()) {
      if (!copy.tracking) continue;
      copy.exact = false;
      for (const volume of [copy.source, copy.destination])
        for (const region of this.#warm.get(volume) ?? []) copy.changed.addRegion(region);
    }
  }

  stoppedCleanly(): void {
    this.#warm.clear();
  }

  /** What a list says of a copy that is known and was not touched meanwhile. */
  observe(facts: CopyFacts): void {
    const copy = this.copies.get(facts.id);
    const what = `${facts.id} (${facts.source} to ${facts.destination})`;
    require(copy !== undefined, () => `${what} appeared from nowhere`);
    const { source, destination } = copy;
    require(facts.source === source.label && facts.destination === destination.label, () =>
      `${what} was ${source.label} to ${destination.label}`);
    require(facts.phase !== "failed", () => `${what} has failed: ${facts.failureMessage}`);
    require(facts.generation === copy.generation, () =>
      `${what} is in generation ${facts.generation}, not ${copy.generation}`);
    require(facts.kind === copy.kind && facts.tracking === copy.tracking, () =>
      `${what} is ${facts.kind}, tracking ${facts.tracking}; it was ${copy.kind}, tracking ${copy.tracking}`);
    require(facts.pendingGranules <= copy.planned.count, () =>
      `${what} has ${facts.pendingGranules} pending of at most ${copy.planned.count}`);
    if (facts.phase === "tracking") copy.finished = true;
    else require(!copy.finished || facts.phase !== "copying", () => `${what} copies again what it had finished`);
  }
}

/** Blocks past the end of the set belong to a longer destination. */
function addInside(granules: Granules, firstBlock: number, blockCount: number): void {
  const end = Math.min(firstBlock + blockCount, granules.size * BLOCKS_PER_GRANULE);
  if (firstBlock < end) granules.addBlocks(firstBlock, end - firstBlock);
}
