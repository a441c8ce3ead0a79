/**
 * The operator: gives copy commands, one after the other, and tells the oracle what was answered.
 *
 * A command without an answer, because the daemon was killed, stays in `open` until `after-kill.ts` has found out what
 * became of it.
 */
import type { Chance } from "./chance.ts";
import { type Answer, ask, cancel, listCopies, restart, setPace, start, stopTracking } from "./commands.ts";
import type { Contents, Volume } from "./contents.ts";
import type { CopyBook, CopyFacts, Kind, KnownCopy } from "./copy-book.ts";
import { Point } from "./cut.ts";
import { type Hosts, sleep } from "./hosts.ts";
import { adopt, readImage } from "./images.ts";
import type { KillableBox } from "./killable-box.ts";
import type { ScratchVolume } from "./scratch-volume.ts";
import { require, type Tally, Violation } from "./violations.ts";

/** More than these are cancelled again, so that there is room for what is new. */
const COPIES_WANTED_MAX = 7;
const PAUSE_MS_MAX = 25;

export type OpenCommand =
  | { readonly type: "point"; readonly point: Point; recorded: boolean }
  | { readonly type: "cancel" | "stop-tracking"; readonly copy: KnownCopy };

export interface OperatorParts {
  readonly box: KillableBox;
  readonly contents: Contents;
  readonly book: CopyBook;
  readonly hosts: Hosts;
  readonly chance: Chance;
  readonly tally: Tally;
  readonly scratch: ScratchVolume;
  /** Called right before a command is sent. */
  readonly onCommand: () => void;
}

type CommandName =
  | "start"
  | "start-opc"
  | "several"
  | "list"
  | "restart"
  | "restore"
  | "cancel"
  | "stop-tracking"
  | "pace"
  | "scratch";

interface Pair {
  readonly source: Volume;
  readonly destination: Volume;
}

export class Operator {
  open: OpenCommand | undefined;
  readonly #parts: OperatorParts;
  #stopped = false;

  constructor(parts: OperatorParts) {
    this.#parts = parts;
  }

  /** Gives commands until `stop` or until an answer is lost. */
  async run(): Promise<void> {
    this.#stopped = false;
    const { chance, tally } = this.#parts;
    while (!this.#stopped) {
      const command = this.#choose();
      tally.count(tally.commandCounts, command);
      tally.commands++;
      if ((await this.#carryOut(command)) === "lost") return;
      await sleep(chance.below(PAUSE_MS_MAX));
    }
  }

  stop(): void {
    this.#stopped = true;
  }

  #choose(): CommandName {
    const { book, chance } = this.#parts;
    const many = book.copies.size >= COPIES_WANTED_MAX;
    const weights = { start: many ? 0 : 5, "start-opc": many ? 0 : 3, several: 2, list: 2, restart: 6, restore: 3 };
    return chance.weighted({ ...weights, cancel: many ? 6 : 1, "stop-tracking": 1, pace: 1, scratch: 3 });
  }

  #carryOut(command: CommandName): Promise<"lost" | "done"> {
    const { book, chance } = this.#parts;
    const copies = [...book.copies.values()];
    if (command === "list") return this.#look();
    if (command === "scratch") return this.#scratch();
    if (command === "start" || command === "start-opc" || copies.length === 0)
      return this.#fire([this.#anyPair()], command === "start-opc" ? "opc" : "quickopc");
    if (command === "several") return this.#fireSeveral(copies);
    const copy = chance.pick(copies);
    if (command === "restart") return this.#restart([copy]);
    if (command === "restore") return this.#fire([{ source: copy.destination, destination: copy.source }], "opc");
    if (command === "pace") return this.#pace(copy);
    return this.#end(command, copy);
  }

