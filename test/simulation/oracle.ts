/**
 * The oracle: what must be true of a box, from what its hosts and its operator saw. Shares no code with the engine.
 *
 * It knows: a write that was answered shows; a flush that was answered makes what was written before durable; at a point the
 * destination becomes what the source is. Of each sector it keeps what may be in it (sector-history.ts), of each session
 * its generation, its phase, and the granules that may differ since its point.
 * Violations are reported by the number of the invariant (invariants.ts).
 */
import type { InvariantNumber } from "./invariants.ts";
import { ANYTHING, afterPowerLoss, type Candidate, type Instant, replacedAt, SectorHistory } from "./sector-history.ts";

export const SECTORS_A_GRANULE = 16;
const SECTORS_A_REGION = 8192;
/** The content at the point is not known to the sector. */
const UNCERTAIN = -3;

/** Sectors of a volume. */
export interface Extent {
  readonly volume: number;
  readonly first: number;
  readonly count: number;
}

export interface SessionFacts {
  readonly id: string;
  readonly source: Extent;
  readonly destination: Extent;
  readonly kind: string;
  readonly phase: string;
  readonly tracking: boolean;
  readonly pace: number;
  readonly generation: number;
  readonly reason: string;
  readonly plannedGranules: number;
}

export interface OracleSession extends SessionFacts {
  /** What was at the source at the point. */
  readonly atPoint: Int32Array;
  /** Granules that may have changed since the point, by side. */
  readonly touched: { readonly source: Set<number>; readonly destination: Set<number> };
  /** Everything is at the destination, as far as anybody was told. */
  complete: boolean;
  /** The process has ended without a clean stop since the point. */
  unclean: boolean;
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

/** A point that was asked for and not yet answered. */
export interface PointAsked {
  readonly begun: number;
  readonly members: readonly { readonly source: Extent; readonly destination: Extent }[];
  readonly instant: Instant;
  /** What the sectors would be if it had happened, kept over the end of the process. */
  fired: { readonly atPoint: Int32Array; readonly sectors: Map<number, Candidate[]> }[] | undefined;
}

type Report = (invariant: InvariantNumber, message: string) => void;

export class Oracle {
  readonly volumes: readonly SectorHistory[];
  readonly sessions = new Map<string, OracleSession>();
  lastCrash: "none" | "kill" | "power" = "none";
  readonly #report: Report;
  /** How a sector came by its content: 0 by a host, else by a point of this invariant's kind. */
  readonly #origin: readonly Uint8Array[];
  readonly #everWritten: readonly Set<number>[];
  #writes: Write[] = [];
  readonly #reads = new Set<Read>();
  #now = 1;

  constructor(volumeSectors: readonly number[], report: Report) {
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

  // --- hosts -------------------------------------------------------------------------------------------------------------

  beginWrite(extent: Extent, valueAt: (index: number) => number): Write {
    const begun = this.moment();
    const history = this.#volume(extent.volume);
    const sectors: Candidate[] = [];
    for (let index = 0; index < extent.count; index++)
      sectors.push(history.begin(extent.first + index, valueAt(index), begun));
    const write = { extent, begun, ended: Number.POSITIVE_INFINITY, sectors };
    this.#writes.push(write);
    this.#touch(extent);
    return write;
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
    const where = `volume ${volume} sector ${sector} (granule ${Math.floor(sector / SECTORS_A_GRANULE)})`;
    if (verdict === "not one instant")
      this.#report(42, `${where} holds ${value}, which is of another instant than the rest`);
    else
      this.#report(
        blame ?? this.#blame(volume, sector, value),
        `${where} holds ${value}, expected ${wanted.join(" or ")}`,
      );
  }

  #blame(volume: number, sector: number, value: number): InvariantNumber {
    if (value < ANYTHING) return 3;
    const origin = this.#origin[volume]?.[sector] ?? 0;
    if (origin > 0) return origin as InvariantNumber;
    return this.lastCrash === "power" ? 1 : this.lastCrash === "kill" ? 2 : 4;
  }

