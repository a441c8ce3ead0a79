/**
 * The engine: every volume and session of a box, and the NBD door.
 *
 * Role: puts the parts together and answers EngineApi. Single-threaded owner of all order: in production it runs in its own
 * worker thread, in tests in the same thread.
 * Imports: base, core-wasm. No policy.
 */
import { systemClock } from "../base/clock.ts";
import { TidemarkError } from "../base/errors.ts";
import {
  ACTIVITY_LOG_CHECKPOINT_BYTES,
  ACTIVITY_SLOTS,
  COPIER_WORKERS,
  DEVICE_STEP_TIMEOUT_MS,
  PACE_MAX,
  PACE_MIN,
  POINT_MAPS_BYTES_MAX,
  RPC_CHUNK_BYTES,
  STOP_CLIENTS_CUT_MS,
  STOP_CLIENTS_MS,
  STOP_COPIERS_MS,
} from "../base/limits.ts";
import type { AllocationExtent, ByteExtent, Clock } from "../base/ports.ts";
import { Scrubber } from "./check/scrubber.ts";
import { identityOf } from "./device/identity.ts";
import { createMover } from "./device/mover.ts";
import { openDevice } from "./device/open-device.ts";
import { readPartitions } from "./device/partition-table.ts";
import { FailStop } from "./durable/fail-stop.ts";
import { systemStateFiles } from "./durable/system-state-files.ts";
import type {
  CopyPlan,
  EndedSession,
  EngineApi,
  EngineConfig,
  EngineEvent,
  EngineFound,
  ExportSpec,
  ExportStatus,
  ExtentRef,
  PartitionFacts,
  ScrubResult,
  ScrubTarget,
  SessionStatus,
  StartRequest,
  VolumeFacts,
  VolumeSpec,
  VolumeStatus,
} from "./engine-api.ts";
import { storeCleanStop } from "./foreign-writes.ts";
import { Exports } from "./io/exports.ts";
import { VolumeTarget } from "./io/volume-target.ts";
import { loadCore } from "./map/core.ts";
import type { IoTarget } from "./nbd/io-target.ts";
import { NbdServer } from "./nbd/server.ts";
import type { EnginePorts, OpenedDevice } from "./ports.ts";
import { recover } from "./recovery.ts";
import type { SessionSet } from "./session/session-set.ts";
import { endedWithin, within } from "./sync/deadline.ts";
import type { Volume } from "./volume/volume.ts";
import { removeVolumeFile } from "./volume/volume-file.ts";
import { VolumeSet } from "./volume/volume-set.ts";

/** What tests and the simulator may replace. */
export interface EngineOptions {
  readonly clock?: Clock;
  /** Replaces ports that production builds itself. */
  readonly ports?: (config: EngineConfig) => Promise<Partial<EnginePorts>>;
  /**
   * Ends the engine, whose state files can no longer be trusted; none of their operations settles any more. By default
   * the error is thrown where nothing catches it, which ends the thread.
   */
  readonly lose?: (error: TidemarkError) => void;
}

/** The parts that exist between `start` and `stop`. */
interface Running {
  readonly ports: EnginePorts;
  readonly volumes: VolumeSet;
  readonly sessions: SessionSet;
  readonly scrubber: Scrubber;
}

/** The engine in the caller's own thread. */
export interface LocalEngine extends EngineApi {
  /** What the NBD door gets: the same bytes, with zeroing and trimming. */
  target(extent: ExtentRef, access: "read-only" | "writable"): IoTarget;
}

export async function createEngine(options: EngineOptions = {}): Promise<LocalEngine> {
  return new Engine(options);
}

