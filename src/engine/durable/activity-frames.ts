/**
 * Payloads of the activity log's frames, and their replay.
 *
 * Role: encodes, checks and replays; no I/O.
 * Bits of a region: 64 bytes, granule `region * 512 + i` is bit `i & 7` of byte `i >>> 3`.
 * Layout: docs/file-formats.md "Activity log".
 */
import { assert } from "../../base/assert.ts";
import { ACTIVITY_REGION_BYTES } from "../../base/limits.ts";
import { GRANULE_SIZE_BYTES } from "../../base/units.ts";
import { getWhole, putWhole, viewOf } from "./fields.ts";
import { corruptFile } from "./state-files.ts";

export const REGION_GRANULES = ACTIVITY_REGION_BYTES / GRANULE_SIZE_BYTES;
export const REGION_BITS_BYTES = REGION_GRANULES / 8;

export interface RegionBits {
  readonly region: number;
  /** REGION_BITS_BYTES bytes. */
  readonly bits: Uint8Array;
}

export type ActivityFrame =
  /** First frame of each log: where the log before it ended. */
  | { readonly type: "start"; readonly openEpoch: number; readonly hotRegions: readonly number[] }
  /** Regions became hot; others ceased to be, and these are their bits in the open epoch. */
  | { readonly type: "activate"; readonly activated: readonly number[]; readonly evicted: readonly RegionBits[] }
  /** A point: the open epoch was sealed, and these are its bits in the hot regions; regions without bits are left out. */
  | {
      readonly type: "point";
      readonly sealedEpoch: number;
      readonly openedEpoch: number;
      readonly hotBits: readonly RegionBits[];
    }
  /** Last frame of a log: what happened since is in log `number`, which is there. */
  | { readonly type: "continued"; readonly number: number };

export interface EpochBits {
  readonly epoch: number;
  readonly regionBits: Map<number, Uint8Array>;
}

/** What a log adds to the checkpoint it belongs to. */
export interface ActivityReplay {
  readonly openEpoch: number;
  /** Regions in which any granule may have been written in the open epoch. */
  readonly hotRegions: Set<number>;
  /** Bits of the open epoch, beside those of the checkpoint. */
  readonly regionBits: Map<number, Uint8Array>;
  /** Epochs sealed since the checkpoint, oldest first; their bits beside those of the checkpoint are complete. */
  readonly sealed: EpochBits[];
}

const HEAD_BYTES = 32;
const TYPE_CODES = { start: 1, activate: 2, point: 3, continued: 4 } as const;
const REGION_BYTES = 4;
const REGION_BITS_RECORD_BYTES = REGION_BYTES + REGION_BITS_BYTES;

export function encodeActivityFrame(frame: ActivityFrame): Uint8Array {
  const regions = frame.type === "start" ? frame.hotRegions : frame.type === "activate" ? frame.activated : [];
  const withBits = frame.type === "activate" ? frame.evicted : frame.type === "point" ? frame.hotBits : [];
  const bytes = new Uint8Array(HEAD_BYTES + regions.length * REGION_BYTES + withBits.length * REGION_BITS_RECORD_BYTES);
  const view = viewOf(bytes);
  view.setUint32(0, TYPE_CODES[frame.type], true);
  view.setUint32(4, regions.length, true);
  view.setUint32(8, withBits.length, true);
  if (frame.type === "start") putWhole(view, 24, frame.openEpoch);
  if (frame.type === "continued") putWhole(view, 24, frame.number);
  if (frame.type === "point") {
    putWhole(view, 16, frame.sealedEpoch);
    putWhole(view, 24, frame.openedEpoch);
  }
  let at = HEAD_BYTES;
  for (const region of regions) {
    view.setUint32(at, region, true);
    at += REGION_BYTES;
  }
  for (const { region, bits } of withBits) {
    assert(bits.length === REGION_BITS_BYTES, "a region has 64 bytes of bits");
    view.setUint32(at, region, true);
    bytes.set(bits, at + REGION_BYTES);
    at += REGION_BITS_RECORD_BYTES;
  }
  return bytes;
}

