/**
 * Starts the engine on a state directory and looks whether what it makes of it is true.
 *
 * Rules (data-safety 1.8, 1.10; issue "bad input"): damage is refused or repaired with a typed error that says which file; the
 * content of every volume whose copies were not given up is exact, now, when its copies have ended, and after the next
 * difference. A copy that is given up must say so.
 */
import { TidemarkError } from "../../src/base/errors.ts";
import { GRANULE_SIZE_BYTES, MiB } from "../../src/base/units.ts";
import type { SessionStatus } from "../../src/engine/engine-api.ts";
import type { Violation } from "./door.ts";
import type { KnownSession, Snapshot } from "./history.ts";
import { diskFrom, stampOf } from "./stamped-disk.ts";
import { filesFrom, StateBox, type StateImage } from "./state-box.ts";

/** What the engine made of it. `quiet`: nothing was said and nothing differs from what it would be without damage. */
export type Outcome = "refused" | "told" | "quiet";

export interface Judgement {
  readonly outcome: Outcome;
  readonly violations: readonly Violation[];
}

/** How much is asked: `truth` of everything, or only that nothing but typed errors come of it. */
export type Demand = "truth" | "robust";

/** Copies are not held up: what they do is looked at when they have ended. */
const JOB_BYTES = 256 * MiB;
const REFUSALS: ReadonlySet<string> = new Set([
  "METADATA_CORRUPT",
  "SCHEMA_TOO_NEW",
  "MEDIUM_ERROR",
  "PATH_NOT_FOUND",
  "OUT_OF_SERVICE",
]);

/** `damaged`: paths of the files that are not as the engine left them. */
export async function revive(
  snapshot: Snapshot,
  files: StateImage,
  damaged: readonly string[],
  demand: Demand,
): Promise<Judgement> {
  const disks = new Map([...snapshot.disks].map(([uid, image]) => [uid, diskFrom(image)]));
  const box = new StateBox(await filesFrom(files), disks, JOB_BYTES);
  try {
    await box.boot();
  } catch (error) {
    return { outcome: "refused", violations: refusalViolations(error, damaged) };
  }
  const violations: Violation[] = [];
  try {
    // A newer format: the start is not refused, and what it has to do with is not there to be looked at.
    for (const { code, detail } of box.leftAlone)
      violations.push(...refusalViolations(new TidemarkError(code, detail), damaged));
    if (box.leftAlone.length > 0) await exercise(box);
    else if (demand === "truth") violations.push(...(await new Examination(snapshot, box).all()));
    else await exercise(box);
    await box.stop();
  } catch (error) {
    violations.push(`after the start: ${describe(error)}`);
  }
  const { troubles } = box;
  for (const text of troubles) if (text.includes("internal error")) violations.push(`not typed: ${text}`);
  for (const error of box.lost) violations.push(`the engine ended by itself: ${describe(error)}`);
  const told = troubles.length > 0 || box.leftAlone.length > 0;
  return { outcome: told ? "told" : "quiet", violations };
}

function refusalViolations(error: unknown, damaged: readonly string[]): Violation[] {
  if (!(error instanceof TidemarkError)) return [`not typed: the start was refused with ${describe(error)}`];
  if (!REFUSALS.has(error.code)) return [`not typed: the start was refused with ${error.code}: ${error.message}`];
  if (error.detail.hint === undefined) return [`no hint: ${error.message}`];
  const text = `${error.message} ${JSON.stringify(error.detail.metadata ?? {})}`;
  return damaged.some((path) => text.includes(path))
    ? []
    : [`no file: "${error.message}" does not name what is damaged`];
}

/** Lets everything that is there do what it does. */
async function exercise(box: StateBox): Promise<void> {
  for (const session of await box.finish()) {
    if (!session.tracking || session.phase === "failed") continue;
    await box.engine.restartSessions([session.id]).catch(refusal);
  }
  await box.finish();
}

/** Typed refusals are right, everything else goes on. */
function refusal(error: unknown): void {
  if (!(error instanceof TidemarkError) || error.code === "INTERNAL") throw error;
}

class Examination {
  readonly #snapshot: Snapshot;
  readonly #box: StateBox;
  readonly #violations: Violation[] = [];
  /** Content by volume as it must be now. */
  readonly #content: Map<string, ReadonlyMap<number, number>>;
  /** Destinations of copies that were given up, and what was copied from there on. */
  readonly #doubtful = new Set<string>();

  constructor(snapshot: Snapshot, box: StateBox) {
    this.#snapshot = snapshot;
    this.#box = box;
    this.#content = new Map(snapshot.content);
  }

