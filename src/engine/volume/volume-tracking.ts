/**
 * The durable side of one volume's change chain: superblock, maps of the epochs, activity log.
 *
 * Files, in `volumes/<uid>/`: `super`; `epoch-<id>-<serial>.map`, an epoch at a checkpoint; `al-<number>.log`, what happened since.
 * A chain is what the maps say, plus what the logs say from the one named by the superblock on, plus (after an unclean
 * stop) every granule of the regions that are still hot in the open epoch.
 * Invariants:
 *   1. The superblock names maps and log of one checkpoint; what it does not name, and no later log, is a left-over.
 *   2. No activity log takes the number of another one that may still be there: numbers go up, and tracking that begins anew
 *      begins in an empty directory.
 *   3. Marks that did not go through the activity log (`noteMarks`) are in the points log until a checkpoint has them.
 * Source: data-safety 1.3, 1.8, 1.10; formats: docs/file-formats.md.
 */
import { endOnBug } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";
import { granulesTouched } from "../../base/units.ts";
import { REGION_BITS_BYTES } from "../durable/activity-frames.ts";
import { ActivityLog, type ActivityLogOptions } from "../durable/activity-log.ts";
import type { ExpectedEnd, LogEnd } from "../durable/log-end.ts";
import { type MapHeader, readMap, writeMap } from "../durable/map-file.ts";
import type { StateFiles } from "../durable/state-files.ts";
import { Superblock } from "../durable/superblock.ts";
import type { PagedBitmap } from "../map/paged-bitmap.ts";
import type { ActivityBounds, EnginePorts } from "../ports.ts";
import type { RecoveredPoint, VolumeSeal } from "../session/points-log.ts";
import { Mutex } from "../sync/mutex.ts";
import { type Epoch, leastTrust } from "./change-chain.ts";
import { addBits, epochOf, regionBits, setRegion, setRegionBits } from "./epoch-bits.ts";
import type { Volume } from "./volume.ts";
import {
  decodeVolumeRecord,
  type EpochEntry,
  expectedLogEnd,
  mapFileOf,
  requireLogInUse,
  TRUSTS,
  type VolumeRecord,
} from "./volume-record.ts";

export const VOLUMES_DIRECTORY = "volumes";

export class VolumeTracking {
  readonly activity: ActivityLog;
  readonly #files: StateFiles;
  readonly #bounds: ActivityBounds;
  readonly #volume: Volume;
  readonly #super: Superblock<VolumeRecord>;
  readonly #checkpoints = new Mutex();
  #openEpoch: number;
  #serial: number;
  /** Highest number of an activity log that is there or was tried. */
  #lastLog: number;
  /** How often marks were made that are in no log of this volume; and how many of them a durable checkpoint has. */
  #marksNoted = 0;
  #marksKept = 0;
  #checkpointing = false;
  #closed = false;
  /** Points that the activity log does not have, until `begin`. */
  readonly #found: Parameters<ActivityLog["point"]>[0][] = [];
  /** Granules of each epoch in the map file that the superblock names. */
  #inFiles: ReadonlyMap<number, { readonly count: number; readonly serial: number }> = new Map();

  private constructor(options: {
    ports: EnginePorts;
    volume: Volume;
    superblock: Superblock<VolumeRecord>;
    activity: ActivityLog;
    openEpoch: number;
    lastLog?: number;
  }) {
    this.#files = options.ports.files;
    this.#bounds = options.ports.activity;
    this.#volume = options.volume;
    this.#super = options.superblock;
    this.activity = options.activity;
    this.#openEpoch = options.openEpoch;
    this.#serial = options.superblock.value.serial;
    this.#lastLog = options.lastLog ?? options.activity.number;
    this.#volume.onActivation = () => this.#checkpointWhenLong();
  }

  /** New files, durable when it resolves. The chain stays empty until the first seal. */
  static async create(ports: EnginePorts, volume: Volume): Promise<VolumeTracking> {
    const { files } = ports;
    const directory = directoryOf(volume.uid);
    await files.makeDirectory(directory);
    // Nobody tracks the volume: what is there is left over from an attempt or a removal that was cut off.
    await emptyDirectory(files, directory);
    const openEpoch = volume.chain.nextId - 1;
    const activity = await ActivityLog.create(logOptions(ports, volume), 1, openEpoch);
    try {
      const superblock = await newSuperblock(files, volume, { log: 1, serial: 1, epochs: [] });
      await files.syncDirectory(VOLUMES_DIRECTORY);
      return new VolumeTracking({ ports, volume, superblock, activity, openEpoch });
    } catch (error) {
      await activity.close();
      throw error;
    }
  }

