/**
 * What a power loss leaves of a recorded run: a prefix of the log, and of what was not synced any part.
 *
 * Model (data-safety 3.1): a sync makes durable what had ended before it began. Of later writes each sector of 512 bytes is
 * old or new, the size is any since; each change of a directory has happened or not, on its own. An operation that had
 * begun and not ended counts among those that may have happened.
 */
import { mkdir, open, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Chance } from "../chance.ts";
import type { DiskLog, LogEntry, ObjectId, StartingPoint } from "./disk-log.ts";

const SECTOR_BYTES = 512;
const PIECE_BYTES = 64 * 1024;
const ZEROS = Buffer.alloc(PIECE_BYTES);

/** Content of all disks. */
export interface DiskImage {
  readonly directories: readonly string[];
  readonly files: ReadonlyMap<string, Buffer>;
  readonly devices: ReadonlyMap<string, Buffer>;
  /** What tells whether a device was written to (BlockDevice.stamp), by uid. */
  readonly stamps: ReadonlyMap<string, string>;
}

type Change = Extract<LogEntry, { type: "write" | "truncate" }>;
type NameChange = Extract<LogEntry, { type: "names" }>;
interface Pending<C> {
  readonly change: C;
  ended: boolean;
}

interface FileState {
  durable: Buffer;
  pending: Pending<Change>[];
}

interface DirectoryState {
  readonly durable: Map<string, ObjectId>;
  pending: Pending<NameChange>[];
}

/** Objects for everything in an image, and their content. */
function begin(image: DiskImage): {
  start: StartingPoint;
  objects: Map<ObjectId, Buffer>;
  names: Map<ObjectId, Map<string, ObjectId>>;
} {
  let last = 0;
  const directories = new Map(image.directories.map((path): [string, ObjectId] => [path, ++last]));
  const files = new Map([...image.files.keys()].map((path): [string, ObjectId] => [path, ++last]));
  const devices = new Map([...image.devices.keys()].map((uid): [string, ObjectId] => [uid, ++last]));
  const objects = new Map<ObjectId, Buffer>();
  for (const [path, object] of files) objects.set(object, image.files.get(path)!);
  for (const [uid, object] of devices) objects.set(object, image.devices.get(uid)!);
  const names = new Map(
    [...directories.values()].map((object): [ObjectId, Map<string, ObjectId>] => [object, new Map()]),
  );
  for (const [path, object] of [...directories, ...files]) {
    if (path === "") continue;
    const slash = path.lastIndexOf("/");
    names.get(directories.get(path.slice(0, Math.max(0, slash)))!)!.set(path.slice(slash + 1), object);
  }
  return { start: { directories, files, devices, stamps: image.stamps }, objects, names };
}

export class DiskReplay {
  readonly start: StartingPoint;
  readonly #files = new Map<ObjectId, FileState>();
  readonly #directories = new Map<ObjectId, DirectoryState>();
  /** What a sync that is under way covers. */
  readonly #covered = new Map<number, Pending<Change>[] | Pending<NameChange>[]>();
  readonly #running = new Map<number, Pending<Change> | Pending<NameChange>>();
  #log: DiskLog | undefined;
  #at = 0;

  constructor(image: DiskImage) {
    const { start, objects, names } = begin(image);
    this.start = start;
    for (const [object, content] of objects) this.#files.set(object, { durable: Buffer.from(content), pending: [] });
    for (const [object, table] of names) this.#directories.set(object, { durable: table, pending: [] });
  }

