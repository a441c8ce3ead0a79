/**
 * Looks at a box: after each start, whenever a step asks for it, and at the end.
 *
 * Role: compares the sessions that are there with those that must be, the disks with the oracle, the maps with what differs,
 * the state directory with both.
 */
import type { EngineFound, SessionStatus } from "../../src/engine/engine-api.ts";
import { SECTORS_A_GRANULE, type SessionFacts, type Side } from "./facts.ts";
import type { OracleSession } from "./oracle.ts";
import { SECTOR_BYTES, type Stage } from "./stage.ts";
import type { Witness } from "./witness.ts";

const GRANULE_BYTES = SECTORS_A_GRANULE * SECTOR_BYTES;

export class Examination {
  readonly #stage: Stage;
  readonly #witness: Witness;
  #online: ReadonlySet<string> = new Set();

  constructor(stage: Stage, witness: Witness) {
    this.#stage = stage;
    this.#witness = witness;
  }

  /** A process has started: what was answered must be there, what was asked may be. */
  started({ volumes, sessions, ended }: EngineFound): void {
    const { oracle } = this.#stage;
    this.#online = new Set(volumes.filter(({ online }) => online).map(({ uid }) => uid));
    const found = new Map(sessions.map((status) => [status.id, this.#stage.factsOf(status)]));
    this.#pointOfBefore(found);
    const usable = new Map(ended.map((one) => [one.session.id, one.destinationUsable]));
    for (const known of [...oracle.sessions.values()]) {
      const facts = found.get(known.id);
      if (!facts) this.#gone(known, usable.get(known.id));
      else if (this.#isDamaged(facts)) oracle.damaged(facts);
      else if (facts.generation !== known.generation)
        this.#stage.report(42, `${known.id} is at point ${facts.generation}, and ${known.generation} was the last`);
      else this.#stillThere(known, facts);
    }
    for (const [id, facts] of found)
      if (!oracle.sessions.has(id) && this.#isDamaged(facts)) oracle.damaged(facts);
      else if (!oracle.sessions.has(id)) this.#stage.report(11, `${id} is there and nobody started it`);
    // Its end could not be read, so it counts as damaged now.
    for (const [id, facts] of found) if (this.#isDamaged(facts)) this.#witness.unconfirmed.delete(id);
    this.#ends(usable.keys());
    this.#witness.reconciled();
    this.lookAtDisks();
    for (const status of sessions) this.maps(status);
  }

  /** Files that could not be read cost the session they are of; nobody relies on its destination then. */
  #isDamaged(facts: SessionFacts): boolean {
    return facts.phase === "failed" && this.#stage.judge.had("state-damage");
  }

  /** What has ended is told until somebody confirms that it is recorded. */
  #ends(ids: Iterable<string>): void {
    const { unconfirmed, confirming } = this.#witness;
    const told = new Set(ids);
    for (const id of told)
      if (!unconfirmed.has(id)) this.#stage.report(11, `${id} is told to have ended, and nobody knew of its end`);
    for (const id of unconfirmed) {
      if (told.has(id)) continue;
      const isConfirmed = confirming.has(id);
      if (!isConfirmed && this.#stage.judge.had("state-damage")) continue;
      if (!isConfirmed) this.#stage.report(11, `${id} had ended and is not told of any more`);
      unconfirmed.delete(id);
    }
  }

  /** The point that was asked for when the process ended has happened for all its members or for none. */
  #pointOfBefore(found: ReadonlyMap<string, SessionFacts>): void {
    const { asked } = this.#witness;
    if (!asked) return;
    const { sessions } = this.#stage.oracle;
    const fired = asked.point.members.map(({ source, destination }) =>
      [...found.values()].find((facts) => {
        const same = sameStart(facts.source, source) && sameStart(facts.destination, destination);
        const known = sessions.get(facts.id);
        return (
          same &&
          !this.#isDamaged(facts) &&
          (known ? facts.generation === known.generation + 1 : asked.newIds.includes(facts.id))
        );
      }),
    );
    const happened = fired.filter((facts) => facts !== undefined);
    if (happened.length > 0 && happened.length === fired.length) {
      this.#stage.oracle.pointFired(asked.point, happened);
      this.#witness.onDeed({ do: "point", sessions: happened });
    } else if (happened.length > 0 && this.#witness.ending.size === 0 && !this.#stage.judge.had("state-damage"))
      this.#stage.report(42, `of a point only ${happened.map(({ id }) => id).join(", ")} happened`);
  }

  /** A session is not there any more: it has ended, whether anybody asked for it or it was complete. */
  #gone(known: OracleSession, usable: boolean | undefined): void {
    const { oracle, box } = this.#stage;
    this.#witness.unconfirmed.add(known.id);
    if (usable === undefined) this.#stage.report(11, `${known.id} is gone and nobody knows how it ended`);
    const asked = this.#witness.ending.has(known.id) || this.#witness.untracking.has(known.id);
    if (!asked && (known.tracking || known.phase === "failed" || !usable))
      this.#stage.report(11, `${known.id} is gone and nobody ended it`);
    const disk = box.disks[known.destination.volume];
    const extent = { ...known.destination, count: known.source.count };
    if (usable && disk)
      for (const part of this.#witness.selfContained(extent, known.id)) oracle.lookAtDisk(part, disk.content, 14);
    this.#witness.end(known, usable ?? false);
  }

  #stillThere(known: OracleSession, facts: SessionFacts): void {
    const { oracle } = this.#stage;
    const paces = [known.pace, ...(this.#witness.pacing.get(known.id) ?? []).map(({ pace }) => pace)];
    if (!paces.includes(facts.pace)) this.#stage.report(10, `${known.id} has pace ${facts.pace}, not ${known.pace}`);
    if (known.tracking && !facts.tracking && facts.phase !== "failed" && !this.#witness.untracking.has(known.id))
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
      for (const part of this.#witness.selfContained({ volume, first: 0, count }))
        oracle.lookAtDisk(part, disk.content, undefined);
    });
  }

  async #lookWhatIsOnline(): Promise<void> {
    const { engine, uids } = this.#stage.box;
    const present = uids.filter((uid) => uid !== undefined);
    const statuses = await Promise.all(present.map((uid) => engine.volumeStatus(uid)));
    this.#online = new Set(statuses.filter(({ online }) => online).map(({ uid }) => uid));
  }

  /** The maps of one session, at this moment. */
  maps(status: SessionStatus): void {
    const { oracle, box } = this.#stage;
    const known = oracle.sessions.get(status.id);
    if (!status.tracking || status.phase === "failed" || known?.generation !== status.generation) return;
    const changed = (side: Side) => {
      const extent = status[side];
      if (!this.#online.has(extent.volumeUid)) return undefined;
      const granules = new Set<number>();
      const epoch = side === "source" ? status.sourceEpoch : status.destinationEpoch;
      const target = box.engine.target({ ...extent, lengthBytes: status.source.lengthBytes }, "read-only");
      for (const run of target.changed(epoch, 0, status.source.lengthBytes, 100_000))
        for (let at = run.offsetBytes; at < run.offsetBytes + run.lengthBytes; at += GRANULE_BYTES)
          granules.add(Math.floor(at / GRANULE_BYTES));
      return granules;
    };
    // A write lies in two regions at most, and has both hot however few slots there are.
    const hotRegionsMax = Math.max(2, this.#stage.world.slots);
    if (!this.#stage.judge.had("state-damage"))
      oracle.checkMaps(status.id, { source: changed("source"), destination: changed("destination") }, hotRegionsMax);
  }

  async allMaps(): Promise<void> {
    await this.#lookWhatIsOnline();
    for (const status of await this.#stage.box.engine.sessions()) this.maps(status);
  }

  /** After a clean stop: a directory for each session and tracked volume, and nothing that is left over. */
  async stateDirectory(): Promise<void> {
    const { box, oracle } = this.#stage;
    const files = box.stateFiles;
    const sessions = await files.list("sessions");
    const wanted = [...oracle.sessions.keys(), ...this.#witness.unconfirmed].sort();
    if (sessions.join() !== wanted.join())
      this.#stage.report(11, `session directories ${sessions.join()}, sessions ${wanted.join()}`);
    const points = (await files.list("")).filter((name) => /^points-\d+\.log(\.new)?$/.test(name));
    if (points.length > 1) this.#stage.report(11, `points logs: ${points.join()}`);
    const tracked = await files.list("volumes");
    const strange = tracked.filter((uid) => !box.uids.includes(uid));
    for (const directory of [
      ...tracked.map((uid) => `volumes/${uid}`),
      ...this.#stage.sessionIds().map((id) => `sessions/${id}`),
    ]) {
      const names = await files.list(directory);
      // Files of a tracking that never began are replaced when one begins.
      if (names.includes("super")) strange.push(...names.filter((name) => name.endsWith(".new")));
    }
    if (strange.length > 0) this.#stage.report(11, `left over: ${strange.join()}`);
  }
}

function sameStart(one: { volume: number; first: number }, other: { volume: number; first: number }): boolean {
  return one.volume === other.volume && one.first === other.first;
}
