/**
 * Histories: what a box lived through before its state directory is damaged, made by the production engine from a seed,
 * with a model of what must be true afterwards.
 *
 * Volumes a, b, c and d are copied a→b (QuickOPC), a→c (OPC or QuickOPC), b→d (a cascade); hosts write whole granules, copies
 * advance by steps, boxes are stopped and started. The model knows the content of every volume, granule by granule.
 */
import { asTidemarkError } from "../../src/base/errors.ts";
import { GRANULE_SIZE_BYTES, MiB } from "../../src/base/units.ts";
import { MemoryDevice } from "../../src/engine/device/memory-device.ts";
import { memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import type { CopyKind } from "../../src/engine/engine-api.ts";
import { Chance } from "./chance.ts";
import { type Content, type DiskImage, granuleOf, imageOf, keptOpen } from "./stamped-disk.ts";
import { StateBox, type StateImage, settle } from "./state-box.ts";

export const VOLUMES = ["a", "b", "c", "d"] as const;
export type VolumeName = (typeof VOLUMES)[number];
const SIZES = [3 * MiB, 20 * MiB, 300 * MiB];
const JOB_BYTES = [GRANULE_SIZE_BYTES, 8 * GRANULE_SIZE_BYTES];
const PLACES = 40;

/**
 * How the box ended: stopped in order; or killed, a few writes to its state after its last answer, with everything stored.
 */
export type Ending = "stopped" | "killed";

export interface KnownSession {
  readonly id: string;
  readonly source: VolumeName;
  readonly destination: VolumeName;
  readonly tracking: boolean;
}

/** A box at its end, and what is true of it. */
export interface Snapshot {
  readonly ending: Ending;
  readonly files: StateImage;
  /** Earlier contents of files that are still there, oldest first. */
  readonly earlier: ReadonlyMap<string, readonly Buffer[]>;
  readonly disks: ReadonlyMap<string, DiskImage>;
  /** What every volume must read as. */
  readonly content: ReadonlyMap<string, Content>;
  readonly sessions: readonly KnownSession[];
  /** Granules that were ever written: all others are zero everywhere. */
  readonly places: readonly number[];
}

const ACTIONS = { write: 45, step: 20, restart: 12, start: 14, reboot: 6, stopTracking: 3 };
type Action = keyof typeof ACTIONS;

const made = new Map<string, Promise<Snapshot>>();

/** The snapshot of a history; the same for the same arguments. */
export function snapshotOf(seed: number, ending: Ending): Promise<Snapshot> {
  const key = `${seed} ${ending}`;
  let snapshot = made.get(key);
  if (snapshot === undefined) {
    snapshot = new History(seed).live(ending);
    made.set(key, snapshot);
  }
  return snapshot;
}

class History {
  readonly #chance: Chance;
  readonly #box: StateBox;
  readonly #content = new Map<string, Map<number, number>>();
  readonly #earlier = new Map<string, Buffer[]>();
  readonly #places: readonly number[];
  #stamp = 0;
  #nextId = 1;

  constructor(seed: number) {
    const chance = new Chance(seed + 1);
    this.#chance = chance;
    const sizeBytes = chance.pick(SIZES);
    const count = sizeBytes / GRANULE_SIZE_BYTES;
    const places = Array.from({ length: PLACES }, () => chance.below(count));
    this.#places = [...new Set([...places, 0, 1, count - 1])].sort((a, b) => a - b);
    const disks = VOLUMES.map((uid) => {
      const memory = new MemoryDevice(sizeBytes);
      return [uid, { memory, device: keptOpen(memory) }] as const;
    });
    for (const uid of VOLUMES) this.#content.set(uid, new Map());
    this.#box = new StateBox(memoryStateFiles(), new Map(disks), chance.pick(JOB_BYTES));
  }

  async live(ending: Ending): Promise<Snapshot> {
    const chance = this.#chance;
    await this.#box.boot();
    for (const uid of VOLUMES) for (const place of this.#places) if (chance.odds(40)) await this.#write(uid, place);
    await this.#start("a", "b", "quickopc");
    for (let left = chance.between(6, 24); left > 0; left--) {
      await this.#act();
      await settle();
      await this.#remember();
    }
    await this.#act(chance.odds(60) ? "restart" : "start");
    const frozen = ending === "killed" ? this.#freezeAfter(chance.below(12)) : undefined;
    await settle();
    const sessions = await this.#sessions();
    if (frozen === undefined) await this.#box.stop();
    const end = { files: await this.#box.image(), disks: await this.#disks() };
    frozen?.();
    await this.#box.stop();
    return {
      ending,
      ...end,
      earlier: new Map([...this.#earlier].filter(([path]) => end.files.has(path))),
      content: this.#content,
      sessions,
      places: this.#places,
    };
  }

  /** So many more operations on state files, then they wait until the result is called. */
  #freezeAfter(count: number): () => void {
    let left = count;
    let thaw = () => {};
    const thawed = new Promise<void>((resolve) => {
      thaw = resolve;
    });
    this.#box.files.intercept = () => (left-- > 0 ? undefined : thawed);
    return () => {
      this.#box.files.intercept = undefined;
      thaw();
    };
  }

  async #act(wanted?: Action): Promise<void> {
    const chance = this.#chance;
    try {
      switch (wanted ?? chance.weighted(ACTIONS)) {
        case "write":
          for (let left = chance.between(1, 4); left > 0; left--)
            await this.#write(chance.pick(VOLUMES), chance.pick(this.#places));
          return;
        case "step":
          return await this.#box.step();
        case "restart":
          return await this.#restart();
        case "start": {
          const pairs = [
            ["a", "c"],
            ["b", "d"],
            ["a", "b"],
            ["c", "d"],
          ] as const;
          const [source, destination] = chance.pick(pairs);
          return await this.#start(source, destination, chance.pick(["opc", "quickopc"]));
        }
        case "reboot":
          await this.#box.stop();
          return await this.#box.boot();
        case "stopTracking":
          return await this.#stopTracking();
      }
    } catch (error) {
      // Refused by a rule of the product: then it has not happened.
      if (asTidemarkError(error).code === "INTERNAL") throw error;
    }
  }

  async #write(uid: string, granule: number): Promise<void> {
    const stamp = ++this.#stamp;
    await this.#box.engine.write(this.#box.extent(uid), granule * GRANULE_SIZE_BYTES, granuleOf(stamp));
    this.#contentOf(uid).set(granule, stamp);
  }

  async #start(source: string, destination: string, kind: CopyKind): Promise<void> {
    const request = { source: this.#box.extent(source), destination: this.#box.extent(destination), kind, pace: 1 };
    await this.#box.engine.startSessions([{ id: `c${this.#nextId++}`, ...request }]);
    this.#point(source, destination);
  }

  async #restart(): Promise<void> {
    const tracked = (await this.#box.engine.sessions()).filter(({ tracking, phase }) => tracking && phase !== "failed");
    const session = tracked.length === 0 ? undefined : this.#chance.pick(tracked);
    if (session === undefined) return;
    await this.#box.engine.restartSessions([session.id]);
    this.#point(session.source.volumeUid, session.destination.volumeUid);
  }

  async #stopTracking(): Promise<void> {
    const sessions = (await this.#box.engine.sessions()).filter(({ phase }) => phase === "tracking");
    if (sessions.length > 0) await this.#box.engine.stopTracking(this.#chance.pick(sessions).id);
  }

  /** From the point on the destination is what the source was. */
  #point(source: string, destination: string): void {
    this.#content.set(destination, new Map(this.#contentOf(source)));
  }

  #contentOf(uid: string): Map<number, number> {
    const content = this.#content.get(uid);
    if (content === undefined) throw new Error(`no volume ${uid}`);
    return content;
  }

  async #sessions(): Promise<KnownSession[]> {
    return (await this.#box.engine.sessions()).map((session) => ({
      id: session.id,
      source: session.source.volumeUid as VolumeName,
      destination: session.destination.volumeUid as VolumeName,
      tracking: session.tracking,
    }));
  }

  async #disks(): Promise<Map<string, DiskImage>> {
    const images = new Map<string, DiskImage>();
    for (const [uid, { memory }] of this.#box.disks) images.set(uid, await imageOf(memory, this.#places));
    return images;
  }

  async #remember(): Promise<void> {
    for (const [path, bytes] of await this.#box.image()) {
      const versions = this.#earlier.get(path) ?? [];
      if (versions.at(-1)?.equals(bytes) !== true) versions.push(bytes);
      this.#earlier.set(path, versions);
    }
  }
}
