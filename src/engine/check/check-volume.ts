/**
 * Check of one volume's change chain on disk: superblock, maps of the epochs, activity logs, and whether the epochs that
 * sessions need are there.
 */
import { granuleCountOf } from "../../base/units.ts";
import { ActivityReplayer } from "../durable/activity-frames.ts";
import { USED_AND_NOT_NAMED } from "../durable/activity-log.ts";
import { corruptFile } from "../durable/state-files.ts";
import type { VolumeSpec } from "../engine-api.ts";
import type { PointRecord } from "../session/points-log.ts";
import { decodeVolumeRecord, expectedLogEnd, mapFileOf, type VolumeRecord } from "../volume/volume-record.ts";
import { activityLogNumbers, VOLUMES_DIRECTORY } from "../volume/volume-tracking.ts";
import { type FindingContext, findingOf, harmless, NO_COST_REMEDY } from "./finding.ts";
import { type Checks, checkLog, checkMap, checkSuperblock } from "./verify.ts";

/** An epoch that a session needs. */
export interface NeededEpoch {
  readonly epoch: number;
  readonly sessionId: string;
}

export interface VolumeSurroundings {
  /** Undefined: nobody knows its name and size. */
  readonly spec: VolumeSpec | undefined;
  readonly needed: readonly NeededEpoch[];
  readonly points: readonly PointRecord[];
}

export async function checkVolume(checks: Checks, uid: string, surroundings: VolumeSurroundings): Promise<void> {
  const { files, findings } = checks;
  const { needed } = surroundings;
  const directory = `${VOLUMES_DIRECTORY}/${uid}`;
  const subject = surroundings.spec?.name ?? uid;
  const context = (name: string) => volumeContext(`${directory}/${name}`, subject, needed);
  const names = (await files.exists(directory)) ? await files.list(directory) : [];
  if (!names.includes("super") && needed.length === 0) {
    const message = "the volume was not tracked yet, or is not any more";
    findings.add(harmless("left-over", { path: directory, subject, message }));
    return;
  }
  const owner = { kind: "volume", id: uid } as const;
  const record = await checkSuperblock(checks, context("super"), owner, decodeVolumeRecord);
  if (record === undefined) return;
  const maps = await checkMaps(checks, { uid, record, spec: surroundings.spec, context });
  const replayed = await checkLogs(checks, { uid, record, names, context });
  reportLeftOvers(checks, { directory, subject, record, names });
  if (!maps || replayed === undefined) return;
  const epochs = epochsOf(uid, record, replayed, surroundings.points);
  const lost = needed.filter(({ epoch }) => !epochs.has(epoch));
  if (lost.length === 0) return;
  const ids = [...new Set(lost.map(({ epoch }) => epoch))].join(", ");
  const error = corruptFile(`${directory}/super`, `does not have epoch ${ids}, which ${namesOf(lost)} needs`);
  findings.add(findingOf(error, context("super")));
}

/** What one part of a volume's check is given. */
interface Part {
  readonly uid: string;
  readonly record: VolumeRecord;
  readonly context: (name: string) => FindingContext;
}

async function checkMaps(checks: Checks, part: Part & { readonly spec: VolumeSpec | undefined }): Promise<boolean> {
  const { uid, record, spec, context } = part;
  const bitCount = spec && granuleCountOf(spec.sizeBytes);
  let whole = true;
  for (const [id, , , serial] of record.epochs) {
    if (serial === 0) continue;
    const expected = { kind: "epoch", ownerId: uid, generation: id, bitCount };
    if (!(await checkMap(checks, context(mapFileOf(id, serial)), expected))) whole = false;
  }
  return whole;
}

/** Epochs that the logs know of; undefined when they cannot be relied on. */
async function checkLogs(checks: Checks, part: Part & { readonly names: readonly string[] }) {
  const { uid, record, names, context } = part;
  const numbers = activityLogNumbers(names, record.log);
  const first = context(`al-${record.log}.log`);
  if (numbers[0] !== record.log) {
    checks.findings.add({ ...findingOf(corruptFile(first.path, "it is missing"), first), kind: "missing" });
    return undefined;
  }
  const replayer = new ActivityReplayer();
  const expected = (number: number) => expectedLogEnd(uid, record, number, checks.logEnds ?? new Map());
  let whole = true;
  let next: number | undefined = record.log;
  for (const number of numbers) {
    const log = context(`al-${number}.log`);
    const inUse = number === next;
    let frames = 0;
    const onPayload = (payload: Uint8Array) => {
      frames++;
      // After a damaged log the later ones are read for their own sake only.
      if (whole && inUse) replayer.add(log.path, payload);
    };
    const read = await checkLog(checks, log, { kind: "volume", id: uid }, onPayload, undefined, expected(number));
    const bad = inUse && frames === 0 ? "is empty" : !inUse && frames > 1 ? USED_AND_NOT_NAMED : undefined;
    if (read && whole && bad) {
      checks.findings.add(findingOf(corruptFile(log.path, bad), log));
      return undefined;
    }
    whole &&= read;
    if (inUse) next = replayer.continuedIn;
  }
  if (!whole) return undefined;
  const last = next ?? record.inUse?.[0] ?? 0;
  if (next !== undefined || last > (numbers.at(-1) ?? 0)) {
    const log = context(`al-${last}.log`);
    checks.findings.add({ ...findingOf(corruptFile(log.path, "it is missing"), log), kind: "missing" });
    return undefined;
  }
  const { openEpoch, sealed } = replayer.result();
  return [openEpoch, ...sealed.map(({ epoch }) => epoch)];
}

function epochsOf(
  uid: string,
  record: VolumeRecord,
  replayed: readonly number[],
  points: readonly PointRecord[],
): ReadonlySet<number> {
  const seals = points.flatMap((point) => point.seals.filter((seal) => seal.uid === uid));
  return new Set([
    ...record.epochs.map(([id]) => id),
    ...replayed,
    ...seals.map(({ openedEpoch }) => openedEpoch),
    ...points.flatMap((point) => point.logicalChanges.filter((change) => change.uid === uid)).map(({ epoch }) => epoch),
  ]);
}

export function volumeContext(path: string, subject: string, needed: readonly NeededEpoch[]): FindingContext {
  if (needed.length === 0) return { path, subject, cost: "", remedy: NO_COST_REMEDY };
  return {
    path,
    subject,
    cost: `what changed on ${subject} is not known any more: the next copy of ${namesOf(needed)} is full`,
    remedy: "start the box; the next copies copy everything, and track again from then on",
  };
}

function namesOf(needed: readonly NeededEpoch[]): string {
  return [...new Set(needed.map(({ sessionId }) => sessionId))].join(", ");
}

/** Everything that the superblock does not name, but for later logs. */
function reportLeftOvers(
  checks: Checks,
  found: {
    readonly directory: string;
    readonly subject: string;
    readonly record: VolumeRecord;
    readonly names: readonly string[];
  },
): void {
  const { directory, subject, record, names } = found;
  const kept = new Set(["super", ...record.epochs.map(([id, , , serial]) => mapFileOf(id, serial))]);
  const logs = new Set(activityLogNumbers(names, record.log).map((number) => `al-${number}.log`));
  for (const name of names)
    if (!kept.has(name) && !logs.has(name)) {
      const message = "nothing names it any more";
      checks.findings.add(harmless("left-over", { path: `${directory}/${name}`, subject, message }));
    }
}
