/**
 * A volume in memory for the tests of the NBD front door: a real device that keeps what is written, with switches that
 * make it slow, failing or unsure at exactly the moment a test wants.
 */
import { TidemarkError } from "../../src/base/errors.ts";
import type { AllocationExtent, ByteExtent } from "../../src/base/ports.ts";
import type { ExportTable, IoTarget } from "../../src/engine/nbd/io-target.ts";

const BLOCK = 4096;
const GRANULE = 8192;

type Operation = "read" | "write" | "flush" | "zero" | "trim" | "cache" | "allocation";

interface Waiting {
  readonly operation: Operation;
  readonly offsetBytes: number;
  readonly proceed: () => void;
}

export class MemoryTarget implements IoTarget {
  readonly bytes: Buffer;
  /** What would be left after a power cut. */
  readonly durable: Buffer;
  readOnly = false;
  /** `inline`: tryRead and tryWrite succeed. `deferred`: they decline. */
  path: "inline" | "deferred" = "inline";
  fastZero = false;
  /** Operations of these kinds wait in `waiting` until the test lets them go. */
  readonly held = new Set<Operation>();
  readonly waiting: Waiting[] = [];
  /** Errors by operation; `at` restricts one to requests that contain this offset. */
  readonly failing = new Map<Operation, { readonly error: Error; readonly at?: number }>();
  readonly calls: string[] = [];
  readonly #written: Uint8Array;
  readonly #epochs = new Map<number, Uint8Array>();
  #onWaiting: (() => void)[] = [];

  constructor(sizeBytes: number) {
    this.bytes = Buffer.alloc(sizeBytes);
    this.durable = Buffer.alloc(sizeBytes);
    this.#written = new Uint8Array(Math.ceil(sizeBytes / BLOCK));
  }

  get sizeBytes(): number {
    return this.bytes.length;
  }

  tryRead(offsetBytes: number, into: Uint8Array): boolean {
    if (this.path === "deferred") return false;
    this.#check("read", offsetBytes, into.length);
    into.set(this.bytes.subarray(offsetBytes, offsetBytes + into.length));
    return true;
  }

  tryWrite(offsetBytes: number, from: Uint8Array): boolean {
    if (this.path === "deferred") return false;
    this.#check("write", offsetBytes, from.length);
    this.#store(offsetBytes, from);
    return true;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    await this.#pass("read", offsetBytes, into.length);
    into.set(this.bytes.subarray(offsetBytes, offsetBytes + into.length));
  }

  async write(offsetBytes: number, from: Uint8Array): Promise<void> {
    await this.#pass("write", offsetBytes, from.length);
    this.#store(offsetBytes, from);
  }

  async flush(): Promise<void> {
    await this.#pass("flush", 0, 0);
    this.durable.set(this.bytes);
  }

  async zero(offsetBytes: number, lengthBytes: number, options: { release: "allow" | "keep" }): Promise<void> {
    this.calls.push(`zero ${options.release}`);
    await this.#pass("zero", offsetBytes, lengthBytes);
    this.bytes.fill(0, offsetBytes, offsetBytes + lengthBytes);
    this.#markDirty(offsetBytes, lengthBytes);
    if (options.release === "keep") this.#markWritten(offsetBytes, lengthBytes);
    else this.#release(offsetBytes, lengthBytes);
  }

  zeroIsFast(): boolean {
    return this.fastZero;
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.calls.push("trim");
    await this.#pass("trim", offsetBytes, lengthBytes);
    this.bytes.fill(0, offsetBytes, offsetBytes + lengthBytes);
    this.#markDirty(offsetBytes, lengthBytes);
    this.#release(offsetBytes, lengthBytes);
  }

  async cache(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.calls.push(`cache ${offsetBytes}+${lengthBytes}`);
    await this.#pass("cache", offsetBytes, lengthBytes);
  }

