/**
 * Oracle of a power loss: what every block may hold, from what hosts were told up to that instant.
 *
 * A block may be what it was at the last flush that had been acknowledged, or any later write of it; the destination of a
 * point is, durably, what its source was at the point, and then what hosts wrote to it. Sectors may differ.
 */
import type { Volume, Write } from "../contents.ts";
import { CopyBook, type CopyFacts } from "../copy-book.ts";
import type { Point, PointPair } from "../cut.ts";
import { copyStopsTracking, type OpenCommand, recordPoint } from "../operator.ts";
import { BLOCK_BYTES, describeBlock, writeOf } from "../stamps.ts";
import { require, Tally } from "../violations.ts";
import type { End, PlacedEvent } from "./host-events.ts";

const SECTOR_BYTES = 512;

interface Version {
  readonly numbers: readonly number[];
  /** Place of the acknowledgement; -1 for what is durable anyway. */
  ackedAt: number;
}

interface VolumeState {
  readonly volume: Volume;
  /** Durable content where no version says otherwise. */
  base: Uint32Array;
  readonly versions: Map<number, Version[]>;
  /** Place of the last flush that was sent and acknowledged. */
  flushedAt: number;
  /** An unfinished copy was cancelled: nobody knows. */
  unknown: boolean;
}

export class Expectation {
  readonly book: CopyBook;
  readonly #volumes: readonly VolumeState[];
  readonly #versionsOf = new Map<Write, Version>();
  readonly #flushes = new Map<number, number>();
  readonly #tally: Tally;
  openPoint: (OpenCommand & { type: "point" }) | undefined;
  openEnd: End | undefined;
  /** As listed last, for what had ended by then. */
  ended: readonly CopyFacts[] = [];

