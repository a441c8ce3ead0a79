/**
 * The oracle: what must be true of a box, from what its hosts and its operator saw. Shares no code with the engine.
 *
 * It knows: a write that was answered shows; a flush that was answered makes what was written before durable; at a point the
 * destination becomes what the source is. Of each sector it keeps what may be in it (sector-history.ts), of each session
 * its generation, its phase, and the granules that may differ since its point.
 * Violations are reported by the number of the invariant (invariants.ts).
 */

import type { SessionFacts, Side } from "./facts.ts";
import { type Extent, endOf, granuleOf, granulesTouched, regionOf, runsOf, sectorOf } from "./facts.ts";
import type { InvariantNumber } from "./invariants.ts";
import { ANYTHING, type Candidate, type Instant, oneOf, replacedAt, SectorHistory } from "./sector-history.ts";

/** The content at the point is not known to the sector. */
const UNCERTAIN = -3;

export interface OracleSession extends SessionFacts {
  /** What was at the source at the point. */
  readonly atPoint: Int32Array;
  /** Granules that may have changed since the point, by side. */
  readonly touched: Readonly<Record<Side, Set<number>>>;
  /** Everything is at the destination, as far as anybody was told. */
  complete: boolean;
  /** How often since the point the process has ended without a clean stop, or a device has lost something. */
  unclean: number;
}

interface Write {
  readonly extent: Extent;
  readonly begun: number;
  ended: number;
  readonly sectors: readonly Candidate[];
}

interface Read {
  readonly extent: Extent;
  readonly begun: number;
  passedPoint: boolean;
}

type Pair = Readonly<Record<Side, Extent>>;

/** A point that was asked for and not yet answered. */
export interface PointAsked {
  readonly begun: number;
  readonly members: readonly Pair[];
  readonly instant: Instant;
  /** What the sectors would be if it had happened, kept over the end of the process. */
  fired: Copied[] | undefined;
  unclean: OracleSession["unclean"];
}

/** What a point makes of a destination. */
interface Copied {
  readonly atPoint: Int32Array;
  readonly sectors: Map<number, Candidate[]>;
}

export class Oracle {
  readonly volumes: readonly SectorHistory[];
  readonly sessions = new Map<string, OracleSession>();
  /** What is broken when something of a host is missing: depends on the last end of a process. */
  #ofHosts: InvariantNumber = 4;
  readonly #report: (invariant: InvariantNumber, message: string) => void;
  /** How a sector came by its content: 0 by a host, else by a point of this invariant's kind. */
  readonly #origin: readonly Uint8Array[];
  readonly #everWritten: readonly Set<number>[];
  #writes: Write[] = [];
  readonly #reads = new Set<Read>();
  #now = 1;

  constructor(volumeSectors: readonly number[], report: (invariant: InvariantNumber, message: string) => void) {
    this.volumes = volumeSectors.map((sectors) => new SectorHistory(sectors));
    this.#origin = volumeSectors.map((sectors) => new Uint8Array(sectors));
    this.#everWritten = volumeSectors.map(() => new Set());
    this.#report = report;
  }

  moment(): number {
    return ++this.#now;
  }