  /**
   * Opens the files of a volume and puts its chain back together, with what `points` add. Undefined when the volume was never
   * tracked. Nothing is changed on the disk: `begin` comes before it is used, or `abandon`. METADATA_CORRUPT: `rebuild` is
   * the way out.
   */
  static async open(
    ports: EnginePorts,
    volume: Volume,
    points: readonly RecoveredPoint[],
    ends: ReadonlyMap<string, ExpectedEnd> = new Map(),
  ): Promise<VolumeTracking | undefined> {
    const { files } = ports;
    const directory = directoryOf(volume.uid);
    if (!(await files.exists(`${directory}/super`))) return undefined;
    await files.syncDirectory(directory); // after a kill the names need not be durable (data-safety 1.10 rule 3)
    const superblock = await Superblock.open(files, `${directory}/super`, "volume", volume.uid, decodeVolumeRecord);
    const record = superblock.value;
    const epochs: Epoch[] = [];
    const inFiles = new Map<number, { count: number; serial: number }>();
    let activity: ActivityLog | undefined;
    try {
      for (const [id, beginMs, trust, serial] of record.epochs) {
        const header = {
          kind: "epoch" as const,
          ownerId: volume.uid,
          generation: id,
          bitCount: volume.chain.granuleCount,
        };
        const path = `${directory}/${mapFileOf(id, serial)}`;
        const map = serial > 0 ? await readMap(files, path, header, ports.core) : volume.chain.newMap();
        epochs.push({ id, beginMs, map, trust: TRUSTS[trust] ?? "lost" });
        inFiles.set(id, { count: map.count, serial });
      }
      const numbers = activityLogNumbers(await files.list(directory), record.log);
      if (numbers[0] !== record.log)
        throw new TidemarkError("METADATA_CORRUPT", {
          message: `${directory}: the activity log al-${record.log}.log is missing`,
          hint: "what this volume tracks is copied in full next time",
        });
      const expected = (number: number) => expectedLogEnd(directory, record, number, ends);
      const { log, replay } = await ActivityLog.find({ ...logOptions(ports, volume), expected }, numbers);
      activity = log;
      requireLogInUse(directory, record, log.number);
      for (const sealed of replay.sealed) addBits(epochOf(epochs, sealed.epoch, volume), sealed.regionBits);
      const open = epochOf(epochs, replay.openEpoch, volume);
      addBits(open, replay.regionBits);
      const { openEpoch } = replay;
      const lastLog = numbers.at(-1) ?? log.number;
      const tracking = new VolumeTracking({ ports, volume, superblock, activity: log, openEpoch, lastLog });
      tracking.#inFiles = inFiles;
      const last = tracking.#applyPoints(epochs, points, open);
      for (const region of replay.hotRegions) {
        setRegion(last, region);
        last.trust = last.trust === "lost" ? "lost" : "widened";
      }
      const held = epochs.filter((epoch) => epoch.id > 0);
      volume.chain.restore(held, Math.max(record.nextEpoch, last.id + 1));
      return tracking;
    } catch (error) {
      for (const epoch of epochs) epoch.map.dispose();
      await activity?.abandon();
      await superblock.close();
      throw error;
    }
  }

  /**
   * After damage: epochs with these ids that say "everything", in new files beside the old ones, which go only when the new
   * superblock is durable. `nextEpoch`: no id below it is given again.
   */
  static async rebuild(
    ports: EnginePorts,
    volume: Volume,
    { ids, nextEpoch }: { readonly ids: readonly number[]; readonly nextEpoch: number },
  ): Promise<VolumeTracking> {
    const { files } = ports;
    const directory = directoryOf(volume.uid);
    await files.makeDirectory(directory);
    const serials = (await files.list(directory)).map(serialOf);
    const serial = Math.max(0, ...serials) + 1;
    const sorted = [...new Set(ids)].sort((a, b) => a - b);
    const epochs = sorted.map((id): Epoch => {
      const map = volume.chain.newMap();
      map.setRange(0, map.bitCount);
      return { id, beginMs: 0, map, trust: "lost" };
    });
    const entries: EpochEntry[] = [];
    for (const epoch of epochs) {
      const header = {
        kind: "epoch" as const,
        ownerId: volume.uid,
        generation: epoch.id,
        bitCount: epoch.map.bitCount,
      };
      await writeMap(files, `${directory}/${mapFileOf(epoch.id, serial)}`, header, epoch.map);
      entries.push(entryOf(epoch, serial));
    }
    volume.chain.restore(epochs, nextEpoch);
    const openEpoch = sorted.at(-1) ?? volume.chain.nextId - 1;
    const activity = await ActivityLog.create(logOptions(ports, volume), serial, openEpoch);
    const superblock = await newSuperblock(files, volume, { log: serial, serial, epochs: entries });
    await files.syncDirectory(VOLUMES_DIRECTORY);
    const tracking = new VolumeTracking({ ports, volume, superblock, activity, openEpoch });
    await tracking.#removeLeftovers(directory);
    return tracking;
  }

