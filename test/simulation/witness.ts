/**
 * The engine as whoever commands it reaches it, the operator himself or the domain: tells the oracle of each command and what
 * came of it, and of what the engine says by itself. Remembers what was asked and not answered, because after the end of a
 * process either may be the case.
 */
import type {
  EndedSession,
  EngineApi,
  EngineEvent,
  ExtentRef,
  SessionStatus,
  StartRequest,
} from "../../src/engine/engine-api.ts";
import { inPlace } from "./box.ts";
import { type Extent, overlaps, type SessionFacts, type Side } from "./facts.ts";
import type { OracleSession, PointAsked } from "./oracle.ts";
import type { Stage } from "./stage.ts";

/** A point that was asked for, and which new sessions it may make. */
export interface Asked {
  readonly point: PointAsked;
  readonly newIds: readonly string[];
}

/** A pace that was asked for: an object, because the same number may be asked for twice. */
export interface Pace {
  readonly pace: number;
}

/** What the engine has certainly done. */
export type Deed =
  | { readonly do: "point"; readonly sessions: readonly SessionFacts[] }
  | { readonly do: "cancel"; readonly id: string; readonly usable: boolean }
  | { readonly do: "stop-tracking"; readonly id: string };

export class Witness {
  readonly #stage: Stage;
  asked: Asked | undefined;
  /** Sessions whose end was asked for; those that go on without tracking; paces. */
  readonly ending = new Set<string>();
  readonly untracking = new Set<string>();
  readonly pacing = new Map<string, Pace[]>();
  /** Sessions that have ended and are kept until somebody confirms that their end is recorded. */
  readonly unconfirmed = new Set<string>();
  readonly confirming = new Set<string>();
  /** Told of what the engine has done, also when that is found out after a crash. */
  onDeed: (deed: Deed) => void = () => undefined;
  onEnded: (ended: EndedSession) => void = () => undefined;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  /** The engine, with the commands that are witnessed in place of its own. */
  over(engine: EngineApi): EngineApi {
    return inPlace(engine, {
      startSessions: (requests) => this.#startSessions(requests),
      restartSessions: (ids) => this.#restartSessions(ids),
      cancelSession: (id) => this.#cancelSession(id),
      stopTracking: (id) => this.#stopTracking(id),
      setPace: (id, pace) => this.#setPace(id, pace),
      forgetSession: (id) => this.#forgetSession(id),
    });
  }

  // --- commands ------------------------------------------------------------------------------------------------------------

  #startSessions(requests: readonly StartRequest[]): Promise<SessionStatus[]> {
    const members = requests.map(({ source, destination }) => this.#copied(source, destination));
    const ids = requests.map(({ id }) => id);
    return this.#point(members, ids, () => this.#stage.box.engine.startSessions(requests));
  }

  #restartSessions(ids: readonly string[]): Promise<SessionStatus[]> {
    const members = ids.flatMap((id) => this.#stage.oracle.sessions.get(id) ?? []);
    return this.#point(members, [], () => this.#stage.box.engine.restartSessions(ids));
  }

  /** A copy back takes no more than had come from there. */
  #copied(from: ExtentRef, to: ExtentRef): { readonly source: Extent; readonly destination: Extent } {
    const [source, destination] = [this.#stage.extentOf(from), this.#stage.extentOf(to)];
    for (const session of this.#stage.oracle.sessions.values()) {
      const back = sameStart(session.source, destination) && session.source.count === destination.count;
      if (back && sameStart(session.destination, source) && source.count > session.source.count)
        return { source: { ...source, count: session.source.count }, destination };
    }
    return { source, destination };
  }

