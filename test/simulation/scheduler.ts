/**
 * Virtual time and the order of everything that waits for a disk.
 *
 * Role: whoever does I/O waits for a `turn`; the simulation fires one turn after the other, chosen by chance, and lets all
 * code run that follows from it. Time moves a little with each turn, and in leaps when nothing else is left to do.
 * Invariants:
 *   1. Between two turns all code has run as far as it can without a turn.
 *   2. What fires next depends on the seed and on what waits, and on nothing else.
 */
import type { Clock } from "../../src/base/ports.ts";
import type { Chance } from "./chance.ts";

/** What waits: its kind decides how soon it tends to be chosen. */
export type TurnKind =
  | "device-read"
  | "device-write"
  | "device-flush"
  | "state-read"
  | "state-write"
  | "state-sync"
  | "state-names"
  | "store-commit"
  | "store-read"
  | "sleep";

const KINDS: readonly TurnKind[] = [
  "device-read",
  "device-write",
  "device-flush",
  "state-read",
  "state-write",
  "state-sync",
  "state-names",
  "store-commit",
  "store-read",
  "sleep",
];

interface Task {
  readonly kind: TurnKind;
  readonly dueMs: number;
  readonly run: () => void;
}

/** How one history orders what waits. */
export interface SchedulingMood {
  /** first: in order; any: by chance; ranked: kinds of higher rank tend to go first. */
  readonly order: "first" | "any" | "ranked";
  readonly ranks: Readonly<Record<TurnKind, number>>;
  /** Milliseconds that a turn takes at most. */
  readonly turnMs: number;
}

export function chooseMood(chance: Chance): SchedulingMood {
  const ranks = Object.fromEntries(KINDS.map((kind) => [kind, chance.below(4)])) as Record<TurnKind, number>;
  return {
    order: chance.weighted({ first: 1, any: 2, ranked: 2 }),
    ranks,
    turnMs: chance.pick([0.01, 0.5, 20]),
  };
}

export class Scheduler implements Clock {
  readonly #chance: Chance;
  readonly #mood: SchedulingMood;
  #ready: Task[] = [];
  #later: Task[] = [];
  #nowMs = 1_700_000_000_000;
  /** Everything that fired so far, as one number: two equal histories have equal digests. */
  digest = 0x811c9dc5;
  turns = 0;

  constructor(chance: Chance, mood: SchedulingMood) {
    this.#chance = chance;
    this.#mood = mood;
  }

  nowMs(): number {
    return Math.floor(this.#nowMs);
  }

  monotonicMs(): number {
    this.#nowMs += 0.001;
    return this.#nowMs;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve();
      const abort = () => {
        this.#later = this.#later.filter((other) => other !== task);
        resolve();
      };
      const run = () => {
        signal?.removeEventListener("abort", abort);
        resolve();
      };
      const task: Task = { kind: "sleep", dueMs: this.#nowMs + ms, run };
      this.#later.push(task);
      signal?.addEventListener("abort", abort, { once: true });
    });
  }

  /** Resolves when the simulation has chosen it, not before `delayMs` have passed. */
  turn(kind: TurnKind, delayMs = 0): Promise<void> {
    return new Promise((run) => {
      if (delayMs > 0) this.#later.push({ kind, dueMs: this.#nowMs + delayMs, run });
      else this.#ready.push({ kind, dueMs: 0, run });
    });
  }

  /** Nothing can happen any more, whatever time passes. */
  get idle(): boolean {
    return this.#ready.length === 0 && this.#later.length === 0;
  }

  /** Something can happen without a leap in time. */
  get busy(): boolean {
    return this.#ready.length > 0;
  }

  /** Fires one turn; false when there is none. */
  fire(): boolean {
    if (this.#ready.length === 0 && !this.#leap()) return false;
    const index = this.#choose();
    const task = this.#ready[index] as Task;
    if (this.#mood.order === "first") this.#ready.shift();
    else {
      const last = this.#ready.pop() as Task;
      if (last !== task) this.#ready[index] = last;
    }
    this.turns++;
    this.note(KINDS.indexOf(task.kind) * 1024 + this.#ready.length);
    this.#pass(this.#chance.unit() * this.#mood.turnMs);
    task.run();
    return true;
  }

  /** Lets time pass: what is due by then may fire. */
  pass(ms: number): void {
    this.#pass(ms);
  }

  note(value: number): void {
    this.digest = Math.imul(this.digest ^ value, 0x01000193) >>> 0;
  }

  /** The process is gone, and all that waited with it. */
  drop(): void {
    this.#ready = [];
    this.#later = [];
  }

  #pass(ms: number): void {
    this.#reach(this.#nowMs + ms);
  }

  #reach(nowMs: number): void {
    this.#nowMs = nowMs;
    if (this.#later.length === 0) return;
    const due = this.#later.filter((task) => task.dueMs <= this.#nowMs);
    if (due.length === 0) return;
    this.#later = this.#later.filter((task) => task.dueMs > this.#nowMs);
    this.#ready.push(...due);
  }

  #leap(): boolean {
    let dueMs = Number.POSITIVE_INFINITY;
    for (const task of this.#later) dueMs = Math.min(dueMs, task.dueMs);
    if (dueMs === Number.POSITIVE_INFINITY) return false;
    this.#reach(Math.max(dueMs, this.#nowMs));
    return this.#ready.length > 0;
  }

  #choose(): number {
    const count = this.#ready.length;
    if (count === 1 || this.#mood.order === "first") return 0;
    const one = this.#chance.below(count);
    if (this.#mood.order === "any") return one;
    const other = this.#chance.below(count);
    const rank = (index: number) => this.#mood.ranks[(this.#ready[index] as Task).kind];
    return rank(other) > rank(one) ? other : one;
  }
}

/** Lets everything run that needs no turn. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