  /** Before anything else is written. */
  async begin(): Promise<void> {
    await this.#super.heal();
    await this.activity.cutTail();
    for (const point of this.#found.splice(0)) this.#notePoint(point);
  }

  /** Lets go of files and chain as they were found. */
  async abandon(): Promise<void> {
    this.#closed = true;
    this.#volume.chain.dispose();
    await this.activity.abandon();
    await this.#super.close();
  }

  /** What is wrong with its superblock, although it could be read. */
  get slotDamage(): TidemarkError | undefined {
    return this.#super.slotDamage;
  }

  /** What the superblock says, durably; another object after every change. */
  get record(): VolumeRecord {
    return this.#super.value;
  }

  /** As Superblock.renew. */
  renewSuper(): Promise<void> {
    return this.#checkpoints.run(async () => {
      if (!this.#closed) await this.#super.renew(this.#files);
    });
  }

  /** As Superblock.verify. */
  verifySuper(files: StateFiles): Promise<number | undefined> {
    return this.#super.verify(files);
  }

  /** The highest epoch id that the files of a volume show, whatever their state. */
  static async highestEpochSeen(files: StateFiles, uid: string): Promise<number> {
    const directory = directoryOf(uid);
    if (!(await files.exists(directory))) return 0;
    return Math.max(0, ...(await files.list(directory)).map((name) => Number(/^epoch-(\d+)-/.exec(name)?.[1] ?? 0)));
  }