  async #point(
    members: readonly { readonly source: Extent; readonly destination: Extent }[],
    newIds: readonly string[],
    call: () => Promise<SessionStatus[]>,
  ): Promise<SessionStatus[]> {
    const { oracle, counts, box } = this.#stage;
    const { life } = box;
    if (this.asked) throw new Error("two points at a time");
    const pairs = members.map(({ source, destination }) => ({ source, destination }));
    const asked: Asked = { point: oracle.askPoint(pairs), newIds };
    this.asked = asked;
    try {
      const statuses = await call();
      if (life !== box.life) return await never();
      this.asked = undefined;
      counts.points++;
      const facts = statuses.map((status) => this.#stage.factsOf(status));
      for (const session of facts) this.#checkReason(session);
      oracle.pointFired(asked.point, facts);
      for (const id of this.ending) this.#mayFallBack(id);
      this.onDeed({ do: "point", sessions: facts });
      return statuses;
    } catch (error) {
      if (life !== box.life) return await never();
      this.asked = undefined;
      counts.refusals++;
      // What a point would have changed at its destinations may be noted by who tracks them, though it was not fired.
      for (const { source, destination } of members) oracle.touch({ ...destination, count: source.count });
      throw error;
    }
  }

  /** A difference is possible wherever a session tracks; what it copies is what may have changed (18). */
  #checkReason(facts: SessionFacts): void {
    const known = this.#stage.oracle.sessions.get(facts.id);
    if (!known?.tracking || known.phase === "failed" || !facts.tracking) return;
    if (this.ending.has(facts.id) || this.untracking.has(facts.id)) return;
    const allowed = known.unclean ? ["DIFFERENCE", "MAP_WIDENED"] : ["DIFFERENCE"];
    if (this.#stage.judge.had("state-damage")) allowed.push("BASE_LOST", "MAP_WIDENED");
    if (!allowed.includes(facts.reason))
      this.#stage.report(18, `${facts.id} tracked, and its restart is ${facts.reason}`);
    const least = granulesOf(known, (side) => this.#stage.oracle.differing(known, side)).size;
    if (facts.plannedGranules < least)
      this.#stage.report(18, `${facts.id} copies ${facts.plannedGranules} granules, of which ${least} differ`);
    if (known.unclean || !known.complete || this.#stage.judge.had("state-damage")) return;
    const most = granulesOf(known, (side) => [...known.touched[side]]).size;
    if (facts.plannedGranules > most)
      this.#stage.report(18, `${facts.id} copies ${facts.plannedGranules} granules, of which ${most} were touched`);
  }

  async #cancelSession(id: string): Promise<EndedSession> {
    this.ending.add(id);
    this.#mayFallBack(id);
    const ended = await this.#hear(
      this.#stage.box.engine.cancelSession(id),
      () => this.ending.delete(id),
      () => this.ending.delete(id),
    );
    this.onDeed({ do: "cancel", id, usable: ended.destinationUsable });
    return ended;
  }

  /** What it has not brought falls back: for who tracks the destination that is a change, noted before the end may be refused. */
  #mayFallBack(id: string): void {
    const { oracle } = this.#stage;
    const session = oracle.sessions.get(id);
    if (session && !session.complete) oracle.touch({ ...session.destination, count: session.source.count });
  }

  async #stopTracking(id: string): Promise<SessionStatus> {
    this.untracking.add(id);
    const status = await this.#hear(
      this.#stage.box.engine.stopTracking(id),
      (session) => {
        this.untracking.delete(id);
        if (session.phase !== "completed") this.#stage.oracle.told(this.#stage.factsOf(session));
      },
      () => this.untracking.delete(id),
    );
    this.onDeed({ do: "stop-tracking", id });
    return status;
  }

  #setPace(id: string, pace: number): Promise<SessionStatus> {
    const asked: Pace = { pace };
    this.pacing.set(id, [...(this.pacing.get(id) ?? []), asked]);
    return this.#hear(
      this.#stage.box.engine.setPace(id, pace),
      (session) => {
        // What was asked before has been replaced; what was asked later may be.
        const paces = this.pacing.get(id) ?? [];
        this.pacing.set(id, paces.slice(paces.indexOf(asked) + 1));
        this.#stage.oracle.told(this.#stage.factsOf(session));
      },
      // Whether a refused pace counts nobody promised.
      () => undefined,
    );
  }

  /** The end of a session is recorded. */
  #forgetSession(id: string): Promise<void> {
    this.confirming.add(id);
    return this.#hear(
      this.#stage.box.engine.forgetSession(id),
      () => {
        this.confirming.delete(id);
        this.unconfirmed.delete(id);
      },
      () => undefined,
    );
  }

  /** The answer of a call; none when the process has ended meanwhile. */
  async #hear<T>(call: Promise<T>, answered: (value: T) => void, failed: () => void): Promise<T> {
    const { box } = this.#stage;
    const { life } = box;
    try {
      const value = await call;
      if (life !== box.life) return await never();
      answered(value);
      return value;
    } catch (error) {
      if (life !== box.life) return await never();
      failed();
      throw error;
    }
  }

  /** Everything that was asked is forgotten: the process ended, and what has become of it is known. */
  reconciled(): void {
    this.asked = undefined;
    this.ending.clear();
    this.untracking.clear();
    this.pacing.clear();
    this.confirming.clear();
  }

  // --- what the box says ---------------------------------------------------------------------------------------------------

  hear(event: EngineEvent): void {
    const { judge } = this.#stage;
    if (event.type === "session.changed") this.#changed(event.session);
    if (event.type === "session.ended") this.#ended(event.session, event.destinationUsable);
    if (event.type === "engine.trouble" && !judge.had("state-full", "state-failure", "device", "stall"))
      this.#stage.report(12, `trouble without a reason: ${event.message}`);
    if (event.type === "volume.failed") this.#volumeFailed(event.uid, event.failure.detail.message);
  }

  /** Its hot regions count as changed from now on, also for a point that was fired before the engine noticed. */
  #volumeFailed(uid: string, message: string): void {
    const { judge, box, oracle } = this.#stage;
    if (!judge.had("device")) this.#stage.report(12, `${uid} failed without a reason: ${message}`);
    const volume = box.volumeOf(uid);
    for (const session of oracle.sessions.values())
      if (session.source.volume === volume || session.destination.volume === volume) session.unclean++;
  }

  #changed(status: SessionStatus): void {
    const { oracle, judge, counts } = this.#stage;
    const facts = this.#stage.factsOf(status);
    const known = oracle.sessions.get(facts.id);
    if (facts.phase === "failed" && known?.phase !== "failed") {
      counts.failures++;
      if (!judge.had("device", "state-full", "state-failure"))
        this.#stage.report(12, `${facts.id} failed without a reason: ${status.failure?.message}`);
    }
    if (known?.generation !== facts.generation) return;
    const completed = facts.phase === "tracking" && !known.complete;
    oracle.told(facts);
    if (completed) this.#lookAtDestination(known, facts.id);
  }

  #ended(status: SessionStatus, usable: boolean): void {
    const { oracle } = this.#stage;
    const known = oracle.sessions.get(status.id);
    this.unconfirmed.add(status.id);
    this.onEnded({ session: status, destinationUsable: usable });
    if (!known || known.generation !== status.generation) return;
    if (status.phase === "completed" && !usable) this.#stage.report(10, `${status.id} completed and is not usable`);
    if (usable) this.#lookAtDestination(known, status.id);
    this.end(known, usable);
    if (!usable) this.#lookAtDestination(known, status.id);
  }

  /** Of an unfinished copy nobody knows what it has left; but what the disk durably holds as expected is known. */
  end(session: OracleSession, usable: boolean): void {
    const disk = this.#stage.box.disks[session.destination.volume];
    this.#stage.oracle.ended(session.id, usable, (sector, expected) => !disk?.surelyHolds(sector, expected));
  }

  /** What has been copied is at the destination itself. */
  #lookAtDestination(session: OracleSession, id: string): void {
    const { oracle, box } = this.#stage;
    const extent = { ...session.destination, count: session.source.count };
    const disk = box.disks[extent.volume];
    if (!disk) return;
    for (const part of this.selfContained(extent, id)) oracle.lookAtDisk(part, disk.content, 14);
  }

  /** The parts of an extent that no session owes anything: there the disk holds what the volume reads as. */
  selfContained(extent: Extent, exceptId = ""): Extent[] {
    const owed: Extent[] = [];
    for (const session of this.#stage.oracle.sessions.values())
      if (!session.complete && session.id !== exceptId)
        owed.push({ ...session.destination, count: session.source.count });
    for (const { destination, source } of this.asked?.point.members ?? [])
      owed.push({ ...destination, count: source.count });
    let parts = [extent];
    for (const other of owed) parts = parts.flatMap((part) => without(part, other));
    return parts;
  }
}

function never(): Promise<never> {
  return new Promise(() => undefined);
}

function sameStart(one: Extent, other: Extent): boolean {
  return one.volume === other.volume && one.first === other.first;
}

function without(extent: Extent, other: Extent): Extent[] {
  if (!overlaps(extent, other)) return [extent];
  const [end, otherEnd] = [extent.first + extent.count, other.first + other.count];
  const parts = [
    { volume: extent.volume, first: extent.first, count: other.first - extent.first },
    { volume: extent.volume, first: otherEnd, count: end - otherEnd },
  ];
  return parts.filter((part) => part.count > 0);
}

function granulesOf(_: OracleSession, ofSide: (side: Side) => number[]): Set<number> {
  return new Set([...ofSide("source"), ...ofSide("destination")]);
}