/** undefined: not what `encodeActivityFrame` makes. */
export function decodeActivityFrame(bytes: Uint8Array): ActivityFrame | undefined {
  if (bytes.length < HEAD_BYTES) return undefined;
  const view = viewOf(bytes);
  const regionCount = view.getUint32(4, true);
  const bitsCount = view.getUint32(8, true);
  if (bytes.length !== HEAD_BYTES + regionCount * REGION_BYTES + bitsCount * REGION_BITS_RECORD_BYTES) return undefined;
  let at = HEAD_BYTES;
  const regions: number[] = [];
  for (let left = regionCount; left > 0; left--) {
    regions.push(view.getUint32(at, true));
    at += REGION_BYTES;
  }
  const withBits: RegionBits[] = [];
  for (let left = bitsCount; left > 0; left--) {
    const bits = bytes.slice(at + REGION_BYTES, at + REGION_BITS_RECORD_BYTES);
    withBits.push({ region: view.getUint32(at, true), bits });
    at += REGION_BITS_RECORD_BYTES;
  }
  const [first, second] = [getWhole(view, 16), getWhole(view, 24)];
  switch (view.getUint32(0, true)) {
    case TYPE_CODES.start:
      return bitsCount === 0 && second >= 0 ? { type: "start", openEpoch: second, hotRegions: regions } : undefined;
    case TYPE_CODES.activate:
      return { type: "activate", activated: regions, evicted: withBits };
    case TYPE_CODES.point:
      if (regionCount > 0 || !(first >= 0) || !(second > first)) return undefined;
      return { type: "point", sealedEpoch: first, openedEpoch: second, hotBits: withBits };
    case TYPE_CODES.continued:
      return regionCount === 0 && bitsCount === 0 && second > 0 ? { type: "continued", number: second } : undefined;
    default:
      return undefined;
  }
}

/** Replays the frames of one log, or of several that follow each other, as they are read. */
export class ActivityReplayer {
  #started = false;
  #continuedIn: number | undefined;
  #openEpoch = 0;
  readonly #hotRegions = new Set<number>();
  #regionBits = new Map<number, Uint8Array>();
  readonly #sealed: EpochBits[] = [];

  /** `path` is for the message only. METADATA_CORRUPT. */
  add(path: string, payload: Uint8Array): void {
    const frame = decodeActivityFrame(payload);
    if (frame === undefined) throw corruptFile(path, "holds a frame that is no activity frame");
    if (!this.#started && frame.type !== "start") throw corruptFile(path, "does not begin with the hot regions");
    if (this.#continuedIn !== undefined && frame.type !== "start") throw corruptFile(path, "goes on after its end");
    if (frame.type === "start") this.#start(path, frame.openEpoch, frame.hotRegions);
    else if (frame.type === "continued") this.#continuedIn = frame.number;
    else if (frame.type === "activate") this.#activate(path, frame.activated, frame.evicted);
    else this.#point(path, frame.sealedEpoch, frame.openedEpoch, frame.hotBits);
  }

  get started(): boolean {
    return this.#started;
  }

  /** Number of the log that has to follow those read so far. */
  get continuedIn(): number | undefined {
    return this.#continuedIn;
  }

  result(): ActivityReplay {
    assert(this.#started, "a log begins with its hot regions");
    return {
      openEpoch: this.#openEpoch,
      hotRegions: this.#hotRegions,
      regionBits: this.#regionBits,
      sealed: this.#sealed,
    };
  }

  #start(path: string, openEpoch: number, hotRegions: readonly number[]): void {
    if (this.#started) {
      if (this.#continuedIn === undefined) throw corruptFile(path, "begins although the log before it goes on");
      this.#continuedIn = undefined;
      const same =
        hotRegions.length === this.#hotRegions.size && hotRegions.every((region) => this.#hotRegions.has(region));
      if (!same || openEpoch !== this.#openEpoch) throw corruptFile(path, "does not continue the log before it");
      return;
    }
    this.#started = true;
    this.#openEpoch = openEpoch;
    for (const region of hotRegions) this.#hotRegions.add(region);
  }

  #activate(path: string, activated: readonly number[], evicted: readonly RegionBits[]): void {
    for (const { region, bits } of evicted) {
      if (!this.#hotRegions.delete(region)) throw corruptFile(path, `evicts region ${region}, which was not hot`);
      addBits(this.#regionBits, region, bits);
    }
    for (const region of activated) {
      if (this.#hotRegions.has(region)) throw corruptFile(path, `activates region ${region}, which was hot`);
      this.#hotRegions.add(region);
    }
  }

  #point(path: string, sealedEpoch: number, openedEpoch: number, hotBits: readonly RegionBits[]): void {
    if (sealedEpoch !== this.#openEpoch) {
      throw corruptFile(path, `seals epoch ${sealedEpoch}, but epoch ${this.#openEpoch} was open`);
    }
    for (const { region, bits } of hotBits) addBits(this.#regionBits, region, bits);
    this.#sealed.push({ epoch: sealedEpoch, regionBits: this.#regionBits });
    this.#regionBits = new Map();
    this.#openEpoch = openedEpoch;
  }
}

/** Within an epoch bits are only ever set, so what was seen twice is a union. */
function addBits(into: Map<number, Uint8Array>, region: number, bits: Uint8Array): void {
  const known = into.get(region);
  if (known === undefined) into.set(region, bits);
  else
    for (let index = 0; index < REGION_BITS_BYTES; index++)
      known[index] = (known[index] as number) | (bits[index] as number);
}
