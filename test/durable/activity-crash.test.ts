/**
 * Activity log under a seeded crash model: a small volume with few slots, writers, points, checkpoints, full disks, kills
 * and power losses, several lives each.
 *
 * Claim: after recovery the map of every epoch holds each granule whose data write was issued in that epoch (data may be on
 * disk from then on), and nothing beyond that but granules of hot regions.
 */
import test from "ava";
import { REGION_BITS_BYTES, REGION_GRANULES } from "../../src/engine/durable/activity-frames.ts";
import { ActivityLog, type ActivityLogOptions } from "../../src/engine/durable/activity-log.ts";
import { InjectedFailure, memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import { chanceFrom } from "./_chance.ts";

const REGIONS = 7;
const path = (number: number) => `activity-${number}.log`;

async function turns(count: number): Promise<void> {
  for (let index = 0; index < count; index++) await Promise.resolve();
}

/** Granules of the volume, one bit each. */
class Granules {
  readonly bytes: Uint8Array;
  constructor(bytes = new Uint8Array(REGIONS * REGION_BITS_BYTES)) {
    this.bytes = bytes;
  }
  add(granule: number): void {
    this.bytes[granule >> 3] = (this.bytes[granule >> 3] as number) | (1 << (granule & 7));
  }
  addRegion(region: number, bits: Uint8Array): void {
    for (let index = 0; index < REGION_BITS_BYTES; index++) {
      const at = region * REGION_BITS_BYTES + index;
      this.bytes[at] = (this.bytes[at] as number) | (bits[index] as number);
    }
  }
  region(region: number): Uint8Array {
    return this.bytes.slice(region * REGION_BITS_BYTES, (region + 1) * REGION_BITS_BYTES);
  }
  copy(): Granules {
    return new Granules(this.bytes.slice());
  }
  /** Granules here that are not in `other`. */
  without(other: Granules): number[] {
    const found: number[] = [];
    for (let granule = 0; granule < REGIONS * REGION_GRANULES; granule++) {
      const mask = 1 << (granule & 7);
      const at = granule >> 3;
      if ((this.bytes[at] as number) & mask && !((other.bytes[at] as number) & mask)) found.push(granule);
    }
    return found;
  }
}

type Maps = Map<number, Granules>;

/** What a superblock would say: durable at once. */
interface Checkpoint {
  readonly maps: Maps;
  readonly numbers: readonly number[];
}

class World {
  readonly chance: () => number;
  readonly files = memoryStateFiles();
  /** Epoch of each point, in order: the points log, durable before anything of the point is done. */
  readonly points: number[] = [1];
  /** Oracle: granules issued, by epoch. */
  readonly issued: Maps = new Map([[1, new Granules()]]);
  checkpoint: Checkpoint = { maps: new Map([[1, new Granules()]]), numbers: [1] };
  /** Logs begun since; recovery needs them too. */
  begun: number[] = [];
  maps: Maps = new Map([[1, new Granules()]]);
  hotAtStart = new Map<number, Set<number>>();
  nextNumber = 2;
  readonly options: ActivityLogOptions;
  log!: ActivityLog;
  /** Goes up when the program ends: whoever began in an earlier life does nothing more. */
  life = 0;
  gateClosed = false;
  inside = 0;
  errors: unknown[] = [];

  constructor(seed: number) {
    this.chance = chanceFrom(seed);
    this.options = {
      files: this.files,
      ownerId: "v1",
      path,
      slots: 1 + Math.floor(this.chance() * 3),
      readRegionBits: (region) => this.open.region(region),
    };
  }

  get epoch(): number {
    return this.points.at(-1) as number;
  }

  get open(): Granules {
    return this.maps.get(this.epoch) as Granules;
  }

  pick(count: number): number {
    return Math.floor(this.chance() * count);
  }

  /** A host write, as the volume does it. */
  async write(): Promise<void> {
    const { life, log } = this;
    while (this.gateClosed && this.life === life) await turns(5);
    if (this.life !== life) return;
    this.inside++;
    try {
      const first = this.pick(REGIONS * REGION_GRANULES);
      const lengths = [1, 1, 3, 40, REGION_GRANULES, 3 * REGION_GRANULES];
      const last = Math.min(first + (lengths[this.pick(lengths.length)] as number), REGIONS * REGION_GRANULES) - 1;
      const [firstRegion, lastRegion] = [Math.floor(first / REGION_GRANULES), Math.floor(last / REGION_GRANULES)];
      const issue = () => {
        for (let granule = first; granule <= last; granule++) {
          this.open.add(granule);
          (this.issued.get(this.epoch) as Granules).add(granule);
        }
      };
      if (this.chance() < 0.5 && log.isHot(firstRegion, lastRegion)) {
        issue();
        return;
      }
      while (!log.isHot(firstRegion, lastRegion)) {
        await log.activate(firstRegion, lastRegion);
        if (this.life !== life) return;
      }
      log.enter(firstRegion, lastRegion);
      if (this.chance() < 0.3) await turns(this.pick(20));
      if (this.life === life) issue();
      await turns(this.pick(40));
      log.leave(firstRegion, lastRegion);
    } finally {
      if (this.life === life) this.inside--;
    }
  }

  async point(): Promise<void> {
    if (this.gateClosed) return;
    const { life } = this;
    this.gateClosed = true;
    try {
      while (this.inside > 0 && this.life === life) await turns(3);
      if (this.life !== life) return;
      const hotBits = this.log.hotBits();
      const sealedEpoch = this.epoch;
      const openedEpoch = sealedEpoch + 1 + this.pick(3);
      this.points.push(openedEpoch);
      this.issued.set(openedEpoch, new Granules());
      this.maps.set(openedEpoch, new Granules());
      const noted = this.log.point({ sealedEpoch, openedEpoch, hotBits });
      if (this.chance() < 0.5) await noted;
      else noted.catch(() => undefined);
    } finally {
      if (this.life === life) this.gateClosed = false;
    }
  }

  async checkpointNow(): Promise<void> {
    const { life } = this;
    const number = this.nextNumber++;
    this.begun.push(number);
    try {
      await this.log.checkpoint(number);
    } catch (error) {
      if (this.life === life) this.begun = this.begun.filter((begun) => begun !== number);
      throw error;
    }
    await turns(this.pick(60));
    if (this.life !== life) return;
    // The map, taken later than the log was begun, is durable together with the log's number.
    const maps = new Map([...this.maps].map(([epoch, map]) => [epoch, map.copy()]));
    await turns(this.pick(60));
    if (this.life !== life) return;
    const old = [...this.checkpoint.numbers, ...this.begun].filter((known) => known < number);
    this.checkpoint = { maps, numbers: [number] };
    this.begun = this.begun.filter((begun) => begun > number);
    for (const gone of old) await this.files.remove(path(gone));
  }

  /** Runs until the operation at which it is stopped. */
  async live(): Promise<void> {
    let left = 3 + this.pick(50);
    const full = this.chance() < 0.25;
    const { life } = this;
    const stopped = new Promise<void>((resolve) => {
      this.files.intercept = async ({ type }) => {
        await turns(this.pick(12));
        if (this.life !== life) return new Promise<never>(() => undefined);
        if (--left <= 0) {
          this.life++;
          resolve();
          return new Promise<never>(() => undefined);
        }
        if (full && type === "write" && this.chance() < 0.3) throw new InjectedFailure("ENOSPC", this.pick(300));
      };
    });
    const repeat = async (action: () => Promise<void>, pause: number) => {
      while (this.life === life) {
        await action().catch((error) => {
          if (this.life === life && error.code !== "METADATA_WRITE_FAILED") this.errors.push(error);
        });
        await turns(1 + this.pick(pause));
      }
    };
    const writers = Array.from({ length: 1 + this.pick(5) }, () => repeat(() => this.write(), 20));
    const work = [...writers, repeat(() => this.point(), 400), repeat(() => this.checkpointNow(), 600)];
    await Promise.race([Promise.all(work), stopped]);
    await turns(100);
  }

  /** Opens what is left and returns the recovered maps and, by epoch, the regions that were widened. */
  async recover(): Promise<{ maps: Maps; widened: Map<number, Set<number>> }> {
    this.files.intercept = undefined;
    this.gateClosed = false;
    this.inside = 0;
    await this.files.syncDirectory(""); // as recovery does
    const numbers = [...this.checkpoint.numbers];
    for (const number of this.begun) if (await this.files.exists(path(number))) numbers.push(number);
    const { log, replay } = await ActivityLog.open(this.options, numbers);
    const maps = new Map([...this.checkpoint.maps].map(([epoch, map]) => [epoch, map.copy()]));
    const mapOf = (epoch: number) => {
      const map = maps.get(epoch) ?? new Granules();
      maps.set(epoch, map);
      return map;
    };
    for (const { epoch, regionBits } of replay.sealed)
      for (const [region, bits] of regionBits) mapOf(epoch).addRegion(region, bits);
    for (const [region, bits] of replay.regionBits) mapOf(replay.openEpoch).addRegion(region, bits);
    const widened = new Map<number, Set<number>>();
    // Points that the activity log has lost: no region has become hot since, so both sides are widened.
    const lost = this.points.filter((epoch) => epoch > replay.openEpoch);
    for (const epoch of [replay.openEpoch, ...lost]) {
      widened.set(epoch, replay.hotRegions);
      for (const region of replay.hotRegions)
        mapOf(epoch).addRegion(region, new Uint8Array(REGION_BITS_BYTES).fill(255));
    }
    let sealedEpoch = replay.openEpoch;
    for (const openedEpoch of lost) {
      const map = mapOf(sealedEpoch);
      await log.point({ sealedEpoch, openedEpoch, hotBits: log.hotBits((region) => map.region(region)) });
      sealedEpoch = openedEpoch;
    }
    for (const epoch of this.points) mapOf(epoch);
    this.log = log;
    this.nextNumber = Math.max(this.nextNumber, log.number + 1);
    this.begun = numbers.filter((number) => !this.checkpoint.numbers.includes(number));
    this.maps = maps;
    return { maps, widened };
  }
}

test("1,000 seeds with up to 4 lives: recovered maps hold every write of their epoch, and too much only in hot regions", async (t) => {
  const totals = { lives: 0, epochs: 0, points: 0, checkpoints: 0 };
  for (let seed = 0; seed < 1000; seed++) {
    const world = new World(seed);
    world.log = await ActivityLog.create(world.options, 1, 1);
    /** Granules that an earlier recovery has widened: in the maps for good. */
    const allowed: Maps = new Map();
    for (let lives = 1 + world.pick(4); lives > 0; lives--) {
      await world.live();
      t.deepEqual(world.errors, [], `seed ${seed}`);
      if (world.chance() < 0.3) world.files.kill(seed);
      else world.files.crash(seed * 5 + lives);
      const { maps, widened } = await world.recover();
      totals.lives++;
      for (const epoch of world.points) {
        const map = maps.get(epoch) as Granules;
        const issued = world.issued.get(epoch) as Granules;
        const lost = issued.without(map);
        if (lost.length > 0) return t.fail(`seed ${seed}: epoch ${epoch} has lost granules ${lost.slice(0, 5)}`);
        const extra = allowed.get(epoch) ?? new Granules();
        allowed.set(epoch, extra);
        for (const region of widened.get(epoch) ?? [])
          extra.addRegion(region, new Uint8Array(REGION_BITS_BYTES).fill(255));
        const tolerated = issued.copy();
        for (let region = 0; region < REGIONS; region++) tolerated.addRegion(region, extra.region(region));
        const wrong = map.without(tolerated);
        if (wrong.length > 0)
          return t.fail(`seed ${seed}: epoch ${epoch} has granules ${wrong.slice(0, 5)} for no reason`);
        totals.epochs++;
      }
      totals.points += world.points.length - 1;
      totals.checkpoints += world.checkpoint.numbers[0] === 1 ? 0 : 1;
      await world.log.sync();
    }
  }
  t.true(totals.points > 500 && totals.checkpoints > 200);
  return undefined;
});

test("500 seeds without crashes: everybody gets on, and a clean stop leaves exact maps", async (t) => {
  for (let seed = 0; seed < 500; seed++) {
    const world = new World(seed);
    world.log = await ActivityLog.create(world.options, 1, 1);
    world.files.intercept = () => turns(world.pick(10));
    const writer = async () => {
      for (let count = 10; count > 0; count--) await world.write();
    };
    const others = async () => {
      for (let count = 2; count > 0; count--) {
        await world.point();
        await world.checkpointNow();
      }
    };
    await Promise.all([writer(), writer(), writer(), writer(), others()]);
    await world.log.evictAll();
    await world.log.close();
    world.files.crash(seed);
    const { maps, widened } = await world.recover();
    for (const regions of widened.values()) t.is(regions.size, 0);
    for (const epoch of world.points) {
      const map = maps.get(epoch) as Granules;
      const issued = world.issued.get(epoch) as Granules;
      if (issued.without(map).length + map.without(issued).length > 0)
        return t.fail(`seed ${seed}: epoch ${epoch} differs`);
    }
  }
  return t.pass();
});
