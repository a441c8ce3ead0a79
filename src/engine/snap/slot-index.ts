/**
 * Which slot holds a granule: a hash table of numbers, outside the collector's sight.
 *
 * Role: looking up is O(1) and needs no I/O. An entry has 12 bytes; the table is at most three quarters full and doubles, so it
 * takes 16 to 32 bytes for each granule (and both tables while it grows).
 * Invariants:
 *   1. A granule has one slot, the one stored last.
 *   2. Granules are below 2^33, slots below 2^30 and not 0.
 */
import { assert } from "../../base/assert.ts";
import type { SnapClass } from "./snap-format.ts";

export interface SlotEntry {
  readonly slot: number;
  /** CRC-32C of the payload as it is stored. */
  readonly checksum: number;
  readonly class: SnapClass;
}

const SLOT_MASK = 0x3fffffff;
const HIGH_BIT = 0x40000000;
const HOST_BIT = 0x80000000;
const CAPACITY_MIN = 64;

export class SlotIndex {
  #capacity = CAPACITY_MIN;
  /** For each bucket: low 32 bits of the granule; slot with its two flags (0: empty); checksum. */
  #table = new Uint32Array(3 * CAPACITY_MIN);
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get memoryBytes(): number {
    return this.#table.byteLength;
  }

  has(granule: number): boolean {
    return this.#table[this.#find(granule) + 1] !== 0;
  }

  get(granule: number): SlotEntry | undefined {
    const at = this.#find(granule);
    const packed = this.#table[at + 1] as number;
    if (packed === 0) return undefined;
    const kind = (packed & HOST_BIT) === 0 ? "copy" : "host";
    return { slot: packed & SLOT_MASK, checksum: this.#table[at + 2] as number, class: kind };
  }

  /** Returns the slot that held the granule before, or 0. */
  set(granule: number, entry: SlotEntry): number {
    assert(entry.slot > 0 && entry.slot <= SLOT_MASK, "a slot has 30 bits");
    let at = this.#find(granule);
    const before = (this.#table[at + 1] as number) & SLOT_MASK;
    if (before === 0 && (this.#size + 1) * 4 > this.#capacity * 3) {
      this.#grow();
      at = this.#find(granule);
    }
    if (before === 0) this.#size++;
    const high = granule >= 2 ** 32 ? HIGH_BIT : 0;
    this.#table[at] = granule % 2 ** 32;
    this.#table[at + 1] = entry.slot | high | (entry.class === "host" ? HOST_BIT : 0);
    this.#table[at + 2] = entry.checksum;
    return before;
  }

  clear(): void {
    this.#capacity = CAPACITY_MIN;
    this.#table = new Uint32Array(3 * CAPACITY_MIN);
    this.#size = 0;
  }

  /** Where the granule is, or where it would go. */
  #find(granule: number): number {
    const low = granule % 2 ** 32;
    const high = granule >= 2 ** 32 ? HIGH_BIT : 0;
    const mask = this.#capacity - 1;
    let bucket = mix(low ^ high) & mask;
    for (;;) {
      const at = 3 * bucket;
      const packed = this.#table[at + 1] as number;
      if (packed === 0 || (this.#table[at] === low && (packed & HIGH_BIT) === high)) return at;
      bucket = (bucket + 1) & mask;
    }
  }

  #grow(): void {
    const old = this.#table;
    this.#capacity *= 2;
    this.#table = new Uint32Array(3 * this.#capacity);
    for (let from = 0; from < old.length; from += 3) {
      const packed = old[from + 1] as number;
      if (packed === 0) continue;
      const granule = (old[from] as number) + ((packed & HIGH_BIT) === 0 ? 0 : 2 ** 32);
      this.#table.set(old.subarray(from, from + 3), this.#find(granule));
    }
  }
}

/** Spreads neighbours over the table. */
function mix(value: number): number {
  let mixed = Math.imul(value ^ (value >>> 16), 0x45d9f3b);
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x45d9f3b);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
