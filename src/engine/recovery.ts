/**
 * Start of the engine: what the files say becomes volumes, chains and sessions again.
 *
 * The same way after a clean stop and after a crash; only the regions that were hot differ. Every step can be repeated.
 *   1. open the points log; 2. read the sessions, each from its own files or from the last point, whichever is newer; 3. read
 *   the chains; 4. leave out what is out of service in this run (barred.ts): up to here nothing of a volume or session has
 *   been changed; 5. open the volumes; 6. what follows for sessions and chains: torn tails go, left-overs go, what is damaged
 *   is made anew; 7. let sessions hold their epochs, forget what nobody holds;
 *   8. compare what a clean stop noted of the volumes (foreign-writes.ts);
 *   9. (in the background, session-set.ts) write checkpoints, then empty the points log.
 * What is damaged stays where it is: a chain that cannot be read says "everything", a session that cannot be read has durably
 * failed, so that its destination is not trusted. What must not be opened (no permission, a newer format) puts what has to do
 * with it out of service; of the box's own files it refuses the start, as does everything that may be over soon (no
 * descriptors): nothing is dropped or rebuilt because of it.
 * Source: data-safety 1.10.
 */
import { asTidemarkError, TidemarkError } from "../base/errors.ts";
import { OutOfService } from "./barred.ts";
import type { ExpectedEnd } from "./durable/log-end.ts";
import { isBarring, isDamage, type StateFiles } from "./durable/state-files.ts";
import type { EngineEvent, OutOfServiceSession, SessionHint, VolumeSpec } from "./engine-api.ts";
import { type CleanStop, foreignWriteTo, readCleanStop, type Stamps, storeStamps } from "./foreign-writes.ts";
import type { EnginePorts } from "./ports.ts";
import { EndedSessions } from "./session/ended-sessions.ts";
import { PointsLog } from "./session/points-log.ts";
import { SESSIONS_DIRECTORY } from "./session/session-files.ts";
import { type FoundSession, type RecoveryState, readSession, type SessionReading } from "./session/session-recovery.ts";
import { SessionSet } from "./session/session-set.ts";
import { each } from "./sync/each.ts";
import type { VolumeSet } from "./volume/volume-set.ts";
import { VOLUMES_DIRECTORY, VolumeTracking } from "./volume/volume-tracking.ts";

/** Ids that nobody can tell any more whether they were given out are passed over. */
const EPOCHS_PASSED_OVER = 1_000_000;
/** Sessions, then volumes, of which the files are read at the same time. */
const READS_AT_ONCE = 32;

interface Recovery {
  readonly ports: EnginePorts;
  readonly volumes: VolumeSet;
  readonly emit: (event: EngineEvent) => void;
  readonly specs: readonly VolumeSpec[];
  readonly hints: readonly SessionHint[];
}

export interface Recovered {
  readonly sessions: SessionSet;
  readonly outOfService: OutOfServiceSession[];
}

export async function recover(recovery: Recovery): Promise<Recovered> {
  const { ports, volumes, emit, specs } = recovery;
  const { files } = ports;
  for (const directory of [VOLUMES_DIRECTORY, SESSIONS_DIRECTORY]) await files.makeDirectory(directory);
  // What is found after a kill need not be durable yet (data-safety 1.10 rule 3).
  for (const directory of ["", VOLUMES_DIRECTORY, SESSIONS_DIRECTORY]) await files.syncDirectory(directory);
  const trouble = (what: string, error: unknown) => {
    const { detail } = asTidemarkError(error);
    emit({ type: "engine.trouble", message: `${what}: ${detail.message}${detail.hint ? ` (${detail.hint})` : ""}` });
  };
  const { stamps, ends } = await readLastStop(files, trouble);
  const { log, points, damage } = await PointsLog.open(files, ports.core, ends);
  const ended = new EndedSessions(files);
  const state = {
    points,
    pointsDamage: damage,
    cleanStop: ends !== undefined,
    ends: ends ?? new Map(),
    ended,
    trouble,
  };
  const read = await readAll(recovery, state);
  const { outOfService } = read;
  if (damage) {
    // What follows from a log that is missing could not be made durable for them, and the next start would not know.
    if (log.isMissing) for (const why of outOfService.causes) throw why;
    trouble("points may be lost; copies that may have had one since their last checkpoint have failed", damage);
  }
  await volumes.openOrKeep(outOfService.volumes);
  const found = await settleAll(recovery, state, read);
  const known = new Set(specs.map((spec) => spec.uid));
  for (const uid of await files.list(VOLUMES_DIRECTORY))
    if (!known.has(uid)) trouble(`volumes/${uid} is kept`, notRegistered(uid));
  const sessions = new SessionSet({ ports, volumes, points: log, outOfService, ended, emit });
  for (const one of found) await sessions.adoptFound(one, trouble);
  const serving = specs.filter(({ uid }) => !outOfService.volumes.has(uid)).map(({ uid }) => volumes.require(uid));
  for (const volume of serving) volume.chain.prune();
  if (points.length > 0) sessions.noteUnsettled(serving);
  await noticeForeignWrites(ports, volumes, sessions, { specs, stamps, trouble });
  if (outOfService.isEmpty) await log.setAsideDamaged();
  await log.carry(outOfService.pointsOf(points));
  for (const point of points) for (const map of point.maps.values()) map.dispose();
  return { sessions, outOfService: outOfService.list(read.sessions) };
}

