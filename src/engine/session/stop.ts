/**
 * A clean stop, volume by volume: one that stalls keeps no other from being stopped in order.
 *
 * Steps, each with its time (limits.ts):
 *   1. copying ends: no piece is under way, so that devices may be closed;
 *   2. what has been copied and written is durable; each session's and each volume's own files say all of it;
 *   3. only if all of them do, the points log is emptied: it remembers the points for those that do not.
 * What does not come about in time stays as after a kill: the next start reads the same files the same way.
 */
import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import { STOP_COPYING_MS, STOP_DURABLE_MS } from "../../base/limits.ts";
import type { Clock } from "../../base/ports.ts";
import type { LogEnd } from "../durable/log-end.ts";
import { endedWithin, within } from "../sync/deadline.ts";
import type { Volume } from "../volume/volume.ts";
import type { VolumeSet } from "../volume/volume-set.ts";
import type { Copier } from "./copier.ts";
import type { CopySession } from "./session.ts";

/** What a stop could not do. */
export class StopReport {
  readonly failures: TidemarkError[] = [];
  /** Volumes whose devices something may still be using: they are not closed. */
  readonly inUse = new Set<Volume>();
  /** Where the logs end that the next start reads; those that are closed. */
  readonly logEnds = new Map<string, LogEnd>();

  add(error: unknown): void {
    this.failures.push(asTidemarkError(error));
  }

  addLog({ path, end }: { readonly path: string; readonly end: LogEnd }): void {
    this.logEnds.set(path, end);
  }

  /** Adds that a volume did not answer. */
  addLate(volume: Volume): void {
    if (this.inUse.has(volume)) return;
    this.inUse.add(volume);
    this.add(unanswered(volume.name));
  }

  /** All of it as one error; undefined when the stop is clean. */
  get error(): TidemarkError | undefined {
    const [first, ...others] = this.failures;
    if (!first || others.length === 0) return first;
    const message = this.failures.map((failure) => failure.detail.message).join("; ");
    return new TidemarkError(first.code, { ...first.detail, message }, { cause: first });
  }
}

/** No piece of the session is under way, and none begins, when it resolves. */
export async function piecesEnd(copier: Copier, session: CopySession): Promise<void> {
  await copier.stop(session);
  session.lock.release(await session.lock.acquire(0, session.granuleCount));
}

/** Step 1. */
export async function endCopying(
  clock: Clock,
  copier: Copier,
  sessions: readonly CopySession[],
  report: StopReport,
): Promise<void> {
  const busy = new Set(sessions);
  const ending = sessions.map(async (session) => {
    await piecesEnd(copier, session);
    busy.delete(session);
  });
  await endedWithin(clock, STOP_COPYING_MS, ending);
  for (const { id, sourceVolume, destinationVolume } of busy) {
    report.inUse.add(sourceVolume).add(destinationVolume);
    report.add(unanswered(`${sourceVolume.name} or ${destinationVolume.name} (copy ${id})`));
  }
}

/** What a stop makes durable. `unsettled`: what the points log still has to remember. */
interface Unsettled {
  readonly clock: Clock;
  readonly sessions: readonly CopySession[];
  readonly volumes: VolumeSet;
  readonly unsettled: Map<CopySession | Volume, number>;
  readonly report: StopReport;
}

/** Step 2; settled is what says everything in its own files, and a volume that has gone since its point. */
export async function makeDurable({ clock, sessions, volumes, unsettled, report }: Unsettled): Promise<void> {
  await Promise.all([
    ...sessions.map(async (session) => {
      if (await sessionDurable(clock, session, report)) unsettled.delete(session);
    }),
    ...volumes.all().map(async (volume) => {
      if (await inTime(clock, volume, volumes.makeDurable(volume), report)) unsettled.delete(volume);
    }),
  ]);
  const present = new Set<CopySession | Volume>([...sessions, ...volumes.all()]);
  for (const side of unsettled.keys()) if (!present.has(side)) unsettled.delete(side);
}

async function sessionDurable(clock: Clock, session: CopySession, report: StopReport): Promise<boolean> {
  const { destinationVolume } = session;
  if (destinationVolume.online) await inTime(clock, destinationVolume, session.commitAll(), report);
  try {
    // Also when not everything could be committed: it says what is missing.
    await session.checkpoint();
    return true;
  } catch (error) {
    report.add(error);
    return false;
  }
}

interface LogHolder {
  close(): Promise<void>;
  readonly logEnd: Parameters<StopReport["addLog"]>[0];
}

/** Closed behind a checkpoint in the background that was late; what comes later finds nothing to do. */
export function logOf({ durable, files }: CopySession): LogHolder {
  return {
    close: () => durable.run(() => files.close()),
    get logEnd() {
      return files.logEnd;
    },
  };
}

/** Closes what holds a log, whatever becomes of the others. */
export async function closeLogs(holders: readonly LogHolder[], report: StopReport): Promise<void> {
  for (const holder of holders) {
    await holder.close().catch((error: unknown) => report.add(error));
    report.addLog(holder.logEnd);
  }
}

/** Nothing that a stalled device still answers finds anything to do. */
export function retire(sessions: readonly CopySession[], volumes: VolumeSet): void {
  volumes.retire();
  for (const session of sessions) {
    session.state = "ended";
    session.dispose();
  }
}

async function inTime(clock: Clock, volume: Volume, step: Promise<void>, report: StopReport): Promise<boolean> {
  let late = false;
  try {
    await within(clock, STOP_DURABLE_MS, step, () => {
      late = true;
      return unanswered(volume.name);
    });
    return true;
  } catch (error) {
    if (late) report.addLate(volume);
    else report.add(error);
    return false;
  }
}

function unanswered(what: string): TidemarkError {
  return new TidemarkError("DEVICE_TIMEOUT", {
    message: `${what} did not answer while the box stopped`,
    hint: "nothing is lost: the next start recovers it as after a kill; look after the device and the kernel log (dmesg)",
  });
}
