/**
 * Volume: the bytes of one LU, what changed on it, and the sessions that enter and leave it.
 *
 * Role: the write and read paths (DESIGN section 4). Every host write, from whichever door, comes through here.
 * A write goes in this order:
 *   1. enter the gate (a point waits until everybody has left);
 *   2. sessions that enter the volume bring the granules it touches, durably; sessions that leave it preserve them, durably;
 *   3. the regions it touches are hot in the activity log, durably, and the granules are marked in the open epoch;
 *   4. the data is written; leave the gate.
 * A read brings missing granules first, then reads the device.
 * Invariants:
 *   1. While the gate is held, pending granules only become fewer.
 *   2. `tryRead`/`tryWrite` do all of this without waiting, or nothing.
 */
import { asTidemarkError, type ErrorRecord, fromErrorRecord, TidemarkError, toErrorRecord } from "../../base/errors.ts";
import { ACTIVITY_REGION_BYTES } from "../../base/limits.ts";
import type { AllocationExtent, BlockDevice } from "../../base/ports.ts";
import { GRANULE_SIZE_BYTES, granuleCountOf, granulesTouched, MiB } from "../../base/units.ts";
import type { ActivityLog } from "../durable/activity-log.ts";
import type { ExtentRef } from "../engine-api.ts";
import type { PagedBitmap } from "../map/paged-bitmap.ts";
import type { GranuleRun } from "../session/extents.ts";
import type { CopySession } from "../session/session.ts";
import { Gate } from "../sync/gate.ts";
import type { ChangeChain } from "./change-chain.ts";

/** Zeroing and trimming go in pieces of this size, so that no step needs more regions hot than the log has. */
const PIECE_BYTES = 64 * MiB;
/** After a device has failed a session, one message is enough. */
export type VolumeFailureListener = (volume: Volume, failure: ErrorRecord) => void;

export class Volume {
  readonly uid: string;
  name: string;
  path: string;
  readonly chain: ChangeChain;
  readonly gate = new Gate();
  readonly entering: CopySession[] = [];
  readonly leaving: CopySession[] = [];
  readonly counters = { readOperations: 0, readBytes: 0, writeOperations: 0, writeBytes: 0, failedOperations: 0 };
  /** Present while the volume is tracked. */
  activity: ActivityLog | undefined;
  identity: readonly string[] = [];
  /** What a clean stop noted of a volume that has not been opened since. */
  expectedStamp: string | undefined;
  exportCount = 0;
  /** Whether it was online when it was retired. */
  stoppedOnline = false;
  /** Told when a region became hot: the log has grown. */
  onActivation: () => void = () => undefined;
  #device: BlockDevice | undefined;
  #failure: ErrorRecord | undefined;
  readonly #onFailure: VolumeFailureListener;

  constructor(options: {
    uid: string;
    name: string;
    path: string;
    chain: ChangeChain;
    onFailure: VolumeFailureListener;
  }) {
    this.uid = options.uid;
    this.name = options.name;
    this.path = options.path;
    this.chain = options.chain;
    this.#onFailure = options.onFailure;
  }

  get online(): boolean {
    return this.#device !== undefined && this.#failure === undefined;
  }

  get failure(): ErrorRecord | undefined {
    return this.#failure;
  }

  get device(): BlockDevice | undefined {
    return this.#device;
  }

  get sizeBytes(): number {
    return this.#device?.sizeBytes ?? 0;
  }

  get granuleCount(): number {
    return granuleCountOf(this.sizeBytes);
  }

  get busy(): boolean {
    return this.entering.length + this.leaving.length + this.exportCount > 0;
  }

  /** A session that is over. */
  detach(session: CopySession): void {
    for (const list of [this.entering, this.leaving]) {
      const index = list.indexOf(session);
      if (index >= 0) list.splice(index, 1);
    }
  }

  attachDevice(device: BlockDevice, identity: readonly string[]): void {
    this.#device = device;
    this.identity = identity;
    this.#failure = undefined;
  }