  #anyPair(): Pair {
    const { contents, chance } = this.#parts;
    const source = chance.pick(contents.volumes);
    const others = contents.volumes.filter((volume) => volume !== source && volume.blockCount >= source.blockCount);
    return others.length === 0 ? this.#anyPair() : { source, destination: chance.pick(others) };
  }

  #fireSeveral(copies: readonly KnownCopy[]): Promise<"lost" | "done"> {
    const { chance } = this.#parts;
    const independent: KnownCopy[] = [];
    for (const copy of copies)
      if (
        !independent.some(
          (one) =>
            one.destination === copy.destination || one.destination === copy.source || one.source === copy.destination,
        )
      )
        independent.push(copy);
    if (independent.length < 2 || chance.happens(0.3))
      return this.#fire([this.#anyPair(), this.#anyPair()], "quickopc");
    return this.#restart(independent);
  }

  async #fire(pairs: readonly Pair[], kind: Kind): Promise<"lost" | "done"> {
    const { box, chance } = this.#parts;
    const names = pairs.map(({ source, destination }) => ({ source: source.label, destination: destination.label }));
    const pace = chance.happens(0.5) ? 15 : 1 + chance.below(15);
    const what = `start ${kind} ${names.map(({ source, destination }) => `${source} to ${destination}`).join(", ")}`;
    return this.#point(what, pairs, () => start(box.clients, names, kind, pace));
  }

  async #restart(copies: readonly KnownCopy[]): Promise<"lost" | "done"> {
    const { box } = this.#parts;
    const ids = copies.map(({ id }) => id);
    return this.#point(`restart ${ids.join(", ")}`, copies, () => restart(box.clients, ids));
  }

  async #point(what: string, pairs: readonly Pair[], command: () => Promise<CopyFacts[]>): Promise<"lost" | "done"> {
    const { contents, book, hosts } = this.#parts;
    // Which copies have finished decides what a difference may hold.
    if ((await this.#look()) === "lost") return "lost";
    this.#parts.onCommand();
    const point = new Point(contents, pairs);
    const open: OpenCommand = { type: "point", point, recorded: false };
    this.open = open;
    const answer = await ask(what, command());
    if (answer.type === "lost") return "lost";
    if (answer.type === "refusal") {
      point.forget();
      this.open = undefined;
      return this.#refused(answer.reason);
    }
    point.close();
    const destinations = point.pairs.map(({ destination }) => destination);
    const held = hosts.hold(destinations);
    recordPoint(book, point, answer.value, what);
    open.recorded = true;
    try {
      await held;
      await point.settle((volume, block) => hosts.readBlocks(volume, block, 1));
    } catch (error) {
      if (error instanceof Violation || !this.#stopped) throw error;
      return "lost"; // killed while looking; it is done again after the next start
    }
    this.open = undefined;
    hosts.releaseAll();
    return "done";
  }

  async #end(type: "cancel" | "stop-tracking", copy: KnownCopy): Promise<"lost" | "done"> {
    const { box, book } = this.#parts;
    this.#parts.onCommand();
    this.open = { type, copy };
    const command: Promise<{ usable: boolean; lives: boolean }> =
      type === "cancel"
        ? cancel(box.clients, copy.id).then(({ destinationUsable }) => ({ usable: destinationUsable, lives: false }))
        : stopTracking(box.clients, copy.id).then(({ phase }) => ({ usable: true, lives: phase === "copying" }));
    const answer: Answer<{ usable: boolean; lives: boolean }> = await ask(`${type} ${copy.id}`, command);
    if (answer.type === "lost") return "lost";
    this.open = undefined;
    if (answer.type === "refusal") return this.#refused(answer.reason);
    const { usable, lives } = answer.value;
    require(usable || !copy.finished, () => `cancel ${copy.id}: the destination was complete and is called unusable`);
    if (lives) copyStopsTracking(copy);
    else book.copies.delete(copy.id);
    if (!usable) await this.#adopt(copy.destination);
    return "done";
  }

  /** What is left of an unfinished copy is anything between before and after: from now on what is there counts. */
  async #adopt(volume: Volume): Promise<void> {
    const { box, hosts } = this.#parts;
    await hosts.hold([volume]);
    adopt(volume, await readImage(box, volume));
    hosts.releaseAll();
  }

  async #pace(copy: KnownCopy): Promise<"lost" | "done"> {
    const { box, chance } = this.#parts;
    const answer = await ask(`pace ${copy.id}`, setPace(box.clients, copy.id, 1 + chance.below(15)));
    return answer.type === "lost" ? "lost" : "done";
  }

  #scratch(): Promise<"lost" | "done"> {
    this.#parts.onCommand();
    return this.#parts.scratch.step();
  }

  async #look(): Promise<"lost" | "done"> {
    const { box, book } = this.#parts;
    const answer = await ask("list", listCopies(box.clients));
    if (answer.type === "lost") return "lost";
    if (answer.type === "answer") reconcile(book, answer.value);
    return "done";
  }

  #refused(reason: string): "done" {
    const { tally } = this.#parts;
    tally.refused++;
    tally.count(tally.refusals, reason);
    return "done";
  }
}

/** The copies of a point as they were answered, into the book. */
export function recordPoint(book: CopyBook, point: Point, copies: readonly CopyFacts[], what: string): void {
  require(copies.length === point.pairs.length, () =>
    `${what}: ${copies.length} copies for ${point.pairs.length} pairs`);
  for (const pair of point.pairs) {
    const facts = copies.find(
      ({ source, destination }) => source === pair.source.label && destination === pair.destination.label,
    );
    require(facts !== undefined, () =>
      `${what}: no copy ${pair.source.label} to ${pair.destination.label} in the answer`);
    book.fired(facts, pair, [...point.windowOn(pair.source), ...point.windowOn(pair.destination)]);
  }
}

export function copyStopsTracking(copy: KnownCopy): void {
  copy.kind = "opc";
  copy.tracking = false;
}

/** What the box lists agrees with the book; plain copies may have completed. */
export function reconcile(
  book: CopyBook,
  { live, ended }: { live: readonly CopyFacts[]; ended: readonly CopyFacts[] },
): void {
  const ids = new Set(live.map(({ id }) => id));
  require(ids.size === live.length, () => `a copy is listed twice: ${live.map(({ id }) => id).join(", ")}`);
  for (const copy of ended) require(!ids.has(copy.id), () => `${copy.id} is listed as ${copy.phase} and as alive`);
  for (const copy of [...book.copies.values()]) {
    if (ids.has(copy.id)) continue;
    require(!copy.tracking, () =>
      `${copy.id}, which tracks ${copy.source.label} to ${copy.destination.label}, is gone`);
    const end = ended.find(({ id }) => id === copy.id);
    require(end?.phase === "completed", () =>
      `${copy.id} is gone, ${end === undefined ? "and nobody knows of its end" : `it ended as ${end.phase}`}`);
    book.copies.delete(copy.id);
  }
  for (const facts of live) book.observe(facts);
}
