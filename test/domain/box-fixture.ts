/** A box with the real engine in this thread, on a directory of its own, that can be stopped and started again. */
import { mkdir, mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ExecutionContext } from "ava";
import { systemClock, systemRandom } from "../../src/base/clock.ts";
import { type ErrorCode, TidemarkError } from "../../src/base/errors.ts";
import { Box, type BoxOptions } from "../../src/domain/box.ts";
import { systemPaths } from "../../src/domain/paths.ts";
import { createEngine, type EngineOptions } from "../../src/engine/engine.ts";
import { type MemoryDisk, openMemoryStore } from "../../src/store/memory/memory.ts";
import type { Change, Store } from "../../src/store/store.ts";

export class BoxFixture {
  readonly directory: string;
  readonly disk: MemoryDisk = new Map();
  readonly reports: string[] = [];
  store!: Store;
  #box: Box | undefined;

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async make(t: ExecutionContext): Promise<BoxFixture> {
    const directory = await realpath(await mkdtemp(join(tmpdir(), "tidemark-box-")));
    const fixture = new BoxFixture(directory);
    await mkdir(join(fixture.data, "state"), { recursive: true });
    t.teardown(async () => {
      await fixture.stop();
      await rm(directory, { recursive: true, force: true });
    });
    return fixture;
  }

  get data(): string {
    return join(this.directory, "data");
  }

  get box(): Box {
    if (this.#box === undefined) throw new Error("the box is not running");
    return this.#box;
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  async start(options: Partial<BoxOptions> = {}, engineOptions: EngineOptions = {}): Promise<Box> {
    this.store = await openMemoryStore(this.disk);
    const engine = await createEngine(engineOptions);
    this.#box = await Box.start({
      store: this.store,
      engine,
      clock: systemClock,
      random: systemRandom,
      paths: systemPaths,
      report: (what) => this.reports.push(what),
      number: undefined,
      dataDirectory: this.data,
      stateDirectory: join(this.data, "state"),
      roots: [],
      nbdAddress: `unix:${join(this.directory, "nbd.sock")}`,
      scrub: "off",
      environment: { nodeVersion: process.version, threadPoolSize: 32, threadPoolSizeWanted: 32 },
      ...options,
    }).catch(async (error) => {
      await engine.stop();
      throw error;
    });
    return this.#box;
  }

  async stop(): Promise<void> {
    await this.#box?.stop();
    await this.store?.close();
    this.#box = undefined;
  }

  async restart(options: Partial<BoxOptions> = {}): Promise<Box> {
    await this.stop();
    return this.start(options);
  }

  /** Changes the store of a box that is stopped: what a crash would have left. */
  async leave(changes: readonly Change[]): Promise<void> {
    const store = await openMemoryStore(this.disk);
    await store.commit(changes);
    await store.close();
  }

  create(name: string, sizeBytes = 1 << 20, label = "") {
    return this.box.volumes.create({ path: this.path(`${name}.img`), sizeBytes, lu: 0, label }, () => []);
  }
}

/** The error of a call that must be refused with `code`; every refusal says what to do next. */
export async function refusal(
  t: ExecutionContext,
  run: () => Promise<unknown>,
  code: ErrorCode,
): Promise<TidemarkError | undefined> {
  const error = await t.throwsAsync(async () => run(), { instanceOf: TidemarkError });
  t.is(error?.code, code, error?.message);
  t.truthy(error?.detail.hint, `${code} has a hint`);
  return error;
}

/** Runs `probe` until it gives something, for at most 20 s. */
export async function eventually<T>(probe: () => Promise<T | undefined> | T | undefined): Promise<T> {
  const endMs = performance.now() + 20_000;
  for (;;) {
    const found = await probe();
    if (found !== undefined && found !== false) return found;
    if (performance.now() > endMs) throw new Error("it did not come to pass in 20 s");
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** An MBR with primary partitions given as [first sector, sectors]. */
export function masterBootRecord(partitions: readonly (readonly [number, number])[]): Buffer {
  const sector = Buffer.alloc(512);
  partitions.forEach(([first, count], index) => {
    const at = 446 + 16 * index;
    sector[at + 4] = 0x83;
    sector.writeUInt32LE(first, at + 8);
    sector.writeUInt32LE(count, at + 12);
  });
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}
