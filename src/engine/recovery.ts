/**
 * Start of the engine: what the files say becomes volumes, chains and sessions again.
 *
 * The same way after a clean stop and after a crash; only the regions that were hot differ. Every step can be repeated.
 *   1. open the points log; 2. open the volumes; 3. put the chains back together; 4. read the sessions, each from its own
 *   files or from the last point, whichever is newer; 5. let sessions hold their epochs, forget what nobody holds;
 *   6. write checkpoints, then empty the points log.
 * Damage stays where it is: a chain that cannot be read says "everything", a session that cannot be read has failed.
 * Source: data-safety 1.10.
 */
import { asTidemarkError, type TidemarkError } from "../base/errors.ts";
import { granuleCountOf } from "../base/units.ts";
import type { EngineEvent, VolumeSpec } from "./engine-api.ts";
import { PagedBitmap } from "./map/paged-bitmap.ts";
import type { EnginePorts } from "./ports.ts";
import { PointsLog, type RecoveredPoint } from "./session/points-log.ts";
import { removeSessionDirectory, SESSIONS_DIRECTORY, SessionFiles } from "./session/session-files.ts";
import type { SessionRecord } from "./session/session-record.ts";
import { SessionSet } from "./session/session-set.ts";
import type { VolumeSet } from "./volume/volume-set.ts";
import { removeVolumeDirectory, VOLUMES_DIRECTORY, VolumeTracking } from "./volume/volume-tracking.ts";

interface Found {
  readonly record: SessionRecord;
  readonly pointMap: PagedBitmap | undefined;
}

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
  const { log, points } = await PointsLog.open(files, ports.core);
  await volumes.openAtStart(specs);
  const found = await readSessions(ports, volumes, points, trouble);
  await readChains(ports, volumes, specs, { points, found, trouble });
  const sessions = new SessionSet({ ports, volumes, points: log, emit });
  for (const one of found) await adopt(ports, sessions, one, trouble);
  for (const spec of specs) volumes.require(spec.uid).chain.prune();
  if (points.length > 0) {
    await sessions.checkpointAll();
    await volumes.settle(specs.map((spec) => volumes.require(spec.uid)));
    await log.reset();
  }
  return sessions;
}

type Trouble = (what: string, error: unknown) => void;

/** The newest record of every session that lives; removes what is over or never began. */
async function readSessions(
  ports: EnginePorts,
  volumes: VolumeSet,
  points: readonly RecoveredPoint[],
  trouble: Trouble,
): Promise<Found[]> {
  const { files } = ports;
  const found: Found[] = [];
  for (const id of await files.list(SESSIONS_DIRECTORY)) {
    const fired = newestPoint(points, id);
    try {
      const own = (await files.exists(`${SESSIONS_DIRECTORY}/${id}/super`))
        ? await SessionFiles.readRecord(files, id)
        : undefined;
      const fromPoint = fired && own && fired.record.generation > own.generation ? fired : undefined;
      const record = fromPoint?.record ?? own;
      // Without a superblock it was being made or being removed, whatever a point still says: the superblock is there
      // before a point is fired, and it is the last file to go.
      if (!record || record.state === "ended" || record.state === "creating") {
        await removeSessionDirectory(files, id);
        continue;
      }
      if (!volumes.find(record.source.volumeUid) || !volumes.find(record.destination.volumeUid)) {
        trouble(`copy ${id}`, new Error("one of its volumes is not registered any more; the session is left out"));
        continue;
      }
      found.push({ record, pointMap: fromPoint?.map });
    } catch (error) {
      trouble(`copy ${id} cannot be read`, error);
    }
  }
  return found;
}

function newestPoint(
  points: readonly RecoveredPoint[],
  id: string,
): { record: SessionRecord; map: PagedBitmap } | undefined {
  for (const point of [...points].reverse()) {
    const record = point.sessions.find((session) => session.id === id);
    const map = point.maps.get(id);
    if (record && map) return { record, map };
  }
  return undefined;
}

async function readChains(
  ports: EnginePorts,
  volumes: VolumeSet,
  specs: readonly VolumeSpec[],
  state: { points: readonly RecoveredPoint[]; found: readonly Found[]; trouble: Trouble },
): Promise<void> {
  for (const spec of specs) {
    const volume = volumes.require(spec.uid);
    const needed = epochsNeeded(state.found, spec.uid);
    let tracking: VolumeTracking | undefined;
    try {
      tracking = await VolumeTracking.open(ports, volume, state.points);
      const lost = needed.filter((id) => !volume.chain.has(id));
      if (lost.length > 0 && tracking) {
        await tracking.close();
        volume.chain.dispose();
        throw lostEpochs(spec.name, lost);
      }
      if (lost.length > 0) throw lostEpochs(spec.name, lost);
    } catch (error) {
      state.trouble(`changes of volume ${spec.name} are lost, the next copies are full`, error);
      tracking = await VolumeTracking.rebuild(ports, volume, needed);
    }
    if (tracking) volumes.adoptTracking(spec.uid, tracking);
  }
  const known = new Set(specs.map((spec) => spec.uid));
  for (const uid of await ports.files.list(VOLUMES_DIRECTORY))
    if (!known.has(uid)) await removeVolumeDirectory(ports.files, uid);
}

function lostEpochs(name: string, ids: readonly number[]): Error {
  return new Error(`volume ${name} does not have epoch ${ids.join(", ")}`);
}

function epochsNeeded(found: readonly Found[], uid: string): number[] {
  return found.flatMap(({ record }) => {
    if (!record.tracking || record.state !== "live") return [];
    const source = record.source.volumeUid === uid ? [record.sourceEpoch] : [];
    const destination = record.destination.volumeUid === uid ? [record.destinationEpoch] : [];
    return [...source, ...destination];
  });
}

async function adopt(ports: EnginePorts, sessions: SessionSet, one: Found, trouble: Trouble): Promise<void> {
  const { record } = one;
  const granuleCount = granuleCountOf(record.source.lengthBytes);
  try {
    const { sessionFiles, missing } = await SessionFiles.open(ports.files, ports.core, record, {
      pointMap: one.pointMap?.clone(),
      granuleCount,
    });
    sessions.adopt(record, missing, sessionFiles).holdEpochs();
  } catch (cause) {
    const error: TidemarkError = asTidemarkError(cause);
    trouble(`copy ${record.id} has failed`, error);
    await sessions.adoptDamaged(record, new PagedBitmap(ports.core, granuleCount, "full"), error);
  }
}