  /** Seals that the activity log lost with its unsynced tail, and marks that never went into it; returns the open epoch. */
  #applyPoints(epochs: Epoch[], points: readonly RecoveredPoint[], openAtEnd: Epoch): Epoch {
    let open = openAtEnd;
    for (const point of points) {
      const seal = point.seals.find((candidate) => candidate.uid === this.#volume.uid);
      if (seal && seal.openedEpoch > open.id) {
        const hotBits = seal.hotBits.map(({ region, bits }) => ({
          region,
          bits: new Uint8Array(Buffer.from(bits, "base64")),
        }));
        for (const { region, bits } of hotBits) setRegionBits(open, region, bits);
        this.#found.push({ sealedEpoch: open.id, openedEpoch: seal.openedEpoch, hotBits });
        open = epochOf(epochs, seal.openedEpoch, this.#volume);
        this.#openEpoch = seal.openedEpoch;
      }
      const opened = seal && epochs.find((epoch) => epoch.id === seal.openedEpoch);
      if (seal && opened) epochs[epochs.indexOf(opened)] = { ...opened, beginMs: seal.beginMs };
      for (const change of point.logicalChanges) {
        if (change.uid !== this.#volume.uid) continue;
        const destination = point.sessions.find((session) => session.id === change.sessionId)?.destination;
        if (!destination) continue;
        const touched = granulesTouched(destination.offsetBytes, destination.lengthBytes);
        const { map } = epochOf(epochs, change.epoch, this.#volume);
        // The volume may have become smaller since, when nothing tracked it any more.
        const count = Math.min(touched.count, map.bitCount - touched.first);
        if (count <= 0) continue;
        const changed = point.maps.get(change.sessionId);
        if (changed) map.union(changed, { first: touched.first, count, otherFirst: 0 });
        else map.setRange(touched.first, count); // its map is in a file of the session, which may be gone
        this.noteMarks();
      }
    }
    return epochs.find((epoch) => epoch.id === open.id) ?? open;
  }

  /** Seals the open epoch in memory and queues the seal in the activity log, in one step. The gates are closed. */
  seal(nowMs: number): VolumeSeal {
    const { chain, uid } = this.#volume;
    const hotBits = chain.tracked ? this.activity.hotBits() : [];
    const sealedEpoch = this.#openEpoch;
    const openedEpoch = chain.seal(nowMs);
    this.#openEpoch = openedEpoch;
    this.#notePoint({ sealedEpoch, openedEpoch, hotBits });
    const encoded = hotBits.map(({ region, bits }) => ({ region, bits: Buffer.from(bits).toString("base64") }));
    return { uid, sealedEpoch, openedEpoch, beginMs: nowMs, hotBits: encoded };
  }

  /** The points log says the same, durably; what could not be stored here makes `settle` write a checkpoint. */
  #notePoint(point: Parameters<ActivityLog["point"]>[0]): void {
    this.activity.point(point).catch((error: unknown) => {
      endOnBug(error);
      this.noteMarks();
    });
  }

  /** The device may have lost what was written last: every granule of the regions that are hot counts as changed. */
  widenHot(): void {
    const { chain } = this.#volume;
    if (!chain.tracked) return;
    for (const region of this.activity.hotRegions) {
      setRegion(chain.open, region);
      chain.open.trust = leastTrust(chain.open.trust, "widened");
    }
  }

  /** Marks were set that are only in the points log. */
  noteMarks(): void {
    this.#marksNoted++;
  }

  /** Nobody knows what has changed: every epoch says "everything", durably when it resolves. */
  async loseEpochs(): Promise<void> {
    for (const epoch of this.#volume.chain.epochs) {
      epoch.map.setRange(0, epoch.map.bitCount);
      epoch.trust = "lost";
    }
    await this.checkpoint("running");
  }

  /** What the points did to the chain is durable in the volume's own files when it resolves. */
  async settle(): Promise<void> {
    if (this.#marksKept < this.#marksNoted) return this.checkpoint("running");
    await this.#checkpoints.run(async () => {
      if (this.#closed) return;
      await this.activity.sync();
      const record = this.#super.value;
      const serials = new Map(record.epochs.map(([id, , , serial]) => [id, serial]));
      const epochs = this.#volume.chain.epochs.map((epoch) => entryOf(epoch, serials.get(epoch.id) ?? 0));
      // An epoch that has been merged away may still have bits in its file: only a checkpoint drops it.
      const missing = record.epochs.filter(([id, , , serial]) => serial > 0 && !epochs.some(([kept]) => kept === id));
      const all = [...missing, ...epochs].sort((a, b) => a[0] - b[0]);
      const inUse = this.#inUse();
      await this.#super.store({ ...record, epochs: all, nextEpoch: this.#volume.chain.nextId, inUse });
    });
  }

  #checkpointWhenLong(): void {
    if (this.#checkpointing || this.activity.sizeBytes < this.#bounds.checkpointBytes) return;
    this.#checkpointing = true;
    // A failure leaves the old checkpoint and both logs, which recovery reads; the next activation tries again.
    void this.checkpoint("running")
      .catch(endOnBug)
      .finally(() => {
        this.#checkpointing = false;
      });
  }

  /** Writes the chain as it is and begins a new log. `clean`: nothing is hot any more; the next start finds it exact. */
  checkpoint(mode: "running" | "clean"): Promise<void> {
    return this.#checkpoints.run(async () => {
      if (this.#closed) return;
      if (mode === "clean") await this.activity.evictAll();
      const number = ++this.#lastLog;
      const serial = ++this.#serial;
      await this.activity.checkpoint(number);
      const marks = this.#marksNoted; // in the same turn as the copies, which have them
      const written = this.#volume.chain.epochs.map((epoch) => this.#toWrite(epoch, serial));
      const nextEpoch = this.#volume.chain.nextId;
      const directory = directoryOf(this.#volume.uid);
      try {
        for (const { id, copy } of written)
          if (copy)
            await writeMap(this.#files, `${directory}/${mapFileOf(id, serial)}`, this.#headerOf(id, copy), copy);
      } finally {
        for (const { copy } of written) copy?.dispose();
      }
      const epochs = written.map(({ entry }) => entry);
      const inUse = this.#inUse();
      await this.#super.store({ uid: this.#volume.uid, nextEpoch, log: number, serial, inUse, epochs });
      this.#inFiles = new Map(written.map(({ id, count, entry }) => [id, { count, serial: entry[3] }]));
      this.#marksKept = marks;
      await this.#removeLeftovers(directory);
    });
  }

  #inUse(): readonly [log: number, frames: number] {
    return [this.activity.number, this.activity.durableFrames];
  }

  /** An epoch only ever gains granules: as many as in its file are the same ones, and an empty one needs no file. */
  #toWrite(epoch: Epoch, serial: number): { id: number; count: number; entry: EpochEntry; copy?: PagedBitmap } {
    const { id, map } = epoch;
    const { count } = map;
    const known = this.#inFiles.get(id);
    if (count === 0) return { id, count, entry: entryOf(epoch, 0) };
    if (known?.count === count) return { id, count, entry: entryOf(epoch, known.serial) };
    return { id, count, entry: entryOf(epoch, serial), copy: map.clone() };
  }

  #headerOf(id: number, { bitCount }: PagedBitmap): MapHeader {
    return { kind: "epoch", ownerId: this.#volume.uid, generation: id, bitCount };
  }

  async #removeLeftovers(directory: string): Promise<void> {
    const record = this.#super.value;
    const kept = new Set(["super", ...record.epochs.map(([id, , , serial]) => mapFileOf(id, serial))]);
    for (const name of await this.#files.list(directory)) {
      const number = Number(/^al-(\d+)\.log$/.exec(name)?.[1] ?? 0);
      if (!kept.has(name) && number < record.log) await this.#files.remove(`${directory}/${name}`);
    }
  }

