/** Reading of table sectors. */
import type { BlockDevice } from "../../base/ports.ts";

/** Bytes of the device; undefined when the range does not lie inside it. Throws what the device throws. */
export async function readExactly(
  device: BlockDevice,
  offsetBytes: number,
  lengthBytes: number,
): Promise<Buffer | undefined> {
  if (!Number.isSafeInteger(offsetBytes) || offsetBytes < 0 || offsetBytes + lengthBytes > device.sizeBytes)
    return undefined;
  const buffer = Buffer.alloc(lengthBytes);
  if (!device.tryRead(offsetBytes, buffer)) await device.read(offsetBytes, buffer);
  return buffer;
}
