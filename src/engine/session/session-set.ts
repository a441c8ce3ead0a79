/**
 * All sessions of the engine: starting, running again, ending.
 *
 * Role: one change of sessions at a time (`#admin`), each durable before it shows. The state machine is transitions.ts,
 * the instant is point.ts, the copying is copier.ts.
 */
import { endOnBug } from "../../base/assert.ts";
import { TidemarkError } from "../../base/errors.ts";
import { BARRIER_TIMEOUT_MS, STOP_BACKGROUND_MS } from "../../base/limits.ts";
import { granuleCountOf } from "../../base/units.ts";
import type { OutOfService } from "../barred.ts";
import type { CopyPlan, EngineEvent, SessionStatus, StartRequest, VolumeFacts } from "../engine-api.ts";
import { PagedBitmap } from "../map/paged-bitmap.ts";
import type { EnginePorts } from "../ports.ts";
import { endedWithin, within } from "../sync/deadline.ts";
import { Mutex } from "../sync/mutex.ts";
import type { Volume } from "../volume/volume.ts";
import type { VolumeSet } from "../volume/volume-set.ts";
import { Copier } from "./copier.ts";
import { type EndedSessions, endOf } from "./ended-sessions.ts";
import { explainStart } from "./explain.ts";
import { markLost } from "./mark-lost.ts";
import { firePoint, type LiveView, type PointHost, type PointMember } from "./point.ts";
import type { PointsLog } from "./points-log.ts";
import { requireNobodyReadsThrough } from "./reads-through.ts";
import { noticeForeignWrite, type ReopenHost, reopenVolume } from "./reopen.ts";
import { requireRoom } from "./room.ts";
import { transitionOf } from "./rules.ts";
import { CopySession } from "./session.ts";
import { SessionFiles } from "./session-files.ts";
import type { SessionRecord } from "./session-record.ts";
import type { FoundSession } from "./session-recovery.ts";
import { closeLogs, endCopying, logOf, makeDurable, retire, StopReport } from "./stop.ts";

/** Between attempts at what could not be made durable. */
const RETRY_AFTER_MS = 5000;
/** Progress is told at most this often; changes of phase always. */
const PROGRESS_EVENT_MS = 200;

export class SessionSet {
  readonly #ports: EnginePorts;
  readonly #volumes: VolumeSet;
  readonly #points: PointsLog;
  readonly #outOfService: OutOfService;
  readonly ended: EndedSessions;
  readonly #emit: (event: EngineEvent) => void;
  readonly #sessions = new Map<string, CopySession>();
  readonly #copier: Copier;
  readonly #admin = new Mutex();
  readonly #toldMs = new Map<string, number>();
  /** Background work (checkpoints, endings) that `stop` waits for. */
  readonly #background = new Set<Promise<void>>();
  /** What the points log still has to remember: sessions and volumes whose last point is not in their own files yet. */
  readonly #unsettled = new Map<CopySession | Volume, number>();
  #pointsSeen = 0;
  #settling = false;
  #stopping = false;
  readonly #stopped = new AbortController();

  constructor(options: {
    ports: EnginePorts;
    volumes: VolumeSet;
    points: PointsLog;
    outOfService: OutOfService;
    ended: EndedSessions;
    emit: (event: EngineEvent) => void;
  }) {
    this.#ports = options.ports;
    this.#volumes = options.volumes;
    this.#points = options.points;
    this.#outOfService = options.outOfService;
    this.ended = options.ended;
    this.#emit = options.emit;
    this.#copier = new Copier(options.ports);
    options.volumes.onReturn = (volume, device) => noticeForeignWrite(this.#reopenHost(), volume, device);
  }

  // --- requests ------------------------------------------------------------------------------------------------------

  start(requests: readonly StartRequest[]): Promise<SessionStatus[]> {
    const members = requests.map((request): PointMember => ({ ...request, restartOf: undefined }));
    return this.#fire(() => members);
  }

  restart(ids: readonly string[]): Promise<SessionStatus[]> {
    return this.#fire(() =>
      ids.map((id): PointMember => {
        const session = this.require(id);
        const { source, destination, kind, pace } = session.facts;
        return { id, source, destination, kind, pace, restartOf: session };
      }),
    );
  }

