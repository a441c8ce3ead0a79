/**
 * Check of one session's files, with what points say of it: the same choice of the record that counts as at a start
 * (session/session-recovery.ts).
 */
import { TidemarkError } from "../../base/errors.ts";
import { granuleCountOf } from "../../base/units.ts";
import type { ExpectedEnd } from "../durable/log-end.ts";
import { corruptFile } from "../durable/state-files.ts";
import type { VolumeSpec } from "../engine-api.ts";
import type { PointRecord } from "../session/points-log.ts";
import {
  decodeCopied,
  decodeDefinition,
  expectedLogEnd,
  SESSIONS_DIRECTORY,
  SessionFiles,
} from "../session/session-files.ts";
import { decodeSessionRecord, type SessionRecord } from "../session/session-record.ts";
import type { CheckedPoints } from "./check-points.ts";
import { type FindingContext, findingOf, harmless } from "./finding.ts";
import { type Checks, checkLog, checkMap, checkSuperblock } from "./verify.ts";

export interface CheckedSession {
  /** The record that counts at the next start. */
  readonly record: SessionRecord;
  /** A start finds that it has failed. */
  readonly fails: boolean;
  /** Without its own superblock a copy is known by a point or a log, which may be from long ago. */
  readonly own: "read" | "lost";
}

/** What is known beside the session's own files. */
export interface SessionSurroundings {
  readonly points: CheckedPoints;
  /** Undefined: nobody knows which volumes are registered. */
  readonly volumes: ReadonlyMap<string, VolumeSpec> | undefined;
}

/** Undefined when a start finds nothing there; a record in state `ended` is kept until the box has recorded the end. */
export async function checkSession(
  checks: Checks,
  id: string,
  surroundings: SessionSurroundings,
): Promise<CheckedSession | undefined> {
  const { files, findings } = checks;
  const directory = `${SESSIONS_DIRECTORY}/${id}`;
  const names = await files.list(directory);
  const fired = newestRecord(surroundings.points.points, id);
  if (!names.includes("super")) {
    const mapIsLeft = names.some((name) => /^pending-\d+\.map$/.test(name));
    if (mapIsLeft) return lostSuperblock(checks, id, fired, missingSuperblock(directory));
    findings.add(
      harmless("left-over", { path: directory, subject: id, message: "a copy that was never fired, or is over" }),
    );
    return undefined;
  }
  const context = await superblockContext(checks, id, fired);
  const own = await checkSuperblock(checks, context.finding, { kind: "session", id }, decodeSessionRecord);
  if (own === undefined) return context.record && { record: context.record, fails: true, own: "lost" };
  const record = fired && fired.generation > own.generation ? fired : own;
  if (record.state === "ended" && record.end !== undefined) return { record, fails: false, own: "read" }; // kept until it is recorded
  if (record.state === "ended" || record.state === "creating") {
    const message = record.state === "ended" ? "the copy is over" : "the copy was never fired";
    findings.add(harmless("left-over", { path: directory, subject: id, message }));
    return undefined;
  }
  const placed = checkExtents(checks, record, surroundings.volumes);
  const expected = expectedLogEnd(own, record);
  const whole = await checkParts(checks, record, { pointHasMap: record === fired, expected });
  reportLeftOvers(checks, record, names);
  const pointLost = surroundings.points.damage.items.length > 0 && (await SessionFiles.mayBeLater(files, record));
  return { record, fails: !placed || !whole || pointLost, own: "read" };
}

/** `c1 (g1d1 to g1d2)` */
export function titleOf({ id, source, destination }: SessionRecord): string {
  return `${id} (${source.name} to ${destination.name})`;
}

/** What it costs when the files of this session cannot be used. */
function costOf(record: SessionRecord | undefined, id: string): string {
  if (record === undefined) return `copy ${id} is not known any more; what it has copied must not be relied on`;
  if (record.state === "failed") return "";
  return `copy ${titleOf(record)} fails: run again it copies everything, and until then its destination may lack what was not copied yet`;
}

export function sessionContext(record: SessionRecord | undefined, id: string, path: string): FindingContext {
  const remedy = `start the box, then run copy ${id} again or cancel it`;
  return { path, subject: id, cost: costOf(record, id), remedy };
}

/** Without its superblock a session is known by a point or by one of its logs. */
async function superblockContext(
  { files }: Checks,
  id: string,
  fired: SessionRecord | undefined,
): Promise<{ readonly finding: FindingContext; readonly record: SessionRecord | undefined }> {
  const record = fired ?? (await readDefinition(files, id));
  return { finding: sessionContext(record, id, `${SESSIONS_DIRECTORY}/${id}/super`), record };
}

