/** The production engine in this process, on real files, in the words of the oracle. */
import { join } from "node:path";
import { systemClock } from "../../../src/base/clock.ts";
import { identityOf } from "../../../src/engine/device/identity.ts";
import { createMover } from "../../../src/engine/device/mover.ts";
import { openDevice } from "../../../src/engine/device/open-device.ts";
import { systemStateFiles } from "../../../src/engine/durable/system-state-files.ts";
import { createEngine, type LocalEngine } from "../../../src/engine/engine.ts";
import type { EndedSession, ExtentRef, SessionStatus } from "../../../src/engine/engine-api.ts";
import type { Volume } from "../contents.ts";
import type { CopyFacts } from "../copy-book.ts";
import { sleep } from "../hosts.ts";
import { BLOCK_BYTES } from "../stamps.ts";
import { require } from "../violations.ts";
import { DiskLog } from "./disk-log.ts";

const FINISH_PATIENCE_MS = 30_000;

export class LocalBox {
  readonly engine: LocalEngine;
  readonly troubles: string[] = [];
  readonly #ended = new Map<string, CopyFacts>();

  private constructor(engine: LocalEngine) {
    this.engine = engine;
    engine.onEvent((event) => {
      if (event.type === "session.ended") this.#noteEnd(event);
      else if (event.type === "engine.trouble") this.troubles.push(event.message);
      else if (event.type === "volume.failed") this.troubles.push(`${event.uid}: ${event.failure.detail.message}`);
    });
  }

  /** On `directory/state` and `directory/UID.img`. Everything goes through the log; given stamps only, nothing is kept. */
  static async start(
    directory: string,
    volumes: readonly Volume[],
    record: DiskLog | ReadonlyMap<string, string>,
  ): Promise<LocalBox> {
    const log = record instanceof DiskLog ? record : undefined;
    const disks = record instanceof DiskLog ? record : unrecorded(volumes, record);
    const files = systemStateFiles(join(directory, "state"));
    const engine = await createEngine({
      ports: async () => ({
        mover: createMover({ workers: 0 }),
        files: log === undefined ? files : log.stateFiles(files),
        openDevice: async (path) => {
          const device = await openDevice(path, { clock: systemClock });
          return {
            device: disks.device(path.slice(directory.length + 1, -".img".length), device),
            identity: await identityOf(path),
          };
        },
      }),
    });
    const box = new LocalBox(engine);
    const specs = volumes.map(({ label, sizeBytes }) => ({
      ...{ uid: label, name: label, sizeBytes, path: join(directory, `${label}.img`) },
    }));
    const found = await engine.start({ stateDirectory: join(directory, "state"), volumes: specs });
    for (const { uid, failure } of found.volumes)
      require(failure === undefined, () => `${uid} is not online: ${failure?.detail.message}`);
    for (const ended of found.ended) box.#noteEnd(ended);
    return box;
  }

  stop(): Promise<void> {
    return this.engine.stop();
  }

  #noteEnd({ session }: EndedSession): void {
    this.#ended.set(session.id, factsOf(session));
  }

  async list(): Promise<{ live: CopyFacts[]; ended: CopyFacts[] }> {
    return { live: (await this.engine.sessions()).map(factsOf), ended: [...this.#ended.values()] };
  }

  /** Lets background work go on for a moment. */
  settle(): Promise<void> {
    return sleep(5);
  }

  async allCopied(): Promise<void> {
    const begin = performance.now();
    for (;;) {
      const copying = (await this.engine.sessions()).filter(({ phase }) => phase === "copying");
      if (copying.length === 0) return;
      const ids = copying.map(({ id }) => id).join(", ");
      require(performance.now() - begin < FINISH_PATIENCE_MS, () => `${ids} do not finish`);
      for (const { id, pace } of copying) if (pace < 15) await this.engine.setPace(id, 15).catch(endedMeanwhile);
      await sleep(1);
    }
  }

  async restart(id: string): Promise<CopyFacts> {
    const [session] = await this.engine.restartSessions([id]);
    require(session !== undefined, () => `no answer to the restart of ${id}`);
    return factsOf(session);
  }

  async readBlocks(volume: Volume, firstBlock: number, blockCount: number): Promise<Buffer> {
    const bytes = await this.engine.read(extentOf(volume), firstBlock * BLOCK_BYTES, blockCount * BLOCK_BYTES);
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  }
}

function endedMeanwhile(error: unknown): void {
  if ((error as { code?: unknown }).code !== "SESSION_NOT_FOUND") throw error;
}

export function extentOf({ label, sizeBytes }: Volume): ExtentRef {
  return { volumeUid: label, name: label, offsetBytes: 0, lengthBytes: sizeBytes };
}

export function factsOf(session: SessionStatus): CopyFacts {
  const { id, kind, phase, tracking, generation, reason, plannedGranules, pendingGranules } = session;
  const { source, destination, failure } = session;
  return {
    ...{ id, kind, phase, tracking, generation, reason, plannedGranules, pendingGranules },
    ...{ source: source.name, destination: destination.name, failureMessage: failure?.message ?? "" },
  };
}

/** Devices as a log has them, for the stamps that they leave. */
function unrecorded(volumes: readonly Volume[], stamps: ReadonlyMap<string, string>): DiskLog {
  const devices = new Map(volumes.map(({ label }, index): [string, number] => [label, index + 1]));
  const log = new DiskLog({ directories: new Map(), files: new Map(), devices, stamps });
  log.stop();
  return log;
}
