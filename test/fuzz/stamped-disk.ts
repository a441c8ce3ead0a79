/**
 * Volumes whose content is known granule by granule: every granule a test ever wrote is filled with a number of its own.
 */
import type { BlockDevice } from "../../src/base/ports.ts";
import { GRANULE_SIZE_BYTES } from "../../src/base/units.ts";
import { MemoryDevice } from "../../src/engine/device/memory-device.ts";

/** Granule → stamp; what is not in it is zero. */
export type Content = ReadonlyMap<number, number>;

export function granuleOf(stamp: number): Uint8Array {
  const bytes = new Uint32Array(GRANULE_SIZE_BYTES / 4);
  bytes.fill(stamp);
  return new Uint8Array(bytes.buffer);
}

/** The stamp of a granule; undefined when it holds anything but one stamp. */
export function stampOf(bytes: Uint8Array): number | undefined {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const first = words[0] ?? 0;
  return words.every((word) => word === first) ? first : undefined;
}

/** A disk as it was when a box stopped. */
export interface DiskImage {
  readonly sizeBytes: number;
  readonly content: Content;
  /** What the box would find if it asked whether somebody else has written to it. */
  readonly stamp: string;
}

export async function imageOf(device: MemoryDevice, granules: Iterable<number>): Promise<DiskImage> {
  const content = new Map<number, number>();
  const bytes = new Uint8Array(GRANULE_SIZE_BYTES);
  for (const granule of granules) {
    device.tryRead(granule * GRANULE_SIZE_BYTES, bytes);
    const stamp = stampOf(bytes);
    if (stamp === undefined) throw new Error(`granule ${granule} is torn on the disk itself`);
    if (stamp !== 0) content.set(granule, stamp);
  }
  return { sizeBytes: device.sizeBytes, content, stamp: await device.stamp() };
}

/** A device with that content; its stamp is the old one until somebody writes. */
export function diskFrom(image: DiskImage): { memory: MemoryDevice; device: BlockDevice } {
  const memory = new MemoryDevice(image.sizeBytes);
  for (const [granule, stamp] of image.content) memory.tryWrite(granule * GRANULE_SIZE_BYTES, granuleOf(stamp));
  return { memory, device: keptOpen(memory, image.stamp) };
}

/** `memory` as an engine is given it: closing it leaves the bytes. */
export function keptOpen(memory: MemoryDevice, stamp?: string): BlockDevice {
  let changed = stamp === undefined;
  const fresh = stamp;
  const writing = new Set<PropertyKey>(["write", "tryWrite", "zero", "trim", "resize"]);
  return new Proxy<BlockDevice>(memory, {
    get: (target, property) => {
      if (property === "close") return async () => undefined;
      if (writing.has(property)) changed = true;
      if (property === "stamp" && !changed) return async () => fresh;
      const value = Reflect.get(target, property, target) as unknown;
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
