/**
 * A device in memory, for tests, the simulator and scratch space. Sparse: what was never written takes no memory and is
 * reported as a hole, so a 16 TiB device costs nothing.
 */
import { TidemarkError } from "../../base/errors.ts";
import type { AllocationExtent, BlockDevice, DeviceCapabilities } from "../../base/ports.ts";
import { KiB } from "../../base/units.ts";
import { assertRange } from "./range-check.ts";
import { sizeProblem } from "./size-rule.ts";

const PAGE_BYTES = 64 * KiB;

export class MemoryDevice implements BlockDevice {
  readonly kind = "memory";
  readonly readOnly: boolean;
  readonly capabilities: DeviceCapabilities = { holes: true, trim: true, cloneDomain: undefined };
  readonly direct = undefined;
  readonly #pages = new Map<number, Uint8Array>();
  #sizeBytes: number;
  #closed = false;
  #changes = 0;

  constructor(sizeBytes: number, options: { readOnly?: boolean } = {}) {
    this.#sizeBytes = sizeBytes;
    this.readOnly = options.readOnly ?? false;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  tryRead(offsetBytes: number, into: Uint8Array): boolean {
    if (this.#closed) return false;
    assertRange(this.#sizeBytes, offsetBytes, into.length);
    this.#eachPage(offsetBytes, into.length, (index, inPage, at, length) => {
      const page = this.#pages.get(index);
      if (page === undefined) into.fill(0, at, at + length);
      else into.set(page.subarray(inPage, inPage + length), at);
    });
    return true;
  }

  tryWrite(offsetBytes: number, from: Uint8Array): boolean {
    if (this.#closed) return false;
    this.#assertWritable();
    assertRange(this.#sizeBytes, offsetBytes, from.length);
    this.#changes++;
    this.#eachPage(offsetBytes, from.length, (index, inPage, at, length) => {
      let page = this.#pages.get(index);
      if (page === undefined) {
        page = new Uint8Array(PAGE_BYTES);
        this.#pages.set(index, page);
      }
      page.set(from.subarray(at, at + length), inPage);
    });
    return true;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    this.#assertOpen();
    this.tryRead(offsetBytes, into);
  }

  async write(offsetBytes: number, from: Uint8Array): Promise<void> {
    this.#assertOpen();
    this.tryWrite(offsetBytes, from);
  }

  async flush(): Promise<void> {
    this.#assertOpen();
  }

  async zero(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#assertOpen();
    this.#assertWritable();
    assertRange(this.#sizeBytes, offsetBytes, lengthBytes);
    this.#changes++;
    const endBytes = offsetBytes + lengthBytes;
    for (const index of this.#pagesIn(offsetBytes, endBytes)) {
      const from = Math.max(offsetBytes, index * PAGE_BYTES);
      const to = Math.min(endBytes, (index + 1) * PAGE_BYTES);
      if (to - from === PAGE_BYTES) this.#pages.delete(index);
      else this.#pages.get(index)?.fill(0, from - index * PAGE_BYTES, to - index * PAGE_BYTES);
    }
  }

  trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.zero(offsetBytes, lengthBytes);
  }

  async allocation(offsetBytes: number, lengthBytes: number, extentsMax: number): Promise<AllocationExtent[]> {
    this.#assertOpen();
    assertRange(this.#sizeBytes, offsetBytes, lengthBytes);
    const extents: AllocationExtent[] = [];
    const endBytes = offsetBytes + lengthBytes;
    let at = offsetBytes;
    const add = (toBytes: number, zero: boolean) => {
      if (toBytes <= at) return;
      const last = extents.at(-1);
      if (last?.zero === zero) extents[extents.length - 1] = { ...last, lengthBytes: last.lengthBytes + toBytes - at };
      else extents.push({ offsetBytes: at, lengthBytes: toBytes - at, zero });
      at = toBytes;
    };
    for (const index of this.#pagesIn(offsetBytes, endBytes)) {
      if (extents.length > extentsMax) break;
      add(index * PAGE_BYTES, true);
      add(Math.min(endBytes, (index + 1) * PAGE_BYTES), false);
    }
    add(endBytes, true);
    return extents.slice(0, extentsMax);
  }

  async resize(sizeBytes: number): Promise<void> {
    this.#assertOpen();
    const problem = sizeProblem("memory device", sizeBytes);
    if (problem !== undefined) throw problem;
    if (sizeBytes < this.#sizeBytes) await this.zero(sizeBytes, this.#sizeBytes - sizeBytes);
    this.#sizeBytes = sizeBytes;
  }

  async stamp(): Promise<string> {
    return `${this.#sizeBytes}:${this.#changes}`;
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  /** Indexes of the pages in memory that the range touches, ascending. */
  #pagesIn(offsetBytes: number, endBytes: number): number[] {
    const first = Math.floor(offsetBytes / PAGE_BYTES);
    const last = Math.ceil(endBytes / PAGE_BYTES);
    if (last - first > this.#pages.size) {
      return [...this.#pages.keys()].filter((index) => index >= first && index < last).sort((a, b) => a - b);
    }
    const found: number[] = [];
    for (let index = first; index < last; index++) if (this.#pages.has(index)) found.push(index);
    return found;
  }

  #eachPage(
    offsetBytes: number,
    lengthBytes: number,
    visit: (index: number, inPage: number, at: number, length: number) => void,
  ): void {
    let at = 0;
    while (at < lengthBytes) {
      const index = Math.floor((offsetBytes + at) / PAGE_BYTES);
      const inPage = offsetBytes + at - index * PAGE_BYTES;
      const length = Math.min(PAGE_BYTES - inPage, lengthBytes - at);
      visit(index, inPage, at, length);
      at += length;
    }
  }

  #assertOpen(): void {
    if (this.#closed) throw new TidemarkError("DEVICE_GONE", { message: "the memory device is closed" });
  }

  #assertWritable(): void {
    if (this.readOnly) throw new TidemarkError("READ_ONLY", { message: "the memory device is read-only" });
  }
}
