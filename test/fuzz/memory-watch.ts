/**
 * Whether memory stays bounded: what is live after a full collection must not grow once the door is warm, and the process
 * must stay below a limit that no bounded queue of the product reaches.
 */
import { MiB } from "../../src/base/units.ts";

/** Buffers pooled for large requests, compiled code and the corpus grow a little after the warm-up. */
const LIVE_GROWTH_BYTES_MAX = 96 * MiB;
const RSS_BYTES_MAX = 1536 * MiB;

export class MemoryWatch {
  #rssMax = 0;
  #warmBytes: number | undefined;

  sample(): void {
    this.#rssMax = Math.max(this.#rssMax, process.memoryUsage.rss());
  }

  get rssMaxMiB(): number {
    return Math.round(this.#rssMax / MiB);
  }

  /** The warm-up is over: growth counts from here. */
  async warm(): Promise<void> {
    this.#warmBytes ??= await liveBytes();
  }

  async violations(): Promise<string[]> {
    this.sample();
    const found: string[] = [];
    if (this.#rssMax > RSS_BYTES_MAX)
      found.push(`memory: the process reached ${this.rssMaxMiB} MiB, more than ${RSS_BYTES_MAX / MiB}`);
    if (this.#warmBytes === undefined) return found;
    const grown = (await liveBytes()) - this.#warmBytes;
    if (grown > LIVE_GROWTH_BYTES_MAX)
      found.push(`memory: ${Math.round(grown / MiB)} MiB more are live than after the warm-up`);
    return found;
  }
}

/** After several collections: memory outside the heap is given back some turns after its owner is gone. */
async function liveBytes(): Promise<number> {
  for (let round = 0; round < 5; round++) {
    globalThis.gc?.();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}
