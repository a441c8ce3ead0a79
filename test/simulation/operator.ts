/**
 * What the operator does: points, ends, paces, volumes. He acts through a *door*: the engine itself, or in a whole box the
 * domain, with request ids (requests.ts). What the engine then does the witness tells the oracle (witness.ts).
 */
import { TidemarkError } from "../../src/base/errors.ts";
import type { EndedSession, StartRequest } from "../../src/engine/engine-api.ts";
import type { Extent } from "./facts.ts";
import type { Stage } from "./stage.ts";
import type { Witness } from "./witness.ts";
import type { MemberStep } from "./workload.ts";

/** What is asked for, as data: the same demand asked again is the same request. */
export type Demand =
  | { readonly do: "start"; readonly members: readonly MemberStep[] }
  | { readonly do: "restart"; readonly ids: readonly string[] }
  | { readonly do: "cancel" | "stop-tracking"; readonly id: string }
  | { readonly do: "pace"; readonly id: string; readonly pace: number }
  | { readonly do: "reopen" | "register" | "take-out"; readonly volume: number };

export interface Door {
  /** Resolves with the answer. */
  carryOut(demand: Demand): Promise<unknown>;
  /** The part of a volume that can be named and holds this much from here on. */
  named(extent: Extent): Extent | undefined;
  /** The same is asked for already. */
  waitsFor(demand: Demand): boolean;
}

const IN_USE = "in use";

export function isPoint(demand: Demand): boolean {
  return demand.do === "start" || demand.do === "restart";
}

export function describe(demand: Demand): string {
  switch (demand.do) {
    case "start":
      return `start of ${demand.members.length} copies`;
    case "restart":
      return `restart of ${demand.ids.join(", ")}`;
    case "reopen":
    case "register":
    case "take-out":
      return `${demand.do} of volume ${demand.volume}`;
    default:
      return `${demand.do} of ${demand.id}`;
  }
}

export class Operator {
  readonly #stage: Stage;
  readonly #witness: Witness;
  readonly #door: Door;

  constructor(stage: Stage, witness: Witness, door: Door) {
    this.#stage = stage;
    this.#witness = witness;
    this.#door = door;
    witness.onEnded = (ended) => this.#confirm(ended);
  }

  start(members: readonly MemberStep[]): void {
    const named = members.map((member) => {
      const [source, destination] = [this.#door.named(member.source), this.#door.named(member.destination)];
      return source && destination ? { ...member, source, destination } : undefined;
    });
    const all = named.filter((member) => member !== undefined);
    const present = all.every(({ source, destination }) =>
      [source, destination].every(({ volume }) => this.#isIn(volume)),
    );
    if (all.length === members.length && present) this.#ask({ do: "start", members: all });
  }

  restart(ids: readonly string[]): void {
    if (ids.some((id) => this.#stage.oracle.sessions.has(id))) this.#ask({ do: "restart", ids });
  }

  cancel(id: string): void {
    this.#ask({ do: "cancel", id });
  }

  stopTracking(id: string): void {
    this.#ask({ do: "stop-tracking", id });
  }

  pace(id: string, pace: number): void {
    this.#ask({ do: "pace", id, pace });
  }

  reopen(volume: number): void {
    const demand: Demand = { do: "reopen", volume };
    const isAsked = [...this.#stage.calls].some((call) => call.what === describe(demand));
    if (this.#isIn(volume) && !isAsked) this.#ask(demand);
  }

  /** Takes a volume out of the box, unless a copy uses it, and registers it again: it is another one then. */
  registerAgain(volume: number): void {
    const { moving, box } = this.#stage;
    if (box.uids[volume] === undefined) {
      this.register(volume);
      return;
    }
    moving.add(volume);
    this.#ask(
      { do: "take-out", volume },
      (answer) => {
        moving.delete(volume);
        if (answer !== IN_USE) this.register(volume);
      },
      () => moving.delete(volume),
    );
  }

  register(volume: number): void {
    const { moving } = this.#stage;
    moving.add(volume);
    const over = () => moving.delete(volume);
    this.#ask({ do: "register", volume }, over, over);
  }

  /** A client asks again: what was answered before moves nothing any more. */
  repeat(demand: Demand, before: "answered" | "cut-off", send: () => Promise<unknown>): void {
    const { moving } = this.#stage;
    const moves = before === "cut-off" && (demand.do === "register" || demand.do === "take-out");
    const volume = moves ? demand.volume : undefined;
    if (volume !== undefined) moving.add(volume);
    const over = () => volume !== undefined && moving.delete(volume);
    const call = () => (demand.do === "take-out" ? this.#unlessInUse(demand.volume, send) : send());
    const hear = { answered: over, failed: over };
    this.#stage.launch(`${describe(demand)}, again`, call, hear, isPoint(demand));
  }

  #isIn(volume: number): boolean {
    return this.#stage.isIn(volume);
  }

  #ask(
    demand: Demand,
    answered: (answer: unknown) => void = () => undefined,
    failed: () => void = () => undefined,
  ): void {
    if (isPoint(demand) && this.#witness.asked) return; // the process has ended while the last one was waited for
    if (this.#door.waitsFor(demand)) return;
    const send = () => this.#door.carryOut(demand);
    const call = () => (demand.do === "take-out" ? this.#unlessInUse(demand.volume, send) : send());
    this.#stage.launch(describe(demand), call, { answered, failed }, isPoint(demand));
  }

  /** A volume that a copy uses stays. */
  async #unlessInUse(volume: number, takeOut: () => Promise<unknown>): Promise<unknown> {
    const inUse = () =>
      [...this.#stage.oracle.sessions.values()].some(
        ({ source, destination }) => source.volume === volume || destination.volume === volume,
      );
    const before = inUse();
    try {
      return await takeOut();
    } catch (error) {
      if (error instanceof TidemarkError && error.code === "VOLUME_BUSY" && (before || inUse())) return IN_USE;
      throw error;
    }
  }

  /** Of an engine alone the simulation itself confirms ends; mostly, and the next process asks for the rest. */
  #confirm({ session: { id } }: EndedSession): void {
    const { box, chance } = this.#stage;
    if (box.isWhole || !chance.happens(0.7)) return;
    const hear = { answered: () => undefined, failed: () => undefined };
    this.#stage.launch(`confirmation of ${id}`, () => box.commands.forgetSession(id), hear);
  }
}

/** The engine itself, without a domain. */
export class EngineDoor implements Door {
  readonly #stage: Stage;
  #lastId = 0;

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  named(extent: Extent): Extent {
    return extent;
  }

  waitsFor(): boolean {
    return false;
  }

  async carryOut(demand: Demand): Promise<unknown> {
    const { commands, uids } = this.#stage.box;
    switch (demand.do) {
      case "start":
        return commands.startSessions(demand.members.map((member) => this.#request(member)));
      case "restart":
        return commands.restartSessions(demand.ids);
      case "cancel":
        return commands.cancelSession(demand.id);
      case "stop-tracking":
        return commands.stopTracking(demand.id);
      case "pace":
        return commands.setPace(demand.id, demand.pace);
      case "reopen":
        return commands.reopenVolume(uids[demand.volume] as string);
      default:
        throw new Error(`an engine alone cannot ${demand.do}`);
    }
  }

  #request(member: MemberStep): StartRequest {
    const source = this.#stage.extentRef(this.#restorable(member));
    const destination = this.#stage.extentRef(member.destination);
    return { id: `c${++this.#lastId}`, source, destination, kind: member.kind, pace: member.pace };
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
}
