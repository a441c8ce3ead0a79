/** The run that is recorded: hosts write and flush, an operator copies, once in a while the engine stops and starts. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { TidemarkError } from "../../../src/base/errors.ts";
import type { Chance } from "../chance.ts";
import { Contents, Volume } from "../contents.ts";
import { CopyBook, type CopyFacts, type Kind } from "../copy-book.ts";
import { Point } from "../cut.ts";
import { sleep } from "../hosts.ts";
import { adopt } from "../images.ts";
import { copyStopsTracking, reconcile, recordPoint } from "../operator.ts";
import { BLOCK_BYTES, stamped } from "../stamps.ts";
import type { Tally } from "../violations.ts";
import { DiskLog } from "./disk-log.ts";
import { type DiskImage, DiskReplay, layDown } from "./disk-replay.ts";
import type { End, HostEvent, PlacedEvent } from "./host-events.ts";
import { extentOf, factsOf, LocalBox } from "./local-box.ts";

export interface Recording {
  readonly volumes: readonly Volume[];
  readonly initial: DiskImage;
  readonly initialWrites: readonly Uint32Array[];
  readonly log: DiskLog;
  readonly events: readonly PlacedEvent[];
}

const BLOCKS_PER_MIB = (1 << 20) / BLOCK_BYTES;
/** Of two regions or three, mostly holes, so that an image is made anew quickly. */
const SIZES = [8 * BLOCKS_PER_MIB, 8 * BLOCKS_PER_MIB + 1, 9 * BLOCKS_PER_MIB, 9 * BLOCKS_PER_MIB + 3];
const FILLED_BLOCKS = 300;
const LANES = 2;
const WRITE_BLOCKS_MAX = 6;
/** Hosts rest, so that there is something else in the record too. */
const REST = 0.6;
const REST_MS_MAX = 6;
const PAUSE_MS_MAX = 20;
const COPIES_WANTED_MAX = 5;
const REFUSALS = new Set([
  "DESTINATION_IN_USE",
  "DESTINATION_COPYING",
  "COPY_CYCLE",
  "REVERSE_NOT_OPC",
  "COPY_STATE",
  "NOT_TRACKING",
  "SESSION_NOT_FOUND",
  "SOURCE_IS_DESTINATION",
  "DESTINATION_TOO_SMALL",
]);

export async function record(options: {
  directory: string;
  chance: Chance;
  tally: Tally;
  durationMs: number;
}): Promise<Recording> {
  const run = await Recorder.begin(options);
  await run.run(options.durationMs);
  return run.recording;
}

class Recorder {
  readonly recording: Recording & { readonly events: PlacedEvent[] };
  readonly #directory: string;
  readonly #chance: Chance;
  readonly #tally: Tally;
  readonly #contents: Contents;
  readonly #book: CopyBook;
  #box: LocalBox;
  #lastFlush = 0;
  #lastCopy = 0;
  #over = false;
  readonly #held = new Set<Volume>();

  private constructor(
    options: { directory: string; chance: Chance; tally: Tally },
    box: LocalBox,
    recording: Recording & { readonly events: PlacedEvent[] },
    contents: Contents,
  ) {
    this.#directory = options.directory;
    this.#chance = options.chance;
    this.#tally = options.tally;
    this.#box = box;
    this.recording = recording;
    this.#contents = contents;
    this.#book = new CopyBook(options.tally);
  }

  static async begin(options: { directory: string; chance: Chance; tally: Tally }): Promise<Recorder> {
    const volumes = SIZES.map((blockCount, index) => new Volume(index, `v${index + 1}`, blockCount));
    const contents = new Contents(volumes);
    const devices = new Map(
      volumes.map((volume): [string, Buffer] => [volume.label, filled(volume, contents, options.chance)]),
    );
    const stamps = new Map(volumes.map(({ label }): [string, string] => [label, "new"]));
    const initial: DiskImage = { directories: [""], files: new Map(), devices, stamps };
    await mkdir(join(options.directory, "state"), { mode: 0o700 });
    await layDown(initial, options.directory);
    const log = new DiskLog(new DiskReplay(initial).start);
    const box = await LocalBox.start(options.directory, volumes, log);
    const initialWrites = volumes.map(({ current }) => current.slice());
    return new Recorder(options, box, { volumes, initial, initialWrites, log, events: [] }, contents);
  }

