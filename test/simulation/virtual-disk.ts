/**
 * The disk under one volume, with a model of what a crash leaves of it.
 *
 * Each sector holds a stamp, a whole number that fills its 512 bytes as 128 equal words; 0 is a sector of zeros, and a run of
 * those is a hole. What is written is checked: a sector that is not one stamp is torn.
 * Model (data-safety 3.1):
 *   1. A write under way is stored sector by sector, at any moment between its begin and its end; one that fails, or is cut
 *      off by the end of the process, has stored any of its sectors.
 *   2. `kill` keeps what was stored. `losePower` leaves in each sector any version it ever had since its last flush.
 *   3. A flush covers the writes that had ended when it was called.
 *   4. A device that fails (a flush that fails, or one that goes away) is as after a power loss when it is opened again.
 * Handles of an earlier process never answer: their turns are gone.
 */
import { type ErrorCode, TidemarkError } from "../../src/base/errors.ts";
import type { AllocationExtent, BlockDevice, DeviceCapabilities } from "../../src/base/ports.ts";
import { SECTOR_SIZE_BYTES } from "../../src/base/units.ts";
import type { Chance } from "./chance.ts";
import type { Scheduler, TurnKind } from "./scheduler.ts";

const WORDS = SECTOR_SIZE_BYTES / 4;
/** Holes are told in blocks of this many sectors, as a file system does. */
const BLOCK_SECTORS = 8;
/** What a torn sector is noted as: no write has this stamp. */
export const TORN = -2;

/** Faults in force. */
export interface DiskFaults {
  /** Reading or writing these fails. */
  readonly badSectors: Set<number>;
  writes: "work" | "medium-error" | "no-space";
  /** The next flush fails, and with it the device. */
  flushFails: boolean;
  /** An operation is this likely to take up to `stallMs`. */
  stallProbability: number;
  stallMs: number;
}

export interface DiskHabits {
  readonly holes: boolean;
  /** How likely reads and writes are answered at once, from the page cache. */
  readonly inlineProbability: number;
}

interface Version {
  readonly number: number;
  readonly stamp: number;
}

interface InFlight {
  readonly first: number;
  readonly stamps: Int32Array;
  /** Sectors stored before the end. */
  readonly stored: Uint8Array;
}

/** Fills a buffer with stamps, one a sector. */
export function fillStamps(into: Uint8Array, stamps: Int32Array): void {
  const words = new Int32Array(into.buffer, into.byteOffset, into.length / 4);
  for (let sector = 0; sector < stamps.length; sector++)
    words.fill(stamps[sector] as number, sector * WORDS, (sector + 1) * WORDS);
}

/** The stamps in a buffer; TORN where a sector is not one stamp. */
export function readStamps(from: Uint8Array): Int32Array {
  const aligned = from.byteOffset % 4 === 0 ? from : from.slice();
  const words = new Int32Array(aligned.buffer, aligned.byteOffset, aligned.length / 4);
  const stamps = new Int32Array(from.length / SECTOR_SIZE_BYTES);
  for (let sector = 0; sector < stamps.length; sector++) {
    const first = words[sector * WORDS] as number;
    stamps[sector] = first;
    for (let word = sector * WORDS + 1; word < (sector + 1) * WORDS; word++)
      if (words[word] !== first) {
        stamps[sector] = TORN;
        break;
      }
  }
  return stamps;
}

export class VirtualDisk {
  readonly name: string;
  readonly sectors: number;
  readonly faults: DiskFaults;
  /** What reads give. */
  readonly content: Int32Array;
  /** False: it cannot be opened. */
  present = true;
  /** Told when the device fails for good. */
  onFailure: () => void = () => undefined;
  /** Told of a sector that was written torn. */
  onTorn: (sector: number) => void = () => undefined;
  readonly #durable: Int32Array;
  readonly #pending = new Map<number, Version[]>();
  readonly #inFlight = new Set<InFlight>();
  readonly #habits: DiskHabits;
  readonly #scheduler: Scheduler;
  readonly #chance: Chance;
  #number = 0;
  /** Counts failures: a handle of before is dead. */
  #failures = 0;

