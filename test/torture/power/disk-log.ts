/**
 * Everything an engine did to its disks, in order: what dm-log-writes is to a kernel, at the engine's ports.
 *
 * Role: wrappers around the real state files and the real devices that note each change and each sync when it begins and
 * when it has ended. `disk-replay.ts` makes of a prefix of the log what a power loss would have left.
 * An object is a file (whatever its name is) or a device; a directory is a table of names.
 */
import type { AllocationExtent, BlockDevice } from "../../../src/base/ports.ts";
import {
  type CreateMode,
  directoryOf,
  type StateFile,
  type StateFiles,
} from "../../../src/engine/durable/state-files.ts";

export type ObjectId = number;

export type LogEntry =
  /** `data` undefined: zeros, as far as `lengthBytes` goes. */
  | {
      readonly type: "write";
      readonly object: ObjectId;
      readonly offsetBytes: number;
      readonly lengthBytes: number;
      readonly data: Buffer | undefined;
    }
  | { readonly type: "truncate"; readonly object: ObjectId; readonly lengthBytes: number }
  | { readonly type: "sync"; readonly object: ObjectId }
  | {
      readonly type: "names";
      readonly directory: ObjectId;
      readonly set: readonly (readonly [name: string, object: ObjectId])[];
      readonly gone: readonly string[];
      /** What is set is a directory. */
      readonly makes?: "directory";
    }
  | { readonly type: "sync-names"; readonly directory: ObjectId }
  /** The entry with this index has ended, well (`done`) or without effect. */
  | { readonly type: "ended"; readonly of: number; readonly done: boolean };

/** What lies on the disks when a log begins: objects by path. */
export interface StartingPoint {
  readonly directories: ReadonlyMap<string, ObjectId>;
  readonly files: ReadonlyMap<string, ObjectId>;
  readonly devices: ReadonlyMap<string, ObjectId>;
  readonly stamps: ReadonlyMap<string, string>;
}

export class DiskLog {
  readonly entries: LogEntry[] = [];
  readonly #directories: Map<string, ObjectId>;
  readonly #files: Map<string, ObjectId>;
  readonly #devices: ReadonlyMap<string, ObjectId>;
  /** The stamp of each device, by uid, and how it changed. */
  readonly #stamps: Map<string, string>;
  readonly #stampChanges: { readonly at: number; readonly uid: string; readonly stamp: string }[] = [];
  readonly #firstStamps: ReadonlyMap<string, string>;
  #lastObject: ObjectId;
  #recording = true;

  constructor(start: StartingPoint) {
    this.#directories = new Map(start.directories);
    this.#files = new Map(start.files);
    this.#devices = start.devices;
    this.#firstStamps = start.stamps;
    this.#stamps = new Map(start.stamps);
    this.#lastObject = Math.max(0, ...start.directories.values(), ...start.files.values(), ...start.devices.values());
  }

  /** What happens from now on is not of interest. */
  stop(): void {
    this.#recording = false;
  }

  /** Runs an operation between its two entries. */
  async around<T>(entry: Exclude<LogEntry, { type: "ended" }>, operation: () => Promise<T>): Promise<T> {
    const of = this.#push(entry);
    try {
      const result = await operation();
      this.#push({ type: "ended", of, done: true });
      return result;
    } catch (error) {
      this.#push({ type: "ended", of, done: false });
      throw error;
    }
  }

  /** An operation that has happened at once. */
  at(entry: Exclude<LogEntry, { type: "ended" }>): void {
    this.#push({ type: "ended", of: this.#push(entry), done: true });
  }

  #push(entry: LogEntry): number {
    if (!this.#recording) return -1;
    for (const [uid, object] of this.#devices) if (entry.type === "write" && entry.object === object) this.#touch(uid);
    return this.entries.push(entry) - 1;
  }

  #touch(uid: string): void {
    const at = this.entries.length;
    const stamp = `${this.#firstStamps.get(uid)}, ${at}`;
    this.#stamps.set(uid, stamp);
    this.#stampChanges.push({ at, uid, stamp });
  }