/** A log that cannot be looked at is reported when its own turn comes. */
async function readDefinition(files: Checks["files"], id: string): Promise<SessionRecord | undefined> {
  try {
    return await SessionFiles.readDefinition(files, id);
  } catch (error) {
    if (!(error instanceof TidemarkError)) throw error;
    return undefined;
  }
}

function missingSuperblock(directory: string): TidemarkError {
  return new TidemarkError("PATH_NOT_FOUND", { message: `${directory}/super: it is missing, and a map is left` });
}

async function lostSuperblock(
  checks: Checks,
  id: string,
  fired: SessionRecord | undefined,
  error: TidemarkError,
): Promise<CheckedSession | undefined> {
  const { finding, record } = await superblockContext(checks, id, fired);
  checks.findings.add(findingOf(error, finding));
  return record && { record, fails: true, own: "lost" };
}

/** False when an extent does not lie in a registered volume. */
function checkExtents(
  checks: Checks,
  record: SessionRecord,
  volumes: ReadonlyMap<string, VolumeSpec> | undefined,
): boolean {
  if (volumes === undefined) return true;
  const { id } = record;
  const path = `${SESSIONS_DIRECTORY}/${id}/super`;
  let placed = true;
  for (const extent of [record.source, record.destination]) {
    const volume = volumes.get(extent.volumeUid);
    const endBytes = extent.offsetBytes + extent.lengthBytes;
    if (volume !== undefined && endBytes <= volume.sizeBytes) continue;
    placed = false;
    const message =
      volume === undefined
        ? `${extent.name} (${extent.volumeUid}) is not registered in this box`
        : `${extent.name} ends at byte ${endBytes}; its volume was registered with ${volume.sizeBytes} bytes`;
    checks.findings.add({
      ...{ kind: "foreign", severity: "error", path, offsetBytes: undefined, page: undefined, subject: id, message },
      cost: record.state === "failed" ? "" : `copy ${titleOf(record)} fails`,
      remedy: "if state and database were restored from different times or boxes, put back what belongs together",
      repairable: true,
    });
  }
  return placed;
}

/** Map and log. */
async function checkParts(
  checks: Checks,
  record: SessionRecord,
  { pointHasMap, expected }: { readonly pointHasMap: boolean; readonly expected: ExpectedEnd | undefined },
): Promise<boolean> {
  const { id, generation, mapFile, logFile } = record;
  const directory = `${SESSIONS_DIRECTORY}/${id}`;
  const granuleCount = granuleCountOf(record.source.lengthBytes);
  let whole = true;
  if (!pointHasMap) {
    const context = sessionContext(record, id, `${directory}/${mapFile ?? "super"}`);
    const expected = { kind: "pending", ownerId: id, generation, bitCount: granuleCount };
    if (mapFile !== undefined) whole = await checkMap(checks, context, expected);
    else {
      const error = corruptFile(context.path, "names no map, and the points log has none either");
      checks.findings.add(findingOf(error, context));
      whole = false;
    }
  }
  const path = `${directory}/${logFile}`;
  const owner = { kind: "session", id };
  const onPayload = (payload: Uint8Array) => requireCopied(path, payload, record, granuleCount);
  const log = await checkLog(checks, sessionContext(record, id, path), owner, onPayload, undefined, expected);
  return whole && log;
}

/** A record of copied granules that can be one. METADATA_CORRUPT. */
export function requireCopied(path: string, payload: Uint8Array, record: SessionRecord, granuleCount: number): void {
  if (decodeDefinition(payload) !== undefined) return;
  if (decodeCopied(payload, record.generation, granuleCount) === undefined)
    throw corruptFile(path, "holds a record of copied granules that makes no sense");
}

function reportLeftOvers(checks: Checks, record: SessionRecord, names: readonly string[]): void {
  const kept = new Set(["super", record.mapFile, record.logFile]);
  const directory = `${SESSIONS_DIRECTORY}/${record.id}`;
  for (const name of names)
    if (!kept.has(name)) {
      const message = "nothing names it any more";
      checks.findings.add(harmless("left-over", { path: `${directory}/${name}`, subject: record.id, message }));
    }
}

function newestRecord(points: readonly PointRecord[], id: string): SessionRecord | undefined {
  let newest: SessionRecord | undefined;
  for (const point of points) {
    const record = point.sessions.find((session) => session.id === id);
    if (record && record.generation >= (newest?.generation ?? 0)) newest = record;
  }
  return newest;
}
