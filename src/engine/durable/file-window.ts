/** A part of a file that is kept in memory and moves forward: sequential reading in large pieces, whatever the records. */
import type { StateFile } from "./state-files.ts";

export const WINDOW_BYTES = 1024 * 1024;

export class FileWindow {
  readonly #file: StateFile;
  #bytes: Uint8Array = new Uint8Array(0);
  #offsetBytes = 0;

  constructor(file: StateFile) {
    this.#file = file;
  }

  /** `lengthBytes` bytes from `offsetBytes` on; fewer where the file ends. Valid until the next call. */
  async at(offsetBytes: number, lengthBytes: number): Promise<Uint8Array> {
    const skip = offsetBytes - this.#offsetBytes;
    if (skip >= 0 && skip + lengthBytes <= this.#bytes.length) return this.#bytes.subarray(skip, skip + lengthBytes);
    this.#bytes = await this.#file.read(offsetBytes, Math.max(lengthBytes, WINDOW_BYTES));
    this.#offsetBytes = offsetBytes;
    return this.#bytes.subarray(0, lengthBytes);
  }
}