  /** The stamps when the entry with this index had not begun. */
  stampsAt(index: number): ReadonlyMap<string, string> {
    const stamps = new Map(this.#firstStamps);
    for (const { at, uid, stamp } of this.#stampChanges) if (at < index) stamps.set(uid, stamp);
    return stamps;
  }

  device(uid: string, device: BlockDevice): BlockDevice {
    const object = this.#devices.get(uid);
    if (object === undefined) throw new Error(`no device ${uid}`);
    return new LoggedDevice(this, object, device, () => this.#stamps.get(uid) ?? "");
  }

  stateFiles(files: StateFiles): StateFiles {
    return {
      open: (path, options) => this.#open(files, path, options.create),
      rename: async (from, to) => {
        const object = this.#fileAt(from);
        const names = { set: [[nameOf(to), object]], gone: [nameOf(from)] } as const;
        await this.around({ type: "names", directory: this.#directoryOf(from), ...names }, () =>
          files.rename(from, to),
        );
        this.#files.delete(from);
        this.#files.set(to, object);
      },
      remove: async (path) => {
        const gone = { set: [], gone: [nameOf(path)] };
        await this.around({ type: "names", directory: this.#directoryOf(path), ...gone }, () => files.remove(path));
        this.#files.delete(path);
      },
      makeDirectory: async (path) => {
        if (this.#directories.has(path)) return files.makeDirectory(path);
        const object = ++this.#lastObject;
        const set = { set: [[nameOf(path), object]], gone: [], makes: "directory" } as const;
        await this.around({ type: "names", directory: this.#directoryOf(path), ...set }, () =>
          files.makeDirectory(path),
        );
        this.#directories.set(path, object);
      },
      removeDirectory: async (path) => {
        const gone = { set: [], gone: [nameOf(path)] };
        const directory = this.#directoryOf(path);
        await this.around({ type: "names", directory, ...gone }, () => files.removeDirectory(path));
        this.#directories.delete(path);
      },
      syncDirectory: (path) =>
        this.around({ type: "sync-names", directory: this.#directoryAt(path) }, () => files.syncDirectory(path)),
      list: (path) => files.list(path),
      exists: (path) => files.exists(path),
    };
  }

  async #open(files: StateFiles, path: string, create: CreateMode): Promise<StateFile> {
    const known = this.#files.get(path);
    if (known !== undefined || create === "must-exist")
      return this.#logged(known ?? 0, await files.open(path, { create }));
    const object = ++this.#lastObject;
    const set = { set: [[nameOf(path), object]], gone: [] } as const;
    const directory = this.#directoryOf(path);
    const file = await this.around({ type: "names", directory, ...set }, () => files.open(path, { create }));
    this.#files.set(path, object);
    return this.#logged(object, file);
  }

  #logged(object: ObjectId, file: StateFile): StateFile {
    return {
      path: file.path,
      size: () => file.size(),
      read: (offsetBytes, lengthBytes) => file.read(offsetBytes, lengthBytes),
      write: (offsetBytes, data) => {
        const entry = {
          type: "write",
          object,
          offsetBytes,
          lengthBytes: data.length,
          data: Buffer.from(data),
        } as const;
        return this.around(entry, () => file.write(offsetBytes, data));
      },
      truncate: (lengthBytes) =>
        this.around({ type: "truncate", object, lengthBytes }, () => file.truncate(lengthBytes)),
      sync: () => this.around({ type: "sync", object }, () => file.sync()),
      close: () => file.close(),
    };
  }

  #fileAt(path: string): ObjectId {
    const object = this.#files.get(path);
    if (object === undefined) throw new Error(`no file ${path} in the log`);
    return object;
  }

  #directoryAt(path: string): ObjectId {
    const object = this.#directories.get(path);
    if (object === undefined) throw new Error(`no directory ${path} in the log`);
    return object;
  }

  #directoryOf(path: string): ObjectId {
    return this.#directoryAt(directoryOf(path));
  }
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

/** No descriptor for copier workers: everything that is copied comes through here. */
class LoggedDevice implements BlockDevice {
  readonly direct = undefined;
  readonly #log: DiskLog;
  readonly #object: ObjectId;
  readonly #device: BlockDevice;
  readonly #stamp: () => string;

  constructor(log: DiskLog, object: ObjectId, device: BlockDevice, stamp: () => string) {
    this.#log = log;
    this.#object = object;
    this.#device = device;
    this.#stamp = stamp;
  }

  get kind() {
    return this.#device.kind;
  }

  get sizeBytes() {
    return this.#device.sizeBytes;
  }

  get readOnly() {
    return this.#device.readOnly;
  }

  get capabilities() {
    return { ...this.#device.capabilities, cloneDomain: undefined };
  }

  tryRead(offsetBytes: number, into: Uint8Array): boolean {
    return this.#device.tryRead(offsetBytes, into);
  }

  tryWrite(offsetBytes: number, from: Uint8Array): boolean {
    const written = this.#device.tryWrite(offsetBytes, from);
    if (written) this.#log.at(this.#write(offsetBytes, from));
    return written;
  }

  read(offsetBytes: number, into: Uint8Array): Promise<void> {
    return this.#device.read(offsetBytes, into);
  }

  write(offsetBytes: number, from: Uint8Array): Promise<void> {
    return this.#log.around(this.#write(offsetBytes, from), () => this.#device.write(offsetBytes, from));
  }

  #write(offsetBytes: number, from: Uint8Array) {
    const data = Buffer.from(from);
    return { type: "write", object: this.#object, offsetBytes, lengthBytes: data.length, data } as const;
  }

  flush(): Promise<void> {
    return this.#log.around({ type: "sync", object: this.#object }, () => this.#device.flush());
  }

  zero(offsetBytes: number, lengthBytes: number, options: { release: "allow" | "keep" }): Promise<void> {
    const entry = { type: "write", object: this.#object, offsetBytes, lengthBytes, data: undefined } as const;
    return this.#log.around(entry, () => this.#device.zero(offsetBytes, lengthBytes, options));
  }

  trim(offsetBytes: number, lengthBytes: number): Promise<void> {
    return this.zero(offsetBytes, lengthBytes, { release: "allow" });
  }

  allocation(offsetBytes: number, lengthBytes: number, extentsMax: number): Promise<AllocationExtent[]> {
    return this.#device.allocation(offsetBytes, lengthBytes, extentsMax);
  }

  resize(): Promise<void> {
    return Promise.reject(new Error("a recorded device keeps its size"));
  }

  /** The last change, which a replay can give back; the times of a file made anew could not be. */
  async stamp(): Promise<string> {
    return this.#stamp();
  }

  close(): Promise<void> {
    return this.#device.close();
  }
}
