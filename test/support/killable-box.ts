/**
 * A box that can be killed at any step: the whole domain and engine, on memory disks, memory state files and a memory store
 * that outlive the process. What the killed process still does reaches none of them.
 * A step is an operation on a state file or a commit of the store.
 */
import { mkdir, mkdtemp, realpath, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { handleUnaryCall } from "@grpc/grpc-js";
import type { ExecutionContext } from "ava";
import { systemRandom } from "../../src/base/clock.ts";
import { TidemarkError } from "../../src/base/errors.ts";
import type { BlockDevice } from "../../src/base/ports.ts";
import { bindDatabase } from "../../src/domain/binding.ts";
import { Box } from "../../src/domain/box.ts";
import { systemPaths } from "../../src/domain/paths.ts";
import { MemoryDevice } from "../../src/engine/device/memory-device.ts";
import { createMover } from "../../src/engine/device/mover.ts";
import { type MemoryStateFiles, memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import type { StateFiles } from "../../src/engine/durable/state-files.ts";
import { createEngine } from "../../src/engine/engine.ts";
import type { EngineApi } from "../../src/engine/engine-api.ts";
import { type MemoryDisk, openMemoryStore } from "../../src/store/memory/memory.ts";
import type { Store, TalliedStore } from "../../src/store/store.ts";
import { LabClock } from "./engine-lab.ts";

interface Process {
  alive: boolean;
}

/** What a step is allowed to do: nothing (undefined), or to wait for ever. */
export type Intercept = (step: string) => Promise<never> | undefined;

const never = () => new Promise<never>(() => undefined);

export class KillableBox {
  readonly clock = new LabClock();
  readonly stateFiles: MemoryStateFiles = memoryStateFiles();
  readonly storeDisk: MemoryDisk = new Map();
  readonly reports: string[] = [];
  readonly directory: string;
  /** Set: every commit of the store fails. */
  isStoreFull = false;
  box!: Box;
  engine!: EngineApi;
  store!: Store;
  #intercept: Intercept = () => undefined;
  readonly #disks = new Map<string, BlockDevice>();
  #process: Process = { alive: true };
  #starts = 0;

  private constructor(directory: string) {
    this.directory = directory;
  }

  /** A running box with `volumes` volumes g1d1, g1d2, ... of this size. */
  static async make(t: ExecutionContext, volumes: number, sizeBytes = 1 << 18): Promise<KillableBox> {
    const directory = await realpath(await mkdtemp(join(tmpdir(), "tidemark-killable-")));
    const killable = new KillableBox(directory);
    await mkdir(join(directory, "data"));
    await killable.start();
    t.teardown(async () => {
      killable.intercept(() => undefined);
      killable.#leaveProcess();
      await rm(directory, { recursive: true, force: true });
    });
    for (let n = 1; n <= volumes; n++)
      await killable.box.volumes.create({ path: killable.path(`v${n}.img`), sizeBytes, lu: 0, label: "" }, () => []);
    return killable;
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** How large the device itself is. */
  deviceBytes(path: string): number {
    return this.#disks.get(path)?.sizeBytes ?? 0;
  }

  intercept(intercept: Intercept): void {
    this.#intercept = intercept;
    this.stateFiles.intercept = (operation) => intercept(`${operation.type} ${operation.path}`);
  }

  async start(): Promise<void> {
    const process: Process = { alive: true };
    this.#process = process;
    const report = (what: string, error: unknown) => {
      if (process.alive) this.reports.push(`${what}: ${error instanceof Error ? error.message : error}`);
    };
    // Bound as in production: no kill may make the database look like a wrong one.
    const files = ofProcess<StateFiles>(process, this.stateFiles);
    this.store = this.#storeOf(process, await bindDatabase(await this.#openStore(), files, report));
    const { store } = this;
    this.engine = await createEngine({
      clock: this.clock,
      lose: () => undefined,
      ports: async () => ({
        files,
        mover: createMover({ workers: 0 }),
        identityOf: async (path) => [path],
        openDevice: async (path) => ({ device: await this.#open(process, path), identity: [path] }),
      }),
    });
    this.box = await Box.start({
      store,
      engine: this.engine,
      clock: this.clock,
      random: systemRandom,
      paths: systemPaths,
      report,
      number: undefined,
      dataDirectory: join(this.directory, "data"),
      stateDirectory: "unused",
      roots: [],
      scrub: "off",
      nbdAddress: `unix:${this.path(`nbd-${++this.#starts}.sock`)}`,
      environment: { nodeVersion: "v20.0.0", threadPoolSize: 32, threadPoolSizeWanted: 32 },
    });
  }

  /** `kill -9` and a new start. */
  async kill(seed = 2): Promise<void> {
    await this.die(seed);
    await this.start();
  }

  /** `kill -9`. */
  async die(seed = 2): Promise<void> {
    this.#leaveProcess();
    this.intercept(() => undefined);
    this.stateFiles.kill(seed);
    await this.settle();
  }

  async stop(): Promise<void> {
    await this.box.stop();
    await this.store.close();
  }

  /** Lets everything happen that needs no time. */
  async settle(): Promise<void> {
    for (let turn = 0; turn < 60; turn++) await new Promise((resolve) => setImmediate(resolve));
  }

  /** Lets time pass until nothing copies any more. */
  async finish(): Promise<void> {
    for (let turn = 0; turn < 500; turn++) {
      if ((await this.engine.sessions()).every(({ phase }) => phase !== "copying")) return this.settle();
      this.clock.advance(500);
      await this.settle();
    }
    throw new Error("copying does not end");
  }

  /** Types of the events of one object, oldest first. */
  events(subject: string): string[] {
    const page = { pageSize: 1000, pageToken: "" };
    return this.box.events(subject, page).items.map(({ type }) => type);
  }

  #leaveProcess(): void {
    const { engine } = this;
    this.#process.alive = false;
    // Closes its sockets; the rest of it waits for ever.
    void engine.stop().catch(() => undefined);
  }

  #openStore(): Promise<TalliedStore> {
    return openMemoryStore(this.storeDisk, undefined, () => {
      if (this.isStoreFull) throw new Error("no space left on device");
    });
  }

  #storeOf(process: Process, store: Store): Store {
    const alive = <T>(run: () => Promise<T>): Promise<T> => (process.alive ? run() : never());
    return {
      get: (table, key) => alive(() => store.get(table, key)),
      list: (table, options) => alive(() => store.list(table, options)),
      scan: (table) => store.scan(table),
      inspect: (table) => store.inspect(table),
      commit: (changes) =>
        alive(() => (changes.length === 0 ? undefined : this.#intercept("commit")) ?? store.commit(changes)),
      close: () => alive(() => store.close()),
    };
  }

  async #open(process: Process, path: string): Promise<BlockDevice> {
    const { size } = await stat(path);
    const disk = this.#disks.get(path) ?? new MemoryDevice(size);
    this.#disks.set(path, disk);
    return ofProcess(process, disk);
  }
}

/** What a process has open: once it is killed, it reaches nothing any more. */
function ofProcess<T extends object>(process: Process, what: T): T {
  return new Proxy(what, {
    get: (target, property) => {
      if (property === "close") return async () => undefined; // a disk stays when its opener closes it
      if (!process.alive) throw new TidemarkError("DEVICE_GONE", { message: "its process was killed" });
      const value = Reflect.get(target, property, target) as unknown;
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/** Calls a method of a service as the server does. */
export function ask<Request, Response>(
  method: handleUnaryCall<Request, Response>,
  request: Request,
): Promise<Response> {
  return new Promise((resolve, reject) => {
    const call = { request, cancelled: false } as unknown as Parameters<typeof method>[0];
    method(call, (error, response) => (response ? resolve(response) : reject(error)));
  });
}
