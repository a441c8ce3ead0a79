/**
 * What the engine offers to the domain: plain messages, so that the engine can run in a worker thread (production),
 * in the same thread (tests) or on virtual devices (simulator).
 *
 * Role: types only. Every method names its volume or session, so that several engines can share the work later.
 * Every method throws TidemarkError.
 */
import type { ErrorRecord } from "../base/errors.ts";
import type { AllocationExtent, ByteExtent } from "../base/ports.ts";

export type CopyKind = "opc" | "quickopc";
export type CopyPhase = "copying" | "tracking" | "failed";
export type EndedPhase = "completed" | "cancelled";
export type CopyReason =
  | "FIRST_COPY"
  | "DIFFERENCE"
  | "NOT_TRACKED"
  | "KIND_CHANGED"
  | "RESTORE_DIFFERENCE"
  | "AFTER_FAILURE"
  | "BASE_LOST"
  | "MAP_WIDENED";
export type CopyFailure = "BAD_SECTOR" | "OVERFLOW" | "OTHER";

export interface EngineConfig {
  /** Directory that holds `volumes/`, `sessions/` and the points log; it exists and is locked by the caller. */
  readonly stateDirectory: string;
  readonly volumes: readonly VolumeSpec[];
  /** Copies that the domain knows: asked only for those whose files must not be opened. */
  readonly sessions?: readonly SessionHint[];
}

/** What a session has to do with. */
export interface SessionHint {
  readonly id: string;
  readonly volumeUids: readonly string[];
}

/** A volume as the domain knows it. `uid` is the key everywhere in the engine. */
export interface VolumeSpec {
  readonly uid: string;
  /** Canonical name `g1d2`, for messages only. */
  readonly name: string;
  readonly path: string;
  /** Size recorded at registration or the last resize; a smaller backing gives VOLUME_SHRUNK. */
  readonly sizeBytes: number;
}

export interface VolumeFacts {
  readonly uid: string;
  readonly path: string;
  readonly backing: "file" | "block";
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly cloneRange: boolean;
}

export interface EpochFacts {
  readonly id: number;
  readonly beginMs: number;
  readonly changedGranules: number;
  readonly open: boolean;
  readonly heldBy: readonly string[];
}

export interface VolumeStatus {
  readonly uid: string;
  readonly online: boolean;
  /** Why it is not online. */
  readonly failure: ErrorRecord | undefined;
  readonly facts: VolumeFacts | undefined;
  readonly epochs: readonly EpochFacts[];
  readonly counters: {
    readonly readOperations: number;
    readonly readBytes: number;
    readonly writeOperations: number;
    readonly writeBytes: number;
    readonly failedOperations: number;
  };
}

export interface PartitionFacts {
  readonly number: number;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  readonly type: string;
  readonly label: string;
}

/** A volume or a partition of it. */
export interface ExtentRef {
  readonly volumeUid: string;
  /** Canonical name, for messages. */
  readonly name: string;
  readonly offsetBytes: number;
  readonly lengthBytes: number;
}

export interface StartRequest {
  /** Id of the session if a new one is made: `c12`. Given by the domain, never reused. */
  readonly id: string;
  readonly source: ExtentRef;
  readonly destination: ExtentRef;
  readonly kind: CopyKind;
  /** 1..15 */
  readonly pace: number;
}

export interface SessionStatus {
  readonly id: string;
  readonly source: ExtentRef;
  readonly destination: ExtentRef;
  readonly kind: CopyKind;
  readonly phase: CopyPhase | EndedPhase;
  readonly tracking: boolean;
  readonly pace: number;
  readonly createdMs: number;
  readonly pointMs: number;
  readonly endedMs: number | undefined;
  readonly reason: CopyReason;
  readonly generation: number;
  readonly plannedGranules: number;
  readonly pendingGranules: number;
  readonly changedGranules: number;
  readonly totalGranules: number;
  readonly bytesPlanned: number;
  readonly bytesCopied: number;
  readonly bytesZeroed: number;
  readonly bytesCloned: number;
  readonly sourceEpoch: number;
  readonly destinationEpoch: number;
  readonly barrierMicroseconds: number;
  readonly etaSeconds: number;
  readonly failure: { readonly cause: CopyFailure; readonly message: string } | undefined;
}

/** A session that is over, kept until the domain has recorded it. */
export interface EndedSession {
  readonly session: SessionStatus;
  /** True when the destination holds a complete copy of the point. */
  readonly destinationUsable: boolean;
}

