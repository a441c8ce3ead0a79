/**
 * SnapFile on the real file system.
 *
 * Role: one descriptor; short reads and writes completed; space promised with fallocate. Every operation goes through a thread.
 * Where the file system cannot promise space (`EOPNOTSUPP`), the file only grows: running out of space is then met by the
 * write, which the store takes for the same.
 */
import { close, constants, fdatasync, fstat, ftruncate, open, read, write } from "node:fs";
import { promisify } from "node:util";
import { assert } from "../../base/assert.ts";
import type { TidemarkError } from "../../base/errors.ts";
import { errnoName, isUnsupported, pathError } from "../device/errno.ts";
import { native } from "../device/native.ts";
import { stateFileError, syncFailedError } from "../durable/state-files.ts";
import type { SnapFile } from "./snap-file.ts";

const openFd = promisify(open);
const closeFd = promisify(close);
const statFd = promisify(fstat);
const syncData = promisify(fdatasync);
const truncateFd = promisify(ftruncate);
const readFd = promisify(read);
const writeFd = promisify(write);

const FILE_MODE = 0o600;

class SystemSnapFile implements SnapFile {
  readonly path: string;
  readonly #fd: number;
  #closed = false;
  #failure: TidemarkError | undefined;

  constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
  }

  async size(): Promise<number> {
    this.#check();
    try {
      return (await statFd(this.#fd)).size;
    } catch (error) {
      throw stateFileError("read", this.path, error);
    }
  }

  async read(offsetBytes: number, lengthBytes: number): Promise<Uint8Array> {
    this.#check();
    const bytes = new Uint8Array(lengthBytes);
    let done = 0;
    try {
      while (done < lengthBytes) {
        const { bytesRead } = await readFd(this.#fd, bytes, done, lengthBytes - done, offsetBytes + done);
        if (bytesRead === 0) break;
        done += bytesRead;
      }
    } catch (error) {
      throw stateFileError("read", this.path, error);
    }
    return bytes.subarray(0, done);
  }

  async write(offsetBytes: number, data: Uint8Array): Promise<void> {
    this.#check();
    try {
      for (let done = 0; done < data.length; )
        done += (await writeFd(this.#fd, data, done, data.length - done, offsetBytes + done)).bytesWritten;
    } catch (error) {
      throw stateFileError("write", this.path, error);
    }
  }

  async allocate(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#check();
    const result = (await native?.fallocateAsync(this.#fd, 0, offsetBytes, lengthBytes)) ?? 0;
    if (result < 0 && !isUnsupported(-result))
      throw stateFileError("write", this.path, Object.assign(new Error("fallocate"), { code: errnoName(-result) }));
    if ((await this.size()) < offsetBytes + lengthBytes) await this.#resize("write", offsetBytes + lengthBytes);
  }

  truncate(lengthBytes: number): Promise<void> {
    return this.#resize("truncate", lengthBytes);
  }

  async #resize(operation: "write" | "truncate", lengthBytes: number): Promise<void> {
    this.#check();
    try {
      await truncateFd(this.#fd, lengthBytes);
    } catch (error) {
      throw stateFileError(operation, this.path, error);
    }
  }

  async sync(): Promise<void> {
    this.#check();
    try {
      await syncData(this.#fd);
    } catch (error) {
      this.#failure = syncFailedError(this.path);
      throw stateFileError("sync", this.path, error);
    }
  }

  async forgetCached(): Promise<void> {
    this.#check();
    await native?.dropCacheAsync(this.#fd);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await closeFd(this.#fd);
    } catch (error) {
      throw stateFileError("close", this.path, error);
    }
  }

  #check(): void {
    assert(!this.#closed, `${this.path} is open`);
    if (this.#failure) throw this.#failure;
  }
}

/**
 * The file at an absolute path; "new": it must not exist. Symbolic links are not followed in the last component. That nobody
 * else uses it, and that a new name is durable, the caller sees to. PATH_EXISTS, PATH_NOT_FOUND, PERMISSION_DENIED.
 */
export async function openSystemSnapFile(path: string, mode: "new" | "there"): Promise<SnapFile> {
  const create = mode === "new" ? constants.O_CREAT | constants.O_EXCL : 0;
  try {
    return new SystemSnapFile(path, await openFd(path, constants.O_RDWR | constants.O_NOFOLLOW | create, FILE_MODE));
  } catch (error) {
    throw pathError(error, path);
  }
}
