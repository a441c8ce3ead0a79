/** A set of granules, as plain as can be. */
import { BLOCKS_PER_GRANULE } from "./stamps.ts";

export const REGION_GRANULES = 512;

export class Granules {
  readonly #bits: Uint8Array;

  constructor(count: number, content: "empty" | "full" = "empty") {
    this.#bits = new Uint8Array(count).fill(content === "full" ? 1 : 0);
  }

  get size(): number {
    return this.#bits.length;
  }

  get count(): number {
    let count = 0;
    for (const bit of this.#bits) count += bit;
    return count;
  }

  addBlocks(firstBlock: number, blockCount: number): void {
    const first = Math.floor(firstBlock / BLOCKS_PER_GRANULE);
    const last = Math.floor((firstBlock + blockCount - 1) / BLOCKS_PER_GRANULE);
    this.#bits.fill(1, first, last + 1);
  }

  addRegion(region: number): void {
    this.#bits.fill(1, region * REGION_GRANULES, (region + 1) * REGION_GRANULES);
  }

  /** What the two have in common in size. */
  addAll(other: Granules): void {
    const count = Math.min(this.size, other.size);
    for (let at = 0; at < count; at++) if (other.#bits[at] === 1) this.#bits[at] = 1;
  }

  copy(): Granules {
    const copy = new Granules(this.size);
    copy.addAll(this);
    return copy;
  }
}

export function granulesOf(blockCount: number): number {
  return Math.ceil(blockCount / BLOCKS_PER_GRANULE);
}
