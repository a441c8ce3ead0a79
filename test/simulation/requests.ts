/**
 * The clients of a whole box: each request has an id, and whoever has heard no answer asks again with the same one.
 *
 * Checked here (11): what was asked is done once, however often it is asked; what was answered before the process ended is
 * answered so again; what the engine had done when it ended is answered as done.
 * An answer that the store could not take at once is only promised to name the same things: it is told from what is there
 * then.
 */
import { TidemarkError } from "../../src/base/errors.ts";
import type { Box as DomainBox } from "../../src/domain/box.ts";
import type { Intent } from "../../src/domain/intents.ts";
import type { Recorder } from "../../src/domain/journal.ts";
import type { EndedSession, EngineFound, SessionStatus } from "../../src/engine/engine-api.ts";
import { pathOf } from "./box.ts";
import type { Extent } from "./facts.ts";
import { type Demand, type Door, describe, isPoint } from "./operator.ts";
import { SECTOR_BYTES, type Stage } from "./stage.ts";
import type { Deed, Witness } from "./witness.ts";

/** Answers that may be asked for again. */
const ANSWERED_MAX = 12;

export interface Request {
  readonly id: string;
  readonly demand: Demand;
  /** How often it was sent. */
  tries: number;
  /** What the engine has done for it. */
  deed: Deed | undefined;
  answer: Answer | undefined;
}

interface Answer {
  readonly text: string;
  /** kept: the store had failed, so it may not be stored yet. */
  readonly state: "stored" | "kept";
}

export class Requests implements Door {
  readonly #stage: Stage;
  readonly #witness: Witness;
  #count = 0;
  /** Asked, and no answer heard: under way, or cut off. */
  readonly #unanswered = new Set<Request>();
  /** The last ones that were answered, oldest first. */
  readonly #answered: Request[] = [];
  /** Nobody asks again for these, or has to: what the store refused may show after a crash. */
  readonly #abandoned = new Set<string>();
  /** Points that were answered the first time, and recorded by then: id and generation of each session. */
  readonly recorded: { readonly id: string; readonly generation: number }[] = [];

  constructor(stage: Stage, witness: Witness) {
    this.#stage = stage;
    this.#witness = witness;
    witness.onDeed = (deed) => this.#done(deed);
  }

  get unanswered(): readonly Request[] {
    return [...this.#unanswered];
  }

  get answered(): readonly Request[] {
    return this.#answered;
  }

  /** The engine has done something that is not answered yet. */
  get isDone(): boolean {
    return this.unanswered.some(({ deed }) => deed !== undefined);
  }

  /** That this request has begun may be noted: no answer of it is stored. */
  mayBeBegun(id: string): boolean {
    return this.#abandoned.has(id) || [...this.#unanswered].some((request) => request.id === id);
  }

  carryOut(demand: Demand): Promise<unknown> {
    const request: Request = { id: `r${++this.#count}`, demand, tries: 0, deed: undefined, answer: undefined };
    return this.send(request);
  }

  named({ volume, first, count }: Extent): Extent | undefined {
    const extents = this.#stage.world.extents[volume] as readonly Extent[];
    const fitting = extents.filter((extent) => extent.first === first && extent.count >= count);
    return fitting.sort((a, b) => a.count - b.count)[0];
  }

  waitsFor(demand: Demand): boolean {
    if (demand.do !== "cancel" && demand.do !== "stop-tracking") return false;
    return this.unanswered.some((other) => other.demand.do === demand.do && other.demand.id === demand.id);
  }

  giveUp(request: Request): void {
    this.#unanswered.delete(request);
    this.#abandoned.add(request.id);
  }

  /** Asks, for the first time or again. */
  async send(request: Request): Promise<unknown> {
    const { box } = this.#stage;
    const { life } = box;
    request.tries++;
    if (!request.answer) this.#unanswered.add(request);
    try {
      const text = await this.#once(box.domain, request);
      if (life !== box.life) return await never();
      this.#heard(request, text);
      return JSON.parse(text) as unknown;
    } catch (error) {
      if (life !== box.life) return await never();
      this.#refused(request, error);
      throw error;
    }
  }

  // --- what the engine does for them -----------------------------------------------------------------------------------------

  /** One point is under way at a time, and one end of a session: the deed belongs to the request that asked for it. */
  #done(deed: Deed): void {
    const request = this.unanswered.find(({ demand }) =>
      deed.do === "point" ? isPoint(demand) : demand.do === deed.do && "id" in demand && demand.id === deed.id,
    );
    if (request?.deed) this.#report(`${what(request)} was done twice`);
    if (request) request.deed = deed;
    else this.#report(`the engine has done what nobody waits for: ${JSON.stringify(deed)}`);
  }

