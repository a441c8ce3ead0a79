/**
 * Generations over their stores: reads of a generation, writes to one, and what a write to the source owes them.
 *
 * Role: carries out the rules of `snap-chain.ts` with the stores, one granule at a time. Which generations there are, and how a
 * failure becomes durable, is its owner's; so are points (while one is fired nobody is in here).
 * Invariants:
 *   1. One lock for a granule, whichever volume of the chain it is written on: preserving, completing and storing are one step.
 *   2. A read takes no lock. It is right if the granule is still where it was found when the bytes have arrived: whoever
 *      overwrites a place that others read through first stores the old bytes nearer to them. Otherwise it looks again.
 *   3. A write to the source waits for what it owes, or for the failure of the generations concerned, and then goes on
 *      (data-safety 1.1 "fail durably, then proceed"). Only if that failure cannot be made durable does the write fail.
 * Source: data-safety 1.5, 2; spec/11 "I/O rules per session".
 */
import { assert } from "../../base/assert.ts";
import { asTidemarkError } from "../../base/errors.ts";
import { SNAP_APPEND_GRANULES_MAX } from "../../base/limits.ts";
import { GRANULE_SIZE_BYTES } from "../../base/units.ts";
import { RangeLock } from "../sync/range-lock.ts";
import {
  beforeGenerationWrite,
  beforeSourceWrite,
  locate,
  type SnapChain,
  type SnapFailureReason,
  type SnapPlace,
} from "./snap-chain.ts";
import type { SnapStore, SnapWrite } from "./snap-store.ts";

/** Granules that one source write preserves under one lock: bounds what is read into memory at once (1 MiB). */
const PRESERVE_GRANULES = 128;

export interface SnapGenerationsPorts {
  /** As it is now. */
  chain(): SnapChain;
  storeOf(destination: string): SnapStore;
  /** 8 KiB; zeros behind the end of the source. */
  readSource(granule: number, into: Uint8Array): Promise<void>;
  /** When it resolves the generation and all older ones have failed, durably, and `chain` says so. */
  fail(destination: string, reason: SnapFailureReason, cause: unknown): Promise<void>;
}

export class SnapGenerations {
  readonly #ports: SnapGenerationsPorts;
  readonly #lock = new RangeLock();

  constructor(ports: SnapGenerationsPorts) {
    this.#ports = ports;
  }

  // --- the source ----------------------------------------------------------------------------------------------------

