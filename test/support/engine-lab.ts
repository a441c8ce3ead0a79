/**
 * An engine in the test's own thread, on memory devices, memory state files and a clock that the test moves.
 * Everything but disk and clock is the production engine.
 */
import { TidemarkError } from "../../src/base/errors.ts";
import type { BlockDevice, Clock } from "../../src/base/ports.ts";
import { MemoryDevice } from "../../src/engine/device/memory-device.ts";
import { createMover, type Mover } from "../../src/engine/device/mover.ts";
import { type MemoryStateFiles, memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import type { StateFiles } from "../../src/engine/durable/state-files.ts";
import { createEngine } from "../../src/engine/engine.ts";
import type {
  EngineApi,
  EngineEvent,
  EngineFound,
  ExtentRef,
  SessionHint,
  SessionStatus,
} from "../../src/engine/engine-api.ts";

/** Time passes only when the test says so, and a little with every look at it. */
export class LabClock implements Clock {
  #nowMs = 1_700_000_000_000;
  #sleepers: { dueMs: number; wake: () => void }[] = [];

  nowMs(): number {
    return Math.floor(this.#nowMs);
  }

  monotonicMs(): number {
    this.#nowMs += 0.5;
    return this.#nowMs;
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      if (signal?.aborted) return resolve();
      const abort = () => {
        this.#sleepers = this.#sleepers.filter((other) => other !== sleeper);
        resolve();
      };
      const wake = () => {
        signal?.removeEventListener("abort", abort);
        resolve();
      };
      const sleeper = { dueMs: this.#nowMs + ms, wake };
      this.#sleepers.push(sleeper);
      signal?.addEventListener("abort", abort, { once: true });
    });
  }

  advance(ms: number): void {
    this.#nowMs += ms;
    const due = this.#sleepers.filter((sleeper) => sleeper.dueMs <= this.#nowMs);
    this.#sleepers = this.#sleepers.filter((sleeper) => sleeper.dueMs > this.#nowMs);
    for (const sleeper of due) sleeper.wake();
  }
}

/** Moves at most `budgetBytes` a job, so that copies are seen half done. */
export function smallJobs(mover: Mover, budgetBytes: number): Mover {
  return {
    move: (from, to, runs, options) =>
      mover.move(from, to, runs, {
        ...options,
        budgetBytes: options.budgetBytes === Number.MAX_SAFE_INTEGER ? options.budgetBytes : budgetBytes,
      }),
    close: () => mover.close(),
  };
}

/** The device stays when its opener closes it, as a disk does. */
class Disk {
  readonly memory: BlockDevice;
  /** Why it cannot be opened at the moment. */
  away: TidemarkError | undefined;
  /** What it lives on; by default its name. */
  identity: readonly string[] | undefined;
  /** What opening and closing it waits for. */
  opening: Promise<void> | undefined;
  closing: Promise<void> | undefined;
  /** How often it is open. */
  handles = 0;
  /** Size at registration when the device has grown since. */
  registeredBytes: number | undefined;
  /** Processes that have used it; what an earlier one still has open is dead. */
  #process = 0;
  constructor(memory: BlockDevice) {
    this.memory = memory;
  }

  async open(): Promise<BlockDevice> {
    const { memory } = this;
    await this.opening;
    if (this.away) throw this.away;
    this.handles++;
    const process = this.#process;
    let closed: Promise<void> | undefined;
    return new Proxy(memory, {
      get: (target, property) => {
        if (property === "close")
          return () => {
            closed ??= this.#close(process);
            return closed;
          };
        if (process !== this.#process) throw new TidemarkError("DEVICE_GONE", { message: "its process was killed" });
        const value = Reflect.get(target, property, target) as unknown;
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }

  async #close(process: number): Promise<void> {
    await this.closing;
    if (process === this.#process) this.handles--;
  }

  kill(): void {
    this.#process++;
    this.handles = 0;
  }
}

export class EngineLab {
  readonly clock = new LabClock();
  readonly stateFiles: MemoryStateFiles = memoryStateFiles();
  readonly events: EngineEvent[] = [];
  readonly disks = new Map<string, Disk>();
  readonly #jobBytes: number;
  /** Maps of a point that go into its record. */
  pointMapsBytesMax = 16 * 1024 * 1024;
  /** Of the engines that start from now on, instead of what production has; changes count at once. */
  activity: { slots: number; checkpointBytes: number } | undefined;
  engine: EngineApi;
  /** What the rows of copies would say. */
  hints: readonly SessionHint[] = [];
  /** What the last start found. */
  found: EngineFound | undefined;
  /** Why the engine has ended by itself: none of its state file operations settles any more until `kill`. */
  lost: TidemarkError | undefined;
  #lastId = 0;
  #process = 0;

  private constructor(engine: EngineApi, jobBytes: number) {
    this.engine = engine;
    this.#jobBytes = jobBytes;
  }

  /** Volumes v1, v2, ... of these sizes, or on these devices. */
  static async start(volumes: readonly (number | BlockDevice)[], options: { jobBytes: number }): Promise<EngineLab> {
    const lab = new EngineLab(await createEngine(), options.jobBytes);
    volumes.forEach((volume, index) => {
      const memory = typeof volume === "number" ? new MemoryDevice(volume) : volume;
      lab.disks.set(`v${index + 1}`, new Disk(memory));
    });
    await lab.boot();
    return lab;
  }

  async boot(): Promise<void> {
    this.lost = undefined;
    this.engine = await createEngine({
      clock: this.clock,
      lose: (error) => {
        this.lost = error;
      },
      ports: async () => ({
        files: this.#filesOfProcess(),
        pointMapsBytesMax: this.pointMapsBytesMax,
        ...(this.activity ? { activity: this.activity } : {}),
        mover: smallJobs(createMover({ workers: 0, clock: this.clock }), this.#jobBytes),
        identityOf: async (path) => this.disk(path).identity ?? [path],
        openDevice: async (path) => {
          const device = await this.disk(path).open();
          return { device, identity: this.disk(path).identity ?? [path] };
        },
      }),
    });
    const { engine } = this;
    engine.onEvent((event) => {
      if (engine === this.engine) this.events.push(event);
    });
    const volumes = [...this.disks].map(([name, disk]) => ({
      uid: name,
      name,
      path: name,
      sizeBytes: disk.registeredBytes ?? disk.memory.sizeBytes,
    }));
    this.found = await this.engine.start({ stateDirectory: "unused", volumes, sessions: this.hints });
  }

  /** The state files as the process that starts now sees them: once it is killed, it reaches nothing any more. */
  #filesOfProcess(): StateFiles {
    const process = this.#process;
    return new Proxy<StateFiles>(this.stateFiles, {
      get: (target, property) => {
        if (process !== this.#process) throw new TidemarkError("DEVICE_GONE", { message: "its process was killed" });
        const value = Reflect.get(target, property, target) as unknown;
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }

  /** `kill -9`: everything stored stays, everything in memory is gone, and nothing runs. */
  async halt(seed: number): Promise<void> {
    this.#process++;
    this.stateFiles.kill(seed);
    for (const disk of this.disks.values()) disk.kill();
    await this.settle();
    this.events.length = 0; // what the dead process said while it died
  }

  /** `kill -9` and a new start. */
  async kill(seed: number): Promise<void> {
    await this.halt(seed);
    await this.boot();
  }

  async reboot(): Promise<void> {
    await this.engine.stop();
    await this.bootAfterStop();
  }

  /** A new process: what the one that has stopped could not close is dead. */
  async bootAfterStop(): Promise<void> {
    for (const disk of this.disks.values()) disk.kill();
    await this.boot();
  }

  disk(name: string): Disk {
    const disk = this.disks.get(name);
    if (!disk) throw new Error(`no disk ${name}`);
    return disk;
  }

  newId(): string {
    return `c${++this.#lastId}`;
  }

  extent(name: string, offsetBytes = 0, lengthBytes = this.disk(name).memory.sizeBytes - offsetBytes): ExtentRef {
    return { volumeUid: name, name, offsetBytes, lengthBytes };
  }

  /** Lets everything happen that needs no time. */
  async settle(): Promise<void> {
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
  }

  /** Lets the background copiers take a step. */
  async step(): Promise<void> {
    this.clock.advance(500);
    await this.settle();
  }

  /** Until nothing copies any more. */
  async finish(): Promise<void> {
    for (let turn = 0; turn < 2000; turn++) {
      const copying = (await this.engine.sessions()).some((session) => session.phase === "copying");
      if (!copying) return;
      await this.step();
    }
    throw new Error("copying does not end");
  }

  async session(id: string): Promise<SessionStatus | undefined> {
    return (await this.engine.sessions()).find((session) => session.id === id);
  }

  /** The bytes on the disk itself, past the engine. */
  async physical(name: string): Promise<Uint8Array> {
    const { memory } = this.disk(name);
    const bytes = new Uint8Array(memory.sizeBytes);
    await memory.read(0, bytes);
    return bytes;
  }
}
