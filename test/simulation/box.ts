/**
 * A box in the simulator: the production engine on virtual disks, virtual state files and virtual time, and its end. In a
 * whole box the production domain stands over the engine, with the production store over a virtual database.
 *
 * Role: starts and ends processes; places faults; knows nothing of what is right. A process that ended is never heard of
 * again: its turns are dropped, so none of its promises settles.
 * Of the system the domain asks two things for which the engine has no port: what is at a path, and what partitions a volume
 * has (virtual disks hold stamps, no tables). Both are answered by the world.
 */
import { TidemarkError } from "../../src/base/errors.ts";
import { bindDatabase } from "../../src/domain/binding.ts";
import { Box as DomainBox } from "../../src/domain/box.ts";
import type { Paths } from "../../src/domain/paths.ts";
import { createMover, type Mover } from "../../src/engine/device/mover.ts";
import {
  InjectedFailure,
  type MemoryOperation,
  MemoryStateFiles,
} from "../../src/engine/durable/memory-state-files.ts";
import { createEngine, type LocalEngine } from "../../src/engine/engine.ts";
import type {
  EngineApi,
  EngineEvent,
  EngineFound,
  PartitionFacts,
  VolumeFacts,
  VolumeSpec,
} from "../../src/engine/engine-api.ts";
import type { Core } from "../../src/engine/map/core.ts";
import type { Store } from "../../src/store/store.ts";
import type { Chance } from "./chance.ts";
import type { Extent } from "./facts.ts";
import { Scheduler, type TurnKind } from "./scheduler.ts";
import { VirtualDisk } from "./virtual-disk.ts";
import { VirtualDatabase } from "./virtual-store.ts";
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
  readonly database: VirtualDatabase;
  /** Uid of each volume; undefined while it is not in the box. */
  readonly uids: (string | undefined)[];
  /** Puts itself between the engine and whoever commands it. */
  overhear: (engine: EngineApi) => EngineApi = (engine) => engine;
  /** Told what the engine of the present process says, and what it has found when it started. */
  onEvent: (event: EngineEvent) => void = () => undefined;
  onFound: (found: EngineFound) => void = () => undefined;
  /** Told of what the domain can tell nobody else. */
  onReport: (what: string, error: unknown) => void = () => undefined;
  /** An operation on the state files has failed for good. */
  onStateFailure: (operation: StateOperation) => void = () => undefined;
  readonly #world: World;
  readonly #core: Core;
  readonly #chance: Chance;
  #engine: LocalEngine | undefined;
  #commands: EngineApi | undefined;
  #domain: DomainBox | undefined;
  #store: Store | undefined;
  /** Every uid that a volume ever had. */
  readonly #volumeOf = new Map<string, number>();
  #life = 0;
  #lost: TidemarkError | undefined;

  constructor(world: World, core: Core, chance: Chance) {
    this.#world = world;
    this.#core = core;
    this.#chance = chance;
    this.scheduler = new Scheduler(chance, world.mood);
    const { scheduler } = this;
    this.disks = world.volumes.map(
      (sectors, index) => new VirtualDisk({ name: diskName(index), sectors, habits: world.disk, scheduler, chance }),
    );
    this.stateFiles.intercept = (operation) => this.#intercept(operation);
    this.database = new VirtualDatabase({ scheduler, chance, readTurnProbability: world.stateTurnProbability });
    this.uids = world.volumes.map(() => undefined);
    if (!this.isWhole) for (const { name, index } of this.#named()) this.#enter({ uid: name, path: pathOf(index) });
  }

  get isWhole(): boolean {
    return this.#world.features.has("whole-box");
  }

  #named(): { readonly name: string; readonly index: number }[] {
    return this.disks.map(({ name }, index) => ({ name, index }));
  }

  /** The process that runs; a call to one that does not is a mistake of the simulation. */
  get engine(): LocalEngine {
    if (!this.#engine) throw new Error("no process runs");
    return this.#engine;
  }

  /** The same, where commands go in: each is witnessed. */
  get commands(): EngineApi {
    if (!this.#commands) throw new Error("no process runs");
    return this.#commands;
  }

  /** The domain of a whole box, once it has started. */
  get domain(): DomainBox {
    if (!this.#domain) throw new Error("no box runs");
    return this.#domain;
  }

  get serves(): boolean {
    return this.#domain !== undefined;
  }

  /** Number of the process: what an earlier one began is never answered. */
  get life(): number {
    return this.#life;
  }

  /** Why the process has ended by itself: nothing is answered any more. */
  get lost(): TidemarkError | undefined {
    return this.#lost;
  }

  /** Number of the volume that has, or had, this uid. */
  volumeOf(uid: string): number {
    const volume = this.#volumeOf.get(uid);
    if (volume === undefined) throw new Error(`there never was a volume ${uid}`);
    return volume;
  }

  /** A new process; resolves when it serves. */
  async start(): Promise<void> {
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
        pointMapsBytesMax: this.#world.pointMapsBytesMax,
        mover,
        identityOf: async (path) => [path],
        openDevice: async (path) => ({ device: this.#disk(path).open(), identity: [path] }),
      }),
    });
    this.#engine = engine;
    this.#commands = this.#overheard(this.overhear(engine), life);
    if (this.isWhole) return this.#startDomain(this.#commands, life);
    this.#commands.onEvent(() => undefined);
    const volumes = this.disks.map(({ name, sizeBytes }, index) => {
      return { uid: name, name, path: pathOf(index), sizeBytes };
    });
    await this.#commands.start({ stateDirectory: "virtual", volumes });
  }

  async #startDomain(engine: EngineApi, life: number): Promise<void> {
    const report = (what: string, error: unknown) => {
      if (life === this.#life) this.onReport(what, error);
    };
    const store = await bindDatabase(await this.database.open(), this.stateFiles, report);
    const domain = await DomainBox.start({
      ...{ store, engine, clock: this.scheduler, paths: this.#paths, scrub: "off" },
      random: { bytes: (length) => Uint8Array.from({ length }, () => this.#chance.below(256)) },
      ...{
        report,
        number: undefined,
        dataDirectory: "/data",
        stateDirectory: "virtual",
        roots: [],
        nbdAddress: undefined,
      },
      environment: { nodeVersion: "v20.0.0", threadPoolSize: 32, threadPoolSizeWanted: 32 },
    });
    if (life !== this.#life) return;
    this.#store = store;
    this.#domain = domain;
  }

  /** The engine as the world has it, which hears what becomes of volumes and what the engine says. */
  #overheard(engine: EngineApi, life: number): EngineApi {
    const alive = () => life === this.#life;
    const own: Partial<EngineApi> = {
      start: async (config) => {
        if (this.isWhole) this.uids.fill(undefined);
        for (const spec of config.volumes) this.#enter(spec);
        const found = await engine.start(config);
        if (alive()) this.onFound(found);
        return found;
      },
      onEvent: (listener) =>
        engine.onEvent((event) => {
          if (alive()) this.onEvent(event);
          listener(event);
        }),
      inspectPath: async (path) => this.#inspect(path),
      partitions: async (uid) => this.#partitions(this.volumeOf(uid)),
      addVolume: async (spec) => {
        const facts = await engine.addVolume(spec);
        this.#enter(spec);
        return facts;
      },
      takeBackVolume: async (spec) => {
        this.#enter(spec);
        return engine.takeBackVolume(spec);
      },
      removeVolume: async (uid) => {
        await engine.removeVolume(uid);
        this.uids[this.volumeOf(uid)] = undefined;
      },
    };
    return inPlace(engine, own);
  }

  async stop(): Promise<void> {
    if (this.isWhole) {
      await this.domain.stop();
      await this.#store?.close();
    } else await this.engine.stop();
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
    this.#commands = undefined;
    this.#domain = undefined;
    this.#lost = undefined;
    this.scheduler.drop();
    this.database.processEnded();
  }

  repair(): void {
    this.stateFaults.full = undefined;
    this.stateFaults.failing = undefined;
    this.database.repair();
    for (const disk of this.disks) disk.repair();
  }

  #enter({ uid, path }: Pick<VolumeSpec, "uid" | "path">): void {
    const volume = this.disks.findIndex((_, index) => pathOf(index) === path);
    this.uids[volume] = uid;
    this.#volumeOf.set(uid, volume);
  }

  #inspect(path: string): VolumeFacts {
    const { sizeBytes, present } = this.#disk(path);
    if (!present) throw new TidemarkError("DEVICE_GONE", { message: `${path} is away`, hint: "bring it back" });
    return { uid: "", path, backing: "file", sizeBytes, readOnly: false, cloneRange: false };
  }

  #partitions(volume: number): PartitionFacts[] {
    const [, ...parts] = this.#world.extents[volume] as readonly Extent[];
    return parts.map(({ first, count }, index) => {
      const place = { offsetBytes: first * SECTOR_BYTES, sizeBytes: count * SECTOR_BYTES };
      return { number: index + 1, ...place, type: "83", label: "" };
    });
  }

  readonly #paths: Paths = {
    resolve: async (path) => path,
    look: async (path) => ({ kind: "file", sizeBytes: this.#disk(path).sizeBytes, allocatedBytes: SECTOR_BYTES }),
    space: async () => ({ freeBytes: 1 << 30, totalBytes: 1 << 30 }),
  };

  #disk(path: string): VirtualDisk {
    const disk = this.disks.find((_, index) => pathOf(index) === path);
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

/** The same object with some methods of its own. */
export function inPlace<T extends object>(whole: T, own: Partial<T>): T {
  return new Proxy(whole, {
    get(target, name) {
      if (name in own) return Reflect.get(own, name) as unknown;
      const value = Reflect.get(target, name, target) as unknown;
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

export function pathOf(volume: number): string {
  return `/${diskName(volume)}`;
}

function diskName(volume: number): string {
  return `v${volume + 1}`;
}
