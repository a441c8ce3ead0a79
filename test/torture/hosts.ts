/**
 * Hosts: write to every volume over NBD and read back what they wrote, until the connection breaks.
 *
 * Each volume has a few lanes, each with one request under way, on blocks that no other request touches. Writes go to a
 * few regions of 4 MiB until `moveOn`, so that it can be told which regions may be hot.
 */
import { NbdClient } from "../../src/quickstart/nbd-client.ts";
import type { Chance } from "./chance.ts";
import type { Contents, Volume, Write } from "./contents.ts";
import type { CopyBook } from "./copy-book.ts";
import { REGION_GRANULES } from "./granules.ts";
import { BLOCK_BYTES, BLOCKS_PER_GRANULE, stamped } from "./stamps.ts";
import { type Tally, Violation } from "./violations.ts";

const LANES = 3;
const WRITE_BLOCKS_MAX = 8;
const REGION_BLOCKS = REGION_GRANULES * BLOCKS_PER_GRANULE;
const REGIONS_AT_A_TIME = 2;
const READ_BLOCKS = 256;
/** After so many requests a lane rests, so that the daemon has time for other things. */
const REQUESTS_IN_A_ROW = 8;
const REST_MS_MAX = 4;

export interface HostsParts {
  readonly contents: Contents;
  readonly book: CopyBook;
  readonly chance: Chance;
  readonly tally: Tally;
}

export class Hosts {
  readonly #parts: HostsParts;
  readonly #clients = new Map<Volume, NbdClient>();
  readonly #regions = new Map<Volume, number[]>();
  readonly #held = new Set<Volume>();
  #wake: (() => void)[] = [];
  #running: Promise<void> = Promise.resolve();
  #breaking = new AbortController();
  #stopped = true;
  #violation: unknown;

  constructor(parts: HostsParts) {
    this.#parts = parts;
    this.moveOn();
  }

  /** From now on writes go to other regions. */
  moveOn(): void {
    const { contents, chance } = this.#parts;
    for (const volume of contents.volumes) {
      const regions = Math.ceil(volume.blockCount / REGION_BLOCKS);
      this.#regions.set(
        volume,
        Array.from({ length: REGIONS_AT_A_TIME }, () => chance.below(regions)),
      );
    }
  }

  async connect(socket: string): Promise<void> {
    this.#breaking = new AbortController();
    for (const volume of this.#parts.contents.volumes)
      this.#clients.set(volume, await NbdClient.connect(socket, volume.label, this.#breaking.signal));
  }

  start(): void {
    this.#stopped = false;
    const lanes = this.#parts.contents.volumes.flatMap((volume) =>
      Array.from({ length: LANES }, () => this.#lane(volume).catch((error: unknown) => this.#ended(error))),
    );
    this.#running = Promise.all(lanes).then(() => undefined);
  }

  /** A broken connection ends a lane when the daemon is killed; anything else is a finding. */
  #ended(error: unknown): void {
    if (this.#stopped && !(error instanceof Violation)) return;
    this.#violation ??= error;
  }

  /** No new requests; resolves when all are answered or broken. Throws what the hosts found. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.releaseAll();
    await this.#running;
    if (this.#violation !== undefined) throw this.#violation;
  }

  /** Called right before the daemon is killed: what breaks from now on is no finding. */
  expectTheEnd(): void {
    this.#stopped = true;
  }

  disconnect(): void {
    this.#breaking.abort();
    this.#clients.clear();
  }

  /** No write to these volumes is under way, and none begins, until `releaseAll`. */
  async hold(volumes: readonly Volume[]): Promise<void> {
    for (const volume of volumes) this.#held.add(volume);
    while (!this.#stopped && volumes.some((volume) => volume.underWay.size > 0)) await sleep(1);
  }

  releaseAll(): void {
    this.#held.clear();
    for (const wake of this.#wake.splice(0)) wake();
  }

  readBlocks(volume: Volume, firstBlock: number, blockCount: number): Promise<Buffer> {
    return this.#client(volume).read(firstBlock * BLOCK_BYTES, blockCount * BLOCK_BYTES);
  }

  #client(volume: Volume): NbdClient {
    const client = this.#clients.get(volume);
    if (client === undefined) throw new Error(`${volume.label} is not connected`);
    return client;
  }

  async #lane(volume: Volume): Promise<void> {
    const { chance } = this.#parts;
    const client = this.#client(volume);
    for (let request = 1; !this.#stopped; request++) {
      if (this.#held.has(volume)) await new Promise<void>((resolve) => this.#wake.push(resolve));
      else if (chance.happens(0.15)) await this.#verify(volume);
      else if (chance.happens(0.02)) await client.flush();
      else await this.#write(volume, client);
      if (request % REQUESTS_IN_A_ROW === 0) await sleep(chance.below(REST_MS_MAX + 1));
    }
  }

  async #write(volume: Volume, client: NbdClient): Promise<void> {
    const { contents, book, chance, tally } = this.#parts;
    const region = chance.pick(this.#regions.get(volume) ?? [0]);
    const begin = region * REGION_BLOCKS;
    const end = Math.min(volume.blockCount, begin + REGION_BLOCKS);
    const firstBlock = begin + chance.below(end - begin);
    const blockCount = Math.min(1 + chance.below(WRITE_BLOCKS_MAX), end - firstBlock);
    if (!volume.isFree(firstBlock, blockCount)) return;
    book.wrote(volume, { firstBlock, blockCount });
    const write = contents.begin(volume, firstBlock, blockCount);
    await client.write(firstBlock * BLOCK_BYTES, stamped(write.number, firstBlock, blockCount));
    contents.acknowledge(write);
    tally.writesAcknowledged++;
  }

  /** Reads blocks that nobody is writing to, while they are read. */
  async #verify(volume: Volume): Promise<void> {
    const { chance, contents } = this.#parts;
    const blockCount = 1 + chance.below(16);
    const firstBlock = chance.below(volume.blockCount - blockCount);
    if (volume.pointsUnderWay > 0 || !volume.isFree(firstBlock, blockCount)) return;
    let disturbed = false;
    const stop = contents.onWrite((write: Write) => {
      if (write.volume === volume.index) disturbed ||= overlaps(write, firstBlock, blockCount);
    });
    const { revision } = volume;
    try {
      const bytes = await this.readBlocks(volume, firstBlock, blockCount);
      if (!disturbed && revision === volume.revision && volume.pointsUnderWay === 0)
        volume.check(bytes, firstBlock, "NBD under load");
    } finally {
      stop();
    }
  }
}

function overlaps(write: Write, firstBlock: number, blockCount: number): boolean {
  return write.firstBlock < firstBlock + blockCount && firstBlock < write.firstBlock + write.blockCount;
}

/** Ranges that cover a volume, as large as one request should be. */
export function* pieces(blockCount: number): Generator<{ firstBlock: number; count: number }> {
  for (let firstBlock = 0; firstBlock < blockCount; firstBlock += READ_BLOCKS)
    yield { firstBlock, count: Math.min(READ_BLOCKS, blockCount - firstBlock) };
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
