/**
 * One session found at start: which record of it counts, and whether it can be trusted.
 *
 * The superblock counts, or a point that is newer. A session without a superblock was being made or being removed, whatever a
 * point still says: the superblock is there before a point is fired, and it is the last file to go; unless a map is left,
 * which is made later and goes earlier.
 * A session has failed, and is found so with its extents, when its superblock is damaged, when a point of it may be lost, or
 * when a volume of it is not registered.
 * Reading changes nothing on the disk: what follows from it does (`settle`), when it is known which sessions are out of
 * service in this run (barred.ts). Source: data-safety 1.4, 1.9, 1.10.
 */
import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import { granuleCountOf, granulesTouched } from "../../base/units.ts";
import type { ExpectedEnd } from "../durable/log-end.ts";
import { corruptFile, isBarring, isDamage } from "../durable/state-files.ts";
import type { Superblock } from "../durable/superblock.ts";
import { PagedBitmap } from "../map/paged-bitmap.ts";
import type { EnginePorts } from "../ports.ts";
import type { VolumeSet } from "../volume/volume-set.ts";
import type { EndedSessions } from "./ended-sessions.ts";
import type { RecoveredPoint } from "./points-log.ts";
import { removeSessionDirectory, SESSIONS_DIRECTORY, SessionFiles } from "./session-files.ts";
import { isSessionId, type SessionRecord } from "./session-record.ts";

export interface FoundSession {
  readonly record: SessionRecord;
  /** Its files and the granules that the destination lacks; undefined when the files cannot be used. */
  readonly opened: { readonly sessionFiles: SessionFiles; readonly missing: PagedBitmap } | undefined;
  /** Why they cannot; `record` then says that it has failed. */
  readonly damage: TidemarkError | undefined;
}

/** A session as it was read: nothing has been changed yet. */
export interface SessionReading {
  readonly id: string;
  /** Undefined when nothing says what it was. One that is over, or was never fired, has a record, too. */
  readonly record: SessionRecord | undefined;
  /** It goes on, or has failed, in this run: what is the matter with one of its volumes concerns the other. */
  readonly connects: boolean;
  /** A file of it that must not be opened. */
  readonly barred: TidemarkError | undefined;
  /** What it will be; undefined when there is none any more. */
  readonly found: FoundSession | undefined;
  /** Makes durable what follows. What is no damage is thrown. */
  settle(): Promise<void>;
  /** Lets go of its files as they were found. */
  abandon(): Promise<void>;
}

export interface RecoveryState {
  readonly points: readonly RecoveredPoint[];
  readonly pointsDamage: TidemarkError | undefined;
  /** The last stop was a clean one: nothing is torn. */
  readonly cleanStop: boolean;
  /** Then: what each log has to have, by path. */
  readonly ends: ReadonlyMap<string, ExpectedEnd>;
  /** Takes over the sessions that have ended and are not recorded elsewhere yet. */
  readonly ended: EndedSessions;
  readonly trouble: (what: string, error: unknown) => void;
}

/** Undefined for what is no session. What is neither damage nor barred is thrown. */
export async function readSession(
  ports: EnginePorts,
  volumes: VolumeSet,
  id: string,
  state: RecoveryState,
): Promise<SessionReading | undefined> {
  const { files } = ports;
  const directory = `${SESSIONS_DIRECTORY}/${id}`;
  if (!isSessionId(id)) return leaveAlone(directory, state);
  const fired = newestPoint(state.points, id);
  let known = fired?.record;
  try {
    // After a kill the names need not be durable yet (data-safety 1.10 rule 3).
    await files.syncDirectory(directory);
    const superblock = await openOwn(ports, id);
    if (superblock instanceof TidemarkError)
      return await readDamaged(ports, volumes, id, { error: superblock, fired, state });
    known = superblock?.value ?? known;
    return await readOwn(ports, volumes, id, { superblock, fired, state });
  } catch (cause) {
    const error = asTidemarkError(cause);
    if (error.detail.metadata?.["systemCode"] === "ENOTDIR") return leaveAlone(directory, state);
    if (!isBarring(error)) throw error;
    const record = known ?? (await SessionFiles.readDefinition(files, id).catch(unlessBug));
    return { id, record, connects: true, barred: error, found: undefined, settle: nothing, abandon: nothing };
  }
}

