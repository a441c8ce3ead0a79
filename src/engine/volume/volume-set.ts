/**
 * All volumes of the engine: opening, closing, tracking, status.
 *
 * What has to do with a device takes place outside the order of the sessions (SessionSet.exclusively), because a device
 * may stall: a volume is *reserved* there in one step, then removed, resized or opened again; meanwhile nothing else is
 * done with it (VOLUME_BUSY). Devices are opened and closed with a limit (device-steps.ts).
 */
import { endOnBug } from "../../base/assert.ts";
import { asTidemarkError, type ErrorRecord, TidemarkError, toErrorRecord } from "../../base/errors.ts";
import {
  DEVICE_STEPS_LATE_MAX,
  DEVICE_STEPS_MAX,
  STOP_CLOSE_MS,
  VOLUME_SIZE_BYTES_MAX,
  VOLUMES_MAX,
} from "../../base/limits.ts";
import type { BlockDevice } from "../../base/ports.ts";
import { granuleCountOf, SECTOR_SIZE_BYTES } from "../../base/units.ts";
import type { EngineEvent, VolumeFacts, VolumeSpec, VolumeStatus } from "../engine-api.ts";
import type { EnginePorts, OpenedDevice } from "../ports.ts";
import type { VolumeSeal } from "../session/points-log.ts";
import type { StopReport } from "../session/stop.ts";
import { endedWithin } from "../sync/deadline.ts";
import { ChangeChain } from "./change-chain.ts";
import { DeviceSteps } from "./device-steps.ts";
import { Volume } from "./volume.ts";
import { createVolumeFile, inspectVolumePath, removeVolumeFile } from "./volume-file.ts";
import { removeVolumeDirectory, VolumeTracking } from "./volume-tracking.ts";

/** What is being done with a reserved volume. */
export type VolumeTask = "removed" | "resized" | "opened again";

interface Entry {
  readonly volume: Volume;
  /** With the size it must have when it is opened again. */
  spec: VolumeSpec;
  tracking: VolumeTracking | undefined;
  task: VolumeTask | undefined;
}

export class VolumeSet {
  readonly #ports: EnginePorts;
  readonly #emit: (event: EngineEvent) => void;
  readonly #entries = new Map<string, Entry>();
  /** Volumes being added: they are none yet, but what they live on is taken. */
  readonly #adding = new Set<Volume>();
  readonly #steps: DeviceSteps;
  #closed = false;
  /** Called with a device that comes back, before anybody uses it. */
  onReturn: (volume: Volume, device: BlockDevice) => Promise<void> = async () => undefined;

