/** What hosts do to the volumes: writing, zeroing, trimming, reading, flushing. Each write has stamps of its own. */
import { type Extent, granuleOf, overlaps } from "./facts.ts";
import { SECTOR_BYTES, type Stage } from "./stage.ts";
import { fillStamps, readStamps } from "./virtual-disk.ts";

export class Host {
  readonly #stage: Stage;
  #lastStamp = 0;
  /** Extents of writes under way. */
  #writing: Extent[] = [];

  constructor(stage: Stage) {
    this.#stage = stage;
  }

  get stage(): Stage {
    return this.#stage;
  }

  isWriting(extent: Extent): boolean {
    return this.#writing.some((other) => overlaps(other, extent));
  }

  get busy(): boolean {
    return this.#writing.length > 0;
  }

  processEnded(): void {
    this.#writing = [];
  }

  write(extent: Extent): void {
    const { engine } = this.#stage.box;
    const first = this.#lastStamp + 1;
    this.#lastStamp += extent.count;
    const stamps = new Int32Array(extent.count).map((_, index) => first + index);
    const bytes = new Uint8Array(extent.count * SECTOR_BYTES);
    fillStamps(bytes, stamps);
    this.#change("write", extent, { valueAt: (index) => first + index, outcome: "done" }, () =>
      engine.write(this.#stage.wholeRef(extent.volume), extent.first * SECTOR_BYTES, bytes),
    );
  }

  zero(extent: Extent): void {
    const release = this.#stage.chance.happens(0.5) ? "allow" : "keep";
    this.#change("zero", extent, { valueAt: () => 0, outcome: "done" }, () =>
      this.#target(extent.volume).zero(extent.first * SECTOR_BYTES, extent.count * SECTOR_BYTES, { release }),
    );
  }

  /** What was trimmed reads as before or as zeros. */
  trim(extent: Extent): void {
    this.#change("trim", extent, { valueAt: () => 0, outcome: "unknown" }, () =>
      this.#target(extent.volume).trim(extent.first * SECTOR_BYTES, extent.count * SECTOR_BYTES),
    );
  }

  #target(volume: number) {
    return this.#stage.box.engine.target(this.#stage.wholeRef(volume), "writable");
  }

  #change(
    what: string,
    extent: Extent,
    effect: { valueAt: (index: number) => number; outcome: "done" | "unknown" },
    call: () => Promise<void>,
  ): void {
    const { oracle } = this.#stage;
    const write = oracle.beginWrite(extent, effect.valueAt);
    this.#writing.push(extent);
    const over = (outcome: "done" | "unknown") => {
      this.#writing = this.#writing.filter((other) => other !== extent);
      oracle.endWrite(write, outcome);
    };
    this.#stage.launch(`${what} of ${describe(extent)}`, call, {
      answered: () => over(effect.outcome),
      failed: () => over("unknown"),
    });
  }

  read(extent: Extent): void {
    const { oracle, box } = this.#stage;
    const read = oracle.beginRead(extent);
    this.#stage.launch(
      `read of ${describe(extent)}`,
      () =>
        box.engine.read(this.#stage.wholeRef(extent.volume), extent.first * SECTOR_BYTES, extent.count * SECTOR_BYTES),
      {
        answered: (bytes) => oracle.endRead(read, readStamps(bytes)),
        failed: () => oracle.endRead(read, undefined),
      },
    );
  }

  flush(volume: number): void {
    const { oracle, box } = this.#stage;
    const begun = oracle.moment();
    this.#stage.launch(`flush of volume ${volume}`, () => box.engine.flush(this.#stage.wholeRef(volume).volumeUid), {
      answered: () => oracle.endFlush(volume, begun),
      failed: () => undefined,
    });
  }
}

function describe({ volume, first, count }: Extent): string {
  return `volume ${volume} sectors ${first}+${count} (granule ${granuleOf(first)})`;
}
