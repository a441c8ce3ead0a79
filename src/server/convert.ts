/**
 * Conversions between the domain's plain values and the messages of tidemark.v1, and the checks of what comes in.
 *
 * Role: pure functions. What a message can say but a value cannot (a number beyond 2^53, an enumeration without a value)
 * is refused here with the field's name.
 */
import { TidemarkError } from "../base/errors.ts";
import type { ByteExtent } from "../base/ports.ts";
import type { BoxFacts } from "../domain/box.ts";
import type { CopyFailure, CopyKind, CopyPlan, CopyReason, SessionStatus } from "../domain/copies.ts";
import type { Finding } from "../domain/diagnose.ts";
import type { ExportView } from "../domain/exports.ts";
import type { EventRow } from "../domain/journal.ts";
import type { MetadataFinding } from "../domain/row-checks.ts";
import type { ScrubProgress } from "../domain/scrubs.ts";
import type { PartitionView, VolumeView } from "../domain/volumes.ts";
import type { Timestamp } from "../gen/google/protobuf/timestamp.ts";
import * as box from "../gen/tidemark/v1/box.ts";
import * as copy from "../gen/tidemark/v1/copy.ts";
import type { Extent } from "../gen/tidemark/v1/data.ts";
import type { Export } from "../gen/tidemark/v1/export.ts";
import * as volume from "../gen/tidemark/v1/volume.ts";

/** A uint64 that is exact in a double. INVALID_ARGUMENT. */
export function exactNumber(value: bigint, field: string): number {
  const number = Number(value);
  if (Number.isSafeInteger(number)) return number;
  throw new TidemarkError("INVALID_ARGUMENT", {
    message: `${field} is ${value}, which is beyond 2^53`,
    hint: "no volume is that large; check the number",
    field,
  });
}

export function toTimestamp(ms: number): Timestamp {
  const seconds = Math.floor(ms / 1000);
  return { seconds: BigInt(seconds), nanos: Math.round((ms - seconds * 1000) * 1_000_000) };
}

/** INVALID_ARGUMENT for an unset or unknown kind. */
export function copyKind(kind: number, field = "kind"): CopyKind {
  if (kind === copy.CopyKind.OPC) return "opc";
  if (kind === copy.CopyKind.QUICKOPC) return "quickopc";
  throw new TidemarkError("INVALID_ARGUMENT", {
    message: kind === 0 ? "no copy kind is given" : `there is no copy kind ${kind}`,
    hint: "use COPY_KIND_OPC or COPY_KIND_QUICKOPC",
    field,
  });
}

const PHASES = {
  copying: copy.CopyPhase.COPYING,
  tracking: copy.CopyPhase.TRACKING,
  failed: copy.CopyPhase.FAILED,
  completed: copy.CopyPhase.COMPLETED,
  cancelled: copy.CopyPhase.CANCELLED,
} as const satisfies Record<SessionStatus["phase"], number>;

const REASONS = {
  FIRST_COPY: copy.CopyReason.FIRST_COPY,
  DIFFERENCE: copy.CopyReason.DIFFERENCE,
  NOT_TRACKED: copy.CopyReason.NOT_TRACKED,
  KIND_CHANGED: copy.CopyReason.KIND_CHANGED,
  RESTORE_DIFFERENCE: copy.CopyReason.RESTORE_DIFFERENCE,
  AFTER_FAILURE: copy.CopyReason.AFTER_FAILURE,
  BASE_LOST: copy.CopyReason.BASE_LOST,
  MAP_WIDENED: copy.CopyReason.MAP_WIDENED,
} as const satisfies Record<CopyReason, number>;

const FAILURES = {
  BAD_SECTOR: copy.CopyFailure.BAD_SECTOR,
  OVERFLOW: copy.CopyFailure.OVERFLOW,
  OTHER: copy.CopyFailure.OTHER,
} as const satisfies Record<CopyFailure, number>;

