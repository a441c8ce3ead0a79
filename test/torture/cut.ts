/**
 * Oracle: what the destinations of one point hold, when hosts went on writing while it was fired.
 *
 * A write that was acknowledged before the command was sent is in the point; one that was sent after the answer is not.
 * One in between is in or not, but then in or not for every destination and all of its blocks, and never without a write
 * that had been acknowledged before it was sent: the point is a consistent cut. Which ones are in is read from the
 * destinations; a write to a destination is in (and gone) or after the point (and there).
 */
import type { Contents, Volume, Write } from "./contents.ts";
import { describeBlock, writeOf } from "./stamps.ts";
import { require, Violation } from "./violations.ts";

export interface PointPair {
  readonly source: Volume;
  readonly destination: Volume;
  /** Blocks of the pair: the smaller of the two. */
  readonly blockCount: number;
  /** What the source had acknowledged when the point was asked for. */
  readonly base: Uint32Array;
}

export type BlockReader = (volume: Volume, block: number) => Promise<Buffer>;

interface Evidence {
  seen: string | undefined;
  missing: string | undefined;
}

export class Point {
  readonly pairs: readonly PointPair[];
  /** Writes on the volumes of the point that were neither acknowledged before it nor sent after it. */
  readonly window: Write[];
  /** Once settled: what each destination had, by block of the window. */
  found: readonly ReadonlyMap<number, number>[] = [];
  readonly #stopListening: () => void;

  /** Called right before the command is sent. */
  constructor(contents: Contents, pairs: readonly { source: Volume; destination: Volume }[]) {
    this.pairs = pairs.map(({ source, destination }) => {
      const blockCount = Math.min(source.blockCount, destination.blockCount);
      return { source, destination, blockCount, base: source.current.slice(0, blockCount) };
    });
    const volumes = [...new Set(pairs.flatMap(({ source, destination }) => [source, destination]))];
    this.window = contents.underWayOn(volumes);
    for (const { destination } of this.pairs) destination.pointsUnderWay++;
    const indexes = new Set(volumes.map(({ index }) => index));
    this.#stopListening = contents.onWrite((write) => {
      if (indexes.has(write.volume)) this.window.push(write);
    });
  }

  /** The answer is here, or the daemon is dead. */
  close(): void {
    this.#stopListening();
  }

  /** It has not happened. */
  forget(): void {
    this.close();
    for (const { destination } of this.pairs) destination.pointsUnderWay--;
  }

  windowOn(volume: Volume): Write[] {
    return this.window.filter((write) => write.volume === volume.index);
  }

  /**
   * The point has happened: finds out what is in it, and makes that the content of the destinations. Nobody writes to the
   * destinations meanwhile. A write without an answer, because the daemon was killed, may never have happened.
   * Returns those of them that the destinations have: the source must have them too.
   */
  async settle(read: BlockReader): Promise<Write[]> {
    const evidence = new Map<Write, Evidence>();
    const contents: { readonly pair: PointPair; readonly blocks: Map<number, number> }[] = [];
    for (const pair of this.pairs) contents.push({ pair, blocks: await this.#look(pair, read, evidence) });
    requireCut(evidence);
    this.found = contents.map(({ blocks }) => blocks);
    for (const { pair, blocks } of contents) {
      const { current, underWay } = pair.destination;
      current.set(pair.base);
      for (const [block, number] of blocks) current[block] = number;
      for (const block of [...underWay.keys()]) if (block < pair.blockCount) underWay.delete(block);
      pair.destination.pointsUnderWay--;
      pair.destination.revision++;
    }
    return [...evidence]
      .filter(([write, { seen }]) => seen !== undefined && write.ackedAt === Number.POSITIVE_INFINITY)
      .map(([write]) => write);
  }

  /** What the destination holds in the blocks that the window touches. */
  async #look(pair: PointPair, read: BlockReader, evidence: Map<Write, Evidence>): Promise<Map<number, number>> {
    const found = new Map<number, number>();
    const bySource = byBlock(this.windowOn(pair.source), pair.blockCount);
    const byDestination = byBlock(this.windowOn(pair.destination), pair.blockCount);
    for (const block of new Set([...bySource.keys(), ...byDestination.keys()])) {
      const bytes = await read(pair.destination, block);
      const number = writeOf(bytes, block);
      const sourceWrites = bySource.get(block) ?? [];
      const ownWrites = byDestination.get(block) ?? [];
      const where = `${pair.destination.label} (from ${pair.source.label}) block ${block}`;
      const after = ownWrites.findIndex((write) => write.number === number);
      const before = sourceWrites.findIndex((write) => write.number === number);
      if (number !== undefined && after >= 0) {
        const lost = ownWrites[after + 1];
        require(lost === undefined || lost.ackedAt === Number.POSITIVE_INFINITY, () =>
          `${where}: write ${lost?.number} was acknowledged after ${number}, which is there`);
        note(evidence, ownWrites[after]!, "missing", `${where} has it after the point`);
      } else if (number !== undefined && (before >= 0 || number === pair.base[block])) {
        sourceWrites.forEach((write, at) => {
          if (at <= before) note(evidence, write, "seen", `${where} has write ${number}`);
          else if (write.ackedAt !== Number.POSITIVE_INFINITY)
            note(evidence, write, "missing", `${where} has write ${number}`);
        });
        for (const write of ownWrites)
          if (write.ackedAt !== Number.POSITIVE_INFINITY)
            note(evidence, write, "seen", `${where} has the source's write ${number}`);
      } else {
        const allowed = [pair.base[block], ...sourceWrites.map((write) => write.number)].join(", ");
        const own = ownWrites.map((write) => write.number).join(", ") || "none";
        throw new Violation(
          `${where} is ${describeBlock(bytes, block)}; the source had one of ${allowed}, its own writes: ${own}`,
        );
      }
      found.set(block, number);
    }
    return found;
  }
}

function note(evidence: Map<Write, Evidence>, write: Write, what: keyof Evidence, why: string): void {
  const known = evidence.get(write) ?? { seen: undefined, missing: undefined };
  known[what] ??= why;
  evidence.set(write, known);
}

/** No write is both in and not in, and none that is in was sent after one that is not had been acknowledged. */
function requireCut(evidence: Map<Write, Evidence>): void {
  let firstOut: Write | undefined;
  for (const [write, { seen, missing }] of evidence) {
    require(seen === undefined || missing === undefined, () =>
      `write ${write.number} is in the point (${seen}) and is not (${missing})`);
    if (missing !== undefined && (firstOut === undefined || write.ackedAt < firstOut.ackedAt)) firstOut = write;
  }
  if (firstOut === undefined) return;
  const out = firstOut;
  for (const [write, { seen }] of evidence)
    require(seen === undefined || write.sentAt < out.ackedAt, () =>
      `no consistent cut: write ${write.number} is in the point (${seen}), write ${out.number}, acknowledged before it was sent, is not (${evidence.get(out)?.missing})`);
}

function byBlock(writes: readonly Write[], blockCount: number): Map<number, Write[]> {
  const blocks = new Map<number, Write[]>();
  for (const write of [...writes].sort((a, b) => a.sentAt - b.sentAt))
    for (let block = write.firstBlock; block < Math.min(write.firstBlock + write.blockCount, blockCount); block++) {
      const known = blocks.get(block);
      if (known === undefined) blocks.set(block, [write]);
      else known.push(write);
    }
  return blocks;
}
