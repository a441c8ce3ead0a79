/**
 * A device that fails on purpose: errors, torn writes, delays and stalls, by range and by call.
 *
 * Role: fault injection for tests and the simulator; deterministic, no chance and no clock of its own.
 * A call that a fault applies to is never answered by `tryRead`/`tryWrite`: they return false without a trace, so the
 * asynchronous form meets the fault; every operation therefore counts as one call. A failed flush fails the device for good.
 */
import { type ErrorCode, TidemarkError } from "../../base/errors.ts";
import type { AllocationExtent, BlockDevice, ByteExtent, Clock, DeviceCapabilities } from "../../base/ports.ts";
import { SECTOR_SIZE_BYTES } from "../../base/units.ts";
import { assertRange } from "./range-check.ts";

export type FaultOperation = "read" | "write" | "flush" | "zero" | "trim" | "allocation" | "resize";

export interface Fault {
  readonly operation: FaultOperation;
  /** Applies to calls that touch these bytes; without it to every call. */
  readonly range?: ByteExtent;
  /** Applies from the n-th matching call after `inject` on (1 = the first, which is the default). */
  readonly fromCall?: number;
  /** Number of calls it applies to; without it all. */
  readonly calls?: number;
  readonly effect: FaultEffect;
}

export type FaultEffect =
  /** The call fails and has done nothing. */
  | { readonly kind: "error"; readonly code: ErrorCode }
  /** A write stores only its first whole sectors, then fails. */
  | { readonly kind: "torn"; readonly sectors: number; readonly code: ErrorCode }
  /** The call takes so long (Clock port), then goes on as usual. */
  | { readonly kind: "delay"; readonly ms: number }
  /** The call waits until the handle releases it. */
  | { readonly kind: "stall" };

/** A fault in force. */
export interface FaultHandle {
  /** Calls it has applied to. */
  readonly hits: number;
  /** Resolves when the fault has applied to `count` calls. */
  reached(count: number): Promise<void>;
  /** Ends the fault; calls that it stalls go on. */
  remove(): void;
}

class ActiveFault implements FaultHandle {
  readonly fault: Fault;
  hits = 0;
  #seen = 0;
  #removed = false;
  #waiters: { count: number; resolve: () => void }[] = [];
  #stalled: (() => void)[] = [];

  constructor(fault: Fault) {
    this.fault = fault;
  }

