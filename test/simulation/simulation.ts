/**
 * Runs one history: steps at a box, an oracle beside it, a look at everything after each crash, and a last phase in which
 * faults have stopped and everything has to come to its end.
 *
 * Role: turns actions into calls, ends processes and starts them again. The first violation ends the history. In a whole box
 * the operator's door is the domain (requests.ts), and its rows are looked at as well (rows.ts).
 */
import { type Core, instantiateCore, loadCore } from "../../src/engine/map/core.ts";
import { Examination } from "./examination.ts";
import { type Extent, SECTORS_A_GRANULE } from "./facts.ts";
import { placeFault } from "./faults.ts";
import { Host } from "./host.ts";
import { EngineDoor, isPoint, Operator } from "./operator.ts";
import { type Request, Requests } from "./requests.ts";
import { Rows } from "./rows.ts";
import { Stage, type Violation } from "./stage.ts";
import { Witness } from "./witness.ts";
import type { Action, Step } from "./workload.ts";
import type { World } from "./world.ts";

/** A call that is not answered after so many turns never will be. */
const TURNS_MAX = 20_000;
const CALLS_MAX = 10;
const STARTS_MAX = 8;
/** The core's memory of killed engines is never given back: a core serves so many histories. */
const HISTORIES_PER_CORE = 200;

export interface Outcome {
  readonly violation: Violation | undefined;
  /** Steps carried out, and turns fired. */
  readonly steps: number;
  readonly turns: number;
  readonly crashes: number;
  readonly recoveryCrashes: number;
  readonly points: number;
  readonly failures: number;
  /** Two runs of one history have the same. */
  readonly digest: number;
}

let core: Core | undefined;
let histories = 0;

export async function simulate(world: World, steps: readonly Step[]): Promise<Outcome> {
  await loadCore();
  if (core === undefined || histories++ % HISTORIES_PER_CORE === 0)
    core = await instantiateCore({ memoryPagesMax: 8192 });
  return new Simulation(world, core).run(steps);
}

class Simulation {
  readonly #stage: Stage;
  readonly #host: Host;
  readonly #witness: Witness;
  readonly #operator: Operator;
  readonly #examination: Examination;
  /** Of a whole box. */
  readonly #requests: Requests | undefined;
  readonly #rows: Rows | undefined;
  #steps = 0;