  /** A process has started: what has the engine done for requests that were cut off? Before the witness forgets them. */
  found({ sessions, ended }: EngineFound): void {
    for (const request of this.#unanswered) {
      const { demand } = request;
      if (request.deed) continue;
      if (demand.do === "cancel" && this.#witness.ending.has(demand.id)) {
        const end = ended.find(({ session }) => session.id === demand.id);
        if (end?.session.phase === "cancelled")
          request.deed = { do: "cancel", id: demand.id, usable: end.destinationUsable };
      }
      const tracked = "id" in demand && this.#stage.oracle.sessions.get(demand.id)?.tracking === true;
      if (demand.do === "stop-tracking" && tracked && this.#witness.untracking.has(demand.id)) {
        const session = sessions.find(({ id }) => id === demand.id);
        const end = ended.find((one) => one.session.id === demand.id);
        if (session ? !session.tracking : end?.session.phase === "completed")
          request.deed = { do: "stop-tracking", id: demand.id };
      }
    }
  }

  // --- answers ---------------------------------------------------------------------------------------------------------------

  #heard(request: Request, text: string): void {
    const before = request.answer;
    this.#unanswered.delete(request);
    if (before) {
      if (before.state === "stored" && before.text !== text)
        this.#report(`${what(request)} was answered ${before.text}, and then ${text}`);
      else if (before.state === "kept") this.#compare(request, text);
      return;
    }
    this.#compare(request, text);
    const faulty = isKept(request.demand) && this.#stage.judge.has("store-full", "store-failure");
    request.answer = { text, state: faulty ? "kept" : "stored" };
    if (faulty) this.#abandoned.add(request.id);
    if (request.deed?.do === "point" && request.tries === 1 && !faulty) this.recorded.push(...request.deed.sessions);
    this.#answered.push(request);
    if (this.#answered.length > ANSWERED_MAX) this.#answered.shift();
  }

  /** A pace whose answer was not stored would be set again. */
  mayRepeat({ demand, answer }: Request): boolean {
    return answer?.state === "stored" || demand.do !== "pace";
  }

  /** What is answered is what was done. */
  #compare(request: Request, text: string): void {
    if (!isAsDone(request, text, this.#stage.box.uids))
      this.#report(`${what(request)} is answered ${text}, done was ${JSON.stringify(request.deed)}`);
  }

  #refused(request: Request, error: unknown): void {
    const code = error instanceof TidemarkError ? error.code : "INTERNAL";
    // The box stops, and may have done it all the same: the client asks again.
    if (code === "STOPPING") return;
    this.#unanswered.delete(request);
    const { judge } = this.#stage;
    if (judge.has("store-full", "store-failure")) this.#abandoned.add(request.id);
    if (request.answer && !judge.has("store-failure"))
      this.#report(`${what(request)} was answered ${request.answer.text}, and then refused: ${String(error)}`);
    else if (request.deed && !judge.had("store-failure", "state-damage"))
      this.#report(`${what(request)} was done, and is refused: ${String(error)}`);
  }