  matches(operation: FaultOperation, offsetBytes: number, lengthBytes: number): boolean {
    const { range } = this.fault;
    if (this.#removed || operation !== this.fault.operation) return false;
    if (range === undefined) return true;
    return offsetBytes < range.offsetBytes + range.lengthBytes && range.offsetBytes < offsetBytes + lengthBytes;
  }

  /** Whether the next matching call is hit. */
  get due(): boolean {
    const index = this.#seen + 1 - (this.fault.fromCall ?? 1);
    return index >= 0 && index < (this.fault.calls ?? Number.POSITIVE_INFINITY);
  }

  /** Counts a matching call; true if it is hit. */
  count(): boolean {
    const due = this.due;
    this.#seen++;
    if (!due) return false;
    this.hits++;
    this.#waiters = this.#waiters.filter((waiter) => {
      if (waiter.count > this.hits) return true;
      waiter.resolve();
      return false;
    });
    return true;
  }

  reached(count: number): Promise<void> {
    if (this.hits >= count) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push({ count, resolve }));
  }

  stall(): Promise<void> {
    if (this.#removed) return Promise.resolve();
    return new Promise((resolve) => this.#stalled.push(resolve));
  }

  remove(): void {
    this.#removed = true;
    for (const resolve of this.#stalled.splice(0)) resolve();
  }
}

export class FaultDevice implements BlockDevice {
  readonly kind = "fault";
  /** Never handed to copier workers: they would go round the faults. */
  readonly direct = undefined;
  readonly #inner: BlockDevice;
  readonly #clock: Clock;
  readonly #faults: ActiveFault[] = [];
  #failure: TidemarkError | undefined;

  constructor(inner: BlockDevice, clock: Clock) {
    this.#inner = inner;
    this.#clock = clock;
  }

  /** Puts a fault in force. The first one that applies to a call decides. */
  inject(fault: Fault): FaultHandle {
    const active = new ActiveFault(fault);
    this.#faults.push(active);
    return active;
  }

  get sizeBytes(): number {
    return this.#inner.sizeBytes;
  }

  get readOnly(): boolean {
    return this.#inner.readOnly;
  }

  get capabilities(): DeviceCapabilities {
    return this.#inner.capabilities;
  }

  tryRead(offsetBytes: number, into: Uint8Array): boolean {
    if (this.#wouldHit("read", offsetBytes, into.length) || !this.#inner.tryRead(offsetBytes, into)) return false;
    this.#counted("read", offsetBytes, into.length);
    return true;
  }

  tryWrite(offsetBytes: number, from: Uint8Array): boolean {
    if (this.#wouldHit("write", offsetBytes, from.length) || !this.#inner.tryWrite(offsetBytes, from)) return false;
    this.#counted("write", offsetBytes, from.length);
    return true;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    assertRange(this.sizeBytes, offsetBytes, into.length);
    await this.#meet("read", offsetBytes, into.length);
    await this.#inner.read(offsetBytes, into);
  }

  async write(offsetBytes: number, from: Uint8Array): Promise<void> {
    assertRange(this.sizeBytes, offsetBytes, from.length);
    await this.#meet("write", offsetBytes, from.length, async (sectors) => {
      const stored = Math.min(from.length, sectors * SECTOR_SIZE_BYTES);
      await this.#inner.write(offsetBytes, from.subarray(0, stored));
    });
    await this.#inner.write(offsetBytes, from);
  }

  async flush(): Promise<void> {
    try {
      await this.#meet("flush", 0, this.sizeBytes);
      await this.#inner.flush();
    } catch (cause) {
      this.#failure ??= new TidemarkError("DEVICE_GONE", { message: "a flush has failed before" }, { cause });
      throw cause;
    }
  }

  async zero(offsetBytes: number, lengthBytes: number, options: { release: "allow" | "keep" }): Promise<void> {
    await this.#meet("zero", offsetBytes, lengthBytes);
    await this.#inner.zero(offsetBytes, lengthBytes, options);
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    await this.#meet("trim", offsetBytes, lengthBytes);
    await this.#inner.trim(offsetBytes, lengthBytes);
  }

  async allocation(offsetBytes: number, lengthBytes: number, extentsMax: number): Promise<AllocationExtent[]> {
    await this.#meet("allocation", offsetBytes, lengthBytes);
    return this.#inner.allocation(offsetBytes, lengthBytes, extentsMax);
  }

  async resize(sizeBytes: number): Promise<void> {
    await this.#meet("resize", 0, this.sizeBytes);
    await this.#inner.resize(sizeBytes);
  }

  stamp(): Promise<string> {
    return this.#inner.stamp();
  }

  close(): Promise<void> {
    for (const fault of this.#faults) fault.remove();
    return this.#inner.close();
  }

  #wouldHit(operation: FaultOperation, offsetBytes: number, lengthBytes: number): boolean {
    if (this.#failure !== undefined) return true;
    return this.#faults.some((fault) => fault.matches(operation, offsetBytes, lengthBytes) && fault.due);
  }

  #counted(operation: FaultOperation, offsetBytes: number, lengthBytes: number): ActiveFault | undefined {
    let hit: ActiveFault | undefined;
    for (const fault of this.#faults) {
      if (fault.matches(operation, offsetBytes, lengthBytes) && fault.count()) hit ??= fault;
    }
    return hit;
  }

  async #meet(
    operation: FaultOperation,
    offsetBytes: number,
    lengthBytes: number,
    tear: (sectors: number) => Promise<void> = async () => {},
  ): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const hit = this.#counted(operation, offsetBytes, lengthBytes);
    if (hit === undefined) return;
    const { effect } = hit.fault;
    if (effect.kind === "delay") return this.#clock.sleep(effect.ms);
    if (effect.kind === "stall") return hit.stall();
    if (effect.kind === "torn") await tear(effect.sectors);
    throw new TidemarkError(effect.code, {
      message: `injected ${effect.code} in ${operation} at byte ${offsetBytes}, ${lengthBytes} bytes`,
      metadata: { offsetBytes: String(offsetBytes), lengthBytes: String(lengthBytes), injected: "true" },
    });
  }
}
