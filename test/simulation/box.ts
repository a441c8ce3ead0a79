/**
 * A box in the simulator: the production engine on virtual disks, virtual state files and virtual time, and its end.
 *
 * Role: starts and ends processes; places faults; knows nothing of what is right. A process that ended is never heard of
 * again: its turns are dropped, so none of its promises settles.
 */
import { TidemarkError } from "../../src/base/errors.ts";
import { createMover, type Mover } from "../../src/engine/device/mover.ts";
import {
  InjectedFailure,
  type MemoryOperation,
  MemoryStateFiles,
} from "../../src/engine/durable/memory-state-files.ts";
import { createEngine, type LocalEngine } from "../../src/engine/engine.ts";
import type { EngineEvent, EngineFound } from "../../src/engine/engine-api.ts";
import type { Core } from "../../src/engine/map/core.ts";
import type { Chance } from "./chance.ts";
import { Scheduler, type TurnKind } from "./scheduler.ts";
import { VirtualDisk } from "./virtual-disk.ts";
import type { StateOperation } from "./workload.ts";
import type { World } from "./world.ts";

/** A write that finds no room has stored whole sectors. */
const SECTOR_BYTES = 512;
const TURN_OF: Readonly<Record<MemoryOperation["type"], TurnKind>> = {
  open: "state-names",
  read: "state-read",
  write: "state-write",
  truncate: "state-write",
  sync: "state-sync",
  rename: "state-names",
  remove: "state-names",
  makeDirectory: "state-names",
  removeDirectory: "state-names",
  syncDirectory: "state-sync",
};
/** What a crash can tear or lose takes a turn always, so that a crash finds it under way. */
const ALWAYS_A_TURN: ReadonlySet<MemoryOperation["type"]> = new Set(["write", "truncate", "sync", "syncDirectory"]);

export interface StateFaults {
  /** Every write finds no room; so much of it is stored. */
  full: { readonly storedBytes: number } | undefined;
  /** The operation after so many of its kind fails, once. */
  failing: { readonly operation: StateOperation; readonly where: string; left: number } | undefined;
}

export class Box {
  readonly scheduler: Scheduler;
  readonly disks: readonly VirtualDisk[];
  readonly stateFiles = new MemoryStateFiles();
  readonly stateFaults: StateFaults = { full: undefined, failing: undefined };
  /** Told what the engine of the present process says. */
  onEvent: (event: EngineEvent) => void = () => undefined;
  /** An operation on the state files has failed for good. */
  onStateFailure: (operation: StateOperation) => void = () => undefined;
  readonly #world: World;
  readonly #core: Core;
  readonly #chance: Chance;
  #engine: LocalEngine | undefined;
  #life = 0;
  #lost: TidemarkError | undefined;

  constructor(world: World, core: Core, chance: Chance) {
    this.#world = world;
    this.#core = core;
    this.#chance = chance;
    this.scheduler = new Scheduler(chance, world.mood);
    const { scheduler } = this;
    this.disks = world.volumes.map(
      (sectors, index) => new VirtualDisk({ name: uidOf(index), sectors, habits: world.disk, scheduler, chance }),
    );
    this.stateFiles.intercept = (operation) => this.#intercept(operation);
  }

  /** The process that runs; a call to one that does not is a mistake of the simulation. */
  get engine(): LocalEngine {
    if (!this.#engine) throw new Error("no process runs");
    return this.#engine;
  }

  /** Number of the process: what an earlier one began is never answered. */
  get life(): number {
    return this.#life;
  }

  /** Why the process has ended by itself: nothing is answered any more. */
  get lost(): TidemarkError | undefined {
    return this.#lost;
  }

  /** A new process; resolves with what it found. */
  async start(): Promise<EngineFound> {
    const life = ++this.#life;
    const mover = this.#mover();
    const engine = await createEngine({
      clock: this.scheduler,
      lose: (error) => {
        if (life === this.#life) this.#lost ??= error;
      },
      ports: async () => ({
        core: this.#core,
        files: this.stateFiles,
        activity: { slots: this.#world.slots, checkpointBytes: this.#world.checkpointBytes },
        mover,
        identityOf: async (path) => [path],
        openDevice: async (path) => ({ device: this.#disk(path).open(), identity: [path] }),
      }),
    });
    engine.onEvent((event) => {
      if (life === this.#life) this.onEvent(event);
    });
    this.#engine = engine;
    const volumes = this.disks.map(({ name, sizeBytes }) => ({ uid: name, name, path: name, sizeBytes }));
    return engine.start({ stateDirectory: "virtual", volumes });
  }

  async stop(): Promise<void> {
    await this.engine.stop();
    this.#end();
  }

  kill(): void {
    this.#end();
    this.stateFiles.kill(this.#chance.word());
    for (const disk of this.disks) disk.kill();
  }

  losePower(): void {
    this.#end();
    this.stateFiles.crash(this.#chance.word());
    for (const disk of this.disks) disk.losePower();
  }

  #end(): void {
    this.#life++;
    this.#engine = undefined;
    this.#lost = undefined;
    this.scheduler.drop();
  }

  repair(): void {
    this.stateFaults.full = undefined;
    this.stateFaults.failing = undefined;
    for (const disk of this.disks) disk.repair();
  }

  #disk(path: string): VirtualDisk {
    const disk = this.disks.find(({ name }) => name === path);
    if (!disk) throw new TidemarkError("PATH_NOT_FOUND", { message: `there is no disk ${path}` });
    return disk;
  }

  /** Jobs are small, so that copies are seen half done. */
  #mover(): Mover {
    const mover = createMover({ workers: 0, clock: this.scheduler });
    const budgetBytes = this.#world.jobBytes;
    return {
      move: (from, to, runs, options) =>
        mover.move(
          from,
          to,
          runs,
          options.budgetBytes === Number.MAX_SAFE_INTEGER ? options : { ...options, budgetBytes },
        ),
      close: () => mover.close(),
    };
  }

  #intercept(operation: MemoryOperation): void | Promise<void> {
    const failure = this.#failureOf(operation);
    if (ALWAYS_A_TURN.has(operation.type) || this.#chance.happens(this.#world.stateTurnProbability)) {
      const turn = this.scheduler.turn(TURN_OF[operation.type]);
      if (!failure) return turn;
      return turn.then(() => {
        throw failure;
      });
    }
    if (failure) throw failure;
  }

  #failureOf({ type, path, lengthBytes }: MemoryOperation): InjectedFailure | undefined {
    const { full, failing } = this.stateFaults;
    // What has been stored in whole has not failed.
    const lessBytes = Math.floor((lengthBytes - 1) / SECTOR_BYTES) * SECTOR_BYTES;
    if (full && type === "write") return new InjectedFailure("ENOSPC", Math.min(full.storedBytes, lessBytes));
    if (failing?.operation !== type || !path.includes(failing.where) || failing.left-- > 0) return undefined;
    this.stateFaults.failing = undefined;
    this.onStateFailure(failing.operation);
    return new InjectedFailure(type === "open" ? "EMFILE" : "EIO");
  }
}

export function uidOf(volume: number): string {
  return `v${volume + 1}`;
}