  constructor(volumes: readonly Volume[], initial: readonly Uint32Array[], tally: Tally) {
    this.#tally = tally;
    this.book = new CopyBook(new Tally()); // what was recorded is counted once, when it is recorded
    this.#volumes = volumes.map((volume, index) => ({
      ...{ volume, base: initial[index]!, versions: new Map(), flushedAt: -1, unknown: false },
    }));
  }

  apply({ at, event }: PlacedEvent): void {
    if (event.type === "sent") this.#sent(event.write);
    else if (event.type === "acked") this.#versionsOf.get(event.write)!.ackedAt = at;
    else if (event.type === "flush-sent") this.#flushes.set(event.flush, at);
    else if (event.type === "flush-acked") {
      const volume = this.#state(event.volume);
      volume.flushedAt = Math.max(volume.flushedAt, this.#flushes.get(event.flush) ?? -1);
    } else if (event.type === "point-asked") this.openPoint = { type: "point", point: event.point, recorded: false };
    else if (event.type === "point-refused") this.openPoint = undefined;
    else if (event.type === "point-fired") this.#fired(event.point, event.copies);
    else if (event.type === "end-asked") this.openEnd = event.end;
    else if (event.type === "end-answered") this.endHappened(event.end);
    else if (event.type === "listed") this.#listed(event.live, event.ended);
    else this.book.stoppedCleanly();
  }

  #state(index: number): VolumeState {
    return this.#volumes[index]!;
  }

  #sent(write: Write): void {
    const state = this.#state(write.volume);
    this.book.wrote(state.volume, write);
    const version: Version = { numbers: [write.number], ackedAt: Number.POSITIVE_INFINITY };
    this.#versionsOf.set(write, version);
    for (let block = write.firstBlock; block < write.firstBlock + write.blockCount; block++) {
      const versions = state.versions.get(block);
      if (versions === undefined) state.versions.set(block, [version]);
      else versions.push(version);
    }
  }

  #fired(point: Point, copies: readonly CopyFacts[]): void {
    recordPoint(this.book, point, copies, "a point");
    this.pointHappened(point);
  }

  /** The destinations hold the point from now on. */
  pointHappened(point: Point): void {
    this.openPoint = undefined;
    for (const [index, pair] of point.pairs.entries()) this.#pointAt(point, pair, point.found[index] ?? new Map());
  }

  #pointAt(point: Point, pair: PointPair, found: ReadonlyMap<number, number>): void {
    const state = this.#state(pair.destination.index);
    if (state.unknown) this.#forgetUnknown(state, pair.blockCount);
    const own = new Map(point.windowOn(pair.destination).map((write) => [write.number, write]));
    const sources = point.windowOn(pair.source);
    state.base = Uint32Array.from(state.base);
    state.base.set(pair.base);
    for (const block of [...state.versions.keys()]) if (block < pair.blockCount) state.versions.delete(block);
    for (const [block, number] of found) {
      const after = own.get(number);
      if (after === undefined) {
        state.base[block] = number;
        continue;
      }
      // A host's write after the point hides which of the source's writes were in it.
      const inside = sources.filter(
        (write) => write.firstBlock <= block && block < write.firstBlock + write.blockCount,
      );
      const numbers = [pair.base[block]!, ...inside.map((write) => write.number)];
      const version = this.#versionsOf.get(after);
      state.versions.set(block, [{ numbers, ackedAt: -1 }, ...(version === undefined ? [] : [version])]);
    }
  }

  /** Beyond the end of the copy a longer destination stays unknown; nothing there is checked any more. */
  #forgetUnknown(state: VolumeState, blockCount: number): void {
    if (blockCount >= state.volume.blockCount) state.unknown = false;
  }

  endHappened(end: End): void {
    this.openEnd = undefined;
    const copy = this.book.find(end.id);
    if (end.outcome === undefined || copy === undefined) return;
    if (end.outcome.lives) copyStopsTracking(copy);
    else this.book.copies.delete(end.id);
    if (!end.outcome.usable) this.#state(copy.destination.index).unknown = true;
  }

  #listed(live: readonly CopyFacts[], ended: readonly CopyFacts[]): void {
    this.ended = ended;
    const ids = new Set(live.map(({ id }) => id));
    for (const copy of [...this.book.copies.values()]) if (!ids.has(copy.id)) this.book.copies.delete(copy.id);
    for (const facts of live) this.book.observe(facts);
  }

  /** Whether anything is promised of what this volume holds. */
  knows(volume: Volume): boolean {
    return !this.#state(volume.index).unknown;
  }

  /** Compares a piece of a volume, sector by sector, with what it may hold. */
  check(volume: Volume, bytes: Buffer, firstBlock: number, door: string): void {
    const state = this.#state(volume.index);
    for (let at = 0; at * BLOCK_BYTES < bytes.length; at++) {
      const block = firstBlock + at;
      const piece = bytes.subarray(at * BLOCK_BYTES, (at + 1) * BLOCK_BYTES);
      const versions = state.versions.get(block);
      if (versions === undefined && writeOf(piece, block) === state.base[block]) continue;
      const allowed = this.#allowed(state, block, versions ?? []);
      for (let offset = 0; offset < BLOCK_BYTES; offset += SECTOR_BYTES) {
        const found = writeOf(piece.subarray(offset, offset + SECTOR_BYTES), block);
        require(found !== undefined && allowed.includes(found), () =>
          `${volume.label} block ${block} sector ${offset / SECTOR_BYTES} through ${door}: ${describeBlock(piece.subarray(offset, offset + SECTOR_BYTES), block)}, allowed: ${allowed.join(", ")}`);
      }
    }
    this.#tally.bytesVerified += bytes.length;
  }

  #allowed(state: VolumeState, block: number, versions: readonly Version[]): number[] {
    let floor = -1;
    versions.forEach((version, index) => {
      if (version.ackedAt < state.flushedAt) floor = index;
    });
    const later = versions.slice(Math.max(0, floor)).flatMap(({ numbers }) => numbers);
    return floor < 0 ? [state.base[block]!, ...later] : later;
  }
}