  /** Goes on to the entry with this index, which has not begun. */
  advance(log: DiskLog, to: number): void {
    this.#log = log;
    for (; this.#at < to; this.#at++) this.#apply(this.#at, log.entries[this.#at]!);
  }

  #apply(index: number, entry: LogEntry): void {
    if (entry.type === "write" || entry.type === "truncate") {
      const pending = { change: entry, ended: false };
      this.#file(entry.object).pending.push(pending);
      this.#running.set(index, pending);
    } else if (entry.type === "names") {
      const pending = { change: entry, ended: false };
      // Also one in which nothing has happened yet is a directory.
      if (entry.makes === "directory") for (const [, object] of entry.set) this.#directory(object);
      this.#directory(entry.directory).pending.push(pending);
      this.#running.set(index, pending);
    } else if (entry.type === "sync")
      this.#covered.set(
        index,
        this.#file(entry.object).pending.filter(({ ended }) => ended),
      );
    else if (entry.type === "sync-names")
      this.#covered.set(
        index,
        this.#directory(entry.directory).pending.filter(({ ended }) => ended),
      );
    else this.#ended(entry.of, entry.done);
  }

  #ended(of: number, done: boolean): void {
    const pending = this.#running.get(of);
    if (pending !== undefined) {
      this.#running.delete(of);
      pending.ended = true;
      return;
    }
    const entry = this.#log?.entries[of];
    const covered = this.#covered.get(of) ?? [];
    this.#covered.delete(of);
    if (!done) return;
    if (entry?.type === "sync") {
      const file = this.#file(entry.object);
      for (const { change } of covered as Pending<Change>[]) file.durable = applied(file.durable, change);
      const gone = new Set(covered as Pending<Change>[]);
      file.pending = file.pending.filter((one) => !gone.has(one));
    } else if (entry?.type === "sync-names") {
      const directory = this.#directory(entry.directory);
      for (const { change } of covered as Pending<NameChange>[]) rename(directory.durable, change);
      const gone = new Set(covered as Pending<NameChange>[]);
      directory.pending = directory.pending.filter((one) => !gone.has(one));
    }
  }

  #file(object: ObjectId): FileState {
    const known = this.#files.get(object);
    if (known !== undefined) return known;
    const made: FileState = { durable: Buffer.alloc(0), pending: [] };
    this.#files.set(object, made);
    return made;
  }

  #directory(object: ObjectId): DirectoryState {
    const known = this.#directories.get(object);
    if (known !== undefined) return known;
    const made: DirectoryState = { durable: new Map(), pending: [] };
    this.#directories.set(object, made);
    return made;
  }

  /** One of the images that a power loss now may leave. */
  crash(chance: Chance): DiskImage {
    const files = new Map<string, Buffer>();
    const directories: string[] = [];
    const walk = (object: ObjectId, path: string) => {
      directories.push(path);
      const directory = this.#directory(object);
      const names = new Map(directory.durable);
      for (const { change } of directory.pending) if (chance.happens(0.5)) rename(names, change);
      for (const [name, child] of names) {
        const at = path === "" ? name : `${path}/${name}`;
        if (this.#directories.has(child)) walk(child, at);
        else files.set(at, survivor(this.#file(child), chance, "file"));
      }
    };
    walk(this.start.directories.get("")!, "");
    const devices = new Map<string, Buffer>();
    for (const [uid, object] of this.start.devices) devices.set(uid, survivor(this.#file(object), chance, "device"));
    const stamps = this.#log?.stampsAt(this.#at) ?? this.start.stamps;
    return { directories, files, devices, stamps };
  }
}

function rename(names: Map<string, ObjectId>, { set, gone }: NameChange): void {
  for (const name of gone) names.delete(name);
  for (const [name, object] of set) names.set(name, object);
}

function applied(content: Buffer, change: Change): Buffer {
  if (change.type === "truncate") return resized(content, change.lengthBytes);
  const end = change.offsetBytes + change.lengthBytes;
  const target = content.length < end ? resized(content, end) : content;
  if (change.data === undefined) target.fill(0, change.offsetBytes, end);
  else change.data.copy(target, change.offsetBytes);
  return target;
}

function resized(content: Buffer, lengthBytes: number): Buffer {
  const target = Buffer.alloc(lengthBytes);
  content.copy(target);
  return target;
}

/** Durable content, and of each later write nothing, all or some sectors. */
function survivor({ durable, pending }: FileState, chance: Chance, kind: "file" | "device"): Buffer {
  if (pending.length === 0) return durable;
  let disk: Buffer = Buffer.from(durable);
  let cache: Buffer = Buffer.from(durable);
  const sizes = [durable.length];
  const fileMood = chance.fraction();
  for (const { change } of pending) {
    cache = applied(cache, change);
    sizes.push(cache.length);
    if (disk.length < cache.length) disk = resized(disk, cache.length);
    const mood = fileMood < 0.2 ? 0 : fileMood > 0.8 ? 1 : chance.fraction();
    const { first, last } = sectorsOf(change, cache.length, sizes.at(-2) ?? 0);
    for (let sector = first; sector <= last; sector++) if (chance.fraction() < mood) keep(disk, cache, sector);
  }
  if (kind === "device") return disk;
  return resized(disk, chance.happens(0.5) ? cache.length : chance.pick(sizes));
}

function sectorsOf(change: Change, lengthBytes: number, before: number): { first: number; last: number } {
  const begin =
    change.type === "truncate"
      ? Math.min(change.lengthBytes, before)
      : Math.min(change.offsetBytes, Math.max(before, 0));
  const end = change.type === "truncate" ? Math.max(lengthBytes, before) : change.offsetBytes + change.lengthBytes;
  const from = change.type === "write" && change.offsetBytes <= before ? change.offsetBytes : begin;
  return { first: Math.floor(from / SECTOR_BYTES), last: Math.ceil(end / SECTOR_BYTES) - 1 };
}

function keep(disk: Buffer, cache: Buffer, sector: number): void {
  const begin = sector * SECTOR_BYTES;
  const end = Math.min(begin + SECTOR_BYTES, disk.length);
  if (begin >= end) return;
  disk.fill(0, begin, end);
  if (begin < cache.length) cache.copy(disk, begin, begin, Math.min(end, cache.length));
}

/** Puts an image into real files below `directory`: `state/`, and `UID.img` for each device. */
export async function layDown(image: DiskImage, directory: string): Promise<void> {
  for (const path of image.directories) await mkdir(join(directory, "state", path), { recursive: true, mode: 0o700 });
  for (const [path, content] of image.files) {
    await mkdir(dirname(join(directory, "state", path)), { recursive: true });
    await writeFile(join(directory, "state", path), content, { mode: 0o600 });
  }
  for (const [uid, content] of image.devices) await writeSparse(join(directory, `${uid}.img`), content);
}

/** Zeros become holes, as they were. */
async function writeSparse(path: string, content: Buffer): Promise<void> {
  const file = await open(path, "w", 0o600);
  try {
    await file.truncate(content.length);
    for (let at = 0; at < content.length; at += PIECE_BYTES) {
      const piece = content.subarray(at, Math.min(at + PIECE_BYTES, content.length));
      if (piece.equals(ZEROS.subarray(0, piece.length))) continue;
      await file.write(piece, 0, piece.length, at);
    }
  } finally {
    await file.close();
  }
}
