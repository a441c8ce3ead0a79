/** All volumes of the engine: opening, closing, tracking, status. */
import { TidemarkError, toErrorRecord } from "../../base/errors.ts";
import { VOLUME_SIZE_BYTES_MAX, VOLUMES_MAX } from "../../base/limits.ts";
import type { BlockDevice } from "../../base/ports.ts";
import { granuleCountOf, SECTOR_SIZE_BYTES } from "../../base/units.ts";
import type { EngineEvent, VolumeFacts, VolumeSpec, VolumeStatus } from "../engine-api.ts";
import type { EnginePorts } from "../ports.ts";
import type { VolumeSeal } from "../session/points-log.ts";
import { ChangeChain } from "./change-chain.ts";
import { Volume } from "./volume.ts";
import { VolumeTracking } from "./volume-tracking.ts";

interface Entry {
  readonly volume: Volume;
  readonly spec: VolumeSpec;
  tracking: VolumeTracking | undefined;
}

export class VolumeSet {
  readonly #ports: EnginePorts;
  readonly #emit: (event: EngineEvent) => void;
  readonly #entries = new Map<string, Entry>();

  constructor(options: { ports: EnginePorts; emit: (event: EngineEvent) => void }) {
    this.#ports = options.ports;
    this.#emit = options.emit;
  }

  require(uid: string): Volume {
    return this.#entry(uid).volume;
  }

  all(): Volume[] {
    return [...this.#entries.values()].map(({ volume }) => volume);
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

  /** At start: a volume that cannot be opened stays offline, with its reason; the others go on. */
  async openAtStart(spec: VolumeSpec): Promise<void> {
    const volume = this.#newVolume(spec);
    this.#entries.set(spec.uid, { volume, spec, tracking: undefined });
    try {
      await this.#open(volume, spec);
    } catch (error) {
      volume.setFailure(toErrorRecord(error));
    }
  }

  async add(spec: VolumeSpec): Promise<VolumeFacts> {
    if (this.#entries.size >= VOLUMES_MAX)
      throw new TidemarkError("LIMIT_EXCEEDED", {
        message: `there are ${VOLUMES_MAX} volumes already`,
        hint: "delete volumes that are not needed",
      });
    const volume = this.#newVolume(spec);
    await this.#open(volume, spec);
    this.#entries.set(spec.uid, { volume, spec, tracking: undefined });
    return factsOf(volume, volume.requireDevice());
  }

  #newVolume(spec: VolumeSpec): Volume {
    const chain = new ChangeChain(this.#ports.core, spec.name, granuleCountOf(spec.sizeBytes), 1);
    const onFailure = (failed: Volume, failure: VolumeStatus["failure"]) => {
      if (failure) this.#emit({ type: "volume.failed", uid: failed.uid, failure });
    };
    return new Volume({ uid: spec.uid, name: spec.name, path: spec.path, chain, onFailure });
  }

  async #open(volume: Volume, spec: VolumeSpec): Promise<void> {
    await this.requireUnshared(spec.path, volume);
    const opened = await this.#ports.openDevice(spec.path);
    try {
      if (opened.device.sizeBytes < spec.sizeBytes)
        throw new TidemarkError("VOLUME_SHRUNK", {
          message: `${spec.path} has ${opened.device.sizeBytes} bytes; volume ${spec.name} was ${spec.sizeBytes} bytes`,
          hint: "restore the file or device to its size, then restart the daemon",
          metadata: { path: spec.path },
        });
    } catch (error) {
      await opened.device.close();
      throw error;
    }
    // A backing that has grown is used up to the registered size until the volume is resized.
    volume.attachDevice(opened.device, opened.identity);
  }

  /** PATH_REGISTERED when the path leads to bytes of another volume, under whatever name. */
  async requireUnshared(path: string, except?: Volume): Promise<void> {
    const identity = await this.#ports.identityOf(path);
    for (const { volume: other } of this.#entries.values()) {
      if (other === except || !other.identity.some((key) => identity.includes(key))) continue;
      throw new TidemarkError("PATH_REGISTERED", {
        message: `${path} is, or shares bytes with, volume ${other.name} (${other.path})`,
        hint: `use volume ${other.name}`,
        metadata: { volume: other.name },
      });
    }
  }

  async remove(uid: string): Promise<void> {
    const { volume, tracking } = this.#entry(uid);
    requireIdle(volume, "removed");
    await tracking?.remove();
    this.#entries.delete(uid);
    volume.chain.dispose();
    await volume.device?.close();
  }

  async resize(uid: string, sizeBytes: number): Promise<VolumeFacts> {
    const { volume, spec } = this.#entry(uid);
    const device = volume.requireDevice();
    requireIdle(volume, "resized");
    if (sizeBytes !== 0 && (sizeBytes % SECTOR_SIZE_BYTES !== 0 || sizeBytes < 0 || sizeBytes > VOLUME_SIZE_BYTES_MAX))
      throw new TidemarkError("SIZE_INVALID", {
        message: `${sizeBytes} bytes is not a size a volume can have`,
        hint: `give a multiple of ${SECTOR_SIZE_BYTES}, at most ${VOLUME_SIZE_BYTES_MAX}`,
        field: "size_bytes",
      });
    if (sizeBytes !== 0) await device.resize(sizeBytes);
    else await this.#reopen(volume, spec);
    volume.chain.resize(volume.granuleCount);
    return factsOf(volume, volume.requireDevice());
  }

  /** Takes over the size that the backing has now. */
  async #reopen(volume: Volume, spec: VolumeSpec): Promise<void> {
    await volume.device?.close();
    try {
      await this.#open(volume, { ...spec, sizeBytes: 0 });
    } catch (error) {
      volume.setFailure(toErrorRecord(error));
      throw error;
    }
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

  async checkpointAll(): Promise<void> {
    for (const { tracking } of this.#entries.values()) await tracking?.checkpoint("clean");
  }

  /**
   * Syncs and closes all devices; gives back the stamps of those that can be relied on. The caller has seen to it that
   * nothing is under way.
   */
  async close(): Promise<Map<string, string>> {
    const stamps = new Map<string, string>();
    for (const { volume, tracking } of this.#entries.values()) {
      try {
        if (volume.online) {
          await volume.flush();
          const used = volume.entering.length + volume.leaving.length > 0;
          if (used) stamps.set(volume.uid, await volume.requireDevice().stamp());
        } else if (volume.expectedStamp !== undefined) stamps.set(volume.uid, volume.expectedStamp);
      } catch (error) {
        volume.setFailure(toErrorRecord(error));
      }
      await tracking?.close();
      await volume.device?.close();
      volume.chain.dispose();
    }
    this.#entries.clear();
    return stamps;
  }
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

function requireIdle(volume: Volume, verb: string): void {
  const sessions = [...volume.entering, ...volume.leaving].map((session) => session.id);
  if (!volume.busy) return;
  const users = [...new Set(sessions), ...(volume.exportCount > 0 ? ["an export"] : [])].join(", ");
  throw new TidemarkError("VOLUME_BUSY", {
    message: `volume ${volume.name} cannot be ${verb}: it is used by ${users}`,
    hint: "cancel its copies (`tidemark copy cancel`) and remove its export (`tidemark export remove`) first",
  });
}
