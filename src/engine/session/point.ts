/**
 * Firing a point: all members at one instant, all or none.
 *
 * Algorithm (data-safety 1.4 "Start", 2.5 "Barrier"):
 *   1. check every member; make the files that will be needed; flush the sources, so that the barrier is short;
 *   2. close the gates of all volumes; wait until nothing is under way; time out: open again, nothing fired;
 *   3. check again; flush the sources (what is on them now is the point);
 *   4. compute the pending maps; seal the epochs;
 *   5. write one record with all of it to the points log, durably: from here on the point has happened;
 *   6. take it over in memory; open the gates.
 * Invariant: nothing in memory that decides about data changes before step 5 is durable. (A sealed epoch that nobody
 * holds, or a mark too much, is harmless.)
 */
import { assert } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";
import { BARRIER_TIMEOUT_MS } from "../../base/limits.ts";
import { granuleCountOf } from "../../base/units.ts";
import type { CopyKind, CopyReason, ExtentRef } from "../engine-api.ts";
import { PagedBitmap } from "../map/paged-bitmap.ts";
import type { EnginePorts } from "../ports.ts";
import { within } from "../sync/deadline.ts";
import { each } from "../sync/each.ts";
import type { EpochTrust } from "../volume/change-chain.ts";
import type { Volume } from "../volume/volume.ts";
import { bytesOfGranules, extentsOverlap } from "./extents.ts";
import { encodePointMap, type LogicalChange, type PointMap, type PointsLog, type VolumeSeal } from "./points-log.ts";
import { planStart, type StartPlan, transitionOf } from "./rules.ts";
import type { CopySession } from "./session.ts";
import { SessionFiles } from "./session-files.ts";
import type { SessionRecord } from "./session-record.ts";

/** Members whose files are made at the same time. */
const PREPARED_AT_ONCE = 16;
const PRE_FLUSHES_MAX = 6;
const PRE_FLUSH_SHORT_MS = 10;

/** What a member looks like to the rules. */
export interface LiveView {
  readonly id: string;
  readonly source: ExtentRef;
  readonly destination: ExtentRef;
  readonly state: CopySession["tableState"];
  readonly unfinished: boolean;
  readonly session: CopySession;
}

export interface PointMember {
  /** For a new session. */
  readonly id: string;
  readonly source: ExtentRef;
  readonly destination: ExtentRef;
  readonly kind: CopyKind;
  readonly pace: number;
  /** `restart`: run this session again; it must still exist inside the barrier. */
  readonly restartOf: CopySession | undefined;
}

export interface PointHost {
  readonly ports: EnginePorts;
  /** Nothing is waited for any more. */
  readonly stopping: AbortSignal;
  readonly points: PointsLog;
  views(): LiveView[];
  volume(uid: string): Volume;
  prepareTracking(volume: Volume): Promise<void>;
  /** Seals the open epoch in memory and queues the seal in the activity log. */
  seal(volume: Volume, nowMs: number): VolumeSeal;
  /** Marks were set that are only in the points log. */
  noteMarks(volume: Volume): void;
  /** Makes the session object of a record and attaches it to its volumes. */
  attach(record: SessionRecord, pending: PagedBitmap, files: SessionFiles): CopySession;
}

type Plan = StartPlan<LiveView>;

interface Prepared {
  readonly member: PointMember;
  readonly source: Volume;
  readonly destination: Volume;
  readonly files: SessionFiles;
  readonly isNew: boolean;
  logFile: string;
}

interface Fired {
  readonly prepared: Prepared;
  readonly plan: Plan;
  readonly pending: PagedBitmap;
  record: SessionRecord;
}

export async function firePoint(host: PointHost, members: readonly PointMember[]): Promise<CopySession[]> {
  planAll(host, members);
  const made: Prepared[] = [];
  try {
    const prepared = await prepareAll(host, members, made);
    const volumes = distinct(prepared.flatMap((one) => [one.source, one.destination]));
    await withinBarrier(host, preFlush(host, prepared));
    return await underBarrier(host, prepared, volumes);
  } catch (error) {
    // The first error is the one to report; what cannot be removed now is removed at the next start.
    await Promise.allSettled(made.map((one) => (one.isNew ? one.files.remove() : one.files.abandonGeneration())));
    throw error;
  }
}

