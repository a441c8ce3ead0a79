/**
 * StateFiles on the real file system.
 *
 * Role: real descriptors, files 0600, directories 0700, short reads and writes completed, symbolic links not followed
 * in the last component.
 * While the engine starts it reads thousands of small files and nothing else waits for it: looking and reading is done inline
 * then, which costs a tenth of going through a thread each time. Writes and syncs always go through threads.
 */
import {
  close,
  closeSync,
  constants,
  fdatasync,
  fstat,
  fstatSync,
  fsync,
  ftruncate,
  lstat,
  lstatSync,
  mkdir,
  open,
  openSync,
  read,
  readdir,
  readdirSync,
  readSync,
  rename,
  rmdir,
  unlink,
  write,
} from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { assert } from "../../base/assert.ts";
import type { TidemarkError } from "../../base/errors.ts";
import { native } from "../device/native.ts";
import {
  assertStatePath,
  type CreateMode,
  directoryOf,
  type StateFile,
  type StateFiles,
  stateFileError,
  syncFailedError,
} from "./state-files.ts";

const openFd = promisify(open);
const closeFd = promisify(close);
const statFd = promisify(fstat);
const syncData = promisify(fdatasync);
const syncAll = promisify(fsync);
const truncateFd = promisify(ftruncate);
const statPath = promisify(lstat);
const makePath = promisify(mkdir);
const listPath = promisify(readdir);
const renamePath = promisify(rename);
const removePath = promisify(unlink);
const removeEmpty = promisify(rmdir);

/** How the state files are looked at and read. */
export type ReadMode = "inline" | "threads";
interface Reads {
  mode: ReadMode;
}

const FILE_MODE = 0o600;
const DIRECTORY_MODE = 0o700;
const OPEN_FLAGS: Record<CreateMode, number> = {
  "must-not-exist": constants.O_RDWR | constants.O_NOFOLLOW | constants.O_CREAT | constants.O_EXCL,
  "may-exist": constants.O_RDWR | constants.O_NOFOLLOW | constants.O_CREAT,
  "must-exist": constants.O_RDWR | constants.O_NOFOLLOW,
};

function writeSome(fd: number, data: Uint8Array, from: number, offsetBytes: number): Promise<number> {
  return new Promise((resolve, reject) => {
    write(fd, data, from, data.length - from, offsetBytes, (error, written) =>
      error ? reject(error) : resolve(written),
    );
  });
}

function readSome(fd: number, into: Uint8Array, from: number, offsetBytes: number): Promise<number> {
  return new Promise((resolve, reject) => {
    read(fd, into, from, into.length - from, offsetBytes, (error, count) => (error ? reject(error) : resolve(count)));
  });
}

class SystemStateFile implements StateFile {
  readonly path: string;
  readonly #fd: number;
  readonly #reads: Reads;
  #closed = false;
  #failure: TidemarkError | undefined;

  constructor(path: string, fd: number, reads: Reads) {
    this.path = path;
    this.#fd = fd;
    this.#reads = reads;
  }

  async size(): Promise<number> {
    this.#check();
    try {
      return (this.#reads.mode === "inline" ? fstatSync(this.#fd) : await statFd(this.#fd)).size;
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
        const count =
          this.#reads.mode === "inline"
            ? readSync(this.#fd, bytes, done, lengthBytes - done, offsetBytes + done)
            : await readSome(this.#fd, bytes, done, offsetBytes + done);
        if (count === 0) break;
        done += count;
      }
    } catch (error) {
      throw stateFileError("read", this.path, error);
    }
    return done === lengthBytes ? bytes : bytes.subarray(0, done);
  }

  async write(offsetBytes: number, data: Uint8Array): Promise<void> {
    this.#check();
    try {
      for (let done = 0; done < data.length; ) done += await writeSome(this.#fd, data, done, offsetBytes + done);
    } catch (error) {
      throw stateFileError("write", this.path, error);
    }
  }

  async truncate(lengthBytes: number): Promise<void> {
    this.#check();
    try {
      await truncateFd(this.#fd, lengthBytes);
    } catch (error) {
      throw stateFileError("truncate", this.path, error);
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
      if (this.#reads.mode === "inline") closeSync(this.#fd);
      else await closeFd(this.#fd);
    } catch (error) {
      throw stateFileError("close", this.path, error);
    }
  }

  #check(): void {
    assert(!this.#closed, `${this.path} is open`);
    if (this.#failure) throw this.#failure;
  }
}

export interface SystemStateFiles extends StateFiles {
  /** From now on; "threads" to begin with. */
  setReadMode(mode: ReadMode): void;
}

/** State files below `rootDirectory`, which exists and is locked by the caller. */
export function systemStateFiles(rootDirectory: string): SystemStateFiles {
  const reads: Reads = { mode: "threads" };
  const full = (path: string) => {
    assertStatePath(path);
    return path === "" ? rootDirectory : join(rootDirectory, path);
  };
  const missingIsFine = async (path: string, remove: (full: string) => Promise<void>) => {
    const at = full(path);
    try {
      await remove(at);
    } catch (error) {
      if ((error as { code?: unknown }).code !== "ENOENT") throw stateFileError("remove", path, error);
    }
  };
  return {
    setReadMode(mode) {
      reads.mode = mode;
    },
    async open(path, { create }) {
      const at = full(path);
      const inline = reads.mode === "inline" && create === "must-exist";
      try {
        const fd = inline ? openSync(at, OPEN_FLAGS[create]) : await openFd(at, OPEN_FLAGS[create], FILE_MODE);
        return new SystemStateFile(path, fd, reads);
      } catch (error) {
        throw stateFileError("open", path, error);
      }
    },
    async rename(from, to) {
      assert(directoryOf(from) === directoryOf(to), "a rename stays in its directory");
      const [atFrom, atTo] = [full(from), full(to)];
      try {
        await renamePath(atFrom, atTo);
      } catch (error) {
        throw stateFileError("rename", from, error);
      }
    },
    remove: (path) => missingIsFine(path, removePath),
    removeDirectory: (path) => missingIsFine(path, removeEmpty),
    async list(directory) {
      const at = full(directory);
      try {
        return (reads.mode === "inline" ? readdirSync(at) : await listPath(at)).sort();
      } catch (error) {
        throw stateFileError("list", directory, error);
      }
    },
    async makeDirectory(path) {
      const at = full(path);
      try {
        await makePath(at, DIRECTORY_MODE);
      } catch (error) {
        if ((error as { code?: unknown }).code !== "EEXIST") throw stateFileError("make", path, error);
      }
    },
    async syncDirectory(directory) {
      const at = full(directory);
      let fd: number;
      try {
        fd = await openFd(at, constants.O_RDONLY | constants.O_DIRECTORY);
      } catch (error) {
        throw stateFileError("open", directory, error);
      }
      try {
        await syncAll(fd);
      } catch (error) {
        throw stateFileError("sync", directory, error);
      } finally {
        await closeFd(fd);
      }
    },
    async exists(path) {
      const at = full(path);
      try {
        if (reads.mode === "inline") lstatSync(at);
        else await statPath(at);
        return true;
      } catch (error) {
        if ((error as { code?: unknown }).code === "ENOENT") return false;
        throw stateFileError("read", path, error);
      }
    },
  };
}
