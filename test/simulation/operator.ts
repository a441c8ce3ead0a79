/**
 * What the operator does: points, ends, paces. Remembers what was asked and not answered, because after the end of a process
 * either may be the case.
 */
import type { EngineEvent, SessionStatus, StartRequest } from "../../src/engine/engine-api.ts";
import { uidOf } from "./box.ts";
import { type Extent, overlaps, type SessionFacts, type Side } from "./facts.ts";
import type { OracleSession, PointAsked } from "./oracle.ts";
import { factsOf, type Stage } from "./stage.ts";
import type { MemberStep } from "./workload.ts";

/** A point that was asked for, and which new sessions it may make. */
export interface Asked {
  readonly point: PointAsked;
  readonly newIds: readonly string[];
}

export class Operator {
  readonly #stage: Stage;
  #lastId = 0;
  asked: Asked | undefined;
  /** Sessions whose end was asked for; those that go on without tracking; paces. */
  readonly ending = new Set<string>();
  readonly untracking = new Set<string>();
  readonly pacing = new Map<string, number[]>();
  /** Sessions that have ended and are kept until somebody confirms that their end is recorded. */
  readonly unconfirmed = new Set<string>();
  readonly confirming = new Set<string>();

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  start(members: readonly MemberStep[]): void {
    const { box } = this.#stage;
    const trimmed = members.map((member) => ({ ...member, source: this.#restorable(member) }));
    const requests = trimmed.map(
      (member): StartRequest => ({
        id: `c${++this.#lastId}`,
        source: this.#stage.extentRef(member.source),
        destination: this.#stage.extentRef(member.destination),
        kind: member.kind,
        pace: member.pace,
      }),
    );
    const ids = requests.map(({ id }) => id);
    this.#ask(`start of ${ids.join(", ")}`, trimmed, ids, () => box.engine.startSessions(requests));
  }

  /** A copy back to a source takes no more than had come from there. */
  #restorable({ source, destination }: MemberStep): Extent {
    for (const session of this.#stage.oracle.sessions.values()) {
      const back = session.source.volume === destination.volume && session.source.first === destination.first;
      const from = session.destination.volume === source.volume && session.destination.first === source.first;
      if (back && from) return { ...source, count: Math.min(source.count, session.source.count) };
    }
    return source;
  }

  restart(ids: readonly string[]): void {
    const members = ids.flatMap((id) => this.#stage.oracle.sessions.get(id) ?? []);
    if (members.length === 0) return;
    this.#ask(`restart of ${ids.join(", ")}`, members, [], () => this.#stage.box.engine.restartSessions(ids));
  }

  #ask(
    what: string,
    members: readonly { readonly source: Extent; readonly destination: Extent }[],
    newIds: readonly string[],
    call: () => Promise<SessionStatus[]>,
  ): void {
    if (this.asked) return; // the process has ended while the last one was waited for
    const { oracle, counts } = this.#stage;
    const pairs = members.map(({ source, destination }) => ({ source, destination }));
    const asked: Asked = { point: oracle.askPoint(pairs), newIds };
    this.asked = asked;
    const hear = {
      answered: (statuses: SessionStatus[]) => {
        this.asked = undefined;
        counts.points++;
        const facts = statuses.map(factsOf);
        for (const session of facts) this.#checkReason(session);
        oracle.pointFired(asked.point, facts);
      },
      failed: () => {
        this.asked = undefined;
        counts.refusals++;
      },
    };
    this.#stage.launch(what, call, hear, true);
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

  cancel(id: string): void {
    this.ending.add(id);
    const over = () => this.ending.delete(id);
    const { engine } = this.#stage.box;
    this.#stage.launch(`cancel of ${id}`, () => engine.cancelSession(id), { answered: over, failed: over });
  }

  stopTracking(id: string): void {
    this.untracking.add(id);
    const { engine } = this.#stage.box;
    this.#stage.launch(`stop of tracking of ${id}`, () => engine.stopTracking(id), {
      answered: (status) => {
        this.untracking.delete(id);
        if (status.phase !== "completed") this.#stage.oracle.told(factsOf(status));
      },
      failed: () => this.untracking.delete(id),
    });
  }

  pace(id: string, pace: number): void {
    const asked = this.pacing.get(id) ?? [];
    asked.push(pace);
    this.pacing.set(id, asked);
    const { engine } = this.#stage.box;
    this.#stage.launch(`pace of ${id}`, () => engine.setPace(id, pace), {
      answered: (status) => {
        this.pacing.delete(id);
        this.#stage.oracle.told(factsOf(status));
      },
      // Whether a refused pace counts nobody promised.
      failed: () => undefined,
    });
  }

  /** The end of a session is recorded. */
  confirm(id: string): void {
    this.confirming.add(id);
    const { engine } = this.#stage.box;
    this.#stage.launch(`confirmation of ${id}`, () => engine.forgetSession(id), {
      answered: () => {
        this.confirming.delete(id);
        this.unconfirmed.delete(id);
      },
      failed: () => undefined,
    });
  }

  reopen(volume: number): void {
    const { engine } = this.#stage.box;
    const what = `opening volume ${volume} again`;
    const hear = { answered: () => undefined, failed: () => undefined };
    this.#stage.launch(what, () => engine.reopenVolume(uidOf(volume)), hear);
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
    if (event.type === "volume.failed" && !judge.had("device"))
      this.#stage.report(12, `${event.uid} failed without a reason: ${event.failure.detail.message}`);
  }

  #changed(status: SessionStatus): void {
    const { oracle, judge, counts } = this.#stage;
    const facts = factsOf(status);
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
    if (this.#stage.chance.happens(0.7)) this.confirm(status.id);
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