const EXPLANATIONS = {
  FIRST_COPY: "there is no session for this pair, so everything is copied",
  DIFFERENCE: "the pair is tracked, so only what changed on either side since the last point is copied",
  NOT_TRACKED: "the earlier session did not track changes, so everything is copied",
  KIND_CHANGED: "the kind changes to OPC, which always copies everything",
  RESTORE_DIFFERENCE: "a tracked copy is copied back, so only what differs is copied",
  AFTER_FAILURE: "the earlier run failed, so everything is copied",
  BASE_LOST: "the volumes were changed behind the box or a change map was lost, so everything is copied",
  MAP_WIDENED: "after an unclean stop the difference and the regions being written then are copied",
} as const satisfies Record<CopyReason, string>;

/** Percentage rounded down; 100 only when `part` is all of `whole`. */
function percent(part: number, whole: number): number {
  if (whole === 0 || part >= whole) return 100;
  return Math.floor((part * 100) / whole); // in this order: 58 of 100 is 58, not 57.999
}

export function toCopy(session: SessionStatus): copy.Copy {
  return {
    id: session.id,
    source: session.source.name,
    destination: session.destination.name,
    kind: session.kind === "opc" ? copy.CopyKind.OPC : copy.CopyKind.QUICKOPC,
    phase: PHASES[session.phase],
    tracking: session.tracking,
    pace: session.pace,
    pointTime: toTimestamp(session.pointMs),
    endTime: session.endedMs === undefined ? undefined : toTimestamp(session.endedMs),
    reason: REASONS[session.reason],
    executePercent: percent(session.plannedGranules - session.pendingGranules, session.plannedGranules),
    updatePercent: session.totalGranules === 0 ? 0 : percent(session.changedGranules, session.totalGranules),
    plannedGranules: BigInt(session.plannedGranules),
    pendingGranules: BigInt(session.pendingGranules),
    changedGranules: BigInt(session.changedGranules),
    totalGranules: BigInt(session.totalGranules),
    bytesPlanned: BigInt(session.bytesPlanned),
    bytesCopied: BigInt(session.bytesCopied),
    bytesZeroed: BigInt(session.bytesZeroed),
    bytesCloned: BigInt(session.bytesCloned),
    failure: session.failure === undefined ? copy.CopyFailure.UNSPECIFIED : FAILURES[session.failure.cause],
    failureMessage: session.failure?.message ?? "",
    generation: BigInt(session.generation),
    sourceEpoch: BigInt(session.sourceEpoch),
    destinationEpoch: BigInt(session.destinationEpoch),
    barrierMicroseconds: BigInt(Math.round(session.barrierMicroseconds)),
    etaSeconds: BigInt(Math.round(session.etaSeconds)),
    createTime: toTimestamp(session.createdMs),
  };
}

export function toPlan(plan: CopyPlan): copy.ExplainCopyResponse {
  return {
    reason: REASONS[plan.reason],
    explanation: EXPLANATIONS[plan.reason],
    plannedGranules: BigInt(plan.plannedGranules),
    bytesPlanned: BigInt(plan.bytesPlanned),
    existingId: plan.existingId ?? "",
    pendingGranules: BigInt(plan.pendingGranules),
    sourceChangedGranules: BigInt(plan.sourceChangedGranules),
    destinationChangedGranules: BigInt(plan.destinationChangedGranules),
  };
}

export function toVolume({ name, row, status }: VolumeView): volume.Volume {
  const reason = status.failure?.detail.message ?? "the volume is not open";
  return {
    name,
    lu: row.lu,
    label: row.label,
    uid: row.uid,
    sizeBytes: BigInt(row.sizeBytes),
    path: row.path,
    backing: row.backing === "block" ? volume.VolumeBacking.BLOCK : volume.VolumeBacking.FILE,
    state: status.online ? volume.VolumeState.ONLINE : volume.VolumeState.UNAVAILABLE,
    stateReason: status.online ? "" : reason,
    readOnly: status.facts?.readOnly ?? false,
    createdByBox: row.createdByBox,
    createTime: toTimestamp(row.createdMs),
    epochs: status.epochs.map((epoch) => ({
      id: BigInt(epoch.id),
      beginTime: toTimestamp(epoch.beginMs),
      changedGranules: BigInt(epoch.changedGranules),
      open: epoch.open,
      heldBy: [...epoch.heldBy],
    })),
    counters: {
      readOperations: BigInt(status.counters.readOperations),
      readBytes: BigInt(status.counters.readBytes),
      writeOperations: BigInt(status.counters.writeOperations),
      writeBytes: BigInt(status.counters.writeBytes),
      failedOperations: BigInt(status.counters.failedOperations),
    },
    cloneRange: status.facts?.cloneRange ?? false,
  };
}

