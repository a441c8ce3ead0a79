/**
 * The production engine in this thread on state files and disks in memory, with a clock that the caller moves: a box whose
 * state directory can be taken, damaged and started from again.
 */
import type { ErrorRecord } from "../../src/base/errors.ts";
import type { BlockDevice } from "../../src/base/ports.ts";
import type { MemoryDevice } from "../../src/engine/device/memory-device.ts";
import { createMover } from "../../src/engine/device/mover.ts";
import { type MemoryStateFiles, memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import { createEngine } from "../../src/engine/engine.ts";
import type { EngineApi, EngineEvent, ExtentRef, SessionStatus } from "../../src/engine/engine-api.ts";
import { LabClock, smallJobs } from "../support/engine-lab.ts";

/** Every file of a state directory. */
export type StateImage = ReadonlyMap<string, Buffer>;

export interface Disk {
  readonly memory: MemoryDevice;
  readonly device: BlockDevice;
}

const STEPS_MAX = 3000;

export class StateBox {
  readonly files: MemoryStateFiles;
  readonly disks: ReadonlyMap<string, Disk>;
  readonly clock = new LabClock();
  readonly events: EngineEvent[] = [];
  /** Failures that end the engine. */
  readonly lost: unknown[] = [];
  readonly #jobBytes: number;
  #engine: EngineApi | undefined;
  /** Why volumes are out of service in this run. */
  leftAlone: readonly ErrorRecord[] = [];

  constructor(files: MemoryStateFiles, disks: ReadonlyMap<string, Disk>, jobBytes: number) {
    this.files = files;
    this.disks = disks;
    this.#jobBytes = jobBytes;
  }

  get engine(): EngineApi {
    if (this.#engine === undefined) throw new Error("the box is not started");
    return this.#engine;
  }

  /** Throws what a refused start throws. */
  async boot(): Promise<void> {
    const engine = await createEngine({
      clock: this.clock,
      lose: (error) => this.lost.push(error),
      ports: async () => ({
        files: this.files,
        mover: smallJobs(createMover({ workers: 0 }), this.#jobBytes),
        identityOf: async (path) => [path],
        openDevice: async (path) => ({ device: this.disk(path).device, identity: [path] }),
      }),
    });
    engine.onEvent((event) => this.events.push(event));
    const volumes = [...this.disks].map(([uid, { memory }]) => ({
      uid,
      name: uid,
      path: uid,
      sizeBytes: memory.sizeBytes,
    }));
    const { volumes: statuses } = await engine.start({ stateDirectory: "unused", volumes });
    this.leftAlone = statuses.flatMap(({ failure }) => (failure?.code === "OUT_OF_SERVICE" ? [failure] : []));
    this.#engine = engine;
  }

  async stop(): Promise<void> {
    const engine = this.#engine;
    this.#engine = undefined;
    await engine?.stop();
  }

  disk(uid: string): Disk {
    const disk = this.disks.get(uid);
    if (disk === undefined) throw new Error(`no disk ${uid}`);
    return disk;
  }

  extent(uid: string): ExtentRef {
    return { volumeUid: uid, name: uid, offsetBytes: 0, lengthBytes: this.disk(uid).memory.sizeBytes };
  }

  /** What the box said went wrong. */
  get troubles(): string[] {
    return this.events.flatMap((event) => (event.type === "engine.trouble" ? [event.message] : []));
  }

  async step(): Promise<void> {
    this.clock.advance(500);
    await settle();
  }

  /** Until nothing copies; the sessions that are left. */
  async finish(): Promise<SessionStatus[]> {
    for (let step = 0; step < STEPS_MAX; step++) {
      const sessions = await this.engine.sessions();
      if (!sessions.some(({ phase }) => phase === "copying")) return sessions;
      await this.step();
    }
    throw new Error("copying does not end");
  }

  async image(): Promise<StateImage> {
    return readState(this.files);
  }
}

export async function settle(): Promise<void> {
  for (let turn = 0; turn < 12; turn++) await new Promise((resolve) => setImmediate(resolve));
}

export async function readState(files: MemoryStateFiles, directory = ""): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>();
  for (const name of await files.list(directory)) {
    const path = directory === "" ? name : `${directory}/${name}`;
    if (await isDirectory(files, path))
      for (const [inner, bytes] of await readState(files, path)) found.set(inner, bytes);
    else found.set(path, Buffer.from(files.contents(path)));
  }
  return found;
}

async function isDirectory(files: MemoryStateFiles, path: string): Promise<boolean> {
  try {
    await files.list(path);
    return true;
  } catch {
    return false; // `list` of a file fails, and nothing else can fail here
  }
}

/** State files that hold the image, durably. */
export async function filesFrom(image: StateImage): Promise<MemoryStateFiles> {
  const files = memoryStateFiles();
  const made = new Set<string>();
  const directories = ["volumes", "sessions"];
  for (const path of image.keys()) {
    const parts = path.split("/").slice(0, -1);
    for (let depth = 1; depth <= parts.length; depth++) directories.push(parts.slice(0, depth).join("/"));
  }
  for (const directory of directories) {
    if (made.has(directory)) continue;
    made.add(directory);
    await files.makeDirectory(directory);
    await files.syncDirectory(directory.includes("/") ? directory.slice(0, directory.lastIndexOf("/")) : "");
  }
  for (const [path, bytes] of image) files.damage(path, bytes);
  return files;
}