/** Plans of all members as of now, each also against the members before it. Throws the first refusal. */
function planAll(host: PointHost, members: readonly PointMember[]): Plan[] {
  requireIndependent(members);
  const views = host.views();
  return members.map((member) => {
    if (member.restartOf) {
      const view = views.find((candidate) => candidate.session === member.restartOf);
      transitionOf(view?.state ?? "none", "restart", member.restartOf.id);
    }
    return planStart(views, member);
  });
}

/** Members of one point may share sources, but nothing else: there is no order among them. */
function requireIndependent(members: readonly PointMember[]): void {
  for (const [index, member] of members.entries())
    for (const [otherIndex, other] of members.entries()) {
      if (index === otherIndex) continue;
      if (index < otherIndex && extentsOverlap(member.destination, other.destination))
        throw new TidemarkError("DESTINATION_IN_USE", {
          message: `destination ${other.destination.name} is named twice in one point`,
          hint: "give every pair a destination of its own",
        });
      if (extentsOverlap(member.destination, other.source))
        throw new TidemarkError("COPY_STATE", {
          message: `${other.source.name} would be destination and source in one point`,
          hint: "fire the steps of a cascade one after the other",
        });
    }
}

/** The files of all members. `made`, which the caller removes after a failure, has those that exist. */
async function prepareAll(host: PointHost, members: readonly PointMember[], made: Prepared[]): Promise<Prepared[]> {
  const tracked = new Set<Volume>();
  for (const member of members) {
    const source = host.volume(member.source.volumeUid);
    const destination = host.volume(member.destination.volumeUid);
    source.requireDevice();
    if (destination.requireDevice().readOnly)
      throw new TidemarkError("READ_ONLY", {
        message: `destination ${member.destination.name} can only be read`,
        hint: "register it from a path that can be written, or choose another destination",
      });
    if (member.kind === "quickopc") tracked.add(source).add(destination);
  }
  await each([...tracked], PREPARED_AT_ONCE, (volume) => host.prepareTracking(volume));
  return each(members, PREPARED_AT_ONCE, async (member) => {
    const prepared = await prepare(host, member);
    made.push(prepared);
    return prepared;
  });
}

async function prepare(host: PointHost, member: PointMember): Promise<Prepared> {
  const source = host.volume(member.source.volumeUid);
  const destination = host.volume(member.destination.volumeUid);
  const plan = planStart(host.views(), member);
  const existing = plan.existing?.session;
  if (existing) {
    await withinBarrier(
      host,
      existing.durable.run(async () => undefined), // a checkpoint under way would lengthen the barrier
    );
    const logFile = await existing.files.prepareGeneration();
    return { member, source, destination, files: existing.files, isNew: false, logFile };
  }
  const files = await SessionFiles.create(host.ports.files, newRecord(host, member, plan));
  return { member, source, destination, files, isNew: true, logFile: files.logFile };
}

/** `plan` has the extents as long as what is copied. */
function newRecord(
  host: PointHost,
  member: PointMember,
  { source, destination }: Pick<Plan, "source" | "destination">,
): SessionRecord {
  const nowMs = host.ports.clock.nowMs();
  const { id, kind, pace } = member;
  const zero = { plannedGranules: 0, bytesPlanned: 0, bytesCopied: 0, bytesZeroed: 0, bytesCloned: 0 };
  const epochs = { sourceEpoch: 0, destinationEpoch: 0, barrierMicroseconds: 0 };
  return {
    ...{ id, kind, pace, source, destination, ...zero, ...epochs },
    ...{ state: "creating", tracking: kind === "quickopc", createdMs: nowMs, pointMs: nowMs, generation: 0 },
    ...{ reason: "FIRST_COPY", failure: undefined, mapFile: undefined, logFile: "" },
  };
}

/** What can be made durable before the gates close need not be made so behind them. */
async function preFlush(host: PointHost, prepared: readonly Prepared[]): Promise<void> {
  const { clock } = host.ports;
  const sources = distinct(prepared.map((one) => one.source));
  for (let round = 0; round < PRE_FLUSHES_MAX; round++) {
    const startedMs = clock.monotonicMs();
    await Promise.all(sources.map((volume) => volume.flush()));
    // Under write load a long flush leaves much for the next one; a short one leaves little for the barrier.
    if (clock.monotonicMs() - startedMs < PRE_FLUSH_SHORT_MS) break;
  }
  for (const view of host.views())
    if (prepared.some((one) => one.files === view.session.files)) await view.session.commitCopied();
}

