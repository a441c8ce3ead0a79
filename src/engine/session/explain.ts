/** What a start would do, before it is done. */
import { granuleCountOf } from "../../base/units.ts";
import type { CopyPlan, StartRequest } from "../engine-api.ts";
import { type LiveView, reasonOf } from "./point.ts";
import { planStart } from "./rules.ts";

/** Throws the refusal that the start would meet. */
export function explainStart(views: readonly LiveView[], request: Omit<StartRequest, "id" | "pace">): CopyPlan {
  const plan = planStart(views, request);
  const existing = plan.existing?.session;
  const base = plan.restores?.session ?? existing;
  const granules = granuleCountOf(plan.source.lengthBytes);
  const reason = plan.transition.reason ?? "FIRST_COPY";
  if (plan.transition.copies === "everything" || !base)
    return {
      reason,
      existingId: existing?.id,
      plannedGranules: granules,
      bytesPlanned: plan.source.lengthBytes,
      pendingGranules: 0,
      sourceChangedGranules: 0,
      destinationChangedGranules: 0,
    };
  const pending = base.missing();
  const source = base.changedSincePoint("source");
  const destination = base.changedSincePoint("destination");
  const counts = {
    pendingGranules: pending.count,
    sourceChangedGranules: plan.restores ? destination.count : source.count,
    destinationChangedGranules: plan.restores ? source.count : destination.count,
  };
  pending.union(source);
  pending.union(destination);
  const planned = { plannedGranules: pending.count, bytesPlanned: base.bytesOf(pending) };
  for (const map of [pending, source, destination]) map.dispose();
  return { reason: reasonOf(reason, base.trust), existingId: existing?.id, ...planned, ...counts };
}