  /** Whether a write to these granules of the source has to wait. */
  owesSourceWrite(first: number, count: number): boolean {
    const chain = this.#ports.chain();
    for (let granule = first; granule < first + count; granule++)
      if (beforeSourceWrite(chain, this.#holds(granule))) return true;
    return false;
  }

  /** Nobody needs the old content of these granules of the source any more when it resolves. */
  async preserveForSourceWrite(first: number, count: number): Promise<void> {
    const end = first + count;
    for (let from = first; from < end; from += PRESERVE_GRANULES) {
      const here = Math.min(PRESERVE_GRANULES, end - from);
      if (this.owesSourceWrite(from, here)) await this.#locked(from, here, () => this.#preserveRun(from, here));
    }
  }

  async #preserveRun(first: number, count: number): Promise<void> {
    const newest = this.#ports.chain().at(-1);
    if (newest === undefined || newest.failure !== undefined) return;
    const { destination } = newest;
    const store = this.#ports.storeOf(destination);
    const writes: SnapWrite[] = [];
    for (let granule = first; granule < first + count; granule++)
      if (!store.holds(granule)) writes.push({ granule, data: new Uint8Array(GRANULE_SIZE_BYTES) });
    if (writes.length === 0) return;
    let reading = true;
    try {
      await settleAll(writes.map(({ granule, data }) => this.#ports.readSource(granule, data)));
      reading = false;
      await store.append(writes, "copy");
    } catch (cause) {
      await this.#ports.fail(destination, reasonOf(cause, reading ? "source" : "store"), cause);
    }
  }

  // --- a generation --------------------------------------------------------------------------------------------------

  /** The granule as the generation shows it. COPY_STATE: it has failed; MEDIUM_ERROR and what the source throws. */
  async read(destination: string, granule: number, into: Uint8Array): Promise<void> {
    assert(into.length === GRANULE_SIZE_BYTES, "a granule is read as a whole");
    for (;;) {
      const place = this.#locate(destination, granule);
      const found = await this.#readAt(place, granule, into);
      // Each time it has moved it has come nearer, so this ends.
      if (found && samePlace(place, this.#locate(destination, granule))) return;
    }
  }

  /**
   * Writes a part of a granule, or all of it, durably. The bytes are its own until it has ended. What it throws has failed the
   * generation: SNAP_OVERFLOW, MEDIUM_ERROR, COPY_STATE.
   */
  write(destination: string, granule: number, offsetBytes: number, bytes: Uint8Array): Promise<void> {
    assert(offsetBytes >= 0 && offsetBytes + bytes.length <= GRANULE_SIZE_BYTES, "the bytes lie in one granule");
    return this.#locked(granule, 1, () => this.#writeLocked(destination, granule, offsetBytes, bytes));
  }

  async #writeLocked(destination: string, granule: number, offsetBytes: number, bytes: Uint8Array): Promise<void> {
    const { preserve } = beforeGenerationWrite(this.#ports.chain(), destination, this.#holds(granule));
    const data = new Uint8Array(GRANULE_SIZE_BYTES);
    if (preserve !== undefined || bytes.length < GRANULE_SIZE_BYTES) await this.read(destination, granule, data);
    if (preserve !== undefined) await this.#preserveOlder(preserve.into, { granule, data: data.slice() });
    data.set(bytes, offsetBytes);
    try {
      await this.#ports.storeOf(destination).append([{ granule, data }], "copy");
    } catch (cause) {
      await this.#ports.fail(destination, reasonOf(cause, "store"), cause);
      throw cause;
    }
  }

  /** Of a generation that cannot store it, it and the older ones fail; the write goes on. */
  async #preserveOlder(destination: string, write: SnapWrite): Promise<void> {
    try {
      await this.#ports.storeOf(destination).append([write], "copy");
    } catch (cause) {
      await this.#ports.fail(destination, reasonOf(cause, "store"), cause);
    }
  }

  async #locked<T>(first: number, count: number, task: () => Promise<T>): Promise<T> {
    const handle = await this.#lock.acquire(first, count);
    try {
      return await task();
    } finally {
      this.#lock.release(handle);
    }
  }

  #locate(destination: string, granule: number): SnapPlace {
    return locate(this.#ports.chain(), destination, this.#holds(granule));
  }

  #holds(granule: number) {
    return (destination: string) => this.#ports.storeOf(destination).holds(granule);
  }

  async #readAt(place: SnapPlace, granule: number, into: Uint8Array): Promise<boolean> {
    if (place.from === "generation") return this.#ports.storeOf(place.destination).read(granule, into);
    await this.#ports.readSource(granule, into);
    return true;
  }
}

/** What a generation has failed of (spec/40: 0xBA a bad sector of the source, 0xBB no space). */
function reasonOf(cause: unknown, at: "source" | "store"): SnapFailureReason {
  const { code } = asTidemarkError(cause);
  if (at === "source") return code === "MEDIUM_ERROR" ? "badsector" : "other";
  return code === "SNAP_OVERFLOW" ? "overflow" : "other";
}

function samePlace(one: SnapPlace, other: SnapPlace): boolean {
  if (one.from === "source" || other.from === "source") return one.from === other.from;
  return one.destination === other.destination;
}

async function settleAll(tasks: readonly Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(tasks);
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

assert(PRESERVE_GRANULES <= SNAP_APPEND_GRANULES_MAX, "what is preserved under one lock is one append");
