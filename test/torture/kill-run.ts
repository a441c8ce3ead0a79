/**
 * Kills of the real daemon: hosts write, the operator copies, `kill -9` comes at some instant; then it is started again
 * and everything it has ever acknowledged is checked.
 */
import { open } from "node:fs/promises";
import { type Clients, call } from "../server/fixture.ts";
import { settleAfterKill } from "./after-kill.ts";
import { Chance } from "./chance.ts";
import { listCopies } from "./commands.ts";
import { Contents, Volume } from "./contents.ts";
import { CopyBook, type CopyFacts } from "./copy-book.ts";
import { Hosts, pieces, sleep } from "./hosts.ts";
import { imagePath, readImage } from "./images.ts";
import { KillableBox, withPatience } from "./killable-box.ts";
import { Operator, reconcile } from "./operator.ts";
import { requireRows } from "./rows.ts";
import { ScratchVolume } from "./scratch-volume.ts";
import { BLOCK_BYTES, stamped } from "./stamps.ts";
import { require, Tally, Violation } from "./violations.ts";

export interface KillRunOptions {
  readonly kills: number;
  readonly seed: number;
  /** Empty and ours; stays when a violation is thrown. */
  readonly directory: string;
  /** What stands behind `node` to run the program. */
  readonly program: readonly string[];
  readonly progress: (tally: Tally) => void;
}

const BLOCKS_PER_MIB = (1 << 20) / BLOCK_BYTES;
/** Sizes of the volumes in blocks; some end in half a granule. */
const SIZES = [
  32 * BLOCKS_PER_MIB,
  32 * BLOCKS_PER_MIB + 1,
  36 * BLOCKS_PER_MIB,
  36 * BLOCKS_PER_MIB + 3,
  40 * BLOCKS_PER_MIB,
];
const FILLED = 0.5;
const FILL_BLOCKS = 64;
const LOAD_MS_LEAST = 30;
const LOAD_MS_MOST = 500;
const AFTER_COMMAND_MS_MOST = 40;
const KILL_WHILE_STARTING = 0.15;
const ENDINGS = { kill: 0.8, stop: 0.1, "kill-stopping": 0.1 } as const;
type Ending = keyof typeof ENDINGS;
const STOPPING_MS_MOST = 400;
const READ_ALL_UNFINISHED = 0.25;
const SAMPLES = 24;
const FINISH_PATIENCE_MS = 60_000;

export async function runKills(options: KillRunOptions): Promise<Tally> {
  const run = new KillRun(options);
  try {
    await run.prepare();
    while (run.tally.kills < options.kills) {
      await run.round();
      options.progress(run.tally);
    }
    await run.finish();
    return run.tally;
  } finally {
    await run.close();
  }
}

class KillRun {
  readonly tally = new Tally();
  readonly #options: KillRunOptions;
  readonly #chance: Chance;
  readonly #box: KillableBox;
  readonly #contents: Contents;
  readonly #book: CopyBook;
  readonly #hosts: Hosts;
  readonly #scratch: ScratchVolume;
  readonly #operator: Operator;
  /** Set while a round waits for its kill. */
  #commandGiven: () => void = () => undefined;
  #startMs = 1000;