  #report(message: string): void {
    this.#stage.report(11, message);
  }

  // --- the way in -------------------------------------------------------------------------------------------------------------

  /** As the server does it (server/handlers.ts), with answers in JSON. */
  async #once(domain: DomainBox, { id, demand }: Request): Promise<string> {
    const identified = { id, method: demand.do, bytes: Buffer.from(JSON.stringify(demand)) };
    const response = await domain.requests.once(identified, async (store, intent) => {
      let stored: Uint8Array | undefined;
      const record: Recorder<unknown> = (result) => {
        stored = encode(result);
        return store(stored);
      };
      const result = await this.#carryOut(domain, demand, record, intent);
      return stored ?? encode(result);
    });
    return Buffer.from(response).toString();
  }

  #carryOut(domain: DomainBox, demand: Demand, record: Recorder<unknown>, intent: Intent): Promise<unknown> {
    const { copies, volumes } = domain;
    switch (demand.do) {
      case "start": {
        const pairs = demand.members.map(({ source, destination }) => ({
          source: this.#nameOf(source),
          destination: this.#nameOf(destination),
        }));
        const { kind = "opc", pace = 1 } = demand.members[0] ?? {};
        return copies.start({ pairs, kind, pace }, record, intent);
      }
      case "restart":
        return copies.restart(demand.ids, record, intent);
      case "cancel":
        return copies.cancel(demand.id, record, intent);
      case "stop-tracking":
        return copies.stopTracking(demand.id, record, intent);
      case "pace":
        return copies.setPace(demand.id, demand.pace, record);
      case "reopen":
        return domain.reopenVolume(volumeName(demand.volume), record);
      case "register":
        return volumes.register({ path: pathOf(demand.volume), lu: demand.volume + 1, label: "" }, record);
      case "take-out":
        return volumes.delete({ name: volumeName(demand.volume), file: "keep" }, record, intent);
    }
  }

  #nameOf({ volume, first, count }: Extent): string {
    const extents = this.#stage.world.extents[volume] as readonly Extent[];
    const index = extents.findIndex((extent) => extent.first === first && extent.count === count);
    if (index < 0)
      throw new Error(`sectors ${first}+${count} (${first * SECTOR_BYTES}) of volume ${volume} have no name`);
    return index === 0 ? volumeName(volume) : `${volumeName(volume)}p${index}`;
  }
}

function isAsDone({ demand, deed, tries }: Request, text: string, uids: readonly (string | undefined)[]): boolean {
  if (isPoint(demand)) {
    const told = JSON.parse(text) as SessionStatus[];
    if (deed?.do !== "point" || told.length !== deed.sessions.length) return false;
    // Another point may have been fired since.
    return deed.sessions.every(({ id, generation }, index) => {
      const session = told[index];
      return session?.id === id && session.generation >= generation;
    });
  }
  switch (demand.do) {
    case "cancel": {
      const { session, destinationUsable } = JSON.parse(text) as EndedSession;
      return deed?.do === "cancel" && session.id === deed.id && destinationUsable === deed.usable;
    }
    case "stop-tracking": {
      const { id, tracking } = JSON.parse(text) as SessionStatus;
      // Whoever asks again is told that it does not track, also when it never did and the first try would have been refused.
      return (deed?.do === "stop-tracking" || tries > 1) && id === demand.id && !tracking;
    }
    case "register":
      return uids[demand.volume] !== undefined;
    case "take-out":
      return uids[demand.volume] === undefined;
    default:
      return true;
  }
}

/** What the engine has done is done, whether or not it can be recorded at once; what concerns volumes is refused then. */
function isKept({ do: verb }: Demand): boolean {
  return verb !== "register" && verb !== "take-out" && verb !== "reopen";
}

export function what({ id, demand }: Request): string {
  return `request ${id}, ${describe(demand)},`;
}

function volumeName(volume: number): string {
  return `g1d${volume + 1}`;
}

function encode(result: unknown): Uint8Array {
  return Buffer.from(JSON.stringify(result ?? null));
}

function never(): Promise<never> {
  return new Promise(() => undefined);
}