/** What it left of volumes and, after a clean one, of logs: each has to end as it did then. */
async function readLastStop(
  files: StateFiles,
  trouble: RecoveryState["trouble"],
): Promise<{ readonly stamps: Stamps; readonly ends: ReadonlyMap<string, ExpectedEnd> | undefined }> {
  let found: CleanStop;
  try {
    found = await readCleanStop(files);
  } catch (cause) {
    const error = asTidemarkError(cause);
    if (!isDamage(error)) throw error;
    trouble("what other programs have written to volumes since the last stop is not noticed", error);
    return { stamps: new Map(), ends: undefined };
  }
  const onLostMark = (error: TidemarkError) => trouble("nothing is lost", error);
  const ends = found.logEnds && new Map([...found.logEnds].map(([path, end]) => [path, { ...end, onLostMark }]));
  return { stamps: found.stamps, ends };
}

/** Everything as it was read; nothing has been changed. */
interface ReadFiles {
  readonly sessions: readonly SessionReading[];
  readonly chains: readonly ReadChain[];
  readonly outOfService: OutOfService;
}

async function readAll({ ports, volumes, specs, hints }: Recovery, state: RecoveryState): Promise<ReadFiles> {
  const { points } = state;
  volumes.enter(specs);
  const names = await ports.files.list(SESSIONS_DIRECTORY);
  const readings = await each(names, READS_AT_ONCE, (id) => readSession(ports, volumes, id, state));
  const sessions = readings.filter((reading) => reading !== undefined);
  const chains = await each(specs, READS_AT_ONCE, (spec) => readChain(ports, volumes, spec, state));
  const barred = chains.flatMap(({ spec, barred }) => (barred ? [[spec.uid, barred] as const] : []));
  const outOfService = OutOfService.among({ volumes: new Map(barred), sessions, hints, points });
  return { sessions, chains, outOfService };
}

/** What follows from what was read, but for what is out of service: that stays as it is. */
async function settleAll(recovery: Recovery, state: RecoveryState, read: ReadFiles): Promise<FoundSession[]> {
  const { ports, volumes } = recovery;
  const { outOfService } = read;
  const leftOut = read.sessions.filter(({ id }) => outOfService.sessions.has(id));
  for (const session of leftOut) await session.abandon();
  const going = read.sessions.filter((session) => !leftOut.includes(session));
  await each(going, READS_AT_ONCE, (session) => session.settle());
  const found = going.flatMap((session) => (session.found ? [session.found] : []));
  await each(read.chains, READS_AT_ONCE, async (chain) => {
    if (outOfService.volumes.has(chain.spec.uid)) await chain.tracking?.abandon();
    else await settleChain(ports, volumes, chain, { ...state, found });
  });
  return found;
}