  constructor(options: KillRunOptions) {
    this.#options = options;
    this.#chance = new Chance(options.seed);
    this.#box = new KillableBox(options.directory, options.program);
    this.#contents = new Contents(SIZES.map((blockCount, index) => new Volume(index, `g1d${index + 1}`, blockCount)));
    this.#book = new CopyBook(this.tally);
    const parts = { contents: this.#contents, book: this.#book, chance: this.#chance, tally: this.tally };
    this.#hosts = new Hosts(parts);
    this.#scratch = new ScratchVolume(this.#box, this.#chance);
    this.#operator = new Operator({
      scratch: this.#scratch,
      ...parts,
      box: this.#box,
      hosts: this.#hosts,
      onCommand: () => this.#commandGiven(),
    });
  }

  async prepare(): Promise<void> {
    for (const volume of this.#contents.volumes) await this.#fill(volume);
    this.#box.spawn();
    await this.#box.serving();
    const { volumes, exports } = this.#box.clients;
    for (const volume of this.#contents.volumes) {
      await call(volumes, "registerVolume", {
        path: imagePath(this.#box, volume),
        lu: volume.index + 1,
        label: "",
        requestId: "",
      });
      await call(exports, "addExport", { name: volume.label, readOnly: false, requestId: "" });
    }
    await this.#hosts.connect(this.#box.nbdSocket);
  }

  /** Half of it written, half of it holes. */
  async #fill(volume: Volume): Promise<void> {
    const file = await open(imagePath(this.#box, volume), "wx");
    await file.truncate(volume.sizeBytes);
    for (let block = 0; block < volume.blockCount; block += FILL_BLOCKS) {
      if (!this.#chance.happens(FILLED)) continue;
      const count = Math.min(FILL_BLOCKS, volume.blockCount - block);
      const number = this.#contents.nextWrite();
      await file.write(stamped(number, block, count), 0, count * BLOCK_BYTES, block * BLOCK_BYTES);
      volume.current.fill(number, block, block + count);
    }
    await file.close();
  }

  /** The box serves and is connected; load, the end, a new start, checks. */
  async round(): Promise<void> {
    const ending = this.#chance.weighted(ENDINGS);
    this.#hosts.start();
    const operating = this.#operator.run();
    operating.catch(() => undefined); // looked at below
    await Promise.race([this.#momentOfTheEnd(), operating]);
    this.#operator.stop();
    if (ending !== "kill" && this.#chance.happens(0.5)) await operating;
    this.#hosts.expectTheEnd();
    await this.#end(ending);
    await this.#hosts.stop();
    this.#hosts.disconnect();
    await withPatience(operating, "the last command");
    if (ending === "stop") this.#hosts.moveOn();
    await this.#startAgain();
    await this.#check(ending);
  }

  async #end(ending: Ending): Promise<void> {
    const { tally } = this;
    if (ending === "stop") {
      await this.#box.stop();
      tally.cleanStops++;
      return;
    }
    if (ending === "kill-stopping") {
      this.#box.askToStop();
      await sleep(this.#chance.between(0, STOPPING_MS_MOST));
    }
    const how = await this.#box.kill();
    const stopped = ending === "kill-stopping" && how === "exit code 0";
    require(how === "SIGKILL" || stopped, () => `the daemon ended by itself: ${how}`);
    tally.kills++;
    if (ending === "kill-stopping") tally.killsWhileStopping++;
  }

  /** Some time, or some instant right after a command was sent. */
  async #momentOfTheEnd(): Promise<void> {
    const loadMs = this.#chance.between(LOAD_MS_LEAST, LOAD_MS_MOST);
    if (this.#chance.happens(0.5)) return sleep(loadMs);
    await sleep(loadMs / 2);
    const given = new Promise<void>((resolve) => {
      this.#commandGiven = resolve;
    });
    await Promise.race([given, sleep(loadMs)]);
    this.#commandGiven = () => undefined;
    await sleep(this.#chance.between(0, AFTER_COMMAND_MS_MOST));
  }

  async #startAgain(): Promise<void> {
    const { tally } = this;
    while (tally.kills < this.#options.kills && this.#chance.happens(KILL_WHILE_STARTING)) {
      this.#box.spawn();
      await sleep(this.#chance.between(0.2, 1.1) * this.#startMs);
      const how = await this.#box.kill();
      require(how === "SIGKILL", () => `the daemon ended while it started: ${how}`);
      tally.kills++;
      tally.killsWhileStarting++;
    }
    const begin = performance.now();
    this.#box.spawn();
    try {
      await this.#box.serving();
    } catch (error) {
      throw new Violation(
        `the daemon does not start after a kill: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
    this.#startMs = performance.now() - begin;
    await this.#hosts.connect(this.#box.nbdSocket);
  }

  async #check(ending: Ending): Promise<void> {
    const { clients } = this.#box;
    const listing = await listCopies(clients);
    const parts = { box: this.#box, contents: this.#contents, book: this.#book, hosts: this.#hosts, tally: this.tally };
    await settleAfterKill(parts, this.#operator.open, listing);
    this.#operator.open = undefined;
    if (ending === "stop") this.#book.stoppedCleanly();
    else this.#book.killed();
    reconcile(this.#book, await listCopies(clients));
    await requireRows(clients, { contents: this.#contents, book: this.#book, scratch: this.#scratch });
    await this.#checkContents();
  }

  /** Finished volumes on the disk itself; the others through NBD, mostly in samples, or all would be copied at once. */
  async #checkContents(): Promise<void> {
    const listing = await listCopies(this.#box.clients);
    const { live } = listing;
    reconcile(this.#book, listing); // plain copies may have completed since
    for (const volume of this.#contents.volumes) {
      const entering = live.filter(({ destination }) => destination === volume.label);
      const unfinished = entering.some(({ phase }) => phase === "copying");
      if (!unfinished) this.#checkBytes(volume, await readImage(this.#box, volume), 0, "the image");
      else if (this.#chance.happens(READ_ALL_UNFINISHED)) await this.#readAll(volume);
      else await this.#readSamples(volume);
      if (entering.length > 0) this.tally.copiesChecked++;
    }
  }

  #checkBytes(volume: Volume, bytes: Buffer, firstBlock: number, door: string): void {
    volume.check(bytes, firstBlock, door);
    this.tally.bytesVerified += bytes.length;
  }

  async #readAll(volume: Volume): Promise<void> {
    for (const { firstBlock, count } of pieces(volume.blockCount))
      this.#checkBytes(volume, await this.#hosts.readBlocks(volume, firstBlock, count), firstBlock, "NBD");
  }

  async #readSamples(volume: Volume): Promise<void> {
    for (let sample = 0; sample < SAMPLES; sample++) {
      const count = 1 + this.#chance.below(4);
      const firstBlock = this.#chance.below(volume.blockCount - count);
      this.#checkBytes(volume, await this.#hosts.readBlocks(volume, firstBlock, count), firstBlock, "NBD");
    }
  }

  /** At the end everything is copied, the copies that track are run once more, and the disks hold what they must. */
  async finish(): Promise<void> {
    const { clients } = this.#box;
    await this.#allCopied(clients);
    await this.#checkContents();
    this.#hosts.disconnect();
    await this.#box.stop();
    for (const volume of this.#contents.volumes)
      this.#checkBytes(volume, await readImage(this.#box, volume), 0, "the image at the end");
  }

  async #allCopied(clients: Clients): Promise<void> {
    const begin = performance.now();
    for (;;) {
      const listing = await listCopies(clients);
      reconcile(this.#book, listing);
      const copying = listing.live.filter(({ phase }: CopyFacts) => phase === "copying");
      if (copying.length === 0) return;
      require(performance.now() - begin < FINISH_PATIENCE_MS, () =>
        `${copying.map(({ id }) => id).join(", ")} do not finish`);
      for (const { id } of copying) await call(clients.copies, "setCopyPace", { id, pace: 15, requestId: "" });
      await sleep(20);
    }
  }

  async close(): Promise<void> {
    this.#hosts.expectTheEnd();
    this.#hosts.disconnect();
    await this.#box.kill();
  }
}