  /** Where the log in use ends; after `close`, for good. */
  get logEnd(): { readonly path: string; readonly end: LogEnd } {
    return { path: `${directoryOf(this.#volume.uid)}/al-${this.activity.number}.log`, end: this.activity.end };
  }

  /** After what is under way on the files; what comes later does nothing. */
  close(): Promise<void> {
    return this.#checkpoints.run(() => this.#close());
  }

  remove(): Promise<void> {
    return this.#checkpoints.run(async () => {
      await this.#close();
      await removeVolumeDirectory(this.#files, this.#volume.uid);
    });
  }

  async #close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.activity.close();
    await this.#super.close();
  }
}

export async function removeVolumeDirectory(files: StateFiles, uid: string): Promise<void> {
  const directory = directoryOf(uid);
  if (!(await files.exists(directory))) return;
  await emptyDirectory(files, directory);
  await files.removeDirectory(directory);
  await files.syncDirectory(VOLUMES_DIRECTORY);
}

/** Durably. The superblock goes first: one that came back without its files would be taken for damage. */
async function emptyDirectory(files: StateFiles, directory: string): Promise<void> {
  const names = await files.list(directory);
  if (names.includes("super")) await files.remove(`${directory}/super`);
  await files.syncDirectory(directory);
  for (const name of names) if (name !== "super") await files.remove(`${directory}/${name}`);
  await files.syncDirectory(directory);
}

function newSuperblock(
  files: StateFiles,
  volume: Volume,
  first: Pick<VolumeRecord, "log" | "serial" | "epochs">,
): Promise<Superblock<VolumeRecord>> {
  const { log, serial, epochs } = first;
  const record: VolumeRecord = { uid: volume.uid, nextEpoch: volume.chain.nextId, log, serial, epochs };
  const path = `${directoryOf(volume.uid)}/super`;
  return Superblock.create(files, path, "volume", volume.uid, record, decodeVolumeRecord, "damaged");
}

/** Numbers of the activity logs among these names from `first` on, ascending. */
export function activityLogNumbers(names: readonly string[], first: number): number[] {
  const numbers = names.map((name) => Number(/^al-(\d+)\.log$/.exec(name)?.[1] ?? 0));
  return numbers.filter((number) => number >= first).sort((a, b) => a - b);
}

/** Number in the name of a map or an activity log. */
function serialOf(name: string): number {
  return Number(/^(?:epoch-\d+|al)-(\d+)\.(?:map|log)/.exec(name)?.[1] ?? 0);
}

function entryOf(epoch: Epoch, serial: number): EpochEntry {
  return [epoch.id, epoch.beginMs, TRUSTS.indexOf(epoch.trust), serial];
}

function directoryOf(uid: string): string {
  return `${VOLUMES_DIRECTORY}/${uid}`;
}

function logOptions({ files, activity }: EnginePorts, volume: Volume): ActivityLogOptions {
  return {
    files,
    slots: activity.slots,
    ownerId: volume.uid,
    path: (number) => `${directoryOf(volume.uid)}/al-${number}.log`,
    readRegionBits: (region) =>
      volume.chain.tracked ? regionBits(volume.chain.open.map, region) : new Uint8Array(REGION_BITS_BYTES),
  };
}
