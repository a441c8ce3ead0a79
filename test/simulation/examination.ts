/**
 * Looks at a box: after each start, whenever a step asks for it, and at the end.
 *
 * Role: compares the sessions that are there with those that must be, the disks with the oracle, the maps with what differs,
 * the state directory with both.
 */
import type { SessionStatus } from "../../src/engine/engine-api.ts";
import { uidOf } from "./box.ts";
import type { Operator } from "./operator.ts";
import { type OracleSession, SECTORS_A_GRANULE, type SessionFacts } from "./oracle.ts";
import { factsOf, SECTOR_BYTES, type Stage } from "./stage.ts";

const GRANULE_BYTES = SECTORS_A_GRANULE * SECTOR_BYTES;

export class Examination {
  readonly #stage: Stage;
  readonly #operator: Operator;

  constructor(stage: Stage, operator: Operator) {
    this.#stage = stage;
    this.#operator = operator;
  }

  /** A process has started: what was answered must be there, what was asked may be. */
  started(statuses: readonly SessionStatus[]): void {
    const { oracle } = this.#stage;
    const found = new Map(statuses.map((status) => [status.id, factsOf(status)]));
    this.#pointOfBefore(found);
    for (const known of [...oracle.sessions.values()]) {
      const facts = found.get(known.id);
      if (!facts) this.#gone(known);
      else if (facts.generation !== known.generation)
        this.#stage.report(42, `${known.id} is at point ${facts.generation}, and ${known.generation} was the last`);
      else this.#stillThere(known, facts);
    }
    for (const id of found.keys())
      if (!oracle.sessions.has(id)) this.#stage.report(11, `${id} is there and nobody started it`);
    this.#operator.reconciled();
    this.lookAtDisks();
    for (const status of statuses) this.maps(status);
  }

  /** The point that was asked for when the process ended has happened for all its members or for none. */
  #pointOfBefore(found: ReadonlyMap<string, SessionFacts>): void {
    const { asked } = this.#operator;
    if (!asked) return;
    const { sessions } = this.#stage.oracle;
    const fired = asked.point.members.map(({ source, destination }) =>
      [...found.values()].find((facts) => {
        const same = sameStart(facts.source, source) && sameStart(facts.destination, destination);
        const known = sessions.get(facts.id);
        return same && (known ? facts.generation === known.generation + 1 : asked.newIds.includes(facts.id));
      }),
    );
    const happened = fired.filter((facts) => facts !== undefined);
    if (happened.length === fired.length) this.#stage.oracle.pointFired(asked.point, happened);
    else if (happened.length > 0 && this.#operator.ending.size === 0)
      this.#stage.report(42, `of a point only ${happened.map(({ id }) => id).join(", ")} happened`);
  }

  #gone(known: OracleSession): void {
    const { oracle } = this.#stage;
    const asked = this.#operator.ending.has(known.id) || this.#operator.untracking.has(known.id);
    if (asked || known.phase === "failed") {
      if (!asked) this.#stage.report(11, `${known.id} had failed and is gone`);
      this.#operator.end(known, false);
      return;
    }
    // A plain copy may have come to its end; then everything is at its destination.
    if (known.tracking) this.#stage.report(11, `${known.id} is gone and nobody ended it`);
    oracle.sessions.delete(known.id);
    const disk = this.#stage.box.disks[known.destination.volume];
    const extent = { ...known.destination, count: known.source.count };
    if (disk) for (const part of this.#operator.selfContained(extent)) oracle.lookAtDisk(part, disk.content, 14);
  }

  #stillThere(known: OracleSession, facts: SessionFacts): void {
    const { oracle } = this.#stage;
    const paces = [known.pace, ...(this.#operator.pacing.get(known.id) ?? [])];
    if (!paces.includes(facts.pace)) this.#stage.report(10, `${known.id} has pace ${facts.pace}, not ${known.pace}`);
    if (known.tracking && !facts.tracking && facts.phase !== "failed" && !this.#operator.untracking.has(known.id))
      this.#stage.report(10, `${known.id} has stopped tracking`);
    if (!known.tracking && facts.tracking) this.#stage.report(10, `${known.id} tracks again`);
    oracle.told(facts);
  }

  /** Where no session owes anything the disks hold what the volumes must read as. */
  lookAtDisks(): void {
    const { box, oracle, world } = this.#stage;
    world.volumes.forEach((count, volume) => {
      const disk = box.disks[volume];
      if (!disk?.present) return;
      for (const part of this.#operator.selfContained({ volume, first: 0, count }))
        oracle.lookAtDisk(part, disk.content, undefined);
    });
  }

  /** The maps of one session, at this moment. */
  maps(status: SessionStatus): void {
    const { oracle, box } = this.#stage;
    const known = oracle.sessions.get(status.id);
    if (!status.tracking || status.phase === "failed" || known?.generation !== status.generation) return;
    const changed = (side: "source" | "destination") => {
      const extent = status[side];
      const volume = box.disks.findIndex(({ name }) => name === extent.volumeUid);
      if (!box.disks[volume]?.present) return undefined;
      const granules = new Set<number>();
      const epoch = side === "source" ? status.sourceEpoch : status.destinationEpoch;
      const target = box.engine.target({ ...extent, lengthBytes: status.source.lengthBytes }, "read-only");
      for (const run of target.changed(epoch, 0, status.source.lengthBytes, 100_000))
        for (let at = run.offsetBytes; at < run.offsetBytes + run.lengthBytes; at += GRANULE_BYTES)
          granules.add(Math.floor(at / GRANULE_BYTES));
      return granules;
    };
    oracle.checkMaps(status.id, { source: changed("source"), destination: changed("destination") });
  }

  async allMaps(): Promise<void> {
    for (const status of await this.#stage.box.engine.sessions()) this.maps(status);
  }

  /** After a clean stop: a directory for each session and tracked volume, and nothing that is left over. */
  async stateDirectory(): Promise<void> {
    const { box, oracle, world } = this.#stage;
    const files = box.stateFiles;
    const sessions = await files.list("sessions");
    const wanted = [...oracle.sessions.keys()].sort();
    if (sessions.join() !== wanted.join())
      this.#stage.report(11, `session directories ${sessions.join()}, sessions ${wanted.join()}`);
    const points = (await files.list("")).filter((name) => name.startsWith("points-"));
    if (points.length !== 1) this.#stage.report(11, `points logs: ${points.join()}`);
    const uids = world.volumes.map((_, volume) => uidOf(volume));
    for (const directory of [...(await files.list("volumes")), ...sessions]) {
      const parent = directory.startsWith("v") ? "volumes" : "sessions";
      if (parent === "volumes" && !uids.includes(directory)) this.#stage.report(11, `directory of ${directory}`);
      for (const name of await files.list(`${parent}/${directory}`))
        if (name.endsWith(".new")) this.#stage.report(11, `${parent}/${directory}/${name} is left over`);
    }
  }
}

function sameStart(one: { volume: number; first: number }, other: { volume: number; first: number }): boolean {
  return one.volume === other.volume && one.first === other.first;
}