export interface CopyPlan {
  readonly reason: CopyReason;
  readonly existingId: string | undefined;
  readonly plannedGranules: number;
  readonly bytesPlanned: number;
  readonly pendingGranules: number;
  readonly sourceChangedGranules: number;
  readonly destinationChangedGranules: number;
}

export interface ExportSpec {
  /** Name under which NBD clients find it. */
  readonly name: string;
  /** Further names, such as the label. */
  readonly aliases: readonly string[];
  readonly extent: ExtentRef;
  readonly readOnly: boolean;
}

export interface ExportStatus {
  readonly name: string;
  readonly connections: number;
}

/** What is the matter with a file of the engine's own state. */
export type FindingKind =
  /** Its content is wrong, or the disk cannot read it. */
  | "damaged"
  /** Bytes at the end of a log that were never acknowledged as durable. */
  | "torn-tail"
  /** One slot of a superblock is damaged or older than it should be, and the other one counts; or files older than others. */
  | "stale"
  /** Named by something, and not there. */
  | "missing"
  /** Belongs to somebody else. */
  | "foreign"
  /** Of an operation that did not come to its end; nothing needs it. */
  | "left-over"
  /** A damaged file that was set aside for whoever wants to look at it. */
  | "set-aside"
  /** Nobody knows what it is, or whose. */
  | "unknown"
  /** Not to be looked at now: permission, descriptors. */
  | "unreadable"
  /** Written by a newer program. */
  | "too-new";

export interface MetadataFinding {
  readonly kind: FindingKind;
  /** `error`: it costs something. `warning`: the next start, or a repair, puts it right at no cost. `info`: good to know. */
  readonly severity: "error" | "warning" | "info";
  /** File or directory, relative to the state directory. */
  readonly path: string;
  readonly offsetBytes: number | undefined;
  /** Page of a map, slot of a superblock. */
  readonly page: number | undefined;
  /** Volume or copy concerned; empty for the box. */
  readonly subject: string;
  readonly message: string;
  /** What is lost by it at the next start; empty when nothing is. */
  readonly cost: string;
  /** What to do. */
  readonly remedy: string;
  /** A repair puts it right, as the next start would. */
  readonly repairable: boolean;
}

/** A part of the engine's state that is scrubbed in one go. */
export interface ScrubTarget {
  /** `points`: the box's own log. */
  readonly kind: "points" | "volume" | "session";
  /** Uid of the volume, id of the copy; empty for the box. */
  readonly id: string;
}

export interface ScrubResult {
  readonly files: number;
  readonly bytes: number;
  readonly findings: readonly { readonly finding: MetadataFinding; readonly repaired: boolean }[];
}

export type EngineEvent =
  | { readonly type: "session.changed"; readonly session: SessionStatus }
  | { readonly type: "session.ended"; readonly session: SessionStatus; readonly destinationUsable: boolean }
  | { readonly type: "volume.failed"; readonly uid: string; readonly failure: ErrorRecord }
  /** Something in the background did not work; nothing is lost, but somebody should look. */
  | { readonly type: "engine.trouble"; readonly message: string }
  | { readonly type: "nbd.connected" | "nbd.disconnected"; readonly exportName: string; readonly peer: string };

/** What the engine found when it started. */
export interface EngineFound {
  readonly volumes: VolumeStatus[];
  readonly sessions: SessionStatus[];
  /** Sessions that had ended in an earlier run and were not forgotten. */
  readonly ended: EndedSession[];
  readonly outOfService: OutOfServiceSession[];
}

/**
 * A session that this run leaves alone: a state file of it, or of something that sessions connect it with, must not be opened.
 * Its volumes are not online; their failure is OUT_OF_SERVICE, too.
 */
export interface OutOfServiceSession {
  readonly id: string;
  readonly failure: ErrorRecord;
  /** As its files say, as far as they could be read: not what is copied, and whether all of it is. */
  readonly session: SessionStatus | undefined;
}

export interface EngineApi {
  /**
   * Opens volumes (one that cannot be opened is left offline, with its reason), loads sessions, resumes copying. What has to do
   * with a state file that must not be opened is OUT_OF_SERVICE until the next start: commands on it are refused with that.
   */
  start(config: EngineConfig): Promise<EngineFound>;
  /** Drains, makes everything durable, closes everything. Idempotent. */
  stop(): Promise<void>;

  // What has to do with a device ends within DEVICE_STEP_TIMEOUT_MS, with DEVICE_TIMEOUT if it stalls.

