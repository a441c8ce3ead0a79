/**
 * Chance from a seed: everything a door generates comes from here, so that a seed and a commit give the same cases again.
 *
 * Generator: sfc32. `boundary` prefers the numbers at which parsers break: powers of two and their neighbours.
 */
export class Chance {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  constructor(seed: number) {
    this.#a = seed >>> 0;
    this.#b = Math.floor(seed / 2 ** 32) >>> 0;
    this.#c = 0x9e3779b9;
    for (let warm = 0; warm < 12; warm++) this.uint32();
  }

  /** A generator of its own for case `index`: cases do not depend on how many numbers an earlier one took. */
  static ofCase(seed: number, index: number): Chance {
    const chance = new Chance(seed);
    chance.#b = (chance.#b ^ Math.imul(index + 1, 0x85ebca6b)) >>> 0;
    for (let warm = 0; warm < 8; warm++) chance.uint32();
    return chance;
  }

  uint32(): number {
    const sum = (((this.#a + this.#b) >>> 0) + this.#counter) >>> 0;
    this.#counter = (this.#counter + 1) >>> 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) >>> 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) >>> 0;
    return sum;
  }

  /** [0, limit) */
  below(limit: number): number {
    if (limit <= 1) return 0;
    const fraction = (this.uint32() * 2 ** 21 + (this.uint32() >>> 11)) / 2 ** 53;
    return Math.floor(fraction * limit);
  }

  between(first: number, last: number): number {
    return first + this.below(last - first + 1);
  }

  /** True in `percent` of 100. */
  odds(percent: number): boolean {
    return this.below(100) < percent;
  }

  pick<T>(list: readonly T[]): T {
    if (list.length === 0) throw new Error("nothing to pick from");
    return list[this.below(list.length)] as T;
  }

  /** One of the keys, as often as its weight says. */
  weighted<K extends string>(weights: Readonly<Record<K, number>>): K {
    const entries = Object.entries(weights) as [K, number][];
    let left = this.below(entries.reduce((sum, [, weight]) => sum + weight, 0));
    for (const [key, weight] of entries) {
      left -= weight;
      if (left < 0) return key;
    }
    throw new Error("no weights");
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let at = 0; at < length; at++) bytes[at] = this.uint32() & 0xff;
    return bytes;
  }

  /** A number of at most `bits` bits, often one at a boundary. */
  boundary(bits: number): bigint {
    const limit = 1n << BigInt(bits);
    const power = 1n << BigInt(this.below(bits + 1));
    const near = power + BigInt(this.between(-2, 2));
    const value = this.odds(70) ? near : (BigInt(this.uint32()) << 32n) | BigInt(this.uint32());
    return ((value % limit) + limit) % limit;
  }

  shuffled<T>(list: readonly T[]): T[] {
    const copy = [...list];
    for (let at = copy.length - 1; at > 0; at--) {
      const other = this.below(at + 1);
      [copy[at], copy[other]] = [copy[other] as T, copy[at] as T];
    }
    return copy;
  }
}