const nothing = async (): Promise<void> => undefined;

/** Why its logs cannot be read either does not matter: what the session was, others may know. */
function unlessBug(error: unknown): undefined {
  if (!(error instanceof TidemarkError)) throw error;
  return undefined;
}

function leaveAlone(path: string, state: RecoveryState): undefined {
  const error = new TidemarkError("PATH_NOT_USABLE", {
    message: `${path} is no copy's directory`,
    hint: "nothing uses it; move it out of the state directory when you know that it is not needed",
    metadata: { path },
  });
  state.trouble("left alone", error);
  return undefined;
}

interface Own {
  readonly superblock: Superblock<SessionRecord> | undefined;
  readonly fired: { readonly record: SessionRecord; readonly map: PagedBitmap | undefined } | undefined;
  readonly state: RecoveryState;
}

/** By its superblock, or by a point that is newer. */
async function readOwn(ports: EnginePorts, volumes: VolumeSet, id: string, found: Own): Promise<SessionReading> {
  const { files } = ports;
  const { superblock, fired, state } = found;
  const own = superblock?.value;
  const fromPoint = fired && own && fired.record.generation > own.generation ? fired : undefined;
  const record = fromPoint?.record ?? own;
  const tellSlot = () => {
    if (superblock?.slotDamage && state.cleanStop) state.trouble(`copy ${id}`, superblock.slotDamage);
  };
  if (superblock && record && record.state !== "ended" && isRegistered(volumes, record)) {
    const later = state.pointsDamage && (await SessionFiles.mayBeLater(files, record)) ? state.pointsDamage : undefined;
    const lost = later ?? misplaced(volumes, record);
    if (lost || record.state !== "creating") {
      const opened = await openFound(ports, superblock, record, { pointMap: fromPoint?.map, lost, ends: state.ends });
      return readingOf(id, opened, tellSlot);
    }
  }
  await superblock?.close();
  const over = !record || record.state === "ended" || record.state === "creating";
  const settle = async () => {
    tellSlot();
    if (record?.state === "ended" && state.ended.adopt(record)) return;
    if (over) await removeSessionDirectory(files, id);
    else await leaveOut(ports, record, state);
  };
  return { id, record, connects: !over, barred: undefined, found: undefined, settle, abandon: nothing };
}

function readingOf(id: string, found: FoundSession, tell: () => void): SessionReading {
  const { record, opened } = found;
  return {
    ...{ id, record, connects: true, barred: undefined, found },
    async settle() {
      tell();
      await opened?.sessionFiles.begin();
    },
    async abandon() {
      opened?.missing.dispose();
      await opened?.sessionFiles.abandon();
    },
  };
}

/** Damage when an extent of the session does not lie inside its volume, which keeps its size while it is in a session. */
function misplaced(volumes: VolumeSet, record: SessionRecord): TidemarkError | undefined {
  const outside = [record.source, record.destination].find(({ volumeUid, offsetBytes, lengthBytes }) => {
    const { first, count } = granulesTouched(offsetBytes, lengthBytes);
    return first + count > (volumes.find(volumeUid)?.chain.granuleCount ?? 0);
  });
  if (!outside) return undefined;
  const path = `${SESSIONS_DIRECTORY}/${record.id}/super`;
  return corruptFile(path, `copy ${record.id} reaches beyond the end of volume ${outside.name}`);
}

/** The superblock; undefined when there is no session; an error when it is damaged. */
async function openOwn(
  { files }: EnginePorts,
  id: string,
): Promise<Superblock<SessionRecord> | TidemarkError | undefined> {
  const directory = `${SESSIONS_DIRECTORY}/${id}`;
  if (!(await files.exists(`${directory}/super`))) {
    const lost = (await files.list(directory)).some((name) => /^pending-\d+\.map$/.test(name));
    if (!lost) return undefined;
    return new TidemarkError("METADATA_CORRUPT", {
      message: `${directory}/super is missing`,
      hint: `start copy ${id} again, or cancel it`,
      metadata: { path: `${directory}/super` },
    });
  }
  try {
    return await SessionFiles.openSuperblock(files, id);
  } catch (cause) {
    const error = asTidemarkError(cause);
    if (!isDamage(error)) throw error;
    return error;
  }
}

