/**
 * The database under a box, with a model of what a crash leaves of it: the rows are what the production store makes of them
 * (TableStore with its codecs, checksums and commit line), this is the key-value engine below.
 *
 * Model, as of LevelDB with synchronous writes (store/key-value.ts):
 *   1. A batch takes a turn; when it is answered it is durable, in whole.
 *   2. A batch under way when the process ends, by a kill or by a power loss, has happened or not.
 *   3. A batch that failed has changed nothing that anybody reads. What it has left in the log shows, in whole or not at
 *      all, when the database is opened anew, by `reopen` or by the next process.
 *   4. Without room nothing is opened, anew or at a start: opening writes.
 */
import { TidemarkError } from "../../src/base/errors.ts";
import type { KeyRange, KeyValueChange } from "../../src/store/key-value.ts";
import type { Store, TalliedStore } from "../../src/store/store.ts";
import { TableStore } from "../../src/store/table-store.ts";
import type { Chance } from "./chance.ts";
import type { Scheduler } from "./scheduler.ts";

export interface StoreFaults {
  /** No batch finds room. */
  full: boolean;
  /** The batch after so many fails. */
  failing: FailingStore | undefined;
}

export interface FailingStore {
  left: number;
  /** once: the next batch works again. lasting: no other does either. unreadable: reading fails then as well. */
  readonly how: "once" | "lasting" | "unreadable";
}

export class VirtualDatabase {
  readonly faults: StoreFaults = { full: false, failing: undefined };
  /** Told of each batch that fails. */
  onFailure: () => void = () => undefined;
  readonly #scheduler: Scheduler;
  readonly #chance: Chance;
  readonly #readTurnProbability: number;
  readonly #rows = new Map<string, Uint8Array>();
  /** Number of the process. */
  #life = 0;
  #reads = 0;
  #underWay: readonly KeyValueChange[] | undefined;
  /** Of a batch that failed: may be in the log. */
  #refused: readonly KeyValueChange[] | undefined;

  constructor(options: { scheduler: Scheduler; chance: Chance; readTurnProbability: number }) {
    this.#scheduler = options.scheduler;
    this.#chance = options.chance;
    this.#readTurnProbability = options.readTurnProbability;
  }

  /** The store of a process that begins. METADATA_WRITE_FAILED. */
  async open(): Promise<TalliedStore> {
    await this.#openAnew();
    const life = this.#life;
    // What a process still does that has ended reaches nothing any more.
    const alive = <T>(operation: () => Promise<T>): Promise<T> =>
      life === this.#life ? operation() : new Promise(() => undefined);
    return TableStore.open({
      get: (key) => alive(() => this.#get(key)),
      getMany: (keys) => alive(() => this.#getMany(keys)),
      entries: (range) => this.#entries(range),
      batch: (changes) => alive(() => this.#batch(changes)),
      reopen: () => alive(() => this.#openAnew()),
      close: async () => undefined,
    });
  }

  /** What is stored now, for whoever looks at it from outside. */
  look(): Promise<Store> {
    return TableStore.open({
      get: async (key) => this.#rows.get(key),
      getMany: async (keys) => keys.map((key) => this.#rows.get(key)),
      entries: (range) => listed(select(this.#rows, range)),
      batch: () => Promise.reject(new Error("whoever looks changes nothing")),
      reopen: async () => undefined,
      close: async () => undefined,
    });
  }

  /** No batch is under way, and nobody reads, as a commit does before its batch. */
  get idle(): boolean {
    return this.#underWay === undefined && this.#reads === 0;
  }

  processEnded(): void {
    this.#life++;
    if (this.#underWay && this.#chance.happens(0.5)) this.#apply(this.#underWay);
    this.#underWay = undefined;
    this.#reads = 0;
  }

  repair(): void {
    this.faults.full = false;
    this.faults.failing = undefined;
  }

  async #get(key: string): Promise<Uint8Array | undefined> {
    await this.#read();
    return this.#rows.get(key)?.slice();
  }

  async #getMany(keys: readonly string[]): Promise<(Uint8Array | undefined)[]> {
    await this.#read();
    return keys.map((key) => this.#rows.get(key)?.slice());
  }

  #entries(range: KeyRange): AsyncIterable<[string, Uint8Array]> {
    const found = select(this.#rows, range); // the instant of the call
    return listed(found, () => this.#read());
  }

  async #read(): Promise<void> {
    if (this.#chance.happens(this.#readTurnProbability)) {
      this.#reads++;
      await this.#scheduler.turn("store-read");
      this.#reads--;
    }
    const { failing } = this.faults;
    if (failing?.how === "unreadable" && failing.left < 0)
      throw new TidemarkError("MEDIUM_ERROR", { message: "the database cannot be read", hint: "look after the disk" });
  }

  async #batch(changes: readonly KeyValueChange[]): Promise<void> {
    if (this.#underWay || this.#refused) throw new Error("a batch comes too early");
    this.#underWay = changes;
    await this.#scheduler.turn("store-commit");
    this.#underWay = undefined;
    const failure = this.#failure();
    if (failure === undefined) return this.#apply(changes);
    this.#refused = changes;
    this.onFailure();
    throw failure;
  }

  #failure(): Error | undefined {
    if (this.faults.full) return new Error("No space left on device");
    const { failing } = this.faults;
    if (!failing || failing.left-- > 0) return undefined;
    if (failing.how === "once") this.faults.failing = undefined;
    return new Error("Input/output error");
  }

  async #openAnew(): Promise<void> {
    await this.#scheduler.turn("store-commit");
    if (this.faults.full || (this.faults.failing?.left ?? 0) < 0)
      throw new TidemarkError("METADATA_WRITE_FAILED", {
        message: "the database cannot be opened now",
        hint: "make room or look after the disk, then try again",
      });
    if (this.#refused && this.#chance.happens(0.5)) this.#apply(this.#refused);
    this.#refused = undefined;
  }

  #apply(changes: readonly KeyValueChange[]): void {
    for (const change of changes)
      if (change.type === "put") this.#rows.set(change.key, change.value.slice());
      else this.#rows.delete(change.key);
  }
}

/** Keys are ASCII: their order as text is that of their bytes. */
function select(rows: ReadonlyMap<string, Uint8Array>, range: KeyRange): [string, Uint8Array][] {
  const entries = [...rows].filter(([key]) => key > range.after && key < range.before);
  entries.sort(([a], [b]) => (a < b ? -1 : 1));
  if (range.reverse) entries.reverse();
  return entries.slice(0, range.limit).map(([key, value]) => [key, value.slice()]);
}

async function* listed(
  entries: readonly [string, Uint8Array][],
  before: () => Promise<void> = async () => undefined,
): AsyncGenerator<[string, Uint8Array]> {
  await before();
  yield* entries;
}
