/** A part of a file that is kept in memory and moves forward: sequential reading in large pieces, whatever the records. */
import type { StateFile } from "./state-files.ts";

export const WINDOW_BYTES = 1024 * 1024;

export class FileWindow {
  readonly #file: StateFile;
  /** What lies beyond is not read. */
  readonly fileBytes: number;
  #bytes: Uint8Array = new Uint8Array(0);
  #offsetBytes = 0;

  private constructor(file: StateFile, fileBytes: number) {
    this.#file = file;
    this.fileBytes = fileBytes;
  }

  /** On a file as long as it is now. A small file is read at once, in as much memory as it needs. */
  static async over(file: StateFile): Promise<FileWindow> {
    return new FileWindow(file, await file.size());
  }

  /** `lengthBytes` bytes from `offsetBytes` on; fewer where the file ends. Valid until the next call. */
  async at(offsetBytes: number, lengthBytes: number): Promise<Uint8Array> {
    const skip = offsetBytes - this.#offsetBytes;
    if (skip >= 0 && skip + lengthBytes <= this.#bytes.length) return this.#bytes.subarray(skip, skip + lengthBytes);
    const left = Math.max(0, this.fileBytes - offsetBytes);
    this.#bytes = await this.#file.read(offsetBytes, Math.min(left, Math.max(lengthBytes, WINDOW_BYTES)));
    this.#offsetBytes = offsetBytes;
    return this.#bytes.subarray(0, lengthBytes);
  }
}