  async all(): Promise<Violation[]> {
    const found = await this.#box.engine.sessions();
    for (const known of this.#snapshot.sessions) this.#admitted(known, found);
    // One that had ended is there again, as failed, when the record of its end is damaged.
    for (const { id, phase, destination } of found)
      if (phase === "failed") this.#admitted({ id, destination: destination.volumeUid }, found);
    await this.#changesCover(found);
    await this.#reads("at the start", (place) => place % 3 === 0);
    const left = await this.#box.finish();
    for (const known of this.#snapshot.sessions) this.#stillGood(known, found, left);
    await this.#reads("when the copies have ended", () => true);
    await this.#onDisk("when the copies have ended");
    await this.#nextDifference(left);
    return this.#violations;
  }

  /** The session is there, or has failed, or the box has said that it is gone. */
  #admitted(
    { id, destination }: { readonly id: string; readonly destination: string },
    found: readonly SessionStatus[],
  ): void {
    const session = found.find((one) => one.id === id);
    if (session !== undefined && session.phase !== "failed") return;
    this.#doubt(destination);
    if (!this.#box.troubles.some((text) => text.includes(id)))
      this.#violations.push(
        `silent: copy ${id} ${session === undefined ? "is gone" : "has failed"} and nothing was said`,
      );
  }

  #stillGood(
    { id, destination }: KnownSession,
    before: readonly SessionStatus[],
    left: readonly SessionStatus[],
  ): void {
    const session = left.find((one) => one.id === id);
    // A copy whose source was given up may fail with it.
    if (
      session?.phase !== "failed" ||
      this.#doubtful.has(destination) ||
      before.find((one) => one.id === id)?.phase === "failed"
    )
      return;
    this.#violations.push(`late: copy ${id} failed only after the start: ${session.failure?.message}`);
    this.#doubt(destination);
  }

  #doubt(volume: string): void {
    if (this.#doubtful.has(volume)) return;
    this.#doubtful.add(volume);
    for (const { source, destination } of this.#snapshot.sessions) if (source === volume) this.#doubt(destination);
  }

  /** What changed since the point is never less than what did. */
  async #changesCover(found: readonly SessionStatus[]): Promise<void> {
    for (const session of found) {
      if (!session.tracking || session.phase === "failed") continue;
      const [source, destination] = [session.source.volumeUid, session.destination.volumeUid];
      if (this.#doubtful.has(source) || this.#doubtful.has(destination)) continue;
      const changed = new Set<number>();
      for (const [volume, epoch] of [
        [source, session.sourceEpoch],
        [destination, session.destinationEpoch],
      ] as const)
        for (const extent of await this.#box.engine.changedExtents(this.#box.extent(volume), {
          sinceEpoch: epoch,
          untilEpoch: 0,
          offsetBytes: 0,
          lengthBytes: this.#box.extent(volume).lengthBytes,
          extentsMax: 100_000,
        })) {
          const end = extent.offsetBytes + extent.lengthBytes;
          for (let at = extent.offsetBytes; at < end; at += GRANULE_SIZE_BYTES) changed.add(at / GRANULE_SIZE_BYTES);
        }
      const differing = this.#snapshot.places.filter(
        (place) => this.#content.get(source)?.get(place) !== this.#content.get(destination)?.get(place),
      );
      const missing = differing.filter((place) => !changed.has(place));
      if (missing.length > 0)
        this.#violations.push(`narrower: ${missing.length} changes of copy ${session.id} are not known any more`);
    }
  }

  async #reads(when: string, wanted: (place: number) => boolean): Promise<void> {
    for (const [uid, content] of this.#content) {
      if (this.#doubtful.has(uid)) continue;
      for (const place of this.#snapshot.places) {
        if (!wanted(place)) continue;
        const bytes = await this.#box.engine.read(
          this.#box.extent(uid),
          place * GRANULE_SIZE_BYTES,
          GRANULE_SIZE_BYTES,
        );
        if (stampOf(bytes) !== (content.get(place) ?? 0)) return this.#wrong(uid, place, stampOf(bytes), when);
      }
    }
  }

  async #onDisk(when: string): Promise<void> {
    const bytes = new Uint8Array(GRANULE_SIZE_BYTES);
    for (const [uid, content] of this.#content) {
      if (this.#doubtful.has(uid)) continue;
      for (const place of this.#snapshot.places) {
        await this.#box.disk(uid).memory.read(place * GRANULE_SIZE_BYTES, bytes);
        if (stampOf(bytes) !== (content.get(place) ?? 0))
          return this.#wrong(uid, place, stampOf(bytes), `${when}, on the disk`);
      }
    }
  }

  #wrong(uid: string, place: number, found: number | undefined, when: string): void {
    const wanted = this.#content.get(uid)?.get(place) ?? 0;
    this.#violations.push(`wrong content: volume ${uid} ${when}: granule ${place} is ${found}, not ${wanted}`);
  }

  /** Every copy that goes on differentially, fired again, gives the source as it is. */
  async #nextDifference(sessions: readonly SessionStatus[]): Promise<void> {
    for (const session of sessions) {
      if (!session.tracking || session.phase === "failed") continue;
      const [source, destination] = [session.source.volumeUid, session.destination.volumeUid];
      if (this.#doubtful.has(source) || this.#doubtful.has(destination)) continue;
      await this.#box.engine.restartSessions([session.id]);
      this.#content.set(destination, new Map(this.#content.get(source)));
      await this.#box.finish();
    }
    await this.#onDisk("after the next difference");
  }
}

export function describe(error: unknown): string {
  if (error instanceof TidemarkError) return `${error.code}: ${error.message}`;
  return error instanceof Error ? (error.stack ?? error.message).split("\n").slice(0, 4).join(" | ") : String(error);
}