/** Opens map and log; takes over `superblock`. `lost`: a later point of it may be gone. */
async function openFound(
  { files, core }: EnginePorts,
  superblock: Superblock<SessionRecord>,
  record: SessionRecord,
  found: {
    readonly pointMap: PagedBitmap | undefined;
    readonly lost: TidemarkError | undefined;
    readonly ends: RecoveryState["ends"];
  },
): Promise<FoundSession> {
  const { pointMap, lost, ends } = found;
  try {
    if (lost) throw lost;
    const granuleCount = granuleCountOf(record.source.lengthBytes);
    const options = { pointMap: pointMap?.clone(), granuleCount, ends };
    return { record, opened: await SessionFiles.find(files, core, superblock, record, options), damage: undefined };
  } catch (cause) {
    await superblock.close();
    const error = asTidemarkError(cause);
    if (!isDamage(error)) throw error;
    return failedBecause(record, error);
  }
}

/** Without its superblock a session has failed; what it was, a point says or one of its logs. */
async function readDamaged(
  ports: EnginePorts,
  volumes: VolumeSet,
  id: string,
  damaged: {
    readonly error: TidemarkError;
    readonly fired: { readonly record: SessionRecord } | undefined;
    readonly state: RecoveryState;
  },
): Promise<SessionReading> {
  const { error, fired, state } = damaged;
  const record = fired?.record ?? (await SessionFiles.readDefinition(ports.files, id));
  if (record && isRegistered(volumes, record)) return readingOf(id, failedBecause(record, error), () => undefined);
  const settle = async () => {
    if (record) state.trouble(`${SESSIONS_DIRECTORY}/${id} is kept`, notRegistered(record));
    else
      state.trouble(`${SESSIONS_DIRECTORY}/${id} is kept; what was copied by copy ${id} must not be relied on`, error);
  };
  return { id, record, connects: false, barred: undefined, found: undefined, settle, abandon: nothing };
}

/** Durably failed, so that it never comes back as if its source had been preserved meanwhile. */
async function leaveOut(ports: EnginePorts, record: SessionRecord, state: RecoveryState): Promise<void> {
  const error = notRegistered(record);
  state.trouble(`copy ${record.id} is left out and has failed`, error);
  if (record.state !== "live") return;
  const failed = failedBecause(record, error).record;
  const files = await SessionFiles.salvage(ports.files, failed);
  const everything = new PagedBitmap(ports.core, granuleCountOf(record.source.lengthBytes), "full");
  await files.checkpoint(failed, everything);
  await files.close();
}

function failedBecause(record: SessionRecord, error: TidemarkError): FoundSession {
  const failed: SessionRecord = {
    ...record,
    state: "failed",
    tracking: false,
    sourceEpoch: 0,
    destinationEpoch: 0,
    // Whatever a point still says is of an earlier generation.
    generation: record.generation + 1,
    failure: { cause: "OTHER", message: error.detail.message },
  };
  return { record: failed, opened: undefined, damage: error };
}

function isRegistered(volumes: VolumeSet, record: SessionRecord): boolean {
  return [record.source, record.destination].every(({ volumeUid }) => volumes.find(volumeUid) !== undefined);
}

function notRegistered({ source, destination }: SessionRecord): TidemarkError {
  return new TidemarkError("VOLUME_NOT_FOUND", {
    message: `${source.name} or ${destination.name} is not registered in this box any more`,
    hint: "register the volume again and start the copy again",
  });
}

function newestPoint(
  points: readonly RecoveredPoint[],
  id: string,
): { record: SessionRecord; map: PagedBitmap | undefined } | undefined {
  let newest: { record: SessionRecord; map: PagedBitmap | undefined } | undefined;
  for (const point of points) {
    const record = point.sessions.find((session) => session.id === id);
    // Not the last one that is found: what was carried may be there twice.
    if (record && record.generation >= (newest?.record.generation ?? 0)) newest = { record, map: point.maps.get(id) };
  }
  return newest;
}
