/**
 * What the rows of a whole box must say (11): of each session that exists, of each that has ended, of each volume, of each
 * request; and which events must be there. Rows are read as they are stored, by the production codecs.
 *
 * Looked at after each start, when the box has put its rows right; whenever nothing is under way; after a clean stop.
 * The session files are the authority, so what the engine has said is what the rows are held against.
 */
import { checkCopies, checkRows } from "../../src/domain/row-checks.ts";
import type { EngineEvent, EngineFound } from "../../src/engine/engine-api.ts";
import type { CopyRow, EndedCopyRow, EventRow, Rows as Tables } from "../../src/store/rows.ts";
import type { Store } from "../../src/store/store.ts";
import type { SessionFacts } from "./facts.ts";
import type { Requests } from "./requests.ts";
import type { Stage } from "./stage.ts";
import type { Witness } from "./witness.ts";

/** started: what has changed since the start may still be on its way. */
type Moment = "started" | "quiet" | "stopped";

interface End {
  readonly phase: string;
  readonly usable: boolean;
}

const ALL = { pageSize: 1000, pageToken: "" };

export class Rows {
  readonly #stage: Stage;
  readonly #witness: Witness;
  readonly #requests: Requests;
  /** Sessions that have ended, as the engine told. */
  readonly #ended = new Map<string, End>();
  /** Those of them whose end the present process was told of while it ran. */
  readonly #endedNow = new Set<string>();
  /** Events that anybody could see before the last process ended. */
  #seen: readonly EventRow[] = [];

  constructor(stage: Stage, witness: Witness, requests: Requests) {
    this.#stage = stage;
    this.#witness = witness;
    this.#requests = requests;
  }

  found({ ended }: EngineFound): void {
    this.#endedNow.clear();
    for (const { session, destinationUsable } of ended)
      this.#ended.set(session.id, { phase: session.phase, usable: destinationUsable });
  }

  hear(event: EngineEvent): void {
    if (event.type !== "session.ended") return;
    this.#ended.set(event.session.id, { phase: event.session.phase, usable: event.destinationUsable });
    this.#endedNow.add(event.session.id);
  }

  /** The process is about to end. */
  processEnds(): void {
    const { box } = this.#stage;
    if (!box.serves) return;
    const seen: EventRow[] = [];
    for (let pageToken = ""; ; ) {
      const page = box.domain.events("", { ...ALL, pageToken });
      seen.push(...page.items);
      pageToken = page.nextPageToken;
      if (pageToken === "") break;
    }
    this.#seen = seen;
  }

