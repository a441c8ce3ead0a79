/**
 * Oracle: what every volume holds, block by block, from what a host is told and nothing else.
 *
 * Role: keeps of each block the last acknowledged write and the one under way. Time is a counter that goes on with every
 * request sent and every answer taken: a write that was acknowledged before another was sent comes before it.
 * Invariants:
 *   1. At most one write is under way on a block.
 *   2. After a kill a write under way has happened or not, block by block; what is found then stays.
 */
import { BLOCK_BYTES, describeBlock, writeOf } from "./stamps.ts";
import { require } from "./violations.ts";

export interface Write {
  readonly number: number;
  readonly volume: number;
  readonly firstBlock: number;
  readonly blockCount: number;
  readonly sentAt: number;
  /** Infinity while it is under way. */
  ackedAt: number;
}

export class Volume {
  readonly index: number;
  readonly label: string;
  readonly blockCount: number;
  /** Number of the last acknowledged write of each block. */
  readonly current: Uint32Array;
  /** By block. */
  readonly underWay = new Map<number, Write>();
  /** Points that are being fired at it: until they are settled nobody knows what it holds. */
  pointsUnderWay = 0;
  /** Counts the points that have changed it. */
  revision = 0;

  constructor(index: number, label: string, blockCount: number) {
    this.index = index;
    this.label = label;
    this.blockCount = blockCount;
    this.current = new Uint32Array(blockCount);
  }

  get sizeBytes(): number {
    return this.blockCount * BLOCK_BYTES;
  }

  isFree(firstBlock: number, blockCount: number): boolean {
    for (let block = firstBlock; block < firstBlock + blockCount; block++) if (this.underWay.has(block)) return false;
    return true;
  }

  /** Compares blocks from `firstBlock` on with what they must hold. */
  check(bytes: Buffer, firstBlock: number, door: string): void {
    for (let at = 0; at * BLOCK_BYTES < bytes.length; at++) {
      const block = firstBlock + at;
      const piece = bytes.subarray(at * BLOCK_BYTES, (at + 1) * BLOCK_BYTES);
      const found = writeOf(piece, block);
      const wanted = this.current[block]!;
      if (found === wanted) continue;
      const pending = this.underWay.get(block);
      if (pending !== undefined && found === pending.number) continue;
      const under = pending === undefined ? "" : ` or ${pending.number}, which is under way`;
      require(false, () =>
        `${this.label} block ${block} through ${door}: ${describeBlock(piece, block)}, expected write ${wanted}${under}`);
    }
  }
}

export class Contents {
  readonly volumes: readonly Volume[];
  #now = 0;
  #lastWrite = 0;
  readonly #listeners = new Set<(write: Write) => void>();

  constructor(volumes: readonly Volume[]) {
    this.volumes = volumes;
  }

  /** The next instant. */
  tick(): number {
    return ++this.#now;
  }

  volume(index: number): Volume {
    const volume = this.volumes[index];
    if (volume === undefined) throw new Error(`no volume ${index}`);
    return volume;
  }

  /** A number no write has. */
  nextWrite(): number {
    return ++this.#lastWrite;
  }

  /** Notes a write before it is sent. */
  begin(volume: Volume, firstBlock: number, blockCount: number): Write {
    const range = { volume: volume.index, firstBlock, blockCount };
    const write: Write = { ...range, number: this.nextWrite(), sentAt: this.tick(), ackedAt: Number.POSITIVE_INFINITY };
    for (let block = firstBlock; block < firstBlock + blockCount; block++) volume.underWay.set(block, write);
    for (const listener of this.#listeners) listener(write);
    return write;
  }

  acknowledge(write: Write): void {
    write.ackedAt = this.tick();
    const volume = this.volume(write.volume);
    for (let block = write.firstBlock; block < write.firstBlock + write.blockCount; block++) {
      volume.current[block] = write.number;
      volume.underWay.delete(block);
    }
  }

  /** `listener` hears of every write that is sent until the returned function is called. */
  onWrite(listener: (write: Write) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Distinct writes under way on these volumes. */
  underWayOn(volumes: readonly Volume[]): Write[] {
    return [...new Set(volumes.flatMap((volume) => [...volume.underWay.values()]))];
  }
}
