/**
 * A volume, or an extent of it, as the front doors see it: offsets begin at the extent, and what hosts do is counted.
 *
 * Role: the same object serves NBD and the data calls of the API, so that both obey the same rules.
 */
import { TidemarkError } from "../../base/errors.ts";
import type { AllocationExtent, ByteExtent } from "../../base/ports.ts";
import { GRANULE_SIZE_BYTES, granulesTouched } from "../../base/units.ts";
import type { ExtentRef } from "../engine-api.ts";
import type { IoTarget } from "../nbd/io-target.ts";
import type { Volume } from "../volume/volume.ts";

export class VolumeTarget implements IoTarget {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly #volume: Volume;
  readonly #base: number;

  constructor(volume: Volume, extent: ExtentRef, access: "read-only" | "writable") {
    const device = volume.requireDevice();
    if (extent.offsetBytes + extent.lengthBytes > volume.sizeBytes)
      throw new TidemarkError("RANGE_INVALID", {
        message: `${extent.name} ends beyond volume ${volume.name} (${volume.sizeBytes} bytes)`,
        hint: "look at the sizes with `tidemark volume get`",
      });
    this.#volume = volume;
    this.#base = extent.offsetBytes;
    this.sizeBytes = extent.lengthBytes;
    this.readOnly = access === "read-only" || device.readOnly;
  }

  tryRead(offsetBytes: number, into: Uint8Array): boolean {
    if (!this.#volume.tryRead(this.#base + offsetBytes, into)) return false;
    this.#countRead(into.length);
    return true;
  }

  tryWrite(offsetBytes: number, from: Uint8Array): boolean {
    if (this.readOnly || !this.#volume.tryWrite(this.#base + offsetBytes, from)) return false;
    this.#countWrite(from.length);
    return true;
  }

  read(offsetBytes: number, into: Uint8Array): Promise<void> {
    this.#countRead(into.length);
    return this.#counted(this.#volume.read(this.#base + offsetBytes, into));
  }

  async write(offsetBytes: number, from: Uint8Array): Promise<void> {
    this.#requireWritable();
    this.#countWrite(from.length);
    await this.#counted(this.#volume.write(this.#base + offsetBytes, from));
  }

  flush(): Promise<void> {
    return this.#counted(this.#volume.flush());
  }

  async zero(offsetBytes: number, lengthBytes: number, options: { release: "allow" | "keep" }): Promise<void> {
    this.#requireWritable();
    this.#countWrite(lengthBytes);
    await this.#counted(this.#volume.zero(this.#base + offsetBytes, lengthBytes, options));
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#requireWritable();
    this.#countWrite(lengthBytes);
    await this.#counted(this.#volume.trim(this.#base + offsetBytes, lengthBytes));
  }

  cache(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#counted(this.#volume.cache(this.#base + offsetBytes, lengthBytes));
  }

  async allocation(offsetBytes: number, lengthBytes: number, extentsMax: number): Promise<AllocationExtent[]> {
    const extents = await this.#volume.allocation(this.#base + offsetBytes, lengthBytes, extentsMax);
    return extents.map((extent) => ({ ...extent, offsetBytes: extent.offsetBytes - this.#base }));
  }

  epochs(): readonly number[] {
    return this.#volume.chain.epochs.map((epoch) => epoch.id);
  }

  changed(epochId: number, offsetBytes: number, lengthBytes: number, extentsMax: number): readonly ByteExtent[] {
    return this.changedBetween(epochId, 0, offsetBytes, lengthBytes, extentsMax);
  }

  /** Runs changed in epochs `[since, until)` (until 0: up to now). EPOCH_NOT_FOUND. */
  changedBetween(
    since: number,
    until: number,
    offsetBytes: number,
    lengthBytes: number,
    extentsMax: number,
  ): ByteExtent[] {
    const epochs = this.#volume.chain.between(since, until);
    if (lengthBytes === 0) return [];
    const from = this.#base + offsetBytes;
    const end = from + lengthBytes;
    const { first, count } = granulesTouched(from, lengthBytes);
    const extents: ByteExtent[] = [];
    for (let at = first; extents.length < extentsMax; ) {
      const run = nextRunOf(epochs, at, first + count);
      if (!run) break;
      const runFrom = Math.max(from, run.first * GRANULE_SIZE_BYTES);
      const runEnd = Math.min(end, (run.first + run.count) * GRANULE_SIZE_BYTES);
      extents.push({ offsetBytes: runFrom - this.#base, lengthBytes: runEnd - runFrom });
      at = run.first + run.count;
    }
    return extents;
  }

  #requireWritable(): void {
    if (!this.readOnly) return;
    throw new TidemarkError("READ_ONLY", {
      message: `${this.#volume.name} can only be read here`,
      hint: "export it without --read-only, from a path that can be written",
    });
  }

  #countRead(bytes: number): void {
    this.#volume.counters.readOperations++;
    this.#volume.counters.readBytes += bytes;
  }

  #countWrite(bytes: number): void {
    this.#volume.counters.writeOperations++;
    this.#volume.counters.writeBytes += bytes;
  }

  async #counted<T>(operation: Promise<T>): Promise<T> {
    try {
      return await operation;
    } catch (error) {
      this.#volume.counters.failedOperations++;
      throw error;
    }
  }
}

/** The next run set in any of the epochs at or after `from`, merged over all of them. */
function nextRunOf(
  epochs: ReturnType<Volume["chain"]["between"]>,
  from: number,
  limit: number,
): { first: number; count: number } | undefined {
  let first = limit;
  for (const epoch of epochs) first = Math.min(first, epoch.map.nextRun(from, limit)?.first ?? limit);
  if (first >= limit) return undefined;
  let end = first;
  for (let grown = true; grown; ) {
    grown = false;
    for (const epoch of epochs) {
      const run = end < limit ? epoch.map.nextRun(end, limit) : undefined;
      if (run?.first === end) {
        end = run.first + run.count;
        grown = true;
      }
    }
  }
  return { first, count: end - first };
}