async function underBarrier(
  host: PointHost,
  prepared: readonly Prepared[],
  volumes: readonly Volume[],
): Promise<CopySession[]> {
  const { clock } = host.ports;
  const startedMs = clock.monotonicMs();
  const closing = volumes.map((volume) => volume.gate.close());
  const releases: (() => void)[] = [];
  try {
    await withinBarrier(host, Promise.all(closing));
    // Nothing is under way on the volumes; background commits may be: they hold the sessions' files.
    for (const one of prepared) {
      const session = host.views().find((view) => view.session.files === one.files)?.session;
      if (session) releases.push(await acquireFiles(host, session));
    }
    const plans = planAll(
      host,
      prepared.map((one) => one.member),
    );
    const sources = distinct(prepared.map((one) => one.source));
    await withinBarrier(host, Promise.all(sources.map((volume) => volume.flush())));
    const pointMs = timeOfPoint(plans, clock.nowMs());
    const fired = await fireAll(host, plans, prepared, pointMs);
    const sessions = fired.map((one) => takeOver(host, one));
    const barrierMicroseconds = Math.round((clock.monotonicMs() - startedMs) * 1000);
    for (const session of sessions) session.facts.barrierMicroseconds = barrierMicroseconds;
    return sessions;
  } finally {
    // Epochs are held by now, or were sealed for a point that did not happen: then they go again.
    for (const volume of volumes) volume.chain.prune();
    for (const release of releases) release();
    for (const volume of volumes) volume.gate.open();
  }
}

/**
 * One time for all: the members are of one instant. It is another one than that of the last point of any of them, by which a
 * request that is repeated finds out whether its point was fired.
 */
function timeOfPoint(plans: readonly Plan[], nowMs: number): number {
  const last = new Set(plans.map(({ existing }) => existing?.session.facts.pointMs));
  let pointMs = nowMs;
  while (last.has(pointMs)) pointMs++;
  return pointMs;
}

async function acquireFiles(host: PointHost, session: CopySession): Promise<() => void> {
  const acquiring = session.durable.acquire();
  try {
    return await withinBarrier(host, acquiring);
  } catch (error) {
    void acquiring.then((release) => release());
    throw error;
  }
}

/** The step's result, or BARRIER_TIMEOUT. */
function withinBarrier<T>(host: PointHost, step: Promise<T>): Promise<T> {
  return within(
    host.ports.clock,
    BARRIER_TIMEOUT_MS,
    step,
    () => {
      const seconds = BARRIER_TIMEOUT_MS / 1000;
      return new TidemarkError("BARRIER_TIMEOUT", {
        message: `writes under way did not end within ${seconds} s; no copy was started`,
        hint: "look for a slow or stalled device among the volumes (`tidemark status`), then try again",
      });
    },
    host.stopping,
  );
}

/** Step 4 for one member: its pending map and its new record, without the epochs. */
function compute(host: PointHost, plan: Plan, prepared: Prepared, pointMs: number): Fired {
  const { member } = prepared;
  const { transition } = plan;
  const session = plan.existing?.session;
  assert((session === undefined) === prepared.isNew, "the barrier sees what was prepared");
  const granuleCount = granuleCountOf(plan.source.lengthBytes);
  let pending: PagedBitmap;
  let trust: EpochTrust = "exact";
  if (transition.copies === "everything") pending = new PagedBitmap(host.ports.core, granuleCount, "full");
  else if (plan.restores) {
    pending = plan.restores.session.changedSincePoint("both");
    trust = plan.restores.session.trust;
  } else {
    assert(session !== undefined, "a difference has a session to differ from");
    pending = session.missing();
    const changed = session.changedSincePoint("both");
    pending.union(changed);
    changed.dispose();
    trust = session.trust;
  }
  const lastIsSet = pending.count > 0 && pending.test(granuleCount - 1);
  const reason = reasonOf(transition.reason, trust);
  const kind = transition.to.startsWith("opc") || plan.restores ? "opc" : "quickopc";
  const record: SessionRecord = {
    ...(session?.record() ?? newRecord(host, member, plan)),
    ...{ state: "live", kind, tracking: kind === "quickopc", pace: member.pace, reason, failure: undefined },
    ...{ source: plan.source, destination: plan.destination, pointMs },
    ...{ generation: (session?.generation ?? 0) + 1, plannedGranules: pending.count },
    ...{ bytesPlanned: bytesOfGranules(pending.count, lastIsSet, plan.source.lengthBytes) },
    ...{ bytesCopied: 0, bytesZeroed: 0, bytesCloned: 0, sourceEpoch: 0, destinationEpoch: 0 },
    ...{ mapFile: undefined, logFile: prepared.logFile },
  };
  return { prepared, plan, pending, record };
}