  constructor(options: {
    name: string;
    sectors: number;
    habits: DiskHabits;
    scheduler: Scheduler;
    chance: Chance;
  }) {
    this.name = options.name;
    this.sectors = options.sectors;
    this.#habits = options.habits;
    this.#scheduler = options.scheduler;
    this.#chance = options.chance;
    this.content = new Int32Array(options.sectors);
    this.#durable = new Int32Array(options.sectors);
    this.faults = { badSectors: new Set(), writes: "work", flushFails: false, stallProbability: 0, stallMs: 0 };
  }

  get sizeBytes(): number {
    return this.sectors * SECTOR_SIZE_BYTES;
  }

  /** The sector holds this, and no power loss can change it. */
  surelyHolds(sector: number, stamp: number | undefined): boolean {
    return this.content[sector] === stamp && !this.#pending.has(sector);
  }

  open(): BlockDevice {
    if (!this.present) throw diskError("DEVICE_GONE", this.name, 0, 0);
    return new DiskHandle(this, this.#habits, this.#failures);
  }

  // --- what becomes of it ------------------------------------------------------------------------------------------------

  /** The process ends: of what was under way any sector is stored. */
  kill(): void {
    for (const write of this.#inFlight) this.#storeAny(write);
    this.#inFlight.clear();
  }

  losePower(): void {
    this.kill();
    const mood = this.#chance.unit();
    for (const [sector, versions] of this.#pending) {
      const keepsAll = mood < 0.2 || (mood < 0.8 && this.#chance.happens(0.3));
      const keepsNone = mood > 0.8 || this.#chance.happens(0.4);
      const index = keepsAll ? versions.length : keepsNone ? 0 : this.#chance.below(versions.length + 1);
      if (index > 0) this.#durable[sector] = (versions[index - 1] as Version).stamp;
      this.content[sector] = this.#durable[sector] as number;
    }
    this.#pending.clear();
  }

  /** The device is gone until it is opened again; what was not flushed is as after a power loss. */
  fail(): void {
    this.losePower();
    this.#failures++;
    this.faults.flushFails = false;
    this.onFailure();
  }

  repair(): void {
    this.present = true;
    this.faults.badSectors.clear();
    this.faults.writes = "work";
    this.faults.flushFails = false;
    this.faults.stallProbability = 0;
  }

  // --- for the handles -----------------------------------------------------------------------------------------------------

  isDead(failures: number): boolean {
    return failures !== this.#failures;
  }

  inline(): boolean {
    return this.faults.stallProbability === 0 && this.#chance.happens(this.#habits.inlineProbability);
  }

  keepsTrimmed(): boolean {
    return this.#chance.happens(0.3);
  }

  hasBad(first: number, count: number): boolean {
    if (this.faults.badSectors.size === 0) return false;
    for (let sector = first; sector < first + count; sector++) if (this.faults.badSectors.has(sector)) return true;
    return false;
  }

  turn(kind: TurnKind): Promise<void> {
    const stalls = this.faults.stallProbability > 0 && this.#chance.happens(this.faults.stallProbability);
    return this.#scheduler.turn(kind, stalls ? 1 + this.#chance.unit() * this.faults.stallMs : 0);
  }

  begin(first: number, stamps: Int32Array): InFlight {
    const write = { first, stamps, stored: new Uint8Array(stamps.length) };
    this.#inFlight.add(write);
    if (this.#chance.happens(0.25)) this.#storeAny(write);
    return write;
  }

  /** `stamps` may have been filled in meanwhile: a buffer counts as it is at the end. */
  end(write: InFlight, outcome: "done" | "failed"): void {
    this.#inFlight.delete(write);
    if (outcome === "failed") this.#storeAny(write);
    for (let index = 0; outcome === "done" && index < write.stamps.length; index++)
      if (write.stored[index] === 0) this.store(write.first + index, write.stamps[index] as number);
  }

  store(sector: number, stamp: number): void {
    if (stamp === TORN) this.onTorn(sector);
    this.content[sector] = stamp;
    const version = { number: ++this.#number, stamp };
    const versions = this.#pending.get(sector);
    if (versions) versions.push(version);
    else this.#pending.set(sector, [version]);
  }

  /** Number of the last version that a flush called now covers. */
  get covered(): number {
    return this.#number;
  }

  flushed(limit: number): void {
    for (const [sector, versions] of this.#pending) {
      let covered = 0;
      while (covered < versions.length && (versions[covered] as Version).number <= limit) covered++;
      if (covered === 0) continue;
      this.#durable[sector] = (versions[covered - 1] as Version).stamp;
      if (covered === versions.length) this.#pending.delete(sector);
      else versions.splice(0, covered);
    }
  }

  #storeAny(write: InFlight): void {
    const mood = this.#chance.unit();
    for (let index = 0; index < write.stamps.length; index++) {
      if (write.stored[index] === 1 || this.#chance.unit() > mood) continue;
      write.stored[index] = 1;
      this.store(write.first + index, write.stamps[index] as number);
    }
  }
}

class DiskHandle implements BlockDevice {
  readonly kind = "memory";
  readonly readOnly = false;
  readonly direct = undefined;
  readonly sizeBytes: number;
  readonly capabilities: DeviceCapabilities;
  readonly #disk: VirtualDisk;
  readonly #failures: number;
  #closed = false;

  constructor(disk: VirtualDisk, habits: DiskHabits, failures: number) {
    this.#disk = disk;
    this.#failures = failures;
    this.sizeBytes = disk.sizeBytes;
    this.capabilities = { holes: habits.holes, trim: true, cloneDomain: undefined };
  }

  tryRead(offsetBytes: number, into: Uint8Array): boolean {
    const { first, count } = sectorsOf(offsetBytes, into.length);
    if (this.#unusable() || !this.#disk.inline() || this.#disk.hasBad(first, count)) return false;
    fillStamps(into, this.#disk.content.subarray(first, first + count));
    return true;
  }

  tryWrite(offsetBytes: number, from: Uint8Array): boolean {
    const { first, count } = sectorsOf(offsetBytes, from.length);
    if (this.#unusable() || !this.#disk.inline() || this.#disk.hasBad(first, count)) return false;
    if (this.#disk.faults.writes !== "work") return false;
    readStamps(from).forEach((stamp, index) => {
      this.#disk.store(first + index, stamp);
    });
    return true;
  }

  async read(offsetBytes: number, into: Uint8Array): Promise<void> {
    const { first, count } = sectorsOf(offsetBytes, into.length);
    this.#check();
    await this.#disk.turn("device-read");
    this.#check();
    if (this.#disk.hasBad(first, count)) throw diskError("MEDIUM_ERROR", this.#disk.name, offsetBytes, into.length);
    fillStamps(into, this.#disk.content.subarray(first, first + count));
  }

  async write(offsetBytes: number, from: Uint8Array): Promise<void> {
    const stamps = readStamps(from);
    await this.#store(offsetBytes, stamps, "device-write", () => stamps.set(readStamps(from)));
  }

  zero(offsetBytes: number, lengthBytes: number): Promise<void> {
    const { count } = sectorsOf(offsetBytes, lengthBytes);
    return this.#store(offsetBytes, new Int32Array(count), "device-write", () => undefined);
  }

  /** Whether anything comes of it is the device's choice. */
  async trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    if (this.#disk.keepsTrimmed()) {
      this.#check();
      await this.#disk.turn("device-write");
      return this.#check();
    }
    return this.zero(offsetBytes, lengthBytes);
  }

  async #store(offsetBytes: number, stamps: Int32Array, kind: TurnKind, look: () => void): Promise<void> {
    const { first, count } = sectorsOf(offsetBytes, stamps.length * SECTOR_SIZE_BYTES);
    this.#check();
    const write = this.#disk.begin(first, stamps);
    await this.#disk.turn(kind);
    if (this.#disk.isDead(this.#failures)) throw diskError("DEVICE_GONE", this.#disk.name, offsetBytes, count * 512);
    look();
    const code = this.#refusal(first, count);
    this.#disk.end(write, code === undefined ? "done" : "failed");
    if (code !== undefined) throw diskError(code, this.#disk.name, offsetBytes, count * SECTOR_SIZE_BYTES);
  }

  #refusal(first: number, count: number): ErrorCode | undefined {
    if (this.#disk.hasBad(first, count) || this.#disk.faults.writes === "medium-error") return "MEDIUM_ERROR";
    return this.#disk.faults.writes === "no-space" ? "NO_SPACE" : undefined;
  }

  async flush(): Promise<void> {
    this.#check();
    const limit = this.#disk.covered;
    await this.#disk.turn("device-flush");
    this.#check();
    if (this.#disk.faults.flushFails) {
      this.#disk.fail();
      throw diskError("MEDIUM_ERROR", this.#disk.name, 0, this.sizeBytes);
    }
    this.#disk.flushed(limit);
  }

  async allocation(offsetBytes: number, lengthBytes: number, extentsMax: number): Promise<AllocationExtent[]> {
    this.#check();
    const { first, count } = sectorsOf(offsetBytes, lengthBytes);
    const extents: AllocationExtent[] = [];
    if (!this.capabilities.holes) return [{ offsetBytes, lengthBytes, zero: false }];
    for (let at = first; at < first + count && extents.length <= extentsMax; ) {
      const end = Math.min(first + count, (Math.floor(at / BLOCK_SECTORS) + 1) * BLOCK_SECTORS);
      const zero = this.#isHole(at);
      const last = extents.at(-1);
      const lengthOf = (end - at) * SECTOR_SIZE_BYTES;
      if (last?.zero === zero) extents[extents.length - 1] = { ...last, lengthBytes: last.lengthBytes + lengthOf };
      else extents.push({ offsetBytes: at * SECTOR_SIZE_BYTES, lengthBytes: lengthOf, zero });
      at = end;
    }
    return extents.slice(0, extentsMax);
  }

  /** The whole block of this sector is zero. */
  #isHole(sector: number): boolean {
    const begin = Math.floor(sector / BLOCK_SECTORS) * BLOCK_SECTORS;
    const end = Math.min(this.#disk.sectors, begin + BLOCK_SECTORS);
    for (let at = begin; at < end; at++) if (this.#disk.content[at] !== 0) return false;
    return true;
  }

  async stamp(): Promise<string> {
    this.#check();
    return String(this.#disk.covered);
  }

  async resize(): Promise<void> {
    throw diskError("READ_ONLY", this.#disk.name, 0, 0);
  }

  async close(): Promise<void> {
    this.#closed = true;
  }

  #unusable(): boolean {
    return this.#closed || this.#disk.isDead(this.#failures);
  }

  #check(): void {
    if (this.#unusable()) throw diskError("DEVICE_GONE", this.#disk.name, 0, 0);
  }
}

function sectorsOf(offsetBytes: number, lengthBytes: number): { first: number; count: number } {
  if (offsetBytes % SECTOR_SIZE_BYTES !== 0 || lengthBytes % SECTOR_SIZE_BYTES !== 0)
    throw new Error(`bytes ${offsetBytes} + ${lengthBytes} are not whole sectors`);
  return { first: offsetBytes / SECTOR_SIZE_BYTES, count: lengthBytes / SECTOR_SIZE_BYTES };
}

function diskError(code: ErrorCode, name: string, offsetBytes: number, lengthBytes: number): TidemarkError {
  return new TidemarkError(code, {
    message: `virtual disk ${name}: ${code} at byte ${offsetBytes}, ${lengthBytes} bytes`,
    hint: "repair the device, then restart",
    metadata: { path: name, offsetBytes: String(offsetBytes), lengthBytes: String(lengthBytes) },
  });
}