  #note(event: HostEvent): void {
    this.recording.events.push({ at: this.recording.log.entries.length, event });
  }

  async run(durationMs: number): Promise<void> {
    const end = performance.now() + durationMs;
    while (performance.now() < end) {
      this.#over = false;
      const hosts = this.#contents.volumes.flatMap((volume) => Array.from({ length: LANES }, () => this.#host(volume)));
      const operator = this.#operate(Math.min(end, performance.now() + this.#chance.between(0.3, 1) * durationMs));
      await Promise.all([operator, ...hosts]);
      await this.#box.stop();
      this.#note({ type: "stopped" });
      this.#book.stoppedCleanly();
      this.#box = await LocalBox.start(this.#directory, this.#contents.volumes, this.recording.log);
    }
    await this.#box.stop();
    this.recording.log.stop();
  }

  // --- hosts ---------------------------------------------------------------------------------------------------------

  async #host(volume: Volume): Promise<void> {
    while (!this.#over) {
      if (this.#held.has(volume)) await sleep(1);
      else if (this.#chance.happens(0.08)) await this.#flush(volume);
      else await this.#write(volume);
      if (this.#chance.happens(REST)) await sleep(this.#chance.below(REST_MS_MAX));
    }
  }

  async #flush(volume: Volume): Promise<void> {
    const flush = ++this.#lastFlush;
    this.#note({ type: "flush-sent", flush, volume: volume.index });
    await this.#box.engine.flush(volume.label);
    this.#note({ type: "flush-acked", flush, volume: volume.index });
  }

  async #write(volume: Volume): Promise<void> {
    // Mostly in one place, so that not every region is hot.
    const limit = this.#chance.happens(0.9) ? Math.floor(volume.blockCount / 4) : volume.blockCount;
    const firstBlock = this.#chance.below(limit);
    const blockCount = Math.min(1 + this.#chance.below(WRITE_BLOCKS_MAX), volume.blockCount - firstBlock);
    if (!volume.isFree(firstBlock, blockCount)) return sleep(1);
    this.#book.wrote(volume, { firstBlock, blockCount });
    const write = this.#contents.begin(volume, firstBlock, blockCount);
    this.#note({ type: "sent", write });
    const target = this.#box.engine.target(extentOf(volume), "writable");
    const data = stamped(write.number, firstBlock, blockCount);
    // As the NBD door does it.
    if (!target.tryWrite(firstBlock * BLOCK_BYTES, data)) await target.write(firstBlock * BLOCK_BYTES, data);
    this.#contents.acknowledge(write);
    this.#note({ type: "acked", write });
  }

  // --- operator ------------------------------------------------------------------------------------------------------

  async #operate(end: number): Promise<void> {
    try {
      while (performance.now() < end) {
        await this.#command();
        await sleep(this.#chance.below(PAUSE_MS_MAX));
      }
    } finally {
      this.#over = true;
    }
  }

  #command(): Promise<void> {
    const copies = [...this.#book.copies.values()];
    const many = copies.length >= COPIES_WANTED_MAX;
    const weights = {
      start: many ? 0 : 4,
      "start-opc": many ? 0 : 3,
      restart: 6,
      restore: 3,
      several: 2,
      cancel: many ? 5 : 1,
      "stop-tracking": 1,
    };
    const command = copies.length === 0 ? "start" : this.#chance.weighted(weights);
    if (command === "start") return this.#start([this.#pair()], "quickopc");
    if (command === "start-opc") return this.#start([this.#pair()], "opc");
    const copy = this.#chance.pick(copies);
    if (command === "restore") return this.#start([{ source: copy.destination, destination: copy.source }], "opc");
    if (command === "several") return this.#start([this.#pair(), this.#pair()], "quickopc");
    if (command === "restart") return this.#point([copy], () => this.#box.engine.restartSessions([copy.id]));
    return this.#end(command, copy.id);
  }

  #pair(): { source: Volume; destination: Volume } {
    const source = this.#chance.pick(this.#contents.volumes);
    const destination = this.#chance.pick(this.#contents.volumes);
    return source !== destination && source.blockCount <= destination.blockCount
      ? { source, destination }
      : this.#pair();
  }

  #start(pairs: readonly { source: Volume; destination: Volume }[], kind: Kind): Promise<void> {
    const pace = this.#chance.happens(0.5) ? 15 : 1 + this.#chance.below(15);
    const requests = pairs.map(({ source, destination }) => ({
      ...{ id: `c${++this.#lastCopy}`, kind, pace },
      ...{ source: extentOf(source), destination: extentOf(destination) },
    }));
    return this.#point(pairs, () => this.#box.engine.startSessions(requests));
  }

  async #point(
    pairs: readonly { source: Volume; destination: Volume }[],
    fire: () => Promise<Parameters<typeof factsOf>[0][]>,
  ): Promise<void> {
    await this.#look();
    const point = new Point(this.#contents, pairs);
    this.#note({ type: "point-asked", point });
    let copies: CopyFacts[];
    try {
      copies = (await fire()).map(factsOf);
    } catch (error) {
      point.forget();
      this.#note({ type: "point-refused", point });
      return this.#requireRefusal(error);
    }
    point.close();
    this.#note({ type: "point-fired", point, copies });
    for (const { destination } of point.pairs) this.#held.add(destination);
    recordPoint(this.#book, point, copies, "a point");
    while (point.pairs.some(({ destination }) => destination.underWay.size > 0)) await sleep(1);
    await point.settle((volume, block) => this.#box.readBlocks(volume, block, 1));
    this.#held.clear();
  }

  async #end(type: End["type"], id: string): Promise<void> {
    await this.#look();
    const copy = this.#book.find(id);
    if (copy === undefined) return;
    const end: End = { type, id, outcome: undefined };
    this.#note({ type: "end-asked", end });
    try {
      if (type === "cancel")
        end.outcome = { usable: (await this.#box.engine.cancelSession(id)).destinationUsable, lives: false };
      else end.outcome = { usable: true, lives: (await this.#box.engine.stopTracking(id)).phase === "copying" };
    } catch (error) {
      this.#requireRefusal(error);
    }
    this.#note({ type: "end-answered", end });
    if (end.outcome === undefined) return;
    if (end.outcome.lives) copyStopsTracking(copy);
    else this.#book.copies.delete(id);
    if (!end.outcome.usable) await this.#adopt(copy.destination);
  }

  async #adopt(volume: Volume): Promise<void> {
    this.#held.add(volume);
    while (volume.underWay.size > 0) await sleep(1);
    const pieces: Buffer[] = [];
    for (let at = 0; at < volume.blockCount; at += BLOCKS_PER_MIB)
      pieces.push(await this.#box.readBlocks(volume, at, Math.min(BLOCKS_PER_MIB, volume.blockCount - at)));
    adopt(volume, Buffer.concat(pieces));
    this.#held.clear();
  }

  async #look(): Promise<void> {
    const listing = await this.#box.list();
    reconcile(this.#book, listing);
    this.#note({ type: "listed", ...listing });
  }

  #requireRefusal(error: unknown): void {
    if (!(error instanceof TidemarkError) || !REFUSALS.has(error.code)) throw error;
    this.#tally.refused++;
    this.#tally.count(this.#tally.refusals, error.code);
  }
}

function filled(volume: Volume, contents: Contents, chance: Chance): Buffer {
  const bytes = Buffer.alloc(volume.sizeBytes);
  for (let left = FILLED_BLOCKS; left > 0; left -= 10) {
    const firstBlock = chance.below(volume.blockCount - 10);
    const number = contents.nextWrite();
    stamped(number, firstBlock, 10).copy(bytes, firstBlock * BLOCK_BYTES);
    volume.current.fill(number, firstBlock, firstBlock + 10);
  }
  return bytes;
}