  /** Looks at a path without keeping it open: size, kind, and whether it may be used. */
  inspectPath(path: string): Promise<VolumeFacts>;
  /** Creates a sparse file of this size; PATH_EXISTS, NO_SPACE. Durable when it returns. */
  createFile(path: string, sizeBytes: number): Promise<void>;
  removeFile(path: string): Promise<void>;
  /** Opens exclusively and keeps open. PATH_REGISTERED when the same inode or device is open under another uid. */
  addVolume(spec: VolumeSpec): Promise<VolumeFacts>;
  /** Takes back a volume whose removal did not come about; if it cannot be opened it is not online, with its reason. */
  takeBackVolume(spec: VolumeSpec): Promise<VolumeStatus>;
  /** VOLUME_BUSY while sessions or exports use it. */
  removeVolume(uid: string): Promise<void>;
  /**
   * Opens a volume again that is not online, as it was: the same file or device, at least as large (VOLUME_SHRUNK,
   * PATH_NOT_USABLE). Its copies go on. One that is online stays as it is.
   */
  reopenVolume(uid: string): Promise<VolumeFacts>;
  /**
   * `sizeBytes` 0 opens it again with the backing's present size, also when it is not online. VOLUME_BUSY, SIZE_INVALID.
   * After DEVICE_TIMEOUT the volume is not online, and its size may be the old one or the new.
   */
  resizeVolume(uid: string, sizeBytes: number): Promise<VolumeFacts>;
  volumeStatus(uid: string): Promise<VolumeStatus>;
  partitions(uid: string): Promise<PartitionFacts[]>;

  /** One point for all requests, all or none. */
  startSessions(requests: readonly StartRequest[]): Promise<SessionStatus[]>;
  /** One point for all sessions, all or none. */
  restartSessions(ids: readonly string[]): Promise<SessionStatus[]>;
  cancelSession(id: string): Promise<EndedSession>;
  stopTracking(id: string): Promise<SessionStatus>;
  setPace(id: string, pace: number): Promise<SessionStatus>;
  sessionStatus(id: string): Promise<SessionStatus>;
  sessions(): Promise<SessionStatus[]>;
  /** The end of this session is recorded: nothing of it needs to be kept any more. Idempotent. */
  forgetSession(id: string): Promise<void>;
  explain(request: Omit<StartRequest, "id" | "pace">): Promise<CopyPlan>;

  /** What there is to scrub: everything, or one volume with its sessions and the log of the box. VOLUME_NOT_FOUND. */
  scrubTargets(uid: string | undefined): Promise<ScrubTarget[]>;
  /**
   * Reads the files of a target again from the disk, at a low rate, and writes anew what is damaged there and whole in memory.
   * A target that is gone has no findings. STOPPING.
   */
  scrub(target: ScrubTarget): Promise<ScrubResult>;

  /** At most RPC_CHUNK_BYTES. `into`, if it has that length, is taken over and returned filled: streams reuse memory. */
  read(extent: ExtentRef, offsetBytes: number, lengthBytes: number, into?: Uint8Array): Promise<Uint8Array>;
  write(extent: ExtentRef, offsetBytes: number, data: Uint8Array): Promise<void>;
  flush(volumeUid: string): Promise<void>;
  /**
   * Runs changed in epochs `[sinceEpoch, untilEpoch)` (0 = now), in bytes relative to the extent, clipped to its length,
   * from `offsetBytes` on, at most `extentsMax`. EPOCH_NOT_FOUND. An empty answer means there is nothing more.
   */
  changedExtents(
    extent: ExtentRef,
    range: { sinceEpoch: number; untilEpoch: number; offsetBytes: number; lengthBytes: number; extentsMax: number },
  ): Promise<ByteExtent[]>;
  allocatedExtents(
    extent: ExtentRef,
    range: { offsetBytes: number; lengthBytes: number; extentsMax: number },
  ): Promise<AllocationExtent[]>;

  /** `unix:PATH` or `HOST:PORT` (port 0 picks one); returns the address in use, as an NBD URI without export name. */
  listenNbd(address: string): Promise<string>;
  addExport(spec: ExportSpec): Promise<void>;
  /** EXPORT_BUSY while clients are connected, unless forced. */
  removeExport(name: string, options: { force: boolean }): Promise<void>;
  exportStatus(): Promise<ExportStatus[]>;

  /** One listener; called in the order things happened. */
  onEvent(listener: (event: EngineEvent) => void): void;
}