async function noticeForeignWrites(
  { files }: EnginePorts,
  volumes: VolumeSet,
  sessions: SessionSet,
  { specs, stamps, trouble }: { specs: readonly VolumeSpec[]; stamps: Stamps; trouble: RecoveryState["trouble"] },
): Promise<void> {
  const unseen = new Map<string, string>();
  for (const spec of specs) {
    const volume = volumes.require(spec.uid);
    const stamp = stamps.get(spec.uid);
    if (stamp === undefined) continue;
    let foreign: TidemarkError | undefined;
    try {
      foreign = volume.online ? await foreignWriteTo(volume, volume.requireDevice(), stamp) : undefined;
    } catch (error) {
      volume.fail(error);
    }
    if (!volume.online) {
      volume.expectedStamp = stamp;
      unseen.set(spec.uid, stamp);
      continue;
    }
    if (!foreign) continue;
    trouble(`foreign write`, foreign);
    await sessions.foreignWrite(volume, foreign);
  }
  await storeStamps(files, unseen);
}

interface ChainState extends RecoveryState {
  readonly found: readonly FoundSession[];
}

/** The chain of one volume, as it was read. */
interface ReadChain {
  readonly spec: VolumeSpec;
  /** Undefined when the volume was not tracked, too. */
  readonly tracking: VolumeTracking | undefined;
  readonly damage: TidemarkError | undefined;
  readonly barred: TidemarkError | undefined;
}

/** What is neither damage nor barred is thrown. */
async function readChain(
  ports: EnginePorts,
  volumes: VolumeSet,
  spec: VolumeSpec,
  { points, ends }: RecoveryState,
): Promise<ReadChain> {
  const nothing = { spec, tracking: undefined, damage: undefined, barred: undefined };
  try {
    return { ...nothing, tracking: await VolumeTracking.open(ports, volumes.require(spec.uid), points, ends) };
  } catch (cause) {
    const error = asTidemarkError(cause);
    if (isDamage(error)) return { ...nothing, damage: error };
    if (isBarring(error)) return { ...nothing, barred: error };
    throw error;
  }
}

/** The chain goes on, or is replaced by one that says "everything" when it cannot be relied on. */
async function settleChain(ports: EnginePorts, volumes: VolumeSet, chain: ReadChain, state: ChainState): Promise<void> {
  const { spec } = chain;
  const volume = volumes.require(spec.uid);
  const needed = epochsNeeded(state.found, spec.uid);
  let { tracking } = chain;
  if (tracking?.slotDamage && state.cleanStop) state.trouble(`volume ${spec.name}`, tracking.slotDamage);
  const lost = needed.filter((id) => !volume.chain.has(id));
  const pointsDamage = tracking && needed.length > 0 ? state.pointsDamage : undefined;
  const damage = chain.damage ?? (lost.length > 0 ? lostEpochs(spec.name, lost) : pointsDamage);
  if (damage) {
    state.trouble(`changes of volume ${spec.name} are lost, the next copies are full`, damage);
    const seen = [...needed, ...(await epochsSeen(ports, spec.uid, state)), tracking ? volume.chain.nextId : 0];
    await tracking?.abandon();
    const nextEpoch = Math.max(...seen) + (tracking ? 1 : EPOCHS_PASSED_OVER);
    tracking = await VolumeTracking.rebuild(ports, volume, { ids: needed, nextEpoch });
  } else await tracking?.begin();
  if (tracking) volumes.adoptTracking(spec.uid, tracking);
}

async function epochsSeen(ports: EnginePorts, uid: string, state: ChainState): Promise<number[]> {
  const seals = state.points.flatMap((point) => point.seals.filter((seal) => seal.uid === uid));
  return [await VolumeTracking.highestEpochSeen(ports.files, uid), ...seals.map((seal) => seal.openedEpoch)];
}

function notRegistered(uid: string): TidemarkError {
  return new TidemarkError("VOLUME_NOT_FOUND", {
    message: `volume ${uid} is not registered in this box`,
    hint: "register the volume again, or remove the directory",
    metadata: { path: `${VOLUMES_DIRECTORY}/${uid}` },
  });
}

function lostEpochs(name: string, ids: readonly number[]): TidemarkError {
  return new TidemarkError("METADATA_CORRUPT", {
    message: `volume ${name} does not have epoch ${ids.join(", ")}`,
    hint: "nothing needs to be done: the next copies are full",
  });
}

function epochsNeeded(found: readonly FoundSession[], uid: string): number[] {
  return found.flatMap(({ record }) => {
    if (!record.tracking || record.state !== "live") return [];
    const source = record.source.volumeUid === uid ? [record.sourceEpoch] : [];
    const destination = record.destination.volumeUid === uid ? [record.destinationEpoch] : [];
    return [...source, ...destination];
  });
}