  async look(moment: Moment): Promise<void> {
    const { box, judge } = this.#stage;
    const store = await box.database.look();
    this.#lookAtVolumes(moment, await all(store, "volumes"));
    // What copies have done and could not be recorded at once is recorded later.
    if (moment !== "started" && judge.has("store-full", "store-failure")) return;
    const sessions = moment === "stopped" ? [...this.#stage.oracle.sessions.values()] : await this.#sessions();
    const copies = await all(store, "copies");
    const ended = await all(store, "ended-copies");
    const events = await all(store, "events");
    this.#lookAtCopies(moment, sessions, copies);
    this.#lookAtEnds(moment, sessions, ended, events);
    this.#lookAtEvents(moment, events);
    for (const { id, done } of await all(store, "intents"))
      if (!this.#requests.mayBeBegun(id)) this.#report(`request ${id} is noted as begun, and nobody waits for it`);
      else if (!done && moment === "started") this.#report(`nobody has decided whether request ${id} was done`);
    await this.#lookAtAnswers(store);
    if (moment === "stopped") await this.#lookAsFsck(store, sessions);
  }

  async #sessions(): Promise<SessionFacts[]> {
    const statuses = await this.#stage.box.engine.sessions();
    return statuses.map((status) => this.#stage.factsOf(status));
  }

  /** A row for each session, and none without. */
  #lookAtCopies(moment: Moment, sessions: readonly SessionFacts[], rows: readonly CopyRow[]): void {
    const byId = new Map(rows.map((row) => [`c${row.number}`, row]));
    for (const session of sessions) {
      const { id, generation, phase, kind } = session;
      const row = byId.get(id);
      byId.delete(id);
      if (!row) {
        this.#report(`${id} has no row`);
        continue;
      }
      const differs = [row.generation !== generation && "generation", row.kind !== kind && "kind"];
      differs.push(moment !== "started" && row.phase !== phase && `phase ${row.phase}`);
      for (const side of ["source", "destination"] as const)
        differs.push(!sameExtent(this.#stage.extentOf(row[side]), session[side]) && side);
      const what = differs.filter((one) => one !== false);
      if (what.length > 0) this.#report(`the row of ${id} has another ${what.join(" and ")}`);
    }
    for (const id of byId.keys())
      if (moment !== "started" || !this.#endedNow.has(id))
        this.#report(`there is a row of ${id}, which does not exist`);
  }

  /** Each end is recorded once, as it was. */
  #lookAtEnds(
    moment: Moment,
    sessions: readonly SessionFacts[],
    rows: readonly EndedCopyRow[],
    events: readonly EventRow[],
  ): void {
    const told = new Map<string, string[]>();
    for (const { type, subject } of events)
      if (type === "copy.completed" || type === "copy.cancelled")
        told.set(subject, [...(told.get(subject) ?? []), type]);
    const live = new Set(sessions.map(({ id }) => id));
    const byId = new Map(rows.map((row) => [`c${row.number}`, row]));
    const damage = this.#stage.judge.had("state-damage");
    for (const [id, end] of this.#ended) {
      const row = byId.get(id);
      byId.delete(id);
      if (moment === "started" && this.#endedNow.has(id) && !row) continue;
      const said = told.get(id) ?? [];
      told.delete(id);
      if (!row) this.#report(`${id} has ended, and that is not recorded`);
      else if (row.phase !== end.phase || row.destinationUsable !== end.usable)
        this.#report(
          `${id} is recorded as ${row.phase}, usable ${row.destinationUsable}; it was ${end.phase}, ${end.usable}`,
        );
      else if (said.join() !== `copy.${end.phase}`)
        this.#report(`${id} was ${end.phase}; events: ${said.join() || "none"}`);
    }
    for (const id of byId.keys())
      if (!damage || live.has(id)) this.#report(`${id} is recorded as ended, and nobody ended it`);
    for (const id of told.keys()) if (!damage || live.has(id)) this.#report(`an event tells of the end of ${id}`);
  }

  /** What anybody has seen stays; a point that was recorded and answered has its event, once. */
  #lookAtEvents(moment: Moment, events: readonly EventRow[]): void {
    if (moment === "started") {
      const stored = new Map(events.map((event) => [event.id, event]));
      for (const { id, type, subject, timeMs, message } of this.#seen) {
        const now = stored.get(id);
        const same = now?.type === type && now.subject === subject && now.timeMs === timeMs && now.message === message;
        if (!same) this.#report(`event ${id}, ${type} ${subject}, is ${now ? "another one now" : "lost"}`);
      }
    }
    const fired = new Map<string, number>();
    for (const { type, subject, attributes } of events) {
      if (type !== "copy.started" && type !== "copy.restarted") continue;
      const point = `${subject} ${attributes.generation}`;
      fired.set(point, (fired.get(point) ?? 0) + 1);
    }
    for (const [point, count] of fired) if (count > 1) this.#report(`${count} events tell of the point ${point}`);
    for (const { id, generation } of this.#requests.recorded)
      if (!fired.has(`${id} ${generation}`)) this.#report(`no event tells of the point ${id} ${generation}`);
  }

  /** The engine has the volumes that are registered, and no others. */
  #lookAtVolumes(moment: Moment, rows: Tables["volumes"][]): void {
    const { uids } = this.#stage.box;
    const registered = rows.filter(({ state }) => state === "registered").map(({ uid }) => uid);
    if (registered.length !== rows.length) this.#report(`a volume is half made (${moment})`);
    const present = uids.filter((uid) => uid !== undefined);
    if (registered.sort().join() !== present.sort().join())
      this.#report(`registered are ${registered.join()}, the engine has ${present.join()}`);
  }

  /** An answer that is promised to be given again is stored. */
  async #lookAtAnswers(store: Store): Promise<void> {
    for (const { id, answer } of this.#requests.answered) {
      if (answer?.state !== "stored") continue;
      const row = await store.get("requests", id);
      if (!row) this.#report(`the answer of request ${id} is not stored`);
      else if (Buffer.from(row.response).toString() !== answer.text) this.#report(`another answer of ${id} is stored`);
    }
  }

  /** What `tidemark fsck` says of rows. */
  async #lookAsFsck(store: Store, sessions: readonly SessionFacts[]): Promise<void> {
    const checked = await checkRows(store);
    const findings = [
      ...checked.findings,
      ...checkCopies(checked, { sessions, endedIds: [...this.#witness.unconfirmed], outOfServiceIds: [] }),
    ];
    for (const { message } of findings) this.#report(`fsck: ${message}`);
  }

  #report(message: string): void {
    this.#stage.report(11, message);
  }
}

async function all<T extends keyof Tables>(store: Store, table: T): Promise<Tables[T][]> {
  const rows: Tables[T][] = [];
  for await (const row of store.scan(table)) rows.push(row);
  return rows;
}

function sameExtent(one: SessionFacts["source"], other: SessionFacts["source"]): boolean {
  return one.volume === other.volume && one.first === other.first && one.count === other.count;
}