  #fire(choose: () => PointMember[]): Promise<SessionStatus[]> {
    return this.#admin.run(async () => {
      this.#requireRunning();
      const members = choose();
      const exist = this.#sessions.size + this.ended.size + this.#outOfService.sessions.size;
      requireRoom(this.#volumes, members, exist);
      const sessions = await firePoint(this.#host(), members);
      this.#pointsSeen++;
      for (const session of sessions)
        for (const side of [session, session.sourceVolume, session.destinationVolume])
          this.#unsettled.set(side, this.#pointsSeen);
      const statuses = sessions.map((session) => session.status());
      for (const session of sessions) {
        this.#tell(session);
        if (session.unfinished) this.#copier.start(session);
        else this.#copied(session);
      }
      this.#settlePoints();
      return statuses;
    });
  }

  cancel(id: string): Promise<{ session: SessionStatus; destinationUsable: boolean }> {
    return this.#admin.run(async () => {
      this.#requireRunning();
      const session = this.require(id);
      transitionOf(session.tableState, "cancel", id);
      requireNobodyReadsThrough(session);
      return this.#end(session, "cancelled");
    });
  }

  stopTracking(id: string): Promise<SessionStatus> {
    return this.#admin.run(async () => {
      this.#requireRunning();
      const session = this.require(id);
      const transition = transitionOf(session.tableState, "stop-tracking", id);
      if (transition.to === "none") return (await this.#end(session, "completed")).session;
      await session.stopTracking();
      this.#tell(session);
      if (!session.unfinished) this.#copied(session);
      return session.status();
    });
  }

  setPace(id: string, pace: number): Promise<SessionStatus> {
    return this.#admin.run(async () => {
      this.#requireRunning();
      const session = this.require(id);
      await session.setPace(pace);
      return session.status();
    });
  }

  explain(request: Omit<StartRequest, "id" | "pace">): CopyPlan {
    for (const { volumeUid } of [request.source, request.destination])
      this.#volumes.require(volumeUid).requireInService();
    return explainStart(this.#views(), request);
  }

  require(id: string): CopySession {
    const session = this.#sessions.get(id);
    if (session) return session;
    this.#outOfService.requireSession(id);
    throw new TidemarkError("SESSION_NOT_FOUND", {
      message: `there is no copy session ${id}`,
      hint: "`tidemark copy list` shows the sessions; `--all` also those that have ended",
    });
  }

  find(id: string): CopySession | undefined {
    return this.#sessions.get(id);
  }

  statuses(): SessionStatus[] {
    return [...this.#sessions.values()].map((session) => session.status());
  }

  // --- life ----------------------------------------------------------------------------------------------------------

  /** Takes over a session found at start; copying begins with `resume`. */
  adopt(record: SessionRecord, pending: PagedBitmap, files: SessionFiles): CopySession {
    const source = this.#volumes.require(record.source.volumeUid);
    const destination = this.#volumes.require(record.destination.volumeUid);
    const owner = {
      changed: (session: CopySession) => this.#progressed(session),
      copied: (session: CopySession) => this.#copied(session),
      trouble: (error: unknown) => this.#trouble(error),
    };
    const session = new CopySession({ record, source, destination, pending, files, ports: this.#ports, owner });
    this.#sessions.set(session.id, session);
    source.leaving.push(session);
    destination.entering.push(session);
    return session;
  }

  /** Takes over a session as recovery has found it; one whose files cannot be used has durably failed when it resolves. */
  async adoptFound(found: FoundSession, trouble: (what: string, error: unknown) => void): Promise<void> {
    const { record, opened, damage } = found;
    if (opened) {
      this.adopt(record, opened.missing, opened.sessionFiles).holdEpochs();
      return;
    }
    trouble(`copy ${record.id} has failed`, damage);
    const { files, core } = this.#ports;
    const everything = new PagedBitmap(core, granuleCountOf(record.source.lengthBytes), "full");
    const session = this.adopt(record, everything, await SessionFiles.salvage(files, record));
    await session.checkpoint();
  }

  /**
   * Another program has written to this volume: what its sessions still had to preserve is gone, and what changed is not
   * known. Durable when it resolves.
   */
  async foreignWrite(volume: Volume, error: TidemarkError): Promise<void> {
    for (const session of [...volume.leaving, ...volume.entering]) if (session.unfinished) await session.fail(error);
    await this.#volumes.loseEpochs(volume);
  }

  /** Everything that the points log of the last run still has to remember. `resume` sees to it. */
  noteUnsettled(volumes: readonly Volume[]): void {
    this.#pointsSeen++;
    for (const side of [...this.#sessions.values(), ...volumes]) this.#unsettled.set(side, this.#pointsSeen);
  }

  get pointsLogs(): PointsLog["logs"] {
    return this.#points.logs;
  }

  /** As after a start, then a new points log in any case: the present one is damaged on the disk. */
  async renewPoints(): Promise<void> {
    this.noteUnsettled([...this.#sessions.values()].flatMap((one) => [one.sourceVolume, one.destinationVolume]));
    await this.#settleOnce();
    await this.#admin.run(async () => {
      if (this.#unsettled.size === 0 && !this.#stopping) await this.#points.renew();
    });
  }

  /** Goes on where copying stopped: at the start, or because a volume was away. Sessions of unavailable volumes wait. */
  resume(): void {
    if (this.#stopping) return;
    this.#settlePoints();
    for (const session of this.#sessions.values()) {
      if (session.state !== "live" || !session.sourceVolume.online || !session.destinationVolume.online) continue;
      if (session.unfinished) this.#copier.start(session);
      else if (!session.tracking) this.#copied(session);
    }
  }

  /** Stops copying and makes everything durable that answers in time (stop.ts). New requests are refused. */
  async stop(): Promise<StopReport> {
    const { clock } = this.#ports;
    const report = new StopReport();
    this.#stopping = true;
    this.#stopped.abort();
    await this.#admin.run(() => endCopying(clock, this.#copier, [...this.#sessions.values()], report));
    await endedWithin(clock, STOP_BACKGROUND_MS, this.#background);
    await this.#admin.run(async () => {
      const sessions = [...this.#sessions.values()];
      await makeDurable({ clock, sessions, volumes: this.#volumes, unsettled: this.#unsettled, report });
      const failed = (error: unknown) => report.add(error);
      if (this.#unsettled.size === 0) await this.#points.reset().catch(failed);
      retire(sessions, this.#volumes);
      await closeLogs([...sessions.map(logOf), this.#points], report);
      this.#sessions.clear();
    });
    return report;
  }

  /** Opens a volume again that is away; copies that waited for it go on (reopen.ts). */
  reopenVolume(uid: string): Promise<VolumeFacts> {
    return reopenVolume(this.#reopenHost(), uid);
  }

  #reopenHost(): ReopenHost {
    return {
      ports: this.#ports,
      stopping: this.#stopped.signal,
      volumes: this.#volumes,
      copier: this.#copier,
      alone: (task) =>
        this.#admin.run(async () => {
          this.#requireRunning();
          return task();
        }),
      foreignWrite: async (volume, error) => {
        this.#trouble(error);
        await this.foreignWrite(volume, error);
      },
      resume: () => this.resume(),
    };
  }

  /** Serialises with all changes of sessions; for what must not happen while one begins or ends. */
  exclusively<T>(task: () => Promise<T>): Promise<T> {
    return this.#admin.run(task);
  }

  #requireRunning(): void {
    if (this.#stopping)
      throw new TidemarkError("STOPPING", { message: "the daemon is stopping", hint: "try again when it runs again" });
  }

  #host(): PointHost {
    return {
      ports: this.#ports,
      stopping: this.#stopped.signal,
      points: this.#points,
      views: () => this.#views(),
      volume: (uid) => this.#volumes.require(uid),
      prepareTracking: (volume) => this.#volumes.prepareTracking(volume),
      seal: (volume, nowMs) => this.#volumes.seal(volume, nowMs),
      noteMarks: (volume) => this.#volumes.noteMarks(volume),
      attach: (record, pending, files) => this.adopt(record, pending, files),
    };
  }

  #views(): LiveView[] {
    return [...this.#sessions.values()].map((session) => ({
      id: session.id,
      source: session.source,
      destination: session.destination,
      state: session.tableState,
      unfinished: session.unfinished,
      session,
    }));
  }

  /** Sees to it, in the background, that the points log can be emptied; tried again while something cannot be written. */
  #settlePoints(): void {
    if (this.#settling) return;
    this.#settling = true;
    this.#inBackground(
      this.#settleUntilDone().finally(() => {
        this.#settling = false;
      }),
    );
  }

  async #settleUntilDone(): Promise<void> {
    do {
      try {
        await this.#settleOnce();
      } catch (error) {
        this.#trouble(error);
        await this.#ports.clock.sleep(RETRY_AFTER_MS, this.#stopped.signal);
      }
    } while (!this.#stopping && (this.#unsettled.size > 0 || this.#points.records > 0));
  }

  /** What points wrote into their records goes to the files of sessions and volumes; then the records can go. */
  async #settleOnce(): Promise<void> {
    let failure: unknown;
    for (const [side, point] of [...this.#unsettled]) {
      try {
        if (side instanceof CopySession) await side.checkpoint();
        else await this.#volumes.settle([side]);
        if (this.#unsettled.get(side) === point) this.#unsettled.delete(side);
      } catch (error) {
        failure ??= error; // the others are not held up
      }
    }
    if (failure !== undefined) throw failure;
    await this.#admin.run(async () => {
      if (this.#unsettled.size === 0) await this.#points.reset();
    });
  }

  #copied(session: CopySession): void {
    this.#tell(session);
    if (session.tracking) this.#inBackground(session.checkpoint());
    else this.#inBackground(this.#complete(session, session.generation));
  }

  /** The end of a plain copy; tried again while it cannot be made durable, because nobody asks for it. */
  async #complete(session: CopySession, generation: number): Promise<void> {
    const over = () => session.state === "live" && !session.unfinished && !session.tracking;
    const mine = () => over() && session.generation === generation && this.#sessions.get(session.id) === session;
    while (mine() && !this.#stopping) {
      try {
        await this.#admin.run(async () => {
          if (mine() && !this.#stopping) await this.#end(session, "completed");
        });
        return;
      } catch (error) {
        this.#trouble(error);
        await this.#ports.clock.sleep(RETRY_AFTER_MS, this.#stopped.signal);
      }
    }
  }

  /**
   * Nothing of it is under way first: a late piece must not land on what a host writes afterwards. Then durably over, then
   * out of the write paths, then the maps go; the rest when the domain has recorded it (`forget`). BARRIER_TIMEOUT when a device does not answer; the session then goes on.
   */
  async #end(
    session: CopySession,
    phase: "completed" | "cancelled",
  ): Promise<{ session: SessionStatus; destinationUsable: boolean }> {
    const release = await this.#standStill(session);
    try {
      const destinationUsable = session.state !== "failed" && !session.unfinished;
      const status = session.status({ phase, atMs: this.#ports.clock.nowMs() });
      const ended = { session: status, destinationUsable };
      await markLost(this.#volumes, session);
      await session.durable.run(() => session.files.end({ ...session.record(), end: endOf(ended) }));
      this.ended.add(ended);
      session.state = "ended";
      session.sourceVolume.detach(session);
      session.destinationVolume.detach(session);
      this.#sessions.delete(session.id);
      this.#toldMs.delete(session.id);
      this.#unsettled.delete(session); // its superblock says that it is over
      session.releaseEpochs();
      this.#emit({ type: "session.ended", session: status, destinationUsable });
      release();
      // What cannot be removed now is removed when the end has been recorded.
      await session.durable.run(() => session.files.retire()).catch((error: unknown) => this.#trouble(error));
      session.dispose();
      return ended;
    } catch (error) {
      if (session.state !== "ended") {
        release();
        this.#goOn(session);
      }
      throw error;
    }
  }

  /** No piece of the session is under way, and none begins, until the returned function is called. */
  async #standStill(session: CopySession): Promise<() => void> {
    const standing = this.#copier.stop(session).then(async () => {
      if (session.pending.count === 0) await session.commitAll();
      const handle = await session.lock.acquire(0, session.granuleCount);
      return () => session.lock.release(handle);
    });
    try {
      return await within(
        this.#ports.clock,
        BARRIER_TIMEOUT_MS,
        standing,
        () => {
          const { id, sourceVolume, destinationVolume } = session;
          return new TidemarkError("BARRIER_TIMEOUT", {
            message: `copy ${id} cannot end: ${sourceVolume.name} or ${destinationVolume.name} does not answer`,
            hint: "look for a stalled device (`tidemark status`), then try again",
          });
        },
        this.#stopped.signal,
      );
    } catch (error) {
      void standing.then(
        (release) => {
          release();
          this.#goOn(session);
        },
        () => this.#goOn(session),
      );
      throw error;
    }
  }

  /** Copying goes on after an end that did not come about. */
  #goOn(session: CopySession): void {
    if (!this.#stopping && session.state === "live" && session.unfinished) this.#copier.start(session);
  }

  #progressed(session: CopySession): void {
    const nowMs = this.#ports.clock.monotonicMs();
    const toldMs = this.#toldMs.get(session.id) ?? Number.NEGATIVE_INFINITY;
    if (session.state === "live" && nowMs - toldMs < PROGRESS_EVENT_MS) return;
    this.#tell(session);
  }

  #tell(session: CopySession): void {
    if (session.state === "ended") return;
    this.#toldMs.set(session.id, this.#ports.clock.monotonicMs());
    this.#emit({ type: "session.changed", session: session.status() });
  }

  #inBackground(task: Promise<void>): void {
    const tracked: Promise<void> = task
      .catch((error: unknown) => this.#trouble(error))
      .finally(() => this.#background.delete(tracked));
    this.#background.add(tracked);
  }

  /** The points log and the superblocks still hold a state to recover from; say it and go on. */
  #trouble(error: unknown): void {
    endOnBug(error);
    this.#emit({ type: "engine.trouble", message: error instanceof Error ? error.message : String(error) });
  }
}
