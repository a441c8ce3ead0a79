/**
 * Power losses: a run of the production engine on real files is recorded at its ports; at many instants of it the disks are
 * made anew as a power loss might have left them, an engine is started on them, and everything promised is checked.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { copiesOfPoint } from "../after-kill.ts";
import { Chance } from "../chance.ts";
import type { Volume } from "../contents.ts";
import type { CopyFacts } from "../copy-book.ts";
import { reconcile, recordPoint } from "../operator.ts";
import { require, Tally } from "../violations.ts";
import { DiskLog } from "./disk-log.ts";
import { type DiskImage, DiskReplay, layDown } from "./disk-replay.ts";
import { Expectation } from "./expectation.ts";
import type { HostEvent } from "./host-events.ts";
import { LocalBox } from "./local-box.ts";
import { type Recording, record } from "./recording.ts";

export interface PowerRunOptions {
  /** Instants at which the power fails. */
  readonly points: number;
  readonly seed: number;
  /** Empty and ours; stays when a violation is thrown. */
  readonly directory: string;
  readonly progress: (tally: PowerTally) => void;
}

export class PowerTally extends Tally {
  losses = 0;
  /** ... of these while the engine was recovering from another one. */
  lossesWhileRecovering = 0;
  logEntries = 0;
}

const LOSSES_PER_RECORDING = 150;
const RECORDING_MS = 2500;
const AGAIN_WHILE_RECOVERING = 0.25;
const NEAR_COMMAND = 0.5;
const NEAR_ENTRIES = 24;
const DECIDING: readonly HostEvent["type"][] = ["point-fired", "end-answered", "stopped"];
const READ_AT_ONCE = 0.5;
const PIECE_BLOCKS = 256;

export async function runPowerLosses(options: PowerRunOptions): Promise<PowerTally> {
  const tally = new PowerTally();
  const chance = new Chance(options.seed);
  while (tally.losses < options.points) {
    const directory = join(options.directory, "recorded");
    await mkdir(directory);
    const recording = await record({ directory, chance, tally, durationMs: RECORDING_MS });
    await rm(directory, { recursive: true });
    tally.logEntries += recording.log.entries.length;
    const count = Math.min(LOSSES_PER_RECORDING, options.points - tally.losses);
    await new Losses(options, recording, tally, chance).run(count);
  }
  return tally;
}

class Losses {
  readonly #options: PowerRunOptions;
  readonly #recording: Recording;
  readonly #tally: PowerTally;
  readonly #chance: Chance;

  constructor(options: PowerRunOptions, recording: Recording, tally: PowerTally, chance: Chance) {
    this.#options = options;
    this.#recording = recording;
    this.#tally = tally;
    this.#chance = chance;
  }

