/** Snap stores over files in memory with a crash model, and the byte model they are compared with. */
import { asTidemarkError } from "../../src/base/errors.ts";
import type { Random } from "../../src/base/ports.ts";
import { GRANULE_SIZE_BYTES, KiB } from "../../src/base/units.ts";
import {
  InjectedFailure,
  type MemoryStateFiles,
  memoryStateFiles,
} from "../../src/engine/durable/memory-state-files.ts";
import { stateFileError } from "../../src/engine/durable/state-files.ts";
import type { SnapKey } from "../../src/engine/snap/snap-cipher.ts";
import type { SnapFile } from "../../src/engine/snap/snap-file.ts";
import type { SnapClass } from "../../src/engine/snap/snap-format.ts";
import type { SnapBounds } from "../../src/engine/snap/snap-geometry.ts";
import { type SnapBudget, SnapStore } from "../../src/engine/snap/snap-store.ts";
import { chanceFrom } from "../durable/_chance.ts";

export const PATH = "sdv";
export const OWNER = "volume-7";
export const GRANULES = 24;
/** 16 pages a segment: five granules alone, or seven in one frame. */
export const SMALL: SnapBounds = { segmentBytes: 64 * KiB, groupGranulesMax: 8 };

/** Takes everything and counts it. */
export class OpenBudget implements SnapBudget {
  readonly used: Record<SnapClass, number> = { copy: 0, host: 0 };
  take(granuleCount: number, kind: SnapClass): void {
    this.used[kind] += granuleCount;
  }
  giveBack(granuleCount: number, kind: SnapClass): void {
    this.used[kind] -= granuleCount;
  }
  adopt({ copy, host }: Readonly<Record<SnapClass, number>>): void {
    this.used.copy = copy;
    this.used.host = host;
  }
}

export function randomFrom(seed: number): Random {
  const chance = chanceFrom(seed);
  return { bytes: (length) => Uint8Array.from({ length }, () => Math.floor(chance() * 256)) };
}

/** A file of the crash model that can promise space: by growing. */
export async function snapFileIn(files: MemoryStateFiles, mode: "new" | "there", path = PATH): Promise<SnapFile> {
  const file = await files.open(path, { create: mode === "new" ? "must-not-exist" : "must-exist" });
  return {
    ...file,
    allocate: async (offsetBytes, lengthBytes) => {
      if ((await file.size()) >= offsetBytes + lengthBytes) return;
      try {
        await file.truncate(offsetBytes + lengthBytes);
      } catch (error) {
        const code = asTidemarkError(error).detail.metadata?.["systemCode"];
        throw code === undefined ? error : stateFileError("write", path, new InjectedFailure(code));
      }
    },
  };
}

export interface LabOptions {
  readonly budget?: SnapBudget;
  readonly key?: SnapKey;
  readonly granuleCount?: number;
  readonly bounds?: SnapBounds;
  readonly seed?: number;
  readonly path?: string;
}

/** A store in a file that is durable under its name. */
export async function createStore(
  options: LabOptions = {},
  files: MemoryStateFiles = memoryStateFiles(),
): Promise<{ files: MemoryStateFiles; store: SnapStore; budget: SnapBudget }> {
  const budget = options.budget ?? new OpenBudget();
  const file = await snapFileIn(files, "new", options.path);
  const store = await SnapStore.create(file, {
    owner: OWNER,
    budget,
    granuleCount: options.granuleCount ?? GRANULES,
    random: randomFrom(options.seed ?? 1),
    bounds: options.bounds ?? SMALL,
    ...(options.key ? { key: options.key } : {}),
  });
  await files.syncDirectory("");
  return { files, store, budget };
}

export async function openStore(files: MemoryStateFiles, options: LabOptions = {}): Promise<SnapStore> {
  const file = await snapFileIn(files, "there", options.path);
  try {
    return await SnapStore.open(file, {
      owner: OWNER,
      budget: options.budget ?? new OpenBudget(),
      groupGranulesMax: (options.bounds ?? SMALL).groupGranulesMax,
      ...(options.key ? { key: options.key } : {}),
    });
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** Bytes that tell which write of which granule they are. */
export function granuleOf(granule: number, version: number): Uint8Array {
  const data = new Uint8Array(GRANULE_SIZE_BYTES);
  const view = new DataView(data.buffer);
  for (let at = 0; at < data.length; at += 512) {
    view.setUint32(at, granule, true);
    view.setUint32(at + 4, version, true);
    view.setUint32(at + 8, at, true);
    data.fill((version * 31 + granule) & 0xff, at + 12, at + 512);
  }
  return data;
}

/** The version that `read` gives, undefined when the granule is not stored; throws when the bytes are no version of it. */
export async function versionOf(store: SnapStore, granule: number): Promise<number | undefined> {
  const into = new Uint8Array(GRANULE_SIZE_BYTES);
  if (!(await store.read(granule, into))) return undefined;
  const version = new DataView(into.buffer).getUint32(4, true);
  if (Buffer.compare(into, granuleOf(granule, version)) !== 0)
    throw new Error(`granule ${granule} has bytes that were never written`);
  return version;
}

export async function versionsOf(store: SnapStore): Promise<(number | undefined)[]> {
  return Promise.all(Array.from({ length: store.granuleCount }, (_, granule) => versionOf(store, granule)));
}
