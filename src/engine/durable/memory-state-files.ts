/**
 * StateFiles in memory with a crash model, for tests.
 *
 * Role: behaves like the system files while the program runs; `kill` and `crash` then decide from a seed what is left.
 * Model (data-safety 3.1):
 *   1. A write in flight may have happened, or not, or its first part only.
 *   2. `kill` (of the process) keeps everything that was stored.
 *   3. `crash` (of the power) keeps what was durable; of everything later each 512-byte sector of a file holds any
 *      version it ever had since, the size is any size since, and each change of a directory is kept or lost on its own.
 *   4. After either every open file is dead: its calls throw DEVICE_GONE.
 * `intercept` is called before each operation takes effect: it may wait, or throw, to place a failure.
 */
import { assert } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";
import {
  assertStatePath,
  directoryOf,
  type StateFile,
  type StateFiles,
  stateFileError,
  syncFailedError,
} from "./state-files.ts";

const SECTOR = 512;

export interface MemoryOperation {
  readonly type:
    | "open"
    | "read"
    | "write"
    | "truncate"
    | "sync"
    | "rename"
    | "remove"
    | "makeDirectory"
    | "removeDirectory"
    | "syncDirectory";
  readonly path: string;
  readonly lengthBytes: number;
}

/** Thrown by an `intercept`: the operation fails with this system code; of a write, so much had been stored. */
export class InjectedFailure extends Error {
  readonly code: string;
  readonly storedBytes: number;
  constructor(code: string, storedBytes = 0) {
    super(`${code}: injected`);
    this.code = code;
    this.storedBytes = storedBytes;
  }
}

interface FileChange {
  readonly number: number;
  readonly offsetBytes: number;
  /** undefined: truncate to `offsetBytes`. */
  readonly data: Uint8Array | undefined;
}

/** Bytes that grow; everything past `length` is zero. */
class Image {
  bytes = new Uint8Array(0);
  length = 0;

  apply(change: FileChange): void {
    const { offsetBytes, data } = change;
    if (data === undefined) {
      if (offsetBytes < this.length) this.bytes.fill(0, offsetBytes, this.length);
      this.#reserve(offsetBytes);
      this.length = offsetBytes;
      return;
    }
    const end = offsetBytes + data.length;
    this.#reserve(end);
    this.bytes.set(data, offsetBytes);
    this.length = Math.max(this.length, end);
  }

  copySector(index: number, from: Image): void {
    const begin = index * SECTOR;
    this.#reserve(begin + SECTOR);
    this.bytes.fill(0, begin, begin + SECTOR);
    this.bytes.set(from.bytes.subarray(begin, begin + SECTOR), begin);
  }

  cutTo(length: number): void {
    this.#reserve(length);
    this.bytes.fill(0, length);
    this.length = length;
  }

  copy(): Image {
    const image = new Image();
    image.bytes = this.bytes.slice();
    image.length = this.length;
    return image;
  }

  #reserve(length: number): void {
    if (length <= this.bytes.length) return;
    const larger = new Uint8Array(Math.max(length, this.bytes.length * 2, 4096));
    larger.set(this.bytes);
    this.bytes = larger;
  }
}

class FileNode {
  current = new Image();
  durable = new Image();
  pending: FileChange[] = [];
}

interface NameChange {
  readonly number: number;
  readonly set: readonly (readonly [string, Node])[];
  readonly gone: readonly string[];
}

class DirectoryNode {
  current = new Map<string, Node>();
  durable = new Map<string, Node>();
  pending: NameChange[] = [];
}

type Node = FileNode | DirectoryNode;

function applyNames(names: Map<string, Node>, change: NameChange): void {
  for (const name of change.gone) names.delete(name);
  for (const [name, node] of change.set) names.set(name, node);
}