class Engine implements LocalEngine {
  readonly #options: EngineOptions;
  readonly #clock: Clock;
  readonly #exports = new Exports();
  readonly #nbd: NbdServer;
  readonly #failStop: FailStop;
  #running: Running | undefined;
  #listener: (event: EngineEvent) => void = () => undefined;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#failStop = new FailStop(options.lose ?? throwUncaught);
    this.#nbd = new NbdServer({
      exports: this.#exports,
      clock: this.#clock,
      onConnect: (exportName, peer) => this.#listener({ type: "nbd.connected", exportName, peer }),
      onDisconnect: (exportName, peer) => this.#listener({ type: "nbd.disconnected", exportName, peer }),
    });
  }

  onEvent(listener: (event: EngineEvent) => void): void {
    this.#listener = listener;
  }

  async start(config: EngineConfig): Promise<EngineFound> {
    if (this.#running) throw new TidemarkError("INTERNAL", { message: "the engine is started twice" });
    const emit = (event: EngineEvent) => this.#listener(event);
    const given = (await this.#options.ports?.(config)) ?? {};
    const system = systemStateFiles(config.stateDirectory);
    system.setReadMode("inline");
    const ports: EnginePorts = {
      clock: this.#clock,
      core: given.core ?? (await loadCore()),
      mover: given.mover ?? createMover({ workers: COPIER_WORKERS }),
      files: this.#failStop.guard(given.files ?? system),
      pointMapsBytesMax: given.pointMapsBytesMax ?? POINT_MAPS_BYTES_MAX,
      activity: given.activity ?? { slots: ACTIVITY_SLOTS, checkpointBytes: ACTIVITY_LOG_CHECKPOINT_BYTES },
      openDevice: given.openDevice ?? ((path) => openVolumeDevice(path, this.#clock)),
      identityOf: given.identityOf ?? identityOf,
    };
    const volumes = new VolumeSet({ ports, emit });
    const recovery = { ports, volumes, emit, specs: config.volumes, hints: config.sessions ?? [] };
    const { sessions, outOfService } = await recover(recovery).catch(async (error: unknown) => {
      await ports.mover.close();
      throw error;
    });
    system.setReadMode("threads");
    this.#failStop.arm();
    this.#running = { ports, volumes, sessions, scrubber: new Scrubber({ ports, volumes, sessions }) };
    const ended = sessions.ended.list();
    const found = { volumes: volumes.statuses(), sessions: sessions.statuses(), ended, outOfService };
    sessions.resume();
    return found;
  }

  async stop(): Promise<void> {
    const running = this.#running;
    if (!running) return;
    this.#running = undefined;
    const { ports, volumes, sessions, scrubber } = running;
    await endedWithin(this.#clock, STOP_CLIENTS_MS + STOP_CLIENTS_CUT_MS, [
      this.#nbd.close({ graceMs: STOP_CLIENTS_MS }),
      scrubber.stop(),
    ]);
    const report = await sessions.stop();
    const stamps = await volumes.close(report);
    // Last, and only when everything before it is durable.
    if (report.failures.length === 0)
      await storeCleanStop(ports.files, stamps, report.logEnds).catch((error) => report.add(error));
    await endedWithin(this.#clock, STOP_COPIERS_MS, [ports.mover.close()]);
    this.#failStop.end();
    if (report.error) throw report.error;
  }

  #parts(): Running {
    if (this.#running) return this.#running;
    throw new TidemarkError("STOPPING", {
      message: "the engine is not running",
      hint: "try again when the daemon is up",
    });
  }

  // --- volumes -------------------------------------------------------------------------------------------------------

  async inspectPath(path: string): Promise<VolumeFacts> {
    return this.#parts().volumes.inspect(path);
  }

  async createFile(path: string, sizeBytes: number): Promise<void> {
    return this.#parts().volumes.createFile(path, sizeBytes);
  }

  /** Also before the start: leftovers are removed then. */
  async removeFile(path: string): Promise<void> {
    return this.#running ? this.#running.volumes.removeFile(path) : removeVolumeFile(path);
  }

  async addVolume(spec: VolumeSpec): Promise<VolumeFacts> {
    return this.#parts().volumes.add(spec);
  }

  async takeBackVolume(spec: VolumeSpec): Promise<VolumeStatus> {
    const { volumes } = this.#parts();
    await volumes.takeBack(spec);
    return volumes.status(spec.uid);
  }

  async removeVolume(uid: string): Promise<void> {
    const { volumes, sessions } = this.#parts();
    await sessions.exclusively(async () => volumes.reserve(uid, "removed"));
    await volumes.remove(uid);
  }

  async resizeVolume(uid: string, sizeBytes: number): Promise<VolumeFacts> {
    const { volumes, sessions } = this.#parts();
    await sessions.exclusively(async () => volumes.reserve(uid, "resized"));
    return volumes.resize(uid, sizeBytes);
  }

  async reopenVolume(uid: string): Promise<VolumeFacts> {
    return this.#parts().sessions.reopenVolume(uid);
  }

  async volumeStatus(uid: string): Promise<VolumeStatus> {
    return this.#parts().volumes.status(uid);
  }

  async partitions(uid: string): Promise<PartitionFacts[]> {
    const volume = this.#parts().volumes.require(uid);
    return within(this.#clock, DEVICE_STEP_TIMEOUT_MS, partitionsOf(volume), () => {
      return new TidemarkError("DEVICE_TIMEOUT", {
        message: `the partition table of volume ${volume.name} cannot be read: ${volume.path} does not answer`,
        hint: "look after the device and the kernel log (dmesg), then try again",
        metadata: { volume: volume.name, path: volume.path },
      });
    });
  }

  // --- sessions ------------------------------------------------------------------------------------------------------

  async startSessions(requests: readonly StartRequest[]): Promise<SessionStatus[]> {
    for (const request of requests) requirePace(request.pace);
    return this.#parts().sessions.start(requests);
  }

  async restartSessions(ids: readonly string[]): Promise<SessionStatus[]> {
    return this.#parts().sessions.restart(ids);
  }

  async cancelSession(id: string): Promise<EndedSession> {
    return this.#parts().sessions.cancel(id);
  }

  async stopTracking(id: string): Promise<SessionStatus> {
    return this.#parts().sessions.stopTracking(id);
  }

  async setPace(id: string, pace: number): Promise<SessionStatus> {
    requirePace(pace);
    return this.#parts().sessions.setPace(id, pace);
  }

  async sessionStatus(id: string): Promise<SessionStatus> {
    return this.#parts().sessions.require(id).status();
  }

  async sessions(): Promise<SessionStatus[]> {
    return this.#parts().sessions.statuses();
  }

  async forgetSession(id: string): Promise<void> {
    const { sessions } = this.#parts();
    await sessions.exclusively(() => sessions.ended.forget(id));
  }

  async explain(request: Omit<StartRequest, "id" | "pace">): Promise<CopyPlan> {
    return this.#parts().sessions.explain(request);
  }

  async scrubTargets(uid: string | undefined): Promise<ScrubTarget[]> {
    return this.#parts().scrubber.targets(uid);
  }

  async scrub(target: ScrubTarget): Promise<ScrubResult> {
    return this.#parts().scrubber.scrub(target);
  }

  // --- data ----------------------------------------------------------------------------------------------------------

  async read(extent: ExtentRef, offsetBytes: number, lengthBytes: number, into?: Uint8Array): Promise<Uint8Array> {
    const target = this.target(extent, "read-only");
    requireRange(extent, offsetBytes, lengthBytes);
    requireChunk(lengthBytes);
    const bytes = into?.length === lengthBytes ? into : new Uint8Array(lengthBytes);
    if (lengthBytes > 0 && !target.tryRead(offsetBytes, bytes)) await target.read(offsetBytes, bytes);
    return bytes;
  }

  async write(extent: ExtentRef, offsetBytes: number, data: Uint8Array): Promise<void> {
    const target = this.target(extent, "writable");
    requireRange(extent, offsetBytes, data.length);
    requireChunk(data.length);
    if (data.length > 0 && !target.tryWrite(offsetBytes, data)) await target.write(offsetBytes, data);
  }

  async flush(volumeUid: string): Promise<void> {
    await this.#parts().volumes.require(volumeUid).flush();
  }

  async changedExtents(
    extent: ExtentRef,
    range: { sinceEpoch: number; untilEpoch: number; offsetBytes: number; lengthBytes: number; extentsMax: number },
  ): Promise<ByteExtent[]> {
    const target = this.target(extent, "read-only");
    requireRange(extent, range.offsetBytes, range.lengthBytes);
    const { sinceEpoch, untilEpoch, offsetBytes, lengthBytes, extentsMax } = range;
    return target.changedBetween(sinceEpoch, untilEpoch, offsetBytes, lengthBytes, extentsMax);
  }

  async allocatedExtents(
    extent: ExtentRef,
    range: { offsetBytes: number; lengthBytes: number; extentsMax: number },
  ): Promise<AllocationExtent[]> {
    const target = this.target(extent, "read-only");
    requireRange(extent, range.offsetBytes, range.lengthBytes);
    if (range.lengthBytes === 0) return [];
    return target.allocation(range.offsetBytes, range.lengthBytes, range.extentsMax);
  }

  target(extent: ExtentRef, access: "read-only" | "writable"): VolumeTarget {
    return new VolumeTarget(this.#parts().volumes.require(extent.volumeUid), extent, access);
  }

  // --- exports -------------------------------------------------------------------------------------------------------

  listenNbd(address: string): Promise<string> {
    return this.#nbd.listen(address);
  }

  async addExport(spec: ExportSpec): Promise<void> {
    this.#exports.add(spec, this.#parts().volumes.require(spec.extent.volumeUid));
  }

  async removeExport(name: string, options: { force: boolean }): Promise<void> {
    this.#exports.require(name);
    const connections = this.#nbd.connections(name);
    if (connections > 0 && !options.force)
      throw new TidemarkError("EXPORT_BUSY", {
        message: `${connections} client${connections === 1 ? " is" : "s are"} connected to export ${name}`,
        hint: "disconnect the clients, or remove the export with --force",
      });
    this.#exports.remove(name);
    // The clients are hung up on; what a stalled device still owes them is not waited for.
    await endedWithin(this.#clock, DEVICE_STEP_TIMEOUT_MS, [this.#nbd.disconnect(name)]);
  }

  async exportStatus(): Promise<ExportStatus[]> {
    return this.#exports.names().map((name) => ({ name, connections: this.#nbd.connections(name) }));
  }
}

function throwUncaught(error: TidemarkError): void {
  queueMicrotask(() => {
    throw error;
  });
}

async function openVolumeDevice(path: string, clock: Clock): Promise<OpenedDevice> {
  const device = await openDevice(path, { clock });
  return { device, identity: await identityOf(path) };
}

async function partitionsOf(volume: Volume): Promise<PartitionFacts[]> {
  const device = volume.requireDevice();
  // The table may lie in granules that a copy still owes.
  await volume.cache(0, Math.min(device.sizeBytes, RPC_CHUNK_BYTES));
  return readPartitions(device);
}

function requirePace(pace: number): void {
  if (Number.isInteger(pace) && pace >= PACE_MIN && pace <= PACE_MAX) return;
  throw new TidemarkError("INVALID_ARGUMENT", {
    message: `pace ${pace} is not between ${PACE_MIN} and ${PACE_MAX}`,
    hint: `give a pace from ${PACE_MIN} (gentle) to ${PACE_MAX} (as fast as it goes)`,
    field: "pace",
  });
}

function requireChunk(lengthBytes: number): void {
  if (lengthBytes <= RPC_CHUNK_BYTES) return;
  throw new TidemarkError("LIMIT_EXCEEDED", {
    message: `a piece of ${lengthBytes} bytes is larger than ${RPC_CHUNK_BYTES}`,
    hint: "send smaller pieces",
  });
}

function requireRange(extent: ExtentRef, offsetBytes: number, lengthBytes: number): void {
  if (offsetBytes >= 0 && lengthBytes >= 0 && offsetBytes + lengthBytes <= extent.lengthBytes) return;
  throw new TidemarkError("RANGE_INVALID", {
    message: `bytes ${offsetBytes} to ${offsetBytes + lengthBytes} lie outside ${extent.name} (${extent.lengthBytes} bytes)`,
    hint: "look at the size with `tidemark volume get`",
  });
}
