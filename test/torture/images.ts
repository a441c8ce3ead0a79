/** The image files behind the box: what is really on the disk. */
import { open } from "node:fs/promises";
import type { Volume } from "./contents.ts";
import type { KillableBox } from "./killable-box.ts";
import { BLOCK_BYTES, describeBlock, writeOf } from "./stamps.ts";
import { require } from "./violations.ts";

export function imagePath(box: KillableBox, volume: Volume): string {
  return box.path(`${volume.label}.img`);
}

export async function readImage(box: KillableBox, volume: Volume): Promise<Buffer> {
  const file = await open(imagePath(box, volume), "r");
  try {
    const bytes = Buffer.allocUnsafe(volume.sizeBytes);
    for (let done = 0; done < bytes.length; ) {
      const { bytesRead } = await file.read(bytes, done, bytes.length - done, done);
      require(bytesRead > 0, () => `the image of ${volume.label} ends at byte ${done}`);
      done += bytesRead;
    }
    return bytes;
  } finally {
    await file.close();
  }
}

/** From now on the volume must hold what it holds now: any whole writes of its blocks. */
export function adopt(volume: Volume, bytes: Buffer): void {
  for (let block = 0; block < volume.blockCount; block++) {
    const piece = bytes.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
    const found = writeOf(piece, block);
    require(found !== undefined, () => `image of ${volume.label}: ${describeBlock(piece, block)}`);
    volume.current[block] = found;
  }
  volume.underWay.clear();
  volume.revision++;
}