  async allocation(offsetBytes: number, lengthBytes: number, extentsMax: number): Promise<AllocationExtent[]> {
    await this.#pass("allocation", offsetBytes, lengthBytes);
    const extents: AllocationExtent[] = [];
    const end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end && extents.length < extentsMax; ) {
      const written = this.#written[Math.floor(at / BLOCK)];
      let until = at;
      while (until < end && this.#written[Math.floor(until / BLOCK)] === written) {
        until = (Math.floor(until / BLOCK) + 1) * BLOCK;
      }
      extents.push({ offsetBytes: at, lengthBytes: Math.min(until, end) - at, zero: written === 0 });
      at = until;
    }
    return extents;
  }

  /** Begins a new epoch: what changes from now on is changed "since" it. */
  beginEpoch(id: number): void {
    this.#epochs.set(id, new Uint8Array(Math.ceil(this.sizeBytes / GRANULE)));
  }

  endEpoch(id: number): void {
    this.#epochs.delete(id);
  }

  epochs(): readonly number[] {
    return [...this.#epochs.keys()];
  }

  changed(epochId: number, offsetBytes: number, lengthBytes: number, extentsMax: number): readonly ByteExtent[] {
    const map = this.#epochs.get(epochId);
    if (map === undefined) throw new TidemarkError("EPOCH_NOT_FOUND", { message: `epoch ${epochId} is gone` });
    const runs: ByteExtent[] = [];
    const end = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < end; ) {
      const until = Math.min((Math.floor(at / GRANULE) + 1) * GRANULE, end);
      if (map[Math.floor(at / GRANULE)] === 1) {
        const last = runs.at(-1);
        if (last !== undefined && last.offsetBytes + last.lengthBytes === at) {
          runs[runs.length - 1] = { offsetBytes: last.offsetBytes, lengthBytes: until - last.offsetBytes };
        } else if (runs.length === extentsMax) break;
        else runs.push({ offsetBytes: at, lengthBytes: until - at });
      }
      at = until;
    }
    return runs;
  }

  /** Resolves when `count` operations wait. */
  async whenWaiting(count: number): Promise<void> {
    while (this.waiting.length < count) await new Promise<void>((resolve) => this.#onWaiting.push(resolve));
  }

  /** Lets the n-th waiting operation go. */
  letGo(index: number): void {
    this.waiting.splice(index, 1)[0]?.proceed();
  }

  letAllGo(): void {
    this.held.clear();
    while (this.waiting.length > 0) this.letGo(0);
  }

  async #pass(operation: Operation, offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#check(operation, offsetBytes, lengthBytes);
    if (!this.held.has(operation)) {
      await new Promise((resolve) => setImmediate(resolve));
      return;
    }
    await new Promise<void>((proceed) => {
      this.waiting.push({ operation, offsetBytes, proceed });
      const told = this.#onWaiting;
      this.#onWaiting = [];
      for (const tell of told) tell();
    });
  }

  #check(operation: Operation, offsetBytes: number, lengthBytes: number): void {
    if (offsetBytes < 0 || offsetBytes + lengthBytes > this.sizeBytes) throw new Error("range was not checked");
    const failure = this.failing.get(operation);
    if (failure === undefined) return;
    const hit = failure.at === undefined || (failure.at >= offsetBytes && failure.at < offsetBytes + lengthBytes);
    if (hit) throw failure.error;
  }

  #store(offsetBytes: number, from: Uint8Array): void {
    this.bytes.set(from, offsetBytes);
    this.#markWritten(offsetBytes, from.length);
    this.#markDirty(offsetBytes, from.length);
  }

  #markWritten(offsetBytes: number, lengthBytes: number): void {
    this.#written.fill(1, Math.floor(offsetBytes / BLOCK), Math.ceil((offsetBytes + lengthBytes) / BLOCK));
  }

  #release(offsetBytes: number, lengthBytes: number): void {
    const first = Math.ceil(offsetBytes / BLOCK);
    const end = Math.floor((offsetBytes + lengthBytes) / BLOCK);
    if (end > first) this.#written.fill(0, first, end);
  }

  #markDirty(offsetBytes: number, lengthBytes: number): void {
    const first = Math.floor(offsetBytes / GRANULE);
    const end = Math.ceil((offsetBytes + lengthBytes) / GRANULE);
    for (const map of this.#epochs.values()) map.fill(1, first, end);
  }
}

/** A table of exports that a test can change. */
export class Exports implements ExportTable {
  readonly targets = new Map<string, IoTarget>();
  /** Thrown by `open`. */
  refusal: Error | undefined;

  names(): readonly string[] {
    return [...this.targets.keys()];
  }

  open(name: string): { readonly name: string; readonly target: IoTarget } | undefined {
    if (this.refusal !== undefined) throw this.refusal;
    const target = this.targets.get(name);
    return target === undefined ? undefined : { name, target };
  }
}
