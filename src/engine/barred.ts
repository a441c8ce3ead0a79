/**
 * Out of service: what this run leaves alone, because state files of it must not be opened (no permission, a newer format).
 *
 * Nothing is known of what such a file says, so nothing may be done that depends on it: a write to a source that is not
 * preserved, or not tracked, could not be made good later. So a volume or session with such a file, and everything that is
 * connected with it by sessions, to any distance, is out of service until the next start: its volumes are not opened, no
 * file of it is written, made or removed, and what the box's own files say of it stays there. Everything else serves.
 * Role: decides who that is, from what reading the files has found (recovery.ts); nothing has been changed by then.
 */
import { TidemarkError, toErrorRecord } from "../base/errors.ts";
import { granuleCountOf } from "../base/units.ts";
import type { OutOfServiceSession, SessionHint, SessionStatus } from "./engine-api.ts";
import type { PointRecord, RecoveredPoint } from "./session/points-log.ts";
import type { SessionRecord } from "./session/session-record.ts";
import type { SessionReading } from "./session/session-recovery.ts";

/** What is known of a session that was read. */
export type ReadSide = Pick<SessionReading, "id" | "record" | "connects" | "barred">;

/** What was found, before it is known what it is connected with. */
export interface BarredFiles {
  /** Volumes with such a file. */
  readonly volumes: ReadonlyMap<string, TidemarkError>;
  readonly sessions: readonly ReadSide[];
  /** What others know of the sessions. */
  readonly hints: readonly SessionHint[];
  readonly points: readonly PointRecord[];
}

/** By uid, by id: why, as OUT_OF_SERVICE. */
export class OutOfService {
  readonly volumes: ReadonlyMap<string, TidemarkError>;
  readonly sessions: ReadonlyMap<string, TidemarkError>;

  private constructor(volumes: ReadonlyMap<string, TidemarkError>, sessions: ReadonlyMap<string, TidemarkError>) {
    this.volumes = volumes;
    this.sessions = sessions;
  }

  /** Throws why a session must not be read when nobody knows which volumes it has to do with. */
  static among(found: BarredFiles): OutOfService {
    const links = found.sessions.filter(({ connects }) => connects).map((reading) => linkOf(reading, found));
    const volumes = new Map<string, TidemarkError>();
    const sessions = new Map<string, TidemarkError>();
    const open: [uid: string, why: TidemarkError][] = [];
    for (const [uid, cause] of found.volumes) open.push([uid, outOfService(cause)]);
    const take = ({ id, volumeUids }: SessionLink, why: TidemarkError) => {
      if (sessions.has(id)) return;
      sessions.set(id, why);
      for (const uid of volumeUids) open.push([uid, why]);
    };
    for (const link of links) if (link.barred) take(link, outOfService(link.barred));
    for (let next = open.shift(); next !== undefined; next = open.shift()) {
      const [uid, why] = next;
      if (volumes.has(uid)) continue;
      volumes.set(uid, why);
      for (const link of links) if (link.volumeUids.has(uid)) take(link, why);
    }
    return new OutOfService(volumes, sessions);
  }

  get isEmpty(): boolean {
    return this.volumes.size === 0 && this.sessions.size === 0;
  }

  /** The errors that it begins with. */
  get causes(): readonly TidemarkError[] {
    return [...new Set([...this.volumes.values(), ...this.sessions.values()])];
  }

  list(readings: readonly ReadSide[]): OutOfServiceSession[] {
    return readings.flatMap(({ id, record }) => {
      const why = this.sessions.get(id);
      if (!why) return [];
      return [{ id, failure: toErrorRecord(why), session: record && statusOf(record) }];
    });
  }

  /** OUT_OF_SERVICE. */
  requireSession(id: string): void {
    const why = this.sessions.get(id);
    if (why) throw refusalOf(`copy ${id}`, why);
  }

  /** What the points log has to remember of it. */
  pointsOf(points: readonly RecoveredPoint[]): RecoveredPoint[] {
    return points.flatMap((point) => {
      const seals = point.seals.filter(({ uid }) => this.volumes.has(uid));
      const logicalChanges = point.logicalChanges.filter(({ uid }) => this.volumes.has(uid));
      const named = new Set(logicalChanges.map(({ sessionId }) => sessionId));
      const sessions = point.sessions.filter(({ id }) => this.sessions.has(id) || named.has(id));
      if (sessions.length + seals.length === 0) return [];
      return [{ ...point, sessions, seals, logicalChanges }];
    });
  }
}

/** The refusal of something about `subject`, such as `copy c1`. */
export function refusalOf(subject: string, why: TidemarkError): TidemarkError {
  return new TidemarkError("OUT_OF_SERVICE", { ...why.detail, message: `${subject} is ${why.detail.message}` });
}

interface SessionLink {
  readonly id: string;
  readonly barred: TidemarkError | undefined;
  readonly volumeUids: ReadonlySet<string>;
}

/** Of a session that cannot be read, everybody's word counts: a volume too many costs less than one too few. */
function linkOf({ id, barred, record }: ReadSide, { hints, points }: BarredFiles): SessionLink {
  const said = record ? [record] : [];
  if (barred) said.push(...points.flatMap(({ sessions }) => sessions.filter((session) => session.id === id)));
  const volumeUids = new Set(said.flatMap(({ source, destination }) => [source.volumeUid, destination.volumeUid]));
  if (barred) for (const hint of hints) if (hint.id === id) for (const uid of hint.volumeUids) volumeUids.add(uid);
  if (barred && volumeUids.size === 0) throw barred;
  return { id, barred, volumeUids };
}

/** As far as can be said without its maps. */
function statusOf(record: SessionRecord): SessionStatus {
  const { state, mapFile: _, logFile: __, logFrames: ___, end: ____, ...facts } = record;
  return {
    ...facts,
    phase: state === "failed" ? "failed" : "copying",
    endedMs: undefined,
    pendingGranules: record.plannedGranules,
    changedGranules: 0,
    totalGranules: granuleCountOf(record.source.lengthBytes),
    etaSeconds: 0,
  };
}

function outOfService({ code, detail }: TidemarkError): TidemarkError {
  const path = detail.metadata?.["path"] ?? "";
  return new TidemarkError("OUT_OF_SERVICE", {
    message: `out of service: ${detail.message}`,
    hint: `${detail.hint ?? "mend that"}; then start the daemon again, until then nothing of it is changed`,
    metadata: { path, reason: code },
  });
}