  async run(count: number): Promise<void> {
    const { log, initial } = this.#recording;
    const places = Array.from({ length: count }, () => this.#place()).sort((a, b) => a - b);
    const replay = new DiskReplay(initial);
    for (const place of places) {
      replay.advance(log, place);
      await this.#lose(replay.crash(this.#chance), place);
      this.#tally.losses++;
      this.#options.progress(this.#tally);
    }
  }

  /** Anywhere, and often where a command was under way: there is most to be decided. */
  #place(): number {
    const { log, events } = this.#recording;
    const commands = events.filter(({ event }) => DECIDING.includes(event.type));
    if (commands.length === 0 || !this.#chance.happens(NEAR_COMMAND)) return this.#chance.below(log.entries.length + 1);
    const { at } = this.#chance.pick(commands);
    return Math.min(log.entries.length, Math.max(0, at - this.#chance.below(NEAR_ENTRIES)));
  }

  /** The power has failed after `place` entries and left this. */
  async #lose(image: DiskImage, place: number): Promise<void> {
    const directory = join(this.#options.directory, `loss-${place}`);
    const left = this.#chance.happens(AGAIN_WHILE_RECOVERING) ? await this.#loseAgain(image, directory) : image;
    await layDown(left, directory);
    const expectation = this.#expected(place);
    const box = await LocalBox.start(directory, this.#recording.volumes, left.stamps);
    try {
      await this.#check(box, expectation);
    } finally {
      await box.stop();
    }
    await rm(directory, { recursive: true });
  }

  /** The engine starts on it, and the power fails again somewhere on its way. */
  async #loseAgain(image: DiskImage, directory: string): Promise<DiskImage> {
    await layDown(image, directory);
    const replay = new DiskReplay(image);
    const log = new DiskLog(replay.start);
    const box = await LocalBox.start(directory, this.#recording.volumes, log);
    await box.settle();
    log.stop();
    await box.stop();
    await rm(directory, { recursive: true });
    replay.advance(log, this.#chance.below(log.entries.length + 1));
    this.#tally.lossesWhileRecovering++;
    return replay.crash(this.#chance);
  }

  #expected(place: number): Expectation {
    const { volumes, initialWrites, events } = this.#recording;
    const expectation = new Expectation(volumes, initialWrites, this.#tally);
    for (const event of events) {
      if (event.at > place) break;
      expectation.apply(event);
    }
    return expectation;
  }

  async #check(box: LocalBox, expectation: Expectation): Promise<void> {
    const { book } = expectation;
    const listing = await box.list();
    this.#settleOpen(expectation, listing);
    book.killed();
    reconcile(book, listing);
    require(box.troubles.length === 0, () => `the engine reports ${box.troubles.join("; ")}`);
    if (this.#chance.happens(READ_AT_ONCE)) await this.#checkVolumes(box, expectation, "the engine");
    await box.allCopied();
    reconcile(book, await box.list());
    await this.#checkVolumes(box, expectation, "the engine, all copied");
    await this.#runAgain(box, expectation);
  }

  #settleOpen(expectation: Expectation, listing: { live: readonly CopyFacts[]; ended: readonly CopyFacts[] }): void {
    const { book, openPoint: open, openEnd } = expectation;
    const copies = open === undefined ? undefined : copiesOfPoint(book, open.point, listing);
    if (open !== undefined && copies === undefined) this.#tally.pointsKilledNot++;
    else if (open !== undefined && copies !== undefined) {
      this.#tally.pointsKilledHappened++;
      recordPoint(book, open.point, copies, "the point under way");
      expectation.pointHappened(open.point);
    }
    if (openEnd === undefined) return;
    const now = listing.live.find(({ id }) => id === openEnd.id);
    const copy = book.find(openEnd.id);
    if (now === undefined || (copy?.tracking === true && !now.tracking)) expectation.endHappened(openEnd);
  }

  async #checkVolumes(box: LocalBox, expectation: Expectation, door: string): Promise<void> {
    for (const volume of this.#recording.volumes) {
      if (!expectation.knows(volume)) continue;
      await eachPiece(volume, async (firstBlock, count) =>
        expectation.check(volume, await box.readBlocks(volume, firstBlock, count), firstBlock, door),
      );
      this.#tally.copiesChecked += expectation.book.of(volume).filter((copy) => copy.destination === volume).length;
    }
  }

  /** Every copy that tracks copies a difference, and then its destination is its source, byte by byte. */
  async #runAgain(box: LocalBox, { book }: Expectation): Promise<void> {
    for (const copy of [...book.copies.values()].filter(({ tracking }) => tracking)) {
      const { most } = book.expect(copy.source, copy.destination, "quickopc");
      const facts = await box.restart(copy.id);
      require(["DIFFERENCE", "MAP_WIDENED"].includes(facts.reason), () =>
        `${copy.id} run again after the loss: ${facts.reason}`);
      require(facts.plannedGranules <= most.count, () =>
        `${copy.id} run again copies ${facts.plannedGranules} granules, at most ${most.count} can differ`);
      // What arrived at the destination has changed for those who track it.
      for (const other of book.of(copy.destination)) if (other.tracking && other !== copy) other.changed.addAll(most);
      this.#tally.restarts++;
      if (facts.reason === "MAP_WIDENED") this.#tally.widened++;
      await box.allCopied();
      await eachPiece(copy.source, async (firstBlock, count) => {
        const from = await box.readBlocks(copy.source, firstBlock, count);
        const to = await box.readBlocks(copy.destination, firstBlock, count);
        const same = from.equals(to);
        require(same, () =>
          `${copy.id} run again: blocks from ${firstBlock} on differ between ${copy.source.label} and ${copy.destination.label}`);
        this.#tally.bytesVerified += from.length;
      });
    }
  }
}

async function eachPiece(volume: Volume, visit: (firstBlock: number, count: number) => Promise<void>): Promise<void> {
  for (let at = 0; at < volume.blockCount; at += PIECE_BLOCKS)
    await visit(at, Math.min(PIECE_BLOCKS, volume.blockCount - at));
}
