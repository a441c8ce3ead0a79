/**
 * What the sectors of one volume may hold: part of the oracle, which shares no code with the engine.
 *
 * For each sector the writes that may still show: those that nothing has certainly replaced, and those that a power loss
 * could bring back. A sector of which only one value is possible is *settled* and takes no more than that number.
 * Time is a count of what the simulation has seen: a write has begun at one moment and ended at a later one.
 */

/** Nobody promised anything about this sector. */
export const ANYTHING = -1;

/** A value that may be in a sector. */
export interface Candidate {
  value: number;
  begun: number;
  /** Infinity: under way. */
  ended: number;
  /** It did take effect between `begun` and `ended`. Otherwise it may have, or another one of its choice did. */
  certain: boolean;
  /** Of all candidates with the same number but 0 one did take effect. */
  choice: number;
  /** The point that copied it here, and the time within which the point must have been if it is this one. */
  cut: Cut | undefined;
}

/** The instant of a point lies between these. */
export interface Instant {
  after: number;
  before: number;
}

export interface Cut extends Readonly<Instant> {
  readonly instant: Instant;
}

export type Verdict = "possible" | "impossible" | "not one instant";

export class SectorHistory {
  readonly settled: Int32Array;
  readonly #open = new Map<number, Candidate[]>();

  constructor(sectors: number) {
    this.settled = new Int32Array(sectors);
  }

  isSettled(sector: number): boolean {
    return !this.#open.has(sector);
  }