  constructor(options: { ports: EnginePorts; emit: (event: EngineEvent) => void }) {
    this.#ports = options.ports;
    this.#emit = options.emit;
    this.#steps = new DeviceSteps(options.ports.clock, {
      inTimeMax: DEVICE_STEPS_MAX,
      lateMax: DEVICE_STEPS_LATE_MAX,
    });
  }

  /** VOLUME_NOT_FOUND; VOLUME_BUSY while it is removed or resized. */
  require(uid: string): Volume {
    const entry = this.#entry(uid);
    if (entry.task === "removed" || entry.task === "resized") throw taskUnderWay(entry.volume, entry.task);
    return entry.volume;
  }

  find(uid: string): Volume | undefined {
    return this.#entries.get(uid)?.volume;
  }

  #entry(uid: string): Entry {
    const entry = this.#entries.get(uid);
    if (entry) return entry;
    throw new TidemarkError("VOLUME_NOT_FOUND", {
      message: `there is no volume ${uid}`,
      hint: "`tidemark volume list` shows the volumes",
    });
  }

  /** Known from here on, and not open. */
  enter(specs: readonly VolumeSpec[]): void {
    for (const spec of specs)
      this.#entries.set(spec.uid, { volume: this.#newVolume(spec), spec, tracking: undefined, task: undefined });
  }

  /**
   * Side by side; a volume that cannot be opened stays offline, with its reason, and the others go on. Those that are out of
   * service are not opened.
   */
  async openOrKeep(outOfService: ReadonlyMap<string, TidemarkError>): Promise<void> {
    const opening = [...this.#entries.values()].map(async ({ volume, spec }) => {
      const why = outOfService.get(spec.uid);
      if (why) await this.#identify(volume);
      try {
        if (why) throw why;
        await this.#open(volume, spec);
      } catch (error) {
        volume.setFailure(toErrorRecord(error));
      }
    });
    await Promise.all(opening);
  }

  /** What it lives on is taken, though it is not opened. */
  async #identify(volume: Volume): Promise<void> {
    const { path } = volume;
    const identifying = async () => {
      volume.identity = await this.requireUnshared(path, volume);
    };
    // What cannot be looked at is not known, as of a volume that cannot be opened.
    await this.#steps.run({ path, action: "look at", run: identifying }).catch(endOnBug);
  }

  /** Takes back a volume whose removal did not come about; one that cannot be opened stays offline. */
  async takeBack(spec: VolumeSpec): Promise<void> {
    this.enter([spec]);
    const { volume } = this.#entry(spec.uid);
    await this.#open(volume, spec).catch((error: unknown) => volume.setFailure(toErrorRecord(error)));
  }

  async add(spec: VolumeSpec): Promise<VolumeFacts> {
    if (this.#entries.size + this.#adding.size >= VOLUMES_MAX)
      throw new TidemarkError("LIMIT_EXCEEDED", {
        message: `there are ${VOLUMES_MAX} volumes already`,
        hint: "delete volumes that are not needed",
      });
    const volume = this.#newVolume(spec);
    this.#adding.add(volume);
    try {
      await this.#open(volume, spec);
      this.#entries.set(spec.uid, { volume, spec, tracking: undefined, task: undefined });
      return factsOf(volume, volume.requireDevice());
    } finally {
      this.#adding.delete(volume);
    }
  }

  #newVolume(spec: VolumeSpec): Volume {
    const chain = new ChangeChain(this.#ports.core, spec.name, granuleCountOf(spec.sizeBytes), 1);
    const onFailure = (failed: Volume, failure: ErrorRecord) => {
      // What was written last may be lost; its marks must not be.
      if (failed.device) this.#entries.get(failed.uid)?.tracking?.widenHot();
      this.#emit({ type: "volume.failed", uid: failed.uid, failure });
    };
    return new Volume({ uid: spec.uid, name: spec.name, path: spec.path, chain, onFailure });
  }

  /** DEVICE_TIMEOUT: it is closed again should it open after all. */
  async #open(volume: Volume, spec: VolumeSpec): Promise<void> {
    const { path } = spec;
    const known = volume.identity;
    const opening = async (): Promise<OpenedDevice> => {
      const identity = await this.requireUnshared(path, volume);
      requireSame(volume, identity, known);
      volume.identity = identity; // taken from here on
      return this.#ports.openDevice(path);
    };
    const undo = (late: OpenedDevice) => late.device.close();
    try {
      const opened = await this.#steps.run({ path, action: "open", run: opening, undo });
      await this.#attach(volume, spec, opened);
    } catch (error) {
      volume.identity = known;
      throw error;
    }
  }

  async #attach(volume: Volume, spec: VolumeSpec, opened: OpenedDevice): Promise<void> {
    try {
      if (this.#closed)
        throw new TidemarkError("STOPPING", { message: "the box is stopping", hint: "try again when it runs again" });
      if (opened.device.sizeBytes < spec.sizeBytes)
        throw new TidemarkError("VOLUME_SHRUNK", {
          message: `${spec.path} has ${opened.device.sizeBytes} bytes; volume ${spec.name} was ${spec.sizeBytes} bytes`,
          hint: `restore the file or device to its size, then: tidemark volume reopen ${spec.name}`,
          metadata: { path: spec.path },
        });
      await this.onReturn(volume, opened.device);
    } catch (error) {
      await this.#steps.run({ path: spec.path, action: "close", run: () => opened.device.close() });
      throw error;
    }
    // A backing that has grown is used up to the registered size until the volume is resized.
    volume.attachDevice(opened.device, opened.identity);
  }

  /** What a clean stop noted of the volumes that have not been opened since. */
  expectedStamps(): Map<string, string> {
    const stamps = new Map<string, string>();
    for (const { volume } of this.#entries.values())
      if (volume.expectedStamp !== undefined) stamps.set(volume.uid, volume.expectedStamp);
    return stamps;
  }

  /** What a path would be as a volume. As `openDevice`, and PATH_REGISTERED. */
  inspect(path: string): Promise<VolumeFacts> {
    const inspecting = async () => {
      await this.requireUnshared(path);
      return inspectVolumePath(path, this.#ports.clock);
    };
    return this.#steps.run({ path, action: "look at", run: inspecting });
  }

  /** A sparse file, durably. One that is there too late is removed again. */
  createFile(path: string, sizeBytes: number): Promise<void> {
    const undo = () => removeVolumeFile(path);
    return this.#steps.run({ path, action: "create", run: () => createVolumeFile(path, sizeBytes), undo });
  }

  removeFile(path: string): Promise<void> {
    return this.#steps.run({ path, action: "remove", run: () => removeVolumeFile(path) });
  }

  /** What the path lives on. PATH_REGISTERED when that is another volume's, under whatever name. */
  async requireUnshared(path: string, except?: Volume): Promise<readonly string[]> {
    const identity = await this.#ports.identityOf(path);
    for (const other of [...[...this.#entries.values()].map((entry) => entry.volume), ...this.#adding]) {
      if (other === except || !other.identity.some((key) => identity.includes(key))) continue;
      throw new TidemarkError("PATH_REGISTERED", {
        message: `${path} is, or shares bytes with, volume ${other.name} (${other.path})`,
        hint: `use volume ${other.name}`,
        metadata: { volume: other.name },
      });
    }
    return identity;
  }

  /**
   * Keeps everybody else from the volume until `release`; `remove` and `resize` let go of it themselves. One step, taken where
   * sessions cannot change. VOLUME_NOT_FOUND, VOLUME_BUSY, OUT_OF_SERVICE.
   */
  reserve(uid: string, task: VolumeTask): Volume {
    const entry = this.#entry(uid);
    if (entry.task !== undefined) throw taskUnderWay(entry.volume, entry.task);
    entry.volume.requireInService();
    if (task !== "opened again") requireIdle(entry.volume, task);
    entry.task = task;
    return entry.volume;
  }

  /** Lets go of a reserved volume. */
  release(uid: string): void {
    const entry = this.#entries.get(uid);
    if (entry) entry.task = undefined;
  }

  /** DEVICE_TIMEOUT leaves it unavailable; removing it can be tried again. */
  async remove(uid: string): Promise<void> {
    const entry = this.#entry(uid);
    const { volume } = entry;
    const removing = async () => {
      const { tracking } = entry;
      // First: nobody tracks with files that are half gone, should it fail.
      entry.tracking = undefined;
      volume.activity = undefined;
      // Also what an earlier removal, that was cut off, has left.
      await (tracking?.remove() ?? removeVolumeDirectory(this.#ports.files, uid));
      await volume.device?.close();
    };
    try {
      await this.#steps.run({ path: volume.path, action: "close", run: removing });
      this.#entries.delete(uid);
      volume.chain.dispose();
    } catch (error) {
      if (asTidemarkError(error).code === "DEVICE_TIMEOUT") volume.setFailure(toErrorRecord(error));
      throw error;
    } finally {
      entry.task = undefined;
    }
  }

  /**
   * `sizeBytes` 0 opens it again with the size that its backing has, also when it is unavailable. DEVICE_TIMEOUT leaves it
   * unavailable, with the old or the new size.
   */
  async resize(uid: string, sizeBytes: number): Promise<VolumeFacts> {
    const entry = this.#entry(uid);
    const { volume, spec } = entry;
    try {
      requireSize(sizeBytes);
      if (sizeBytes === 0) {
        await entry.tracking?.checkpoint("running"); // as in #resizeDevice
        await this.#reopen(volume, { ...spec, sizeBytes: 0 });
      } else await this.#resizeDevice(entry, sizeBytes);
      volume.chain.resize(volume.granuleCount);
      entry.spec = { ...spec, sizeBytes: volume.sizeBytes };
      return factsOf(volume, volume.requireDevice());
    } finally {
      entry.task = undefined;
    }
  }

  async #resizeDevice(entry: Entry, sizeBytes: number): Promise<void> {
    const { volume, spec } = entry;
    const device = volume.requireDevice();
    // Maps of the old size, of epochs that nobody holds any more, would be taken for those of another volume.
    await entry.tracking?.checkpoint("running");
    try {
      await this.#steps.run({ path: spec.path, action: "resize", run: () => device.resize(sizeBytes) });
    } catch (error) {
      if (asTidemarkError(error).code === "DEVICE_TIMEOUT") {
        volume.fail(error);
        entry.spec = { ...spec, sizeBytes: Math.min(spec.sizeBytes, sizeBytes) };
      }
      throw error;
    }
  }

  /**
   * Opens a volume again that has failed or could not be opened; nothing uses its device. It must be the same file or device,
   * and at least as large. As `add`.
   */
  async reopen(uid: string): Promise<void> {
    const { volume, spec } = this.#entry(uid);
    await this.#reopen(volume, spec);
  }

  async #reopen(volume: Volume, spec: VolumeSpec): Promise<void> {
    const { device } = volume;
    // A descriptor that was closed with an error is closed all the same.
    const closing = async () => device?.close().catch(() => undefined);
    try {
      await this.#steps.run({ path: spec.path, action: "close", run: closing });
      await this.#open(volume, spec);
    } catch (error) {
      volume.setFailure(toErrorRecord(error));
      throw error;
    }
  }

  /** VOLUME_UNAVAILABLE. */
  facts(uid: string): VolumeFacts {
    const { volume } = this.#entry(uid);
    return factsOf(volume, volume.requireDevice());
  }

  status(uid: string): VolumeStatus {
    const { volume } = this.#entry(uid);
    return {
      uid,
      online: volume.online,
      failure: volume.failure,
      facts: volume.device && factsOf(volume, volume.device),
      epochs: volume.chain.epochs.map((epoch, index, all) => ({
        id: epoch.id,
        beginMs: epoch.beginMs,
        changedGranules: epoch.map.count,
        open: index === all.length - 1,
        heldBy: volume.chain.holdersOf(epoch.id),
      })),
      counters: { ...volume.counters },
    };
  }

  statuses(): VolumeStatus[] {
    return [...this.#entries.keys()].map((uid) => this.status(uid));
  }

  // --- tracking ------------------------------------------------------------------------------------------------------

  /** Attaches the tracking files found at start. */
  adoptTracking(uid: string, tracking: VolumeTracking): void {
    const entry = this.#entry(uid);
    entry.tracking = tracking;
    entry.volume.activity = tracking.activity;
  }

  /** Undefined while the volume has no tracking files. */
  trackingOf(uid: string): VolumeTracking | undefined {
    return this.#entries.get(uid)?.tracking;
  }

  /** Files that tracking needs exist, durably, when it resolves. */
  async prepareTracking(volume: Volume): Promise<void> {
    const entry = this.#entry(volume.uid);
    if (entry.tracking) return;
    const tracking = await VolumeTracking.create(this.#ports, volume);
    entry.tracking = tracking;
    volume.activity = tracking.activity;
  }

  seal(volume: Volume, nowMs: number): VolumeSeal {
    const { tracking } = this.#entry(volume.uid);
    if (!tracking)
      throw new TidemarkError("INTERNAL", { message: `volume ${volume.name} is not prepared for tracking` });
    return tracking.seal(nowMs);
  }

  noteMarks(volume: Volume): void {
    this.#entries.get(volume.uid)?.tracking?.noteMarks();
  }

  /** What the points of these volumes put into memory only is durable in their own files when it resolves. */
  async settle(volumes: readonly Volume[]): Promise<void> {
    for (const volume of new Set(volumes)) await this.#entries.get(volume.uid)?.tracking?.settle();
  }

  /** Every epoch of the volume says "everything", durably. */
  async loseEpochs(volume: Volume): Promise<void> {
    await this.#entry(volume.uid).tracking?.loseEpochs();
  }

  /** Those that are not being removed. */
  all(): Volume[] {
    return [...this.#entries.values()].filter(({ task }) => task !== "removed").map(({ volume }) => volume);
  }

  /** What hosts wrote is durable, and the volume's own files say exactly what changed: nothing is hot any more. */
  async makeDurable(volume: Volume): Promise<void> {
    if (volume.online) await volume.flush();
    await this.#entry(volume.uid).tracking?.checkpoint("clean");
  }

  /** No volume can be used any more. */
  retire(): void {
    this.#closed = true;
    const failure = toErrorRecord(
      new TidemarkError("STOPPING", { message: "the box is stopping", hint: "try again when it runs again" }),
    );
    for (const { volume } of this.#entries.values()) volume.retire(failure);
  }

  /**
   * Closes all devices that nothing uses any more, after `retire`; gives back the stamps of those that can be relied on.
   * DEVICE_TIMEOUT for those that do not close in time is added to the report.
   */
  async close(report: StopReport): Promise<Map<string, string>> {
    const stamps = new Map<string, string>();
    await Promise.all(
      [...this.#entries.values()].map(async (entry) => {
        const { volume } = entry;
        if (report.inUse.has(volume) || entry.task === "removed") return;
        const closing = closeEntry(entry, stamps, report);
        closing.catch((error: unknown) => report.add(error));
        if ((await endedWithin(this.#ports.clock, STOP_CLOSE_MS, [closing])) === "late") report.addLate(volume);
      }),
    );
    this.#entries.clear();
    return stamps;
  }
}

async function closeEntry({ volume, tracking }: Entry, stamps: Map<string, string>, report: StopReport): Promise<void> {
  const used = volume.entering.length + volume.leaving.length > 0;
  if (volume.expectedStamp !== undefined) stamps.set(volume.uid, volume.expectedStamp);
  else if (used && volume.stoppedOnline && volume.device) stamps.set(volume.uid, await volume.device.stamp());
  await tracking?.close();
  if (tracking) report.addLog(tracking.logEnd);
  await volume.device?.close();
  volume.chain.dispose();
}

/** Also of a device that has failed: what it is does not change. */
function factsOf(volume: Volume, device: BlockDevice): VolumeFacts {
  return {
    uid: volume.uid,
    path: volume.path,
    backing: device.kind === "block" ? "block" : "file",
    sizeBytes: device.sizeBytes,
    readOnly: device.readOnly,
    cloneRange: device.capabilities.cloneDomain !== undefined,
  };
}

/** A volume that comes back has to be the one that went. */
function requireSame(volume: Volume, identity: readonly string[], known: readonly string[]): void {
  if (known.length === 0 || known.some((key) => identity.includes(key))) return;
  throw new TidemarkError("PATH_NOT_USABLE", {
    message: `${volume.path} is not the file or device any more that volume ${volume.name} was`,
    hint: "put that one back; if this one is meant, cancel the volume's copies, delete it and register it anew",
    metadata: { path: volume.path },
  });
}

function requireSize(sizeBytes: number): void {
  if (sizeBytes % SECTOR_SIZE_BYTES === 0 && sizeBytes >= 0 && sizeBytes <= VOLUME_SIZE_BYTES_MAX) return;
  throw new TidemarkError("SIZE_INVALID", {
    message: `${sizeBytes} bytes is not a size a volume can have`,
    hint: `give a multiple of ${SECTOR_SIZE_BYTES}, at most ${VOLUME_SIZE_BYTES_MAX}`,
    field: "size_bytes",
  });
}

function taskUnderWay(volume: Volume, task: VolumeTask): TidemarkError {
  return new TidemarkError("VOLUME_BUSY", {
    message: `volume ${volume.name} is being ${task}`,
    hint: "try again when that has ended",
  });
}

function requireIdle(volume: Volume, verb: string): void {
  const sessions = [...volume.entering, ...volume.leaving].map((session) => session.id);
  if (!volume.busy) return;
  const users = [...new Set(sessions), ...(volume.exportCount > 0 ? ["an export"] : [])].join(", ");
  throw new TidemarkError("VOLUME_BUSY", {
    message: `volume ${volume.name} cannot be ${verb}: it is used by ${users}`,
    hint: "cancel its copies (`tidemark copy cancel`) and remove its export (`tidemark export remove`) first",
  });
}