  constructor(world: World, core: Core) {
    this.#stage = new Stage(world, core);
    this.#host = new Host(this.#stage);
    this.#witness = new Witness(this.#stage);
    this.#examination = new Examination(this.#stage, this.#witness);
    const { box, judge, oracle } = this.#stage;
    if (box.isWhole) {
      this.#requests = new Requests(this.#stage, this.#witness);
      this.#rows = new Rows(this.#stage, this.#witness, this.#requests);
    }
    this.#operator = new Operator(this.#stage, this.#witness, this.#requests ?? new EngineDoor(this.#stage));
    box.overhear = (engine) => this.#witness.over(engine);
    box.onEvent = (event) => {
      this.#rows?.hear(event);
      this.#witness.hear(event);
    };
    box.onFound = (found) => {
      this.#rows?.found(found);
      this.#requests?.found(found);
      this.#examination.started(found);
    };
    box.onStateFailure = (operation) => {
      judge.fault("state-failure");
      if (operation === "read") judge.fault("state-damage");
    };
    box.database.onFailure = () => judge.fault(box.database.faults.full ? "store-full" : "store-failure");
    box.onReport = (what, error) => {
      const objection = judge.objectionToReport(what, error);
      if (objection !== undefined) this.#stage.report(12, objection);
    };
    for (const [volume, disk] of box.disks.entries())
      disk.onFailure = () => oracle.deviceLost(volume, this.#witness.asked?.point);
  }

  async run(steps: readonly Step[]): Promise<Outcome> {
    const { box, counts } = this.#stage;
    // A broken assertion in background work ends the process on purpose.
    const onRejection = (error: unknown) => this.#stage.report(12, `nobody caught: ${String(error)}`);
    process.on("unhandledRejection", onRejection).on("uncaughtException", onRejection);
    try {
      await this.#start([]);
      await this.#registerAll();
      for (const step of steps) {
        if (this.#stage.violation) break;
        await this.#step(step);
      }
      if (!this.#stage.violation) await this.#lastPhase();
    } finally {
      process.off("unhandledRejection", onRejection).off("uncaughtException", onRejection);
      box.kill();
    }
    let digest = box.scheduler.digest;
    for (const disk of box.disks)
      for (const stamp of disk.content) if (stamp !== 0) digest = Math.imul(digest ^ stamp, 0x01000193) >>> 0;
    return {
      violation: this.#stage.violation,
      steps: this.#steps,
      turns: box.scheduler.turns,
      crashes: counts.crashes,
      recoveryCrashes: counts.recoveryCrashes,
      points: counts.points,
      failures: counts.failures,
      digest,
    };
  }

  async #step({ action, gap, seed }: Step): Promise<void> {
    const { calls, chance } = this.#stage;
    chance.reseed(seed);
    this.#steps++;
    if (calls.size >= CALLS_MAX) await this.#until(() => calls.size < CALLS_MAX);
    const before = new Set(calls);
    await this.#act(action);
    const mine = [...calls].filter((call) => !before.has(call));
    if (this.#stage.violation) return;
    const answered = () => mine.every((call) => !calls.has(call));
    if (typeof gap === "number") await this.#stage.pump(gap);
    else await this.#until(() => answered() || (gap === "done" && this.#requests?.isDone === true));
    if (this.#stage.box.lost) await this.#lost();
  }

  /** The process has ended by itself, because a disk has failed under its files. */
  async #lost(): Promise<void> {
    const { box, judge, chance } = this.#stage;
    if (!judge.has("state-failure")) this.#stage.report(12, `the engine ended: ${box.lost?.message}`);
    await this.#crash(chance.pick(["kill", "power"]), []);
  }

  /** Waits for what has to come. */
  async #until(done: () => boolean): Promise<void> {
    const { calls, box } = this.#stage;
    const { life } = box;
    if (await this.#stage.pumpUntil(() => done() || life !== box.life, TURNS_MAX)) return;
    if (!this.#stage.violation && !box.lost)
      this.#stage.report(12, `no answer: ${[...calls].map(({ what }) => what).join("; ") || "copying does not end"}`);
  }

  // --- steps -------------------------------------------------------------------------------------------------------------

  async #act(action: Action): Promise<void> {
    switch (action.do) {
      case "write":
      case "zero":
      case "trim":
        await this.#exclusive(action.extent);
        return this.#stage.isIn(action.extent.volume) ? this.#host[action.do](action.extent) : undefined;
      case "read":
        return this.#stage.isIn(action.extent.volume) ? this.#host.read(action.extent) : undefined;
      case "flush":
        return this.#stage.isIn(action.volume) ? this.#host.flush(action.volume) : undefined;
      case "reopen":
        return this.#operator.reopen(action.volume);
      case "start":
        await this.#noPoint();
        return this.#operator.start(action.members);
      case "restart":
      case "restore":
      case "copy-on":
      case "cancel":
      case "stop-tracking":
      case "pace":
      case "inspect":
        return this.#onSessions(action);
      case "repeat":
        return this.#repeatAnswered(action.pick);
      case "register-again":
        await this.#until(() => this.#stage.calls.size === 0);
        return this.#stage.box.isWhole && this.#stage.box.serves && !this.#stage.box.lost
          ? this.#operator.registerAgain(action.volume)
          : undefined;
      case "quiesce":
        await this.#until(() => this.#stage.calls.size === 0);
        return this.#lookAtRows();
      case "finish":
        return this.#finish();
      case "rest":
        // A leap in the middle of a point would be a disk that stalls.
        await this.#until(() => this.#stage.calls.size === 0);
        return this.#stage.box.scheduler.pass(action.ms);
      case "stop":
        return this.#stop(action.cutOff);
      case "kill":
      case "power":
        return this.#crash(action.do, action.recoveries);
      case "repair":
        await this.#lookAtRows();
        return placeFault(this.#stage, action);
      default:
        return placeFault(this.#stage, action);
    }
  }

  /** Unless hosts overlap on purpose, one waits for the other. */
  async #exclusive(extent: Extent): Promise<void> {
    if (this.#stage.world.features.has("overlap") || !this.#host.isWriting(extent)) return;
    await this.#until(() => !this.#host.isWriting(extent));
  }

  async #noPoint(): Promise<void> {
    const { calls } = this.#stage;
    await this.#until(() => ![...calls].some((call) => call.isPoint));
  }

  async #onSessions(action: Extract<Action, { pick: number } | { picks: readonly number[] }>): Promise<void> {
    if (action.do === "restart" || action.do === "restore" || action.do === "copy-on") await this.#noPoint();
    const ids = this.#stage.sessionIds();
    if (ids.length === 0) return;
    const picked = (pick: number) => ids[pick % ids.length] as string;
    switch (action.do) {
      case "restart":
        return this.#operator.restart([...new Set(action.picks.map(picked))]);
      case "restore":
        return this.#copyBack(picked(action.pick));
      case "copy-on":
        return this.#copyOn(picked(action.pick));
      case "cancel":
        return this.#operator.cancel(picked(action.pick));
      case "stop-tracking":
        return this.#operator.stopTracking(picked(action.pick));
      case "pace":
        return this.#operator.pace(picked(action.pick), action.pace);
      case "inspect":
        if (!this.#witness.asked) await this.#examination.allMaps();
        await this.#lookAtRows();
    }
  }

  #copyBack(id: string): void {
    const session = this.#stage.oracle.sessions.get(id);
    if (!session) return;
    const source = { ...session.destination, count: session.source.count };
    this.#operator.start([{ source, destination: session.source, kind: "opc", pace: 15 }]);
  }

  /** A cascade: what has just been copied, or is being copied, goes on to another volume. */
  #copyOn(id: string): void {
    const { oracle, world, chance } = this.#stage;
    const session = oracle.sessions.get(id);
    if (!session) return;
    const source = { ...session.destination, count: session.source.count };
    const volume = chance.below(world.volumes.length);
    const fits = source.first + source.count <= (world.volumes[volume] as number);
    const kind = chance.happens(0.7) ? "quickopc" : "opc";
    if (fits) this.#operator.start([{ source, destination: { ...source, volume }, kind, pace: chance.pick([1, 15]) }]);
  }

  async #finish(): Promise<void> {
    await this.#until(() => this.#stage.calls.size === 0);
    const copying = () => [...this.#stage.oracle.sessions.values()].some(({ phase }) => phase === "copying");
    const { judge, faultsOver } = this.#stage;
    // With faults about, copying may not come to an end.
    if (!faultsOver && judge.had("device", "stall", "state-full", "state-failure")) {
      await this.#stage.pumpUntil(() => !copying(), TURNS_MAX / 10);
      return;
    }
    await this.#until(() => !copying());
  }

  // --- processes ---------------------------------------------------------------------------------------------------------

  async #crash(kind: "kill" | "power", recoveries: readonly number[]): Promise<void> {
    this.#die(kind);
    this.#stage.counts.crashes++;
    await this.#start(recoveries);
  }

  #die(kind: "kill" | "power"): void {
    const { box, oracle, calls, moving } = this.#stage;
    this.#rows?.processEnds();
    if (kind === "power") box.losePower();
    else box.kill();
    oracle.crash(kind, this.#witness.asked?.point);
    calls.clear();
    moving.clear();
    this.#host.processEnded();
  }

  /** Starts a process; the first ones are cut off after so many turns of their recovery. */
  async #start(recoveries: readonly number[]): Promise<void> {
    const { box, chance, counts, judge } = this.#stage;
    let refused = 0;
    for (let attempt = 0; !this.#stage.violation; attempt++) {
      let serves = false;
      let failure: { readonly error: unknown } | undefined;
      judge.started();
      if (box.stateFaults.full) judge.fault("state-full");
      if (box.database.faults.full) judge.fault("store-full");
      box.start().then(
        () => {
          serves = true;
        },
        (error: unknown) => {
          failure = { error };
        },
      );
      counts.starts++;
      const cut = recoveries[attempt];
      const ended = () => serves || failure !== undefined;
      if (cut !== undefined) {
        await this.#stage.pump(cut);
        if (serves) return this.#askAgain();
        counts.recoveryCrashes++;
        this.#die(chance.pick(["kill", "power"]));
        continue;
      }
      const isOver = await this.#stage.pumpUntil(ended, TURNS_MAX);
      // The engine serves, and ends itself before the domain does.
      if (!isOver && box.lost) return this.#lost();
      if (!isOver) return this.#stage.report(12, "the start does not end");
      if (serves) return this.#askAgain();
      this.#notStarted(failure?.error, ++refused);
    }
  }