/** Numbers in [0, 1) from a seed. */
function chanceFrom(seed: number): () => number {
  let state = (seed + 0x9e3779b9) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function touchedSectors(change: FileChange, lengthBefore: number): { first: number; last: number } {
  const end =
    change.data === undefined ? Math.max(lengthBefore, change.offsetBytes) : change.offsetBytes + change.data.length;
  const begin = Math.min(change.offsetBytes, change.data === undefined ? end : Math.max(lengthBefore, 0));
  const first = Math.floor(begin / SECTOR);
  return { first, last: end === begin ? first - 1 : Math.floor((end - 1) / SECTOR) };
}

/** What a power loss leaves of a file (model rule 3). */
function survivingImage(node: FileNode, chance: () => number): Image {
  const cache = node.durable.copy();
  const disk = node.durable.copy();
  const sizes = [disk.length];
  const fileMood = chance();
  for (const change of node.pending) {
    const { first, last } = touchedSectors(change, cache.length);
    cache.apply(change);
    sizes.push(cache.length);
    const mood = fileMood < 0.2 ? 0 : fileMood > 0.8 ? 1 : chance();
    for (let sector = first; sector <= last; sector++) if (chance() < mood) disk.copySector(sector, cache);
  }
  const pick = chance() < 0.5 ? sizes.length - 1 : Math.floor(chance() * sizes.length);
  disk.cutTo(sizes[pick] as number);
  return disk;
}

interface InFlight {
  readonly node: FileNode;
  readonly change: FileChange;
}

export class MemoryStateFiles implements StateFiles {
  #root = new DirectoryNode();
  #life = 0;
  #number = 0;
  readonly #inFlight = new Set<InFlight>();
  /** Files opened and not closed yet. */
  openFiles = 0;
  intercept: ((operation: MemoryOperation) => void | Promise<void>) | undefined;

  async open(path: string, { create }: { create: "must-not-exist" | "may-exist" | "must-exist" }): Promise<StateFile> {
    await this.#begin("open", path);
    const { parent, name } = this.#locate(path);
    const found = parent.current.get(name);
    if (found === undefined && create === "must-exist")
      throw stateFileError("open", path, new InjectedFailure("ENOENT"));
    if (found !== undefined && create === "must-not-exist")
      throw stateFileError("open", path, new InjectedFailure("EEXIST"));
    if (found instanceof DirectoryNode) throw stateFileError("open", path, new InjectedFailure("EISDIR"));
    if (found !== undefined) return this.#handle(path, found);
    const node = new FileNode();
    this.#changeNames(parent, [[name, node]], []);
    return this.#handle(path, node);
  }

  async rename(from: string, to: string): Promise<void> {
    assert(directoryOf(from) === directoryOf(to), "a rename stays in its directory");
    await this.#begin("rename", from);
    const { parent, name } = this.#locate(from);
    const node = parent.current.get(name);
    if (node === undefined) throw stateFileError("rename", from, new InjectedFailure("ENOENT"));
    this.#changeNames(parent, [[this.#locate(to).name, node]], [name]);
  }

  async remove(path: string): Promise<void> {
    await this.#begin("remove", path);
    const { parent, name } = this.#locate(path);
    if (parent.current.get(name) instanceof DirectoryNode)
      throw stateFileError("remove", path, new InjectedFailure("EISDIR"));
    if (parent.current.has(name)) this.#changeNames(parent, [], [name]);
  }

  async list(directory: string): Promise<string[]> {
    await Promise.resolve();
    return [...this.#directory(directory, "list").current.keys()].sort();
  }

  async makeDirectory(path: string): Promise<void> {
    await this.#begin("makeDirectory", path);
    const { parent, name } = this.#locate(path);
    if (!parent.current.has(name)) this.#changeNames(parent, [[name, new DirectoryNode()]], []);
  }

  async removeDirectory(path: string): Promise<void> {
    await this.#begin("removeDirectory", path);
    const { parent, name } = this.#locate(path);
    const node = parent.current.get(name);
    if (node === undefined) return;
    if (!(node instanceof DirectoryNode) || node.current.size > 0)
      throw stateFileError("remove", path, new InjectedFailure("ENOTEMPTY"));
    this.#changeNames(parent, [], [name]);
  }

  async syncDirectory(directory: string): Promise<void> {
    const limit = this.#number;
    const node = this.#directory(directory, "sync");
    await this.#begin("syncDirectory", directory);
    for (const change of node.pending) if (change.number <= limit) applyNames(node.durable, change);
    node.pending = node.pending.filter((change) => change.number > limit);
  }

  async exists(path: string): Promise<boolean> {
    await Promise.resolve();
    let node: Node | undefined = this.#root;
    for (const part of path === "" ? [] : path.split("/"))
      node = node instanceof DirectoryNode ? node.current.get(part) : undefined;
    return node !== undefined;
  }

  /** The process ends: nothing that was stored is lost. */
  kill(seed: number): void {
    const chance = chanceFrom(seed);
    this.#life++;
    const order = [...this.#inFlight].map((entry) => ({ entry, key: chance() })).sort((a, b) => a.key - b.key);
    for (const { entry } of order) {
      const { node, change } = entry;
      const mood = chance();
      if (mood < 1 / 3) continue;
      const part =
        mood < 2 / 3 && change.data ? change.data.slice(0, Math.floor(chance() * change.data.length)) : change.data;
      if (part?.length === 0) continue;
      this.#apply(node, { offsetBytes: change.offsetBytes, data: part });
    }
    this.#inFlight.clear();
  }

  /** The power fails: what was not durable may be lost, in part or in whole. */
  crash(seed: number): void {
    this.kill(seed);
    const chance = chanceFrom(seed ^ 0x5bd1e995);
    const settle = (node: Node): void => {
      if (node instanceof FileNode) {
        node.current = survivingImage(node, chance);
        node.durable = node.current.copy();
        node.pending = [];
        return;
      }
      for (const change of node.pending) if (chance() < 0.5) applyNames(node.durable, change);
      node.pending = [];
      node.current = new Map(node.durable);
      for (const child of new Set(node.current.values())) settle(child);
    };
    settle(this.#root);
  }

  /** Present content, for tests that look at or damage it. */
  contents(path: string): Uint8Array {
    const { parent, name } = this.#locate(path);
    const node = parent.current.get(name);
    assert(node instanceof FileNode, `${path} is a file`);
    return node.current.bytes.slice(0, node.current.length);
  }

  /** Replaces the content behind everybody's back, durably. */
  damage(path: string, content: Uint8Array): void {
    const { parent, name } = this.#locate(path);
    const node = parent.current.get(name) ?? new FileNode();
    assert(node instanceof FileNode, `${path} is a file`);
    parent.current.set(name, node);
    parent.durable.set(name, node);
    node.current = new Image();
    node.current.apply({ number: 0, offsetBytes: 0, data: content });
    node.durable = node.current.copy();
    node.pending = [];
  }

  #handle(path: string, node: FileNode): StateFile {
    const life = this.#life;
    this.openFiles++;
    let closed = false;
    let failure: TidemarkError | undefined;
    const check = () => {
      if (life !== this.#life) throw gone(path);
      assert(!closed, `${path} is open`);
      if (failure) throw failure;
    };
    const change = async (type: "write" | "truncate", offsetBytes: number, data: Uint8Array | undefined) => {
      check();
      const entry: InFlight = { node, change: { number: 0, offsetBytes, data: data?.slice() } };
      this.#inFlight.add(entry);
      try {
        await this.#begin(type, path, data?.length ?? 0);
      } catch (error) {
        if (life === this.#life && error instanceof TidemarkError && error.cause instanceof InjectedFailure) {
          const { storedBytes } = error.cause;
          if (data && storedBytes > 0) this.#apply(node, { offsetBytes, data: data.slice(0, storedBytes) });
        }
        throw error;
      } finally {
        this.#inFlight.delete(entry);
      }
      this.#apply(node, entry.change);
    };
    return {
      path,
      size: async () => {
        check();
        await Promise.resolve();
        check();
        return node.current.length;
      },
      read: async (offsetBytes, lengthBytes) => {
        check();
        await this.#begin("read", path, lengthBytes);
        const end = Math.min(offsetBytes + lengthBytes, node.current.length);
        return node.current.bytes.slice(Math.min(offsetBytes, end), end);
      },
      write: (offsetBytes, data) => change("write", offsetBytes, data),
      truncate: (lengthBytes) => change("truncate", lengthBytes, undefined),
      sync: async () => {
        check();
        const limit = this.#number;
        try {
          await this.#begin("sync", path);
        } catch (error) {
          failure = syncFailedError(path);
          throw error;
        }
        for (const done of node.pending) if (done.number <= limit) node.durable.apply(done);
        node.pending = node.pending.filter((later) => later.number > limit);
      },
      close: async () => {
        if (!closed) this.openFiles--;
        closed = true;
        await Promise.resolve();
      },
    };
  }

  async #begin(type: MemoryOperation["type"], path: string, lengthBytes = 0): Promise<void> {
    const life = this.#life;
    try {
      await this.intercept?.({ type, path, lengthBytes });
    } catch (error) {
      if (!(error instanceof InjectedFailure)) throw error;
      throw stateFileError(OPERATION_OF[type], path, error);
    }
    if (life !== this.#life) throw gone(path);
  }

  #apply(node: FileNode, change: Omit<FileChange, "number">): void {
    const numbered = { ...change, number: ++this.#number };
    node.current.apply(numbered);
    node.pending.push(numbered);
  }

  #changeNames(parent: DirectoryNode, set: readonly (readonly [string, Node])[], gone: readonly string[]): void {
    const change = { number: ++this.#number, set, gone };
    applyNames(parent.current, change);
    parent.pending.push(change);
  }

  #directory(path: string, operation: "open" | "list" | "sync"): DirectoryNode {
    assertStatePath(path);
    let node: Node = this.#root;
    for (const part of path === "" ? [] : path.split("/")) {
      const next: Node | undefined = node instanceof DirectoryNode ? node.current.get(part) : undefined;
      if (next === undefined)
        throw stateFileError(operation === "sync" ? "open" : operation, path, new InjectedFailure("ENOENT"));
      node = next;
    }
    if (!(node instanceof DirectoryNode)) throw stateFileError("open", path, new InjectedFailure("ENOTDIR"));
    return node;
  }

  #locate(path: string): { parent: DirectoryNode; name: string } {
    const directory = directoryOf(path);
    const name = directory === "" ? path : path.slice(directory.length + 1);
    assert(name !== "", "a file has a name");
    return { parent: this.#directory(directory, "open"), name };
  }
}

const OPERATION_OF = {
  open: "open",
  read: "read",
  write: "write",
  truncate: "truncate",
  sync: "sync",
  rename: "rename",
  remove: "remove",
  makeDirectory: "make",
  removeDirectory: "remove",
  syncDirectory: "sync",
} as const satisfies Record<MemoryOperation["type"], string>;

function gone(path: string): TidemarkError {
  return new TidemarkError("DEVICE_GONE", {
    message: `state file ${path} was open before the crash`,
    metadata: { path },
  });
}

export function memoryStateFiles(): MemoryStateFiles {
  return new MemoryStateFiles();
}
