/**
 * What all parts of a running history share: the box, the oracle, the calls under way, and the first violation.
 */
import type { ExtentRef, SessionStatus } from "../../src/engine/engine-api.ts";
import type { Core } from "../../src/engine/map/core.ts";
import { Box } from "./box.ts";
import { Chance } from "./chance.ts";
import type { Extent, SessionFacts } from "./facts.ts";
import type { InvariantNumber } from "./invariants.ts";
import { Judge } from "./judge.ts";
import { Oracle } from "./oracle.ts";
import { settle } from "./scheduler.ts";
import { seedOf, type World } from "./world.ts";

export const SECTOR_BYTES = 512;

export interface Violation {
  readonly invariant: InvariantNumber;
  readonly message: string;
}

export interface Call {
  readonly what: string;
  /** A point may be asked for only when none is under way. */
  readonly isPoint: boolean;
}

export class Stage {
  readonly world: World;
  readonly chance: Chance;
  readonly box: Box;
  readonly oracle: Oracle;
  readonly judge = new Judge();
  readonly calls = new Set<Call>();
  /** Volumes that are being taken out of the box or into it: hosts keep away from them. */
  readonly moving = new Set<number>();
  violation: Violation | undefined;
  /** The faults have stopped: from now on everything has to work. */
  faultsOver = false;
  readonly counts = { crashes: 0, recoveryCrashes: 0, starts: 0, points: 0, refusals: 0, failures: 0 };

  constructor(world: World, core: Core) {
    this.world = world;
    this.chance = new Chance(seedOf(world.seed, 2));
    this.oracle = new Oracle(world.volumes, (invariant, message) => this.report(invariant, message));
    this.box = new Box(world, core, this.chance);
    for (const disk of this.box.disks)
      disk.onTorn = (sector) => this.report(3, `sector ${sector} of ${disk.name} was written torn`);
  }

  /** The first violation counts: what follows may follow from it. */
  report(invariant: InvariantNumber, message: string): void {
    this.violation ??= { invariant, message };
  }

  /** Calls the engine and hears its answer, unless the process ends first. */
  launch<T>(
    what: string,
    call: () => Promise<T>,
    hear: { answered: (value: T) => void; failed: (error: unknown) => void },
    isPoint = false,
  ): void {
    const { life } = this.box;
    const entry: Call = { what, isPoint };
    this.calls.add(entry);
    const begun = async () => call();
    begun().then(
      (value) => {
        if (life !== this.box.life) return;
        this.calls.delete(entry);
        hear.answered(value);
      },
      (error: unknown) => {
        if (life !== this.box.life) return;
        this.calls.delete(entry);
        const objection = this.judge.objection(what, error);
        if (objection !== undefined) this.report(12, objection);
        hear.failed(error);
      },
    );
  }

  /** Fires so many turns, or fewer when nothing is left. */
  async pump(turns: number): Promise<void> {
    await settle();
    for (let left = turns; left > 0 && !this.violation && !this.box.lost; left--) {
      if (!this.box.scheduler.fire()) return;
      await settle();
    }
  }

  /** Fires turns until `done`; false when it is not done after so many, or when nothing is left to fire. */
  async pumpUntil(done: () => boolean, turnsMax: number): Promise<boolean> {
    await settle();
    for (let left = turnsMax; left > 0; left--) {
      if (done()) return true;
      if (this.violation || this.box.lost || !this.box.scheduler.fire()) return done();
      await settle();
    }
    return done();
  }

  /** Of a volume that is in the box. */
  extentRef({ volume, first, count }: Extent): ExtentRef {
    const uid = this.box.uids[volume];
    if (uid === undefined) throw new Error(`volume ${volume} is not in the box`);
    return { volumeUid: uid, name: uid, offsetBytes: first * SECTOR_BYTES, lengthBytes: count * SECTOR_BYTES };
  }

  /** Hosts find the volume, and it stays. */
  isIn(volume: number): boolean {
    return this.box.uids[volume] !== undefined && !this.moving.has(volume);
  }

  wholeRef(volume: number): ExtentRef {
    return this.extentRef({ volume, first: 0, count: this.world.volumes[volume] as number });
  }

  sessionIds(): string[] {
    return [...this.oracle.sessions.keys()];
  }

  extentOf({ volumeUid, offsetBytes, lengthBytes }: ExtentRef): Extent {
    const volume = this.box.volumeOf(volumeUid);
    return { volume, first: offsetBytes / SECTOR_BYTES, count: lengthBytes / SECTOR_BYTES };
  }

  factsOf(status: SessionStatus): SessionFacts {
    const { id, kind, phase, tracking, pace, generation, reason, plannedGranules } = status;
    const [source, destination] = [this.extentOf(status.source), this.extentOf(status.destination)];
    return { id, kind, phase, tracking, pace, generation, reason, plannedGranules, source, destination };
  }
}