  #volume(index: number): SectorHistory {
    return this.volumes[index] as SectorHistory;
  }

  beginWrite(extent: Extent, valueAt: (index: number) => number): Write {
    const begun = this.moment();
    const history = this.#volume(extent.volume);
    const begin = (_: unknown, index: number) => history.begin(extent.first + index, valueAt(index), begun);
    const sectors = Array.from({ length: extent.count }, begin);
    this.touch(extent);
    this.#writes.push({ extent, begun, ended: Number.POSITIVE_INFINITY, sectors });
    return this.#writes.at(-1) as Write;
  }

  endWrite(write: Write, outcome: "done" | "unknown"): void {
    write.ended = this.moment();
    const history = this.#volume(write.extent.volume);
    for (const candidate of write.sectors) history.end(candidate, write.ended, outcome);
    if (outcome === "done") this.#origin[write.extent.volume]?.fill(0, write.extent.first, endOf(write.extent));
  }

  endFlush(volume: number, begun: number): void {
    // What a read under way may still find is not forgotten.
    const reads = [...this.#reads].filter(({ extent }) => extent.volume === volume);
    this.#volume(volume).flushed(Math.min(begun, ...reads.map((read) => read.begun)));
  }

  beginRead(extent: Extent): Read {
    const read = { extent, begun: this.moment(), passedPoint: false };
    this.#reads.add(read);
    return read;
  }

  /** Without `values` it failed. A read that a point has passed may have seen what was before it. */
  endRead(read: Read, values: Int32Array | undefined): void {
    const now = this.moment();
    this.#reads.delete(read);
    const { extent, begun } = read;
    for (let index = 0; values && !read.passedPoint && index < extent.count; index++)
      this.#look(extent.volume, extent.first + index, values[index] as number, begun, now, undefined);
  }

  /** The disk itself was looked at, where it must hold what the volume reads as. */
  lookAtDisk(extent: Extent, content: Int32Array, invariant: InvariantNumber | undefined): void {
    const now = this.moment();
    const values = content.subarray(extent.first, endOf(extent));
    for (const sector of this.#volume(extent.volume).unlike(extent.first, values))
      this.#look(extent.volume, sector, content[sector] as number, now, now + 1, invariant);
    this.moment();
  }

  #look(volume: number, sector: number, value: number, from: number, to: number, blame: InvariantNumber | undefined) {
    const history = this.#volume(volume);
    const verdict = history.observe(sector, value, from, to);
    if (verdict === "possible") return;
    const wanted = history.visible(sector, from, to).map((candidate) => candidate.value);
    const invariant = verdict === "not one instant" ? 42 : (blame ?? this.#blame(volume, sector, value));
    const where = `volume ${volume} sector ${sector} (granule ${granuleOf(sector)})`;
    this.#report(invariant, `${where} holds ${value}, ${verdict}, expected ${wanted.join(" or ")}`);
  }

  #blame(volume: number, sector: number, value: number): InvariantNumber {
    const origin = (this.#origin[volume]?.[sector] ?? 0) as InvariantNumber | 0;
    return value < ANYTHING ? 3 : origin || this.#ofHosts;
  }

  touch(extent: Extent, except?: string): void {
    for (let region = regionOf(extent.first); region <= regionOf(endOf(extent) - 1); region++)
      this.#everWritten[extent.volume]?.add(region);
    for (const session of this.sessions.values()) if (session.id !== except) touch(session.touched, session, extent);
  }

  /** At most one point may be asked for at a time. */
  askPoint(members: readonly Pair[]): PointAsked {
    this.#writes = this.#writes.filter((write) => write.ended === Number.POSITIVE_INFINITY);
    const begun = this.moment();
    return { begun, members, instant: { after: 0, before: Number.POSITIVE_INFINITY }, fired: undefined, unclean: 0 };
  }

  /** The point has happened and these are its sessions. */
  pointFired(point: PointAsked, facts: readonly SessionFacts[]): void {
    const now = this.moment();
    facts.forEach((session, index) => {
      const fired = point.fired?.[index] ?? this.#copied(point, session, now, "alive");
      for (const [sector, entries] of fired.sectors) this.#volume(session.destination.volume).adopt(sector, entries);
      this.#origin[session.destination.volume]?.fill(
        session.reason === "RESTORE_DIFFERENCE" ? 19 : session.generation > 1 ? 17 : 13,
        session.destination.first,
        session.destination.first + session.source.count,
      );
      this.#firedSession(point, session, fired.atPoint);
      for (const read of this.#reads) if (read.extent.volume === session.destination.volume) read.passedPoint = true;
    });
    for (const { source } of point.members) this.endFlush(source.volume, point.begun);
  }

  #firedSession(point: PointAsked, facts: SessionFacts, atPoint: Int32Array): void {
    const touched = { source: new Set<number>(), destination: new Set<number>() };
    for (const { extent, ended } of this.#writes) if (ended > point.begun) touch(touched, facts, extent);
    this.touch({ ...facts.destination, count: facts.source.count }, facts.id);
    const complete = facts.phase === "tracking";
    this.sessions.set(facts.id, { ...facts, atPoint, touched, complete, unclean: point.unclean });
  }

  /** What the destination's sectors become if the point happens between `point.begun` and now. */
  #copied(point: PointAsked, { source, destination }: Pair, now: number, state: "alive" | "kill" | "power"): Copied {
    const sectors = new Map<number, Candidate[]>();
    const from = this.#volume(source.volume);
    const to = this.#volume(destination.volume);
    const atPoint = from.settled.slice(source.first, endOf(source));
    const shift = destination.first - source.first;
    const changed = new Set(to.unlike(destination.first, atPoint));
    for (const sector of from.unlike(source.first, atPoint)) changed.add(sector + shift);
    for (const sector of changed) {
      const seen = from.visible(sector - shift, point.begun, now);
      atPoint[sector - destination.first] = seen.length === 1 ? (seen[0] as Candidate).value : UNCERTAIN;
      const cuts = seen.map((candidate) => ({ ...candidate, cut: cutOf(point.instant, seen, candidate) }));
      const entries = to.replacement(sector, cuts, point.begun, now);
      if (state === "kill") for (const entry of entries) entry.ended = Math.min(entry.ended, now);
      sectors.set(sector, state === "power" ? oneOf(entries, now, now) : entries);
    }
    return { atPoint, sectors };
  }

  /** Something was told about a session that is known. */
  told(facts: SessionFacts): void {
    const session = this.sessions.get(facts.id);
    if (!session || facts.generation !== session.generation) return; // of a point that is not answered yet
    const untracked = session.tracking && !facts.tracking; // it ends like a plain copy
    if (session.phase !== facts.phase && !untracked && !LEGAL[session.phase]?.includes(facts.phase))
      this.#report(10, `${facts.id} went from ${session.phase} to ${facts.phase}`);
    const complete = session.complete || facts.phase === "tracking";
    this.sessions.set(facts.id, { ...session, ...facts, complete });
  }

  /** The session is found failed because its files are damaged, and is at a point of no meaning. */
  damaged(facts: SessionFacts): void {
    const atPoint = new Int32Array(facts.source.count).fill(UNCERTAIN);
    const touched = { source: new Set<number>(), destination: new Set<number>() };
    this.sessions.set(facts.id, { ...facts, atPoint, touched, complete: false, unclean: 1 });
  }

  /** The session is over; if its destination is not usable, nobody promises anything where `unsure` says so. */
  ended(id: string, usable: boolean, unsure: (sector: number, expected: number | undefined) => boolean): void {
    const session = this.sessions.get(id);
    if (!session) return;
    this.sessions.delete(id);
    if (usable || session.complete) return;
    const now = this.moment();
    const history = this.#volume(session.destination.volume);
    const { first } = session.destination;
    for (let sector = first; sector < first + session.source.count; sector++)
      if (unsure(sector, history.isSettled(sector) ? history.settled[sector] : undefined)) history.forget(sector, now);
    this.moment();
  }

  /**
   * What the maps say has changed since the point, by side, must have all that differs, and nothing that nobody touched but
   * in so many regions as may have been hot at each unclean end.
   */
  checkMaps(id: string, changed: Readonly<Record<Side, Set<number> | undefined>>, hotRegionsMax: number): void {
    const session = this.sessions.get(id);
    for (const side of ["source", "destination"] as const) {
      const map = changed[side];
      if (!map || !session) continue;
      const missing = this.differing(session, side).filter((granule) => !map.has(granule));
      if (missing.length > 0) this.#report(7, `${id}: the ${side}'s map lacks granules ${runsOf(missing)}`);
      const extra = [...map].filter((granule) => !session.touched[side].has(granule));
      const regions = new Set(extra.map((granule) => regionOf(session[side].first + sectorOf(granule))));
      const cold = [...regions].some((region) => !this.#everWritten[session[side].volume]?.has(region));
      if (cold || regions.size > session.unclean * hotRegionsMax)
        this.#report(8, `${id}: the ${side}'s map has granules ${runsOf(extra)}, which nobody touched`);
    }
  }

  /** Granules whose content certainly differs from that of the point. */
  differing(session: OracleSession, side: Side): number[] {
    const { volume, first } = session[side];
    const history = this.#volume(volume);
    const now = this.moment();
    const sectorDiffers = (index: number) => {
      const was = session.atPoint[index] as number;
      if (was === UNCERTAIN || was === ANYTHING || index >= session.atPoint.length) return false;
      const seen = history.visible(first + index, now, now + 1);
      return seen.every(({ value }) => value !== was && value !== ANYTHING);
    };
    return [...session.touched[side]].filter((granule) => {
      for (let index = sectorOf(granule); index < sectorOf(granule + 1); index++) if (sectorDiffers(index)) return true;
      return false;
    });
  }

  crash(kind: "kill" | "power", asked: PointAsked | undefined): void {
    const now = this.moment();
    // It may fail again before anybody could see whether the point had happened.
    for (const { sectors } of kind === "power" ? (asked?.fired ?? []) : [])
      for (const [sector, entries] of sectors) sectors.set(sector, oneOf(entries, now, now));
    if (asked) asked.fired ??= asked.members.map((member) => this.#copied(asked, member, now, kind));
    for (const history of this.volumes) history[kind === "power" ? "losePower" : "cutOff"](now);
    for (const one of [...this.sessions.values(), ...(asked ? [asked] : [])]) one.unclean++;
    for (const write of this.#writes) write.ended = Math.min(write.ended, now);
    this.#reads.clear();
    this.#ofHosts = kind === "power" ? 1 : 2;
  }

  /** A device lost what was not flushed; the box goes on. */
  deviceLost(volume: number, asked: PointAsked | undefined): void {
    this.#volume(volume).losePower(this.moment());
    if (asked) asked.unclean++;
    for (const session of this.sessions.values())
      if ([session.source, session.destination].some((side) => side.volume === volume)) session.unclean++;
  }
}

const LEGAL: Readonly<Record<string, readonly string[]>> = {
  copying: ["tracking", "failed"],
  tracking: ["failed"],
  failed: [],
};

function touch(touched: OracleSession["touched"], sides: Pair, extent: Extent): void {
  for (const side of ["source", "destination"] as const)
    for (const granule of granulesTouched(sides[side], extent)) touched[side].add(granule);
}

/** A point that is this candidate was after it began and before it was certainly replaced. */
function cutOf(instant: Instant, seen: readonly Candidate[], candidate: Candidate): Candidate["cut"] {
  return { instant, after: candidate.begun, before: replacedAt(seen, candidate) };
}