  #touch(extent: Extent, except?: string): void {
    const regions = this.#everWritten[extent.volume];
    for (let sector = extent.first; sector < endOf(extent); sector++)
      regions?.add(Math.floor(sector / SECTORS_A_REGION));
    for (const session of this.sessions.values())
      if (session.id !== except)
        for (const side of ["source", "destination"] as const)
          addGranules(session.touched[side], session[side], extent);
  }

  // --- points ------------------------------------------------------------------------------------------------------------

  /** At most one point may be asked for at a time. */
  askPoint(members: readonly { readonly source: Extent; readonly destination: Extent }[]): PointAsked {
    this.#writes = this.#writes.filter((write) => write.ended === Number.POSITIVE_INFINITY);
    const begun = this.moment();
    return { begun, members, instant: { after: 0, before: Number.POSITIVE_INFINITY }, fired: undefined };
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
    for (const { extent, ended } of this.#writes)
      if (ended > point.begun)
        for (const side of ["source", "destination"] as const) addGranules(touched[side], facts[side], extent);
    this.#touch({ ...facts.destination, count: facts.source.count }, facts.id);
    const unclean = point.fired !== undefined;
    this.sessions.set(facts.id, { ...facts, atPoint, touched, complete: facts.phase === "tracking", unclean });
  }

  /** What the destination's sectors become if the point happens between `point.begun` and now. */
  #copied(
    point: PointAsked,
    { source, destination }: { readonly source: Extent; readonly destination: Extent },
    now: number,
    state: "alive" | "kill" | "power",
  ): { atPoint: Int32Array; sectors: Map<number, Candidate[]> } {
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
      sectors.set(sector, state === "power" ? afterPowerLoss(entries, now) : entries.map(cutOffAt(now, state)));
    }
    return { atPoint, sectors };
  }

  // --- sessions ----------------------------------------------------------------------------------------------------------

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
    const known = this.sessions.get(facts.id);
    const atPoint = known?.atPoint ?? new Int32Array(facts.source.count).fill(UNCERTAIN);
    const touched = known?.touched ?? { source: new Set<number>(), destination: new Set<number>() };
    this.sessions.set(facts.id, { ...facts, atPoint, touched, complete: false, unclean: true });
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
   * in regions that were hot when the process ended.
   */
  checkMaps(id: string, changed: Readonly<Record<"source" | "destination", Set<number> | undefined>>): void {
    const session = this.sessions.get(id);
    if (!session) return;
    for (const side of ["source", "destination"] as const) {
      const map = changed[side];
      if (!map) continue;
      const missing = this.differing(session, side).filter((granule) => !map.has(granule));
      if (missing.length > 0) this.#report(7, `${id}: the ${side}'s map lacks granules ${missing.join(", ")}`);
      const extra = [...map].filter((granule) => !session.touched[side].has(granule));
      if (extra.length === 0) continue;
      const cold = extra.filter((granule) => !this.#wasHot(session[side], granule));
      if (!session.unclean) this.#report(8, `${id}: the ${side}'s map has ${extra.join(", ")}, which nobody touched`);
      else if (cold.length > 0) this.#report(8, `${id}: the ${side}'s map has ${cold.join(", ")} in regions never hot`);
    }
  }

  #wasHot(extent: Extent, granule: number): boolean {
    const region = Math.floor((extent.first + granule * SECTORS_A_GRANULE) / SECTORS_A_REGION);
    return this.#everWritten[extent.volume]?.has(region) ?? false;
  }

  /** Granules whose content certainly differs from that of the point. */
  differing(session: OracleSession, side: "source" | "destination"): number[] {
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
      for (let index = granule * SECTORS_A_GRANULE; index < (granule + 1) * SECTORS_A_GRANULE; index++)
        if (sectorDiffers(index)) return true;
      return false;
    });
  }

  // --- the end of a process ------------------------------------------------------------------------------------------------

  crash(kind: "kill" | "power", asked: PointAsked | undefined): void {
    const now = this.moment();
    if (asked && !asked.fired) asked.fired = asked.members.map((member) => this.#copied(asked, member, now, kind));
    else if (asked?.fired && kind === "power") this.#loseFired(asked.fired, now);
    for (const history of this.volumes) {
      if (kind === "power") history.losePower(now);
      else history.cutOff(now);
    }
    this.#processEnded();
    this.lastCrash = kind;
  }

  /** The power failed again before anybody could see whether the point had happened. */
  #loseFired(fired: NonNullable<PointAsked["fired"]>, now: number): void {
    for (const { sectors } of fired)
      for (const [sector, entries] of sectors) sectors.set(sector, afterPowerLoss(entries, now));
  }

  /** A device lost what was not flushed; the box goes on. */
  deviceLost(volume: number): void {
    this.#volume(volume).losePower(this.moment());
    for (const session of this.sessions.values())
      if (session.source.volume === volume || session.destination.volume === volume) session.unclean = true;
  }

  #processEnded(): void {
    this.#reads.clear();
    for (const session of this.sessions.values()) session.unclean = true;
    for (const write of this.#writes) write.ended = Math.min(write.ended, this.#now);
  }
}

const LEGAL: Readonly<Record<string, readonly string[]>> = {
  copying: ["tracking", "failed"],
  tracking: ["failed"],
  failed: [],
};

function endOf(extent: Extent): number {
  return extent.first + extent.count;
}

/** Granules of `side` that `extent` touches. */
function addGranules(into: Set<number>, side: Extent, extent: Extent): void {
  if (side.volume !== extent.volume) return;
  const from = Math.max(side.first, extent.first);
  const to = Math.min(endOf(side), endOf(extent));
  // Maps have whole granules of the volume: the last one of a session may end behind it.
  const last = Math.ceil(endOf(side) / SECTORS_A_GRANULE) * SECTORS_A_GRANULE;
  const begin = from < to ? from : extent.first >= endOf(side) && extent.first < last ? extent.first : undefined;
  if (begin === undefined) return;
  const end = Math.max(begin + 1, Math.min(endOf(extent), last));
  for (let sector = begin; sector < end; sector++) into.add(Math.floor((sector - side.first) / SECTORS_A_GRANULE));
}

/** A point that is this candidate was after it began and before it was certainly replaced. Zeros are not told apart. */
function cutOf(instant: Instant, seen: readonly Candidate[], candidate: Candidate): Candidate["cut"] {
  if (seen.length === 1 || candidate.value === 0 || candidate.begun < 0) return undefined;
  return { instant, after: candidate.begun, before: replacedAt(seen, candidate) };
}

function cutOffAt(now: number, state: "alive" | "kill" | "power"): (entry: Candidate) => Candidate {
  if (state === "alive") return (entry) => entry;
  return (entry) => (entry.ended === Number.POSITIVE_INFINITY ? { ...entry, ended: now } : entry);
}