/** A difference made of maps that are not exact says so. */
export function reasonOf(reason: CopyReason | undefined, trust: EpochTrust): CopyReason {
  if (reason === undefined) return "FIRST_COPY";
  if (trust === "exact" || (reason !== "DIFFERENCE" && reason !== "RESTORE_DIFFERENCE")) return reason;
  return trust === "lost" ? "BASE_LOST" : "MAP_WIDENED";
}

/** Steps 4 and 5. When it throws nothing has happened. */
async function fireAll(
  host: PointHost,
  plans: readonly Plan[],
  prepared: readonly Prepared[],
  pointMs: number,
): Promise<Fired[]> {
  const fired: Fired[] = [];
  try {
    for (const [index, plan] of plans.entries()) fired.push(compute(host, plan, at(prepared, index), pointMs));
    await commit(host, fired, pointMs);
    return fired;
  } catch (error) {
    for (const { record, prepared: one, pending } of fired) {
      one.source.chain.release(record.sourceEpoch, record.id);
      one.destination.chain.release(record.destinationEpoch, record.id);
      pending.dispose();
    }
    throw error;
  }
}

/** Steps 4 (epochs) and 5. */
async function commit(host: PointHost, fired: readonly Fired[], pointMs: number): Promise<void> {
  const logicalChanges: LogicalChange[] = [];
  for (const one of fired) {
    const { destination } = one.prepared;
    if (!destination.chain.tracked) continue;
    destination.markLogicalChange(one.pending, one.record.destination);
    host.noteMarks(destination);
    logicalChanges.push({ uid: destination.uid, epoch: destination.chain.open.id, sessionId: one.record.id });
  }
  const tracking = fired.filter((one) => one.record.tracking);
  const sealed = new Map<string, VolumeSeal>();
  for (const volume of distinct(tracking.flatMap((one) => [one.prepared.source, one.prepared.destination])))
    sealed.set(volume.uid, host.seal(volume, pointMs));
  for (const one of tracking) {
    const sourceEpoch = sealed.get(one.prepared.source.uid)?.openedEpoch ?? 0;
    const destinationEpoch = sealed.get(one.prepared.destination.uid)?.openedEpoch ?? 0;
    one.record = { ...one.record, sourceEpoch, destinationEpoch };
    // Held from here on: another session that ends while the record is written must not take the epochs with it.
    one.prepared.source.chain.hold(sourceEpoch, one.record.id);
    one.prepared.destination.chain.hold(destinationEpoch, one.record.id);
  }
  const maps: PointMap[] = [];
  let freeBytes = host.ports.pointMapsBytesMax;
  for (const one of fired) {
    const map = encodePointMap(one.pending, freeBytes);
    if (map === "in-file") {
      const mapFile = await one.prepared.files.writePointMap(one.record.generation, one.pending);
      one.record = { ...one.record, mapFile };
    } else if (map !== "full") freeBytes -= map.length;
    maps.push(map);
  }
  const sessions = fired.map((one) => one.record);
  await host.points.append({ pointMs, sessions, seals: [...sealed.values()], logicalChanges }, maps);
}

/** Step 6 for one member. */
function takeOver(host: PointHost, fired: Fired): CopySession {
  const { record, prepared, pending } = fired;
  const existing = fired.plan.existing?.session;
  prepared.files.adoptGeneration();
  existing?.newGeneration(record, pending);
  const session = existing ?? host.attach(record, pending, prepared.files);
  session.holdEpochs();
  return session;
}

function distinct<T>(items: readonly T[]): T[] {
  return [...new Set(items)];
}

function at<T>(items: readonly T[], index: number): T {
  const item = items[index];
  assert(item !== undefined, "index is inside");
  return item;
}
