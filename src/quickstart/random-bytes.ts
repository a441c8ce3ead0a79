/** Bytes that look random and can be made again from their seed: content of the image and of the writer's records. */
import { createCipheriv } from "node:crypto";

/** `lengthBytes` bytes that belong to this seed and this number; the same every time. */
export function bytesOfSeed(seed: Uint8Array, number: number, lengthBytes: number): Buffer {
  const counter = Buffer.alloc(16);
  counter.writeUIntBE(number, 0, 6); // the low half of the counter block counts the blocks of one number
  return createCipheriv("aes-128-ctr", seed, counter).update(Buffer.alloc(lengthBytes));
}

/** A sequence of numbers that belongs to the seed. */
export class SeededNumbers {
  readonly #seed: Uint8Array;
  #block: Buffer = Buffer.alloc(0);
  #at = 0;
  #next = 0;

  /** 16 bytes. */
  constructor(seed: Uint8Array) {
    this.#seed = seed;
  }

  /** A whole number from 0 to `limit - 1`; `limit` at most 2^48. */
  below(limit: number): number {
    if (this.#at >= this.#block.length) {
      this.#block = bytesOfSeed(this.#seed, this.#next++, 6 * 1024);
      this.#at = 0;
    }
    const value = this.#block.readUIntBE(this.#at, 6);
    this.#at += 6;
    return value % limit;
  }
}