  /** It could not be opened. */
  setFailure(failure: ErrorRecord): void {
    const first = this.#failure === undefined;
    this.#failure = failure;
    if (first) this.#onFailure(this, failure);
  }

  /**
   * The open device has failed and is not used any more until it is opened again. What it had not made durable may be lost:
   * sessions that enter have to bring it again, and the owner widens what is tracked (data-safety 1.2).
   */
  fail(cause: unknown): void {
    if (!this.online) return;
    this.setFailure(toErrorRecord(cause));
    for (const session of [...this.entering]) session.destinationLost(cause);
  }

  /** The box stops: nobody uses the volume any more, and nobody is told. */
  retire(failure: ErrorRecord): void {
    this.stoppedOnline = this.online;
    this.#failure = failure;
  }

  /** Why nothing can be read or written; undefined while the volume is online. */
  get unavailable(): TidemarkError | undefined {
    if (this.online) return undefined;
    if (this.#failure?.code === "STOPPING") return fromErrorRecord(this.#failure);
    if (this.#failure?.code === "OUT_OF_SERVICE") return outOfService("VOLUME_UNAVAILABLE", this, this.#failure);
    return new TidemarkError("VOLUME_UNAVAILABLE", {
      message: `volume ${this.name} is not available: ${this.#failure?.detail.message ?? "it is not open"}`,
      hint: `bring ${this.path} back, then: tidemark volume reopen ${this.name}`,
      metadata: { volume: this.name },
    });
  }

  /** OUT_OF_SERVICE when it has to be left alone in this run (barred.ts). */
  requireInService(): void {
    if (this.#failure?.code === "OUT_OF_SERVICE") throw outOfService("OUT_OF_SERVICE", this, this.#failure);
  }

  requireDevice(): BlockDevice {
    const { unavailable } = this;
    if (this.#device && !unavailable) return this.#device;
    throw unavailable;
  }

  /** An operation on the device as it is now; one that says that it is gone takes the volume out of service. */
  async #onDevice<T>(operation: (device: BlockDevice) => Promise<T>): Promise<T> {
    const device = this.requireDevice();
    try {
      return await operation(device);
    } catch (error) {
      if (device === this.#device && saysGone(error)) this.fail(error);
      throw error;
    }
  }

  // --- reading -------------------------------------------------------------------------------------------------------

  tryRead(offsetBytes: number, into: Uint8Array): boolean {
    const device = this.#device;
    if (device === undefined || this.#failure !== undefined) return false;
    for (const session of this.entering) {
      if (!session.unfinished) continue;
      const run = session.atDestination(offsetBytes, into.length);
      if (run && session.lacks(run)) return false;
    }
    return device.tryRead(offsetBytes, into);
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    this.requireDevice();
    await this.#bringIn(offsetBytes, into.length);
    await this.#onDevice((device) => device.read(offsetBytes, into));
  }

  /** A host read or cache request of granules that a session still owes: brought in under the gate. */
  async #bringIn(offsetBytes: number, lengthBytes: number): Promise<void> {
    while (this.#lacks(offsetBytes, lengthBytes)) {
      await this.gate.enter();
      try {
        await this.ensurePresent(offsetBytes, lengthBytes);
      } finally {
        this.gate.leave();
      }
    }
  }

  cache(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#bringIn(offsetBytes, lengthBytes);
  }

  #lacks(offsetBytes: number, lengthBytes: number): boolean {
    for (const session of this.entering) {
      const run = session.atDestination(offsetBytes, lengthBytes);
      if (run && session.lacks(run)) return true;
    }
    return false;
  }

  /** The volume's device holds its logical content in this range afterwards. Throws when a session that owes it failed. */
  async ensurePresent(offsetBytes: number, lengthBytes: number): Promise<void> {
    for (const session of [...this.entering]) {
      const run = session.atDestination(offsetBytes, lengthBytes);
      if (run && session.lacks(run)) await session.copy(run, "present");
    }
  }

  // --- writing -------------------------------------------------------------------------------------------------------

  tryWrite(offsetBytes: number, from: Uint8Array): boolean {
    const device = this.#device;
    if (device === undefined || this.#failure !== undefined || !this.gate.isOpen) return false;
    for (const session of this.leaving) {
      if (!session.unfinished || session.state !== "live") continue;
      const run = session.atSource(offsetBytes, from.length);
      if (run && session.blocksWrite(run)) return false;
    }
    for (const session of this.entering) {
      if (!session.unfinished) continue;
      const run = session.atDestination(offsetBytes, from.length);
      if (run && session.blocksWrite(run)) return false;
    }
    if (this.chain.tracked) {
      const region = regionsOf(offsetBytes, from.length);
      if (!this.activity?.isHot(region.first, region.last)) return false;
      const granules = granulesTouched(offsetBytes, from.length);
      this.chain.mark(granules.first, granules.count);
    }
    return device.tryWrite(offsetBytes, from);
  }

  /** Writes; the buffer must not change meanwhile. */
  async write(offsetBytes: number, from: Uint8Array): Promise<void> {
    this.requireDevice();
    await this.#change(offsetBytes, from.length, (device) => device.write(offsetBytes, from));
  }

  async zero(offsetBytes: number, lengthBytes: number, options: { release: "allow" | "keep" }): Promise<void> {
    this.requireDevice();
    await inPieces(offsetBytes, lengthBytes, (offset, length) =>
      this.#change(offset, length, (device) => device.zero(offset, length, options)),
    );
  }

  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.requireDevice();
    await inPieces(offsetBytes, lengthBytes, (offset, length) =>
      this.#change(offset, length, (device) => device.trim(offset, length)),
    );
  }

  async #change(
    offsetBytes: number,
    lengthBytes: number,
    action: (device: BlockDevice) => Promise<void>,
  ): Promise<void> {
    if (lengthBytes === 0) return;
    await this.gate.enter();
    try {
      await this.#clearTheWay(offsetBytes, lengthBytes);
      if (!this.chain.tracked) return await this.#onDevice(action);
      const region = regionsOf(offsetBytes, lengthBytes);
      const activity = this.requireActivity();
      while (!activity.isHot(region.first, region.last)) {
        await activity.activate(region.first, region.last);
        this.onActivation();
      }
      // The last session may have ended meanwhile; none can have begun, because its point waits for this gate.
      if (!this.chain.tracked) return await this.#onDevice(action);
      activity.enter(region.first, region.last);
      try {
        const granules = granulesTouched(offsetBytes, lengthBytes);
        this.chain.mark(granules.first, granules.count);
        await this.#onDevice(action);
      } finally {
        activity.leave(region.first, region.last);
      }
    } finally {
      this.gate.leave();
    }
  }

  requireActivity(): ActivityLog {
    if (this.activity) return this.activity;
    throw new TidemarkError("INTERNAL", { message: `volume ${this.name} is tracked without an activity log` });
  }

  /** Step 2 of a write: nobody needs the old content of the range any more. */
  async #clearTheWay(offsetBytes: number, lengthBytes: number): Promise<void> {
    for (const session of [...this.entering]) {
      const run = session.atDestination(offsetBytes, lengthBytes);
      if (run && session.blocksWrite(run)) await session.copy(run, "durable");
    }
    const preserving: Promise<void>[] = [];
    for (const session of this.leaving) {
      const run = session.atSource(offsetBytes, lengthBytes);
      if (run && session.state === "live" && session.blocksWrite(run)) preserving.push(preserve(session, run));
    }
    if (preserving.length > 0) await settleAll(preserving);
  }

  /** Everything written before the call is durable when it resolves. */
  async flush(): Promise<void> {
    const device = this.requireDevice();
    try {
      await device.flush();
    } catch (error) {
      // After a failed sync the page cache may lie: the device stays failed until it is opened again.
      if (device === this.#device) this.fail(error);
      throw error;
    }
  }

  // --- looking -------------------------------------------------------------------------------------------------------

  /** What the range holds; granules that a session still owes count as data. */
  async allocation(offsetBytes: number, lengthBytes: number, extentsMax: number): Promise<AllocationExtent[]> {
    this.requireDevice();
    const owed = this.#owedUntil(offsetBytes, lengthBytes);
    if (owed.lacking) return [{ offsetBytes, lengthBytes: owed.endBytes - offsetBytes, zero: false }];
    return this.#onDevice((device) => device.allocation(offsetBytes, owed.endBytes - offsetBytes, extentsMax));
  }

  /** Whether the first granule of the range is owed by a session, and the byte up to which that stays so. */
  #owedUntil(offsetBytes: number, lengthBytes: number): { lacking: boolean; endBytes: number } {
    let endBytes = offsetBytes + lengthBytes;
    for (const session of this.entering) {
      const run = session.atDestination(offsetBytes, lengthBytes);
      if (!run || !session.lacks(run)) continue;
      const base = session.destination.offsetBytes;
      const next = session.pending.nextRun(run.first, run.first + run.count);
      if (!next) continue;
      const beginBytes = base + next.first * GRANULE_SIZE_BYTES;
      if (beginBytes <= offsetBytes) {
        const doneBytes = base + Math.min((next.first + next.count) * GRANULE_SIZE_BYTES, session.lengthBytes);
        return { lacking: true, endBytes: Math.min(endBytes, doneBytes) };
      }
      endBytes = Math.min(endBytes, beginBytes);
    }
    return { lacking: false, endBytes };
  }

  /** Adds to `target` (granules of `extent`) what changed on the volume since `epoch`. */
  unionChanged(target: PagedBitmap, extent: ExtentRef, since: number, until = 0): void {
    const { first, count } = granulesTouched(extent.offsetBytes, extent.lengthBytes);
    this.chain.unionInto(target, { since, until, first, count, targetFirst: 0 });
  }

  /** Marks in the open epoch that the logical content of `extent` changed where `map` is set. */
  markLogicalChange(map: PagedBitmap, extent: ExtentRef): void {
    const { first, count } = granulesTouched(extent.offsetBytes, extent.lengthBytes);
    this.chain.open.map.union(map, { first, count, otherFirst: 0 });
  }
}

/**
 * Preserving for a copy never stops the source: when it fails, the copy has durably failed and the write goes on. For a
 * destination that is away nothing can be preserved either: then this write is what ends the copy.
 */
async function preserve(session: CopySession, run: GranuleRun): Promise<void> {
  try {
    await session.copy(run, "durable");
  } catch (error) {
    if (!session.destinationVolume.online) await session.fail(error);
    if (session.state === "live") throw asTidemarkError(error);
  }
}

async function settleAll(tasks: readonly Promise<void>[]): Promise<void> {
  const results = await Promise.allSettled(tasks);
  for (const result of results) if (result.status === "rejected") throw result.reason;
}

function outOfService(
  code: "VOLUME_UNAVAILABLE" | "OUT_OF_SERVICE",
  { name }: Volume,
  { detail }: ErrorRecord,
): TidemarkError {
  const metadata = { ...detail.metadata, volume: name, reason: "OUT_OF_SERVICE" };
  return new TidemarkError(code, { ...detail, message: `volume ${name} is ${detail.message}`, metadata });
}

/** The device does not work any more. A file that has been cut serves what is left of it. */
export function saysGone(error: unknown): boolean {
  const { code, detail } = asTidemarkError(error);
  return code === "DEVICE_GONE" && detail.metadata?.["reason"] !== "VOLUME_SHRUNK";
}

function regionsOf(offsetBytes: number, lengthBytes: number): { first: number; last: number } {
  return {
    first: Math.floor(offsetBytes / ACTIVITY_REGION_BYTES),
    last: Math.floor((offsetBytes + lengthBytes - 1) / ACTIVITY_REGION_BYTES),
  };
}

async function inPieces(
  offsetBytes: number,
  lengthBytes: number,
  action: (offsetBytes: number, lengthBytes: number) => Promise<void>,
): Promise<void> {
  const endBytes = offsetBytes + lengthBytes;
  for (let offset = offsetBytes; offset < endBytes; offset += PIECE_BYTES)
    await action(offset, Math.min(PIECE_BYTES, endBytes - offset));
}