  /** Whoever heard no answer from the last process asks this one, mostly. */
  async #askAgain(): Promise<void> {
    const { box, chance } = this.#stage;
    const { life } = box;
    if (!this.#requests || !this.#rows) return;
    await this.#rows.look("started");
    for (const request of this.#requests.unanswered) {
      if (this.#stage.violation || life !== box.life) return;
      if (chance.happens(0.8)) await this.#repeat(request);
      else this.#requests.giveUp(request);
    }
  }

  async #repeatAnswered(pick: number): Promise<void> {
    const requests = this.#requests?.answered ?? [];
    const request = requests[pick % Math.max(1, requests.length)];
    if (request && this.#requests?.mayRepeat(request)) await this.#repeat(request);
  }

  async #repeat(request: Request): Promise<void> {
    const { box } = this.#stage;
    const { life } = box;
    if (isPoint(request.demand)) await this.#noPoint();
    if (life !== box.life || !box.serves) return;
    const before = request.answer ? "answered" : "cut-off";
    this.#operator.repeat(request.demand, before, async () => this.#requests?.send(request));
  }

  /** What rows say, when nothing is under way. */
  async #lookAtRows(): Promise<void> {
    const { box, calls } = this.#stage;
    const quiet = () => calls.size === 0 && box.database.idle;
    if (!this.#rows || !box.serves || !(await this.#stage.pumpUntil(quiet, 200))) return;
    if (!this.#stage.violation && !box.lost) await this.#rows.look("quiet");
  }

  /** Volumes that are not in the box come in. */
  async #registerAll(): Promise<void> {
    const { box, calls } = this.#stage;
    for (const [volume, uid] of box.uids.entries()) {
      if (uid !== undefined || this.#stage.violation) continue;
      this.#operator.register(volume);
      await this.#until(() => calls.size === 0);
      if (box.uids[volume] === undefined) this.#stage.report(12, `volume ${volume} cannot be registered`);
    }
  }

  /** Only a disk that fails may keep a box from starting. */
  #notStarted(error: unknown, refused: number): void {
    const { judge, box } = this.#stage;
    const faulty = judge.had("state-full", "state-failure", "store-full", "store-failure");
    const objection = faulty ? judge.objection("start", error) : `start: ${error}`;
    if (objection !== undefined) this.#stage.report(12, objection);
    else if (refused > STARTS_MAX) this.#stage.report(12, `still no start: ${error}`);
    box.stateFaults.full = undefined;
    box.stateFaults.failing = undefined;
    box.database.repair();
    this.#die("kill");
  }