  /** Sectors from `first` on that are not settled, or settled to something else than `values` say. */
  unlike(first: number, values: Int32Array): number[] {
    const { settled } = this;
    const found: number[] = [];
    for (let index = 0; index < values.length; index++)
      if (settled[first + index] !== values[index]) found.push(first + index);
    for (const sector of this.#open.keys())
      if (sector >= first && sector - first < values.length && settled[sector] === values[sector - first])
        found.push(sector);
    return found;
  }

  /** A write begins; end it with `end`. */
  begin(sector: number, value: number, now: number): Candidate {
    const ended = Number.POSITIVE_INFINITY;
    const candidate: Candidate = { ...settledCandidate(value), begun: now, ended, certain: false };
    this.#entries(sector).push(candidate);
    return candidate;
  }

  end(candidate: Candidate, now: number, outcome: "done" | "unknown"): void {
    candidate.ended = now;
    candidate.certain = outcome === "done";
  }

  /** The process ended: what was under way may have happened or not. */
  cutOff(now: number): void {
    for (const entries of this.#open.values()) for (const entry of entries) entry.ended = Math.min(entry.ended, now);
  }

  /** What was not flushed may be there or not, each sector on its own. */
  losePower(now: number): void {
    this.cutOff(now);
    for (const [sector, entries] of this.#open) this.adopt(sector, oneOf(entries, now, now));
  }

  /** A flush that began at `begun` has ended well. */
  flushed(begun: number): void {
    for (const [sector, entries] of this.#open) {
      const left = entries.filter((entry) => replacedAt(entries, entry) >= begun);
      if (left.length < entries.length) this.adopt(sector, left);
    }
  }

  /** Values that a look between `from` and `to` may find. */
  visible(sector: number, from: number, to: number): readonly Candidate[] {
    const entries = this.#open.get(sector) ?? [settledCandidate(this.settled[sector] as number)];
    return entries.filter((entry) => entry.begun < to && replacedAt(entries, entry) >= from);
  }

  /** `value` was found by a look between `from` and `to`. What is known then is remembered. */
  observe(sector: number, value: number, from: number, to: number): Verdict {
    const entries = this.#open.get(sector);
    if (!entries) {
      const known = this.settled[sector] as number;
      return known === value || known === ANYTHING ? "possible" : "impossible";
    }
    const seen = this.visible(sector, from, to);
    const found = seen.findLast((entry) => entry.value === value) ?? seen.find((entry) => entry.value === ANYTHING);
    if (!found) return "impossible";
    if (entries.some((entry) => entry.ended >= from)) return "possible"; // something is under way: it may change again
    if (!narrow(found)) return "not one instant";
    const others = seen.filter((entry) => entry !== found);
    if (found.value === ANYTHING) {
      // Seen now, but after a power loss it may be anything else.
      const shown = { ...settledCandidate(value), begun: to, ended: to };
      const before = { ...found, begun: to - 1, ended: to - 1 };
      if (!others.some((entry) => entry.certain)) this.#open.set(sector, [before, shown]);
      return "possible";
    }
    // What is not shown has not happened, or has been overwritten by what is, and may come back after a power loss.
    const isOver = ({ choice, begun }: Candidate) => (choice === 0 ? begun > found.ended : choice === found.choice);
    const gone = others.filter((entry) => !entry.certain && isOver(entry));
    const kept = others.filter((entry) => !gone.includes(entry));
    Object.assign(found, { certain: true, choice: 0 });
    if (kept.some((entry) => found.begun <= entry.ended)) Object.assign(found, { begun: from, ended: to });
    this.adopt(
      sector,
      entries.filter((entry) => !gone.includes(entry)),
    );
    return "possible";
  }

  /** What is left when a point put one of `candidates` here, durably, in that time: what came before cannot come back. */
  replacement(sector: number, candidates: readonly Candidate[], begun: number, ended: number): Candidate[] {
    const concurrent = (this.#open.get(sector) ?? []).filter((entry) => entry.ended > begun);
    return [...oneOf(candidates, begun, ended), ...concurrent];
  }

  /** From now on these, and nothing else, are possible. */
  adopt(sector: number, entries: Candidate[]): void {
    const [only] = entries;
    this.#open.set(sector, entries);
    if (only === undefined || entries.length > 1 || only.ended === Number.POSITIVE_INFINITY) return;
    this.settled[sector] = only.value;
    this.#open.delete(sector);
  }

  /** The value may be anything, now and after a power loss. */
  forget(sector: number, now: number): void {
    const underWay = (this.#open.get(sector) ?? []).filter((entry) => entry.ended >= now);
    const anything = { ...settledCandidate(ANYTHING), begun: now, ended: now };
    this.#open.set(sector, [anything, ...underWay]);
  }

  #entries(sector: number): Candidate[] {
    const entries = this.#open.get(sector) ?? [settledCandidate(this.settled[sector] as number)];
    this.#open.set(sector, entries);
    return entries;
  }
}

function settledCandidate(value: number): Candidate {
  return { value, begun: -1, ended: -1, certain: true, choice: 0, cut: undefined };
}

/** When a certain write ended that came after it. */
export function replacedAt(entries: readonly Candidate[], entry: Candidate): number {
  let at = Number.POSITIVE_INFINITY;
  for (const other of entries) if (other.certain && other.begun > entry.ended) at = Math.min(at, other.ended);
  return at;
}

/** One of these took effect between `begun` and `ended`; after a power loss, each of those that were possible. */
export function oneOf(entries: readonly Candidate[], begun: number, ended: number): Candidate[] {
  const values = new Map<number, Candidate>();
  // Which of two with the same value it was nobody can tell.
  for (const entry of entries) values.set(entry.value, values.has(entry.value) ? { ...entry, cut: undefined } : entry);
  const [certain, choice] = values.size === 1 ? [true, 0] : [false, ended];
  return [...values.values()].map((entry) => ({ ...entry, begun, ended, certain, choice }));
}

/** If it is this candidate, its point was between the writes around it: false when it cannot have been. */
function narrow({ cut }: Candidate): boolean {
  if (!cut) return true;
  cut.instant.after = Math.max(cut.instant.after, cut.after);
  cut.instant.before = Math.min(cut.instant.before, cut.before);
  return cut.instant.after < cut.instant.before;
}
