/** Check of the points logs: whether each can be read, and what points they hold. */
import {
  anyNumberOf,
  decodeContinued,
  decodePoint,
  missingLog,
  newestMissing,
  type PointRecord,
  pointsLogName,
  pointsLogNumbers,
} from "../session/points-log.ts";
import { FindingList, findingOf, NO_COST_REMEDY } from "./finding.ts";
import { type Checks, checkLog } from "./verify.ts";

export interface CheckedPoints {
  /** Oldest first, without those of damaged logs: a start does not use them either. */
  readonly points: readonly PointRecord[];
  /** What is wrong with damaged logs; who depends on them is not known yet, so the cost is still missing. */
  readonly damage: FindingList;
}

export async function checkPoints(checks: Checks, names: readonly string[]): Promise<CheckedPoints> {
  const points: PointRecord[] = [];
  const damage = new FindingList();
  const numbers = pointsLogNumbers(names);
  let newest = Math.max(0, ...[...(checks.logEnds?.keys() ?? [])].map(anyNumberOf));
  for (const number of numbers) {
    const path = pointsLogName(number);
    const found: PointRecord[] = [];
    const findings = new FindingList();
    const context = { path, subject: "", cost: "", remedy: NO_COST_REMEDY };
    const whole = await checkLog({ ...checks, findings }, context, { kind: "box", id: "points" }, (payload) => {
      const next = decodeContinued(payload);
      newest = Math.max(newest, next ?? 0);
      if (next !== undefined) return;
      const { maps, ...record } = decodePoint(path, payload, checks.core);
      for (const map of maps.values()) map.dispose();
      found.push(record);
    });
    if (whole) points.push(...found);
    for (const finding of findings.items) (whole ? checks.findings : damage).add(finding);
  }
  const lost = newest > Math.max(0, ...names.map(anyNumberOf)) ? newestMissing(newest) : undefined;
  if (lost)
    damage.add({
      ...findingOf(lost, { path: pointsLogName(newest), subject: "", cost: "", remedy: NO_COST_REMEDY }),
      kind: "missing",
    });
  const missing = numbers.length === 0 && !lost ? await missingLog(checks.files) : undefined;
  if (missing) damage.add(findingOf(missing, { path: "points-*.log", subject: "", cost: "", remedy: NO_COST_REMEDY }));
  return { points, damage };
}
