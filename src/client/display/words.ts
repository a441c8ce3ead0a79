/** Words for the enumerations of the contract, and the table columns of its resources. */
import {
  type Copy,
  CopyFailure,
  CopyKind,
  CopyPhase,
  CopyReason,
  type ExplainCopyResponse,
} from "../../gen/tidemark/v1/copy.ts";
import type { Column } from "./table.ts";
import { formatDuration, formatSize, formatSizeExact, formatTime } from "./units.ts";

const KIND_WORDS: Record<CopyKind, string> = {
  [CopyKind.UNSPECIFIED]: "",
  [CopyKind.OPC]: "opc",
  [CopyKind.QUICKOPC]: "quickopc",
};

const PHASE_WORDS: Record<CopyPhase, string> = {
  [CopyPhase.UNSPECIFIED]: "",
  [CopyPhase.COPYING]: "copying",
  [CopyPhase.TRACKING]: "tracking",
  [CopyPhase.FAILED]: "failed",
  [CopyPhase.COMPLETED]: "completed",
  [CopyPhase.CANCELLED]: "cancelled",
};

const REASON_WORDS: Record<CopyReason, string> = {
  [CopyReason.UNSPECIFIED]: "",
  [CopyReason.FIRST_COPY]: "first copy",
  [CopyReason.DIFFERENCE]: "difference since the last point",
  [CopyReason.NOT_TRACKED]: "the earlier session did not track changes",
  [CopyReason.KIND_CHANGED]: "the kind of the session changed",
  [CopyReason.RESTORE_DIFFERENCE]: "difference, copied back",
  [CopyReason.AFTER_FAILURE]: "the earlier run had failed",
  [CopyReason.BASE_LOST]: "the base of the difference was lost",
  [CopyReason.MAP_WIDENED]: "difference, widened after an unclean stop",
};

const FAILURE_WORDS: Record<CopyFailure, string> = {
  [CopyFailure.UNSPECIFIED]: "",
  [CopyFailure.BAD_SECTOR]: "bad sector",
  [CopyFailure.OVERFLOW]: "overflow",
  [CopyFailure.OTHER]: "other",
};

/** Copy functions as the command line spells them. */
export const COPY_KINDS: Readonly<Record<string, CopyKind>> = { opc: CopyKind.OPC, quickopc: CopyKind.QUICKOPC };

export function kindWord(kind: CopyKind): string {
  return KIND_WORDS[kind];
}

/** `copying`, `tracking`, `failed(bad sector)`, `tracking(out of service)`... */
export function phaseWord(copy: Copy): string {
  const failure = FAILURE_WORDS[copy.failure];
  const word = PHASE_WORDS[copy.phase];
  if (isOutOfService(copy)) return `${word}(out of service)`;
  return copy.phase === CopyPhase.FAILED && failure !== "" ? `${word}(${failure})` : word;
}

/** A state file of it must not be opened: how it stands is not known. */
function isOutOfService({ phase, failure }: Copy): boolean {
  return (phase === CopyPhase.COPYING || phase === CopyPhase.TRACKING) && failure !== CopyFailure.UNSPECIFIED;
}

export function reasonWord(reason: CopyReason): string {
  return REASON_WORDS[reason];
}

/** True while the copy itself is under way. */
export function isCopying(copy: Copy): boolean {
  return copy.phase === CopyPhase.COPYING;
}

/** True when the destination is complete: an OPC that ended, or a session that tracks. */
export function isComplete(copy: Copy): boolean {
  return copy.phase === CopyPhase.COMPLETED || copy.phase === CopyPhase.TRACKING;
}

/** Progress of the copy; empty when there is none to show. */
export function executeCell(copy: Copy): string {
  const shown = copy.phase === CopyPhase.COPYING || copy.phase === CopyPhase.FAILED;
  return shown && !isOutOfService(copy) ? `${copy.executePercent}%` : "";
}

/** Part of the source that changed since the point; known only while tracking. */
export function updateCell(copy: Copy): string {
  return copy.tracking && copy.phase === CopyPhase.TRACKING && !isOutOfService(copy) ? `${copy.updatePercent}%` : "";
}

export const COPY_COLUMNS: readonly Column<Copy>[] = [
  { title: "ID", cell: (copy) => copy.id },
  { title: "SOURCE", cell: (copy) => copy.source },
  { title: "DESTINATION", cell: (copy) => copy.destination },
  { title: "KIND", cell: (copy) => kindWord(copy.kind) },
  { title: "PHASE", cell: (copy) => phaseWord(copy).replaceAll(" ", "-") },
  { title: "EXECUTE", align: "right", cell: executeCell },
  { title: "UPDATE", align: "right", cell: updateCell },
  { title: "PACE", align: "right", cell: (copy) => String(copy.pace) },
  { title: "PLANNED", align: "right", cell: (copy) => formatSize(copy.bytesPlanned) },
];

/** Everything worth knowing about one session, as `name: value` lines. */
export function copyFacts(copy: Copy): (readonly [string, string])[] {
  const ended = copy.endTime !== undefined;
  const eta = copy.etaSeconds > 0n ? formatDuration(Number(copy.etaSeconds)) : "";
  return [
    ["id", copy.id],
    ["source", copy.source],
    ["destination", copy.destination],
    ["kind", kindWord(copy.kind)],
    ["phase", phaseWord(copy)],
    ["failure", copy.failureMessage],
    ["tracking", copy.tracking ? "yes" : "no"],
    ["pace", String(copy.pace)],
    ["execute", executeCell(copy)],
    ["update", updateCell(copy)],
    ["eta", eta],
    ["reason", reasonWord(copy.reason)],
    ["point", formatTime(copy.pointTime)],
    ["barrier", `${Number(copy.barrierMicroseconds) / 1000} ms`],
    ["generation", String(copy.generation)],
    ["planned", `${copy.plannedGranules} granules, ${formatSizeExact(copy.bytesPlanned)}`],
    ["pending", `${copy.pendingGranules} granules`],
    ["copied", formatSizeExact(copy.bytesCopied)],
    ["zeroed", copy.bytesZeroed > 0n ? formatSizeExact(copy.bytesZeroed) : ""],
    ["shared", copy.bytesCloned > 0n ? formatSizeExact(copy.bytesCloned) : ""],
    ["changed since", copy.tracking ? `${copy.changedGranules} of ${copy.totalGranules} granules` : ""],
    ["source epoch", copy.sourceEpoch > 0n ? String(copy.sourceEpoch) : ""],
    ["destination epoch", copy.destinationEpoch > 0n ? String(copy.destinationEpoch) : ""],
    ["created", formatTime(copy.createTime)],
    ["ended", ended ? formatTime(copy.endTime) : ""],
  ];
}

export function explainFacts(answer: ExplainCopyResponse): (readonly [string, string])[] {
  return [
    ["session", answer.existingId === "" ? "new" : `${answer.existingId}, run again`],
    ["reason", reasonWord(answer.reason)],
    ["explanation", answer.explanation],
    ["would copy", `${answer.plannedGranules} granules, at most ${formatSizeExact(answer.bytesPlanned)}`],
    ["still pending", `${answer.pendingGranules} granules`],
    ["changed on source", `${answer.sourceChangedGranules} granules`],
    ["changed on destination", `${answer.destinationChangedGranules} granules`],
  ];
}
