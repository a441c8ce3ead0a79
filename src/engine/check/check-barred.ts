/** What it costs that files must not be opened: the volumes and copies that the next start leaves alone (engine/barred.ts). */
import type { TidemarkError } from "../../base/errors.ts";
import { OutOfService, type ReadSide } from "../barred.ts";
import type { SessionHint } from "../engine-api.ts";
import type { PointRecord } from "../session/points-log.ts";
import { SESSIONS_DIRECTORY } from "../session/session-files.ts";
import type { SessionRecord } from "../session/session-record.ts";
import { VOLUMES_DIRECTORY } from "../volume/volume-tracking.ts";

/** What a check knows of the copies. */
export interface KnownCopies {
  readonly sessions: readonly SessionRecord[];
  readonly hints: readonly SessionHint[];
  readonly points: readonly PointRecord[];
  readonly nameOf: (uid: string) => string;
}

export interface BarredCost {
  /** Undefined: the start is refused. */
  readonly cost: string | undefined;
  readonly sessionIds: readonly string[];
}

/** Of one file of a volume or copy. */
export function costOfBarred(path: string, error: TidemarkError, known: KnownCopies): BarredCost {
  const [kind, owner = ""] = path.split("/");
  if (kind !== VOLUMES_DIRECTORY && kind !== SESSIONS_DIRECTORY) return { cost: undefined, sessionIds: [] };
  const sessions = known.sessions.map(
    (record): ReadSide => ({
      ...{ id: record.id, record, connects: true },
      barred: kind === SESSIONS_DIRECTORY && record.id === owner ? error : undefined,
    }),
  );
  if (kind === SESSIONS_DIRECTORY && !sessions.some(({ id }) => id === owner))
    sessions.push({ id: owner, record: undefined, connects: true, barred: error });
  const volumes = new Map(kind === VOLUMES_DIRECTORY ? [[owner, error]] : []);
  const { hints, points } = known;
  let out: OutOfService;
  try {
    out = OutOfService.among({ volumes, sessions, hints, points });
  } catch (refusal) {
    if (refusal !== error) throw refusal;
    return { cost: undefined, sessionIds: [] };
  }
  const names = [
    ...[...out.volumes.keys()].map((uid) => `volume ${known.nameOf(uid)}`).sort(),
    ...[...out.sessions.keys()].map((id) => `copy ${id}`).sort(),
  ];
  const are = names.length === 1 ? "is" : "are";
  const cost = `${names.join(", ")} ${are} out of service until that is mended and the box started again`;
  return { cost, sessionIds: [...out.sessions.keys()] };
}
