/**
 * Start of the engine: what the files say becomes volumes, chains and sessions again.
 *
 * The same way after a clean stop and after a crash; only the regions that were hot differ. Every step can be repeated.
 *   1. open the points log; 2. open the volumes; 3. read the sessions, each from its own files or from the last point,
 *   whichever is newer; 4. put the chains back together; 5. let sessions hold their epochs, forget what nobody holds;
 *   6. compare what a clean stop noted of the volumes (foreign-writes.ts);
 *   7. (in the background, session-set.ts) write checkpoints, then empty the points log.
 * What is damaged stays where it is: a chain that cannot be read says "everything", a session that cannot be read has durably
 * failed, so that its destination is not trusted. What only cannot be read now (no descriptors, no permission, a newer
 * format) refuses the start: nothing is dropped or rebuilt because of it.
 * Source: data-safety 1.10.
 */
import { asTidemarkError, TidemarkError } from "../base/errors.ts";
import { isDamage } from "./durable/state-files.ts";
import type { EngineEvent, VolumeSpec } from "./engine-api.ts";
import { foreignWriteTo, readStamps, type Stamps, storeStamps } from "./foreign-writes.ts";
import type { EnginePorts } from "./ports.ts";
import { EndedSessions } from "./session/ended-sessions.ts";
import { PointsLog, type RecoveredPoint } from "./session/points-log.ts";
import { SESSIONS_DIRECTORY } from "./session/session-files.ts";
import { type FoundSession, readSession } from "./session/session-recovery.ts";
import { SessionSet } from "./session/session-set.ts";
import { each } from "./sync/each.ts";
import type { VolumeSet } from "./volume/volume-set.ts";
import { VOLUMES_DIRECTORY, VolumeTracking } from "./volume/volume-tracking.ts";

/** Ids that nobody can tell any more whether they were given out are passed over. */
const EPOCHS_PASSED_OVER = 1_000_000;
/** Sessions, then volumes, of which the files are read at the same time. */
const READS_AT_ONCE = 32;

export async function recover(options: {
  ports: EnginePorts;
  volumes: VolumeSet;
  emit: (event: EngineEvent) => void;
  specs: readonly VolumeSpec[];
}): Promise<SessionSet> {
  const { ports, volumes, emit, specs } = options;
  const { files } = ports;
  for (const directory of [VOLUMES_DIRECTORY, SESSIONS_DIRECTORY]) await files.makeDirectory(directory);
  // What is found after a kill need not be durable yet (data-safety 1.10 rule 3).
  for (const directory of ["", VOLUMES_DIRECTORY, SESSIONS_DIRECTORY]) await files.syncDirectory(directory);
  const trouble = (what: string, error: unknown) => {
    const { detail } = asTidemarkError(error);
    emit({ type: "engine.trouble", message: `${what}: ${detail.message}${detail.hint ? ` (${detail.hint})` : ""}` });
  };
  const stamps = await readStamps(files);
  const cleanStop = stamps.size > 0;
  const { log, points, damage } = await PointsLog.open(files, ports.core);
  if (damage)
    trouble("points may be lost; copies that may have had one since their last checkpoint have failed", damage);
  await volumes.openOrKeep(specs);
  const ended = new EndedSessions(files);
  const state = { points, pointsDamage: damage, cleanStop, ended, trouble };
  const read = await each(await files.list(SESSIONS_DIRECTORY), READS_AT_ONCE, (id) =>
    readSession(ports, volumes, id, state),
  );
  const found = read.filter((session) => session !== undefined);
  await each(specs, READS_AT_ONCE, (spec) => readChain(ports, volumes, spec, { ...state, found }));
  const known = new Set(specs.map((spec) => spec.uid));
  for (const uid of await files.list(VOLUMES_DIRECTORY))
    if (!known.has(uid)) trouble(`volumes/${uid} is kept`, notRegistered(uid));
  const sessions = new SessionSet({ ports, volumes, points: log, ended, emit });
  for (const one of found) await sessions.adoptFound(one, trouble);
  for (const spec of specs) volumes.require(spec.uid).chain.prune();
  if (points.length > 0) sessions.noteUnsettled(specs.map((spec) => volumes.require(spec.uid)));
  await noticeForeignWrites(ports, volumes, sessions, { specs, stamps, trouble });
  await log.setAsideDamaged();
  for (const point of points) for (const map of point.maps.values()) map.dispose();
  return sessions;
}

async function noticeForeignWrites(
  { files }: EnginePorts,
  volumes: VolumeSet,
  sessions: SessionSet,
  { specs, stamps, trouble }: { specs: readonly VolumeSpec[]; stamps: Stamps; trouble: ChainState["trouble"] },
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

interface ChainState {
  readonly cleanStop: boolean;
  readonly points: readonly RecoveredPoint[];
  readonly pointsDamage: TidemarkError | undefined;
  readonly found: readonly FoundSession[];
  readonly trouble: (what: string, error: unknown) => void;
}

/** The chain of one volume from its files, or one that says "everything" when they are damaged. */
async function readChain(ports: EnginePorts, volumes: VolumeSet, spec: VolumeSpec, state: ChainState): Promise<void> {
  const volume = volumes.require(spec.uid);
  const needed = epochsNeeded(state.found, spec.uid);
  let tracking: VolumeTracking | undefined;
  try {
    tracking = await VolumeTracking.open(ports, volume, state.points);
    if (tracking?.slotDamage && state.cleanStop) state.trouble(`volume ${spec.name}`, tracking.slotDamage);
    const lost = needed.filter((id) => !volume.chain.has(id));
    if (lost.length > 0) throw lostEpochs(spec.name, lost);
    if (tracking && needed.length > 0 && state.pointsDamage) throw state.pointsDamage;
  } catch (cause) {
    const error = asTidemarkError(cause);
    if (!isDamage(error)) throw error;
    state.trouble(`changes of volume ${spec.name} are lost, the next copies are full`, error);
    const seen = [...needed, ...(await epochsSeen(ports, spec.uid, state)), tracking ? volume.chain.nextId : 0];
    await tracking?.close();
    volume.chain.dispose();
    const nextEpoch = Math.max(...seen) + (tracking ? 1 : EPOCHS_PASSED_OVER);
    tracking = await VolumeTracking.rebuild(ports, volume, { ids: needed, nextEpoch });
  }
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