  /** A clean stop, or one that is cut off after so many turns. Hosts have gone before. */
  async #stop(cutOff: number | undefined): Promise<void> {
    const { box, oracle, calls, judge, world, moving } = this.#stage;
    await this.#until(
      () => moving.size === 0 && !this.#host.busy && [...calls].every(({ what }) => !/^(read|flush) /.test(what)),
    );
    if (this.#stage.violation) return;
    let ended: "well" | "badly" | undefined;
    const begun = oracle.moment();
    const { life } = box;
    judge.stopping = true;
    this.#rows?.processEnds();
    box.stop().then(
      () => {
        ended = "well";
      },
      (error: unknown) => {
        if (box.life !== life) return;
        ended = "badly";
        const objection = judge.objection("stop", error);
        if (objection !== undefined) this.#stage.report(12, objection);
      },
    );
    if (cutOff !== undefined) {
      await this.#stage.pump(cutOff);
      if (box.lost) return this.#lost();
      if (ended !== "well") return this.#crash(this.#stage.chance.pick(["kill", "power"]), []);
    } else if (!(await this.#stage.pumpUntil(() => ended !== undefined, TURNS_MAX))) {
      if (box.lost) return this.#lost();
      this.#stage.report(12, "the stop does not end");
    }
    if (this.#stage.violation) return;
    if (ended === "badly") return this.#crash("kill", []);
    calls.clear();
    this.#host.processEnded();
    // What had no answer when the box stopped has had its chance.
    const kept = [...world.volumes.keys()].filter((volume) => box.uids[volume] !== undefined);
    if (!judge.had("device")) for (const volume of kept) oracle.endFlush(volume, begun);
    // What a full or broken disk kept from being removed goes at the next start.
    if (!judge.has("state-full", "state-failure")) await this.#examination.stateDirectory();
    await this.#rows?.look("stopped");
    await this.#start([]);
  }

  // --- the last phase ------------------------------------------------------------------------------------------------------

  /** Faults are over: what failed is started again, everything comes to its end, and nothing is lost afterwards. */
  async #lastPhase(): Promise<void> {
    const { box, judge, chance, world } = this.#stage;
    chance.reseed(world.seed);
    box.repair();
    this.#stage.faultsOver = true;
    if (judge.had("device", "state-failure", "state-full", "stall", "store-full", "store-failure"))
      await this.#crash("kill", []);
    await this.#until(() => this.#stage.calls.size === 0);
    await this.#registerAll();
    await this.#cancelFailed();
    await this.#everythingWorks();
    await this.#stop(undefined);
    if (this.#stage.violation) return;
    if (chance.happens(0.5)) await this.#crash("power", []);
    if (!this.#stage.violation) await this.#finish();
    this.#examination.lookAtDisks();
    await this.#until(() => this.#stage.calls.size === 0);
    await this.#lookAtRows();
  }

  /** A copy through which another one reads cannot be cancelled before that one has failed as well, and is cancelled. */
  async #cancelFailed(): Promise<void> {
    const { oracle, calls } = this.#stage;
    const failed = () => [...oracle.sessions.values()].filter(({ phase }) => phase === "failed");
    for (let round = oracle.sessions.size; round > 0 && failed().length > 0 && !this.#stage.violation; round--) {
      for (const { id } of failed().reverse()) {
        if (this.#stage.violation) return;
        this.#operator.cancel(id);
        await this.#until(() => calls.size === 0);
      }
      await this.#finish();
    }
  }

  /** Copies end, volumes can be written and read, tracking copies can run again, and the disks are right. */
  async #everythingWorks(): Promise<void> {
    if (this.#stage.violation) return;
    await this.#finish();
    if (this.#stage.violation) return;
    for (const { id, phase } of this.#stage.oracle.sessions.values())
      if (phase !== "tracking") this.#stage.report(12, `${id} has ended as ${phase}`);
    this.#examination.lookAtDisks();
    await this.#lookAtRows();
    for (const windows of this.#stage.world.windows)
      for (const { volume, first, count } of windows.slice(0, 1))
        this.#host.write({ volume, first, count: Math.min(count, SECTORS_A_GRANULE) });
    await this.#until(() => this.#stage.calls.size === 0);
    await this.#examination.allMaps();
    for (const id of this.#stage.sessionIds()) {
      if (this.#stage.violation) return;
      this.#operator.restart([id]);
      await this.#finish();
    }
    this.#examination.lookAtDisks();
  }
}