export function toPartition(partition: PartitionView): volume.Partition {
  return {
    ...partition,
    offsetBytes: BigInt(partition.offsetBytes),
    sizeBytes: BigInt(partition.sizeBytes),
  };
}

export function toExport({ row, label, uri, connections }: ExportView): Export {
  return {
    name: row.name,
    label,
    uri,
    readOnly: row.readOnly,
    connections,
    sizeBytes: BigInt(row.sizeBytes),
    createTime: toTimestamp(row.createdMs),
  };
}

export function toEvent(row: EventRow): box.Event {
  return {
    id: BigInt(row.id),
    time: toTimestamp(row.timeMs),
    type: row.type,
    subject: row.subject,
    message: row.message,
    attributes: { ...row.attributes },
  };
}

/** What only the process knows about itself. */
export interface ProcessFacts {
  readonly version: string;
  readonly addresses: readonly string[];
  readonly memoryBytes: number;
}

export function toBox(facts: BoxFacts, { version, addresses, memoryBytes }: ProcessFacts): box.Box {
  return {
    number: facts.number,
    uid: facts.uid,
    version,
    startTime: toTimestamp(facts.startedMs),
    addresses: [...addresses],
    nbdAddress: facts.nbdAddress,
    volumes: facts.volumes,
    exports: facts.exports,
    copying: facts.copies.copying,
    tracking: facts.copies.tracking,
    failed: facts.copies.failed,
    nbdConnections: facts.nbdConnections,
    memoryBytes: BigInt(memoryBytes),
    dataDirectory: facts.dataDirectory,
  };
}

const SEVERITIES = {
  info: box.FindingSeverity.INFO,
  warning: box.FindingSeverity.WARNING,
  error: box.FindingSeverity.ERROR,
} as const satisfies Record<Finding["severity"], number>;

export function toFinding(finding: Finding): box.Finding {
  return { ...finding, severity: SEVERITIES[finding.severity] };
}

const FINDING_KINDS = {
  damaged: box.MetadataFindingKind.DAMAGED,
  "torn-tail": box.MetadataFindingKind.TORN_TAIL,
  stale: box.MetadataFindingKind.STALE,
  missing: box.MetadataFindingKind.MISSING,
  foreign: box.MetadataFindingKind.FOREIGN,
  "left-over": box.MetadataFindingKind.LEFT_OVER,
  "set-aside": box.MetadataFindingKind.SET_ASIDE,
  unknown: box.MetadataFindingKind.UNKNOWN,
  unreadable: box.MetadataFindingKind.UNREADABLE,
  "too-new": box.MetadataFindingKind.TOO_NEW,
} as const satisfies Record<MetadataFinding["kind"], number>;

export function toMetadataFinding(finding: MetadataFinding, repaired: "repaired" | "left"): box.MetadataFinding {
  const { path, subject, message, cost, remedy, offsetBytes, page } = finding;
  return {
    ...{ path, subject, message, cost, remedy, repaired: repaired === "repaired" },
    kind: FINDING_KINDS[finding.kind],
    severity: SEVERITIES[finding.severity],
    offsetBytes: offsetBytes === undefined ? undefined : BigInt(offsetBytes),
    page: page === undefined ? undefined : BigInt(page),
  };
}

export function toScrubResponse({ found, files, bytes, done, total }: ScrubProgress): box.ScrubResponse {
  return {
    finding: found && toMetadataFinding(found.finding, found.state),
    ...{ files: BigInt(files), bytes: BigInt(bytes), done, total },
  };
}

export function toExtents(extents: readonly ByteExtent[]): Extent[] {
  return extents.map(({ offsetBytes, lengthBytes }) => ({
    offsetBytes: BigInt(offsetBytes),
    lengthBytes: BigInt(lengthBytes),
  }));
}
