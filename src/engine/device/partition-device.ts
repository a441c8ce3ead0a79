/** An extent of another device as a device of its own. Closing it leaves the other device open. */
import { assert } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";
import type { AllocationExtent, BlockDevice, ByteExtent, DeviceCapabilities } from "../../base/ports.ts";
import { assertRange } from "./range-check.ts";

export class PartitionDevice implements BlockDevice {
  readonly kind = "partition";
  readonly sizeBytes: number;
  readonly #disk: BlockDevice;
  readonly #baseBytes: number;

  /** The extent lies inside the disk. */
  constructor(disk: BlockDevice, extent: ByteExtent) {
    assert(
      extent.offsetBytes >= 0 && extent.offsetBytes + extent.lengthBytes <= disk.sizeBytes,
      "a partition lies inside its disk",
    );
    this.#disk = disk;
    this.#baseBytes = extent.offsetBytes;
    this.sizeBytes = extent.lengthBytes;
  }

  get readOnly(): boolean {
    return this.#disk.readOnly;
  }

  get capabilities(): DeviceCapabilities {
    return this.#disk.capabilities;
  }

  get direct(): { readonly fd: number; readonly baseOffsetBytes: number } | undefined {
    const direct = this.#disk.direct;
    return direct && { fd: direct.fd, baseOffsetBytes: direct.baseOffsetBytes + this.#baseBytes };
  }

  tryRead(offsetBytes: number, into: Uint8Array): boolean {
    return this.#disk.tryRead(this.#place(offsetBytes, into.length), into);
  }

  tryWrite(offsetBytes: number, from: Uint8Array): boolean {
    return this.#disk.tryWrite(this.#place(offsetBytes, from.length), from);
  }

  read(offsetBytes: number, into: Uint8Array): Promise<void> {
    return this.#disk.read(this.#place(offsetBytes, into.length), into);
  }

  write(offsetBytes: number, from: Uint8Array): Promise<void> {
    return this.#disk.write(this.#place(offsetBytes, from.length), from);
  }

  flush(): Promise<void> {
    return this.#disk.flush();
  }

  zero(offsetBytes: number, lengthBytes: number, options: { release: "allow" | "keep" }): Promise<void> {
    return this.#disk.zero(this.#place(offsetBytes, lengthBytes), lengthBytes, options);
  }

  trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.#disk.trim(this.#place(offsetBytes, lengthBytes), lengthBytes);
  }

  async allocation(offsetBytes: number, lengthBytes: number, extentsMax: number): Promise<AllocationExtent[]> {
    const extents = await this.#disk.allocation(this.#place(offsetBytes, lengthBytes), lengthBytes, extentsMax);
    return extents.map((extent) => ({ ...extent, offsetBytes: extent.offsetBytes - this.#baseBytes }));
  }

  async resize(sizeBytes: number): Promise<void> {
    if (sizeBytes === this.sizeBytes) return;
    throw new TidemarkError("SIZE_INVALID", {
      message: "a partition is resized in the partition table of its volume",
      hint: "use a partitioning tool on the whole volume",
    });
  }

  stamp(): Promise<string> {
    return this.#disk.stamp();
  }

  async close(): Promise<void> {}

  #place(offsetBytes: number, lengthBytes: number): number {
    assertRange(this.sizeBytes, offsetBytes, lengthBytes);
    return this.#baseBytes + offsetBytes;
  }
}
