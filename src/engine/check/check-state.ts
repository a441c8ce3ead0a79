/**
 * Check of the whole state directory: every file of every format, and what they say of each other. Nothing is changed.
 *
 * Order: points logs; sessions, of which points may know more than their own files; volumes, whose epochs sessions need;
 * then what lies around.
 */
import { AssertionError } from "../../base/assert.ts";
import { asTidemarkError } from "../../base/errors.ts";
import { BOX_FILE, openBoxFile } from "../durable/box-file.ts";
import { TEMPORARY_SUFFIX } from "../durable/replace-file.ts";
import { isBarring, isDamage, type StateFiles } from "../durable/state-files.ts";
import type { FindingKind, MetadataFinding, SessionHint, VolumeSpec } from "../engine-api.ts";
import { CLEAN_STOP_FILE, readCleanStop } from "../foreign-writes.ts";
import { type Core, loadCore } from "../map/core.ts";
import { SESSIONS_DIRECTORY } from "../session/session-files.ts";
import { isSessionId } from "../session/session-record.ts";
import { VOLUMES_DIRECTORY } from "../volume/volume-tracking.ts";
import { costOfBarred } from "./check-barred.ts";
import { type CheckedPoints, checkPoints } from "./check-points.ts";
import { type CheckedSession, checkSession } from "./check-session.ts";
import { checkVolume, type NeededEpoch } from "./check-volume.ts";
import { FindingList, harmless } from "./finding.ts";
import { readOnlyFiles } from "./read-only-files.ts";
import { type Checks, reporting, staleSlot } from "./verify.ts";

/** What a check of the state directory gives back. */
export interface StateCheck {
  readonly findings: readonly MetadataFinding[];
  /** Findings beyond the bound. */
  readonly omitted: number;
  readonly files: number;
  readonly bytes: number;
  /** Copies that a start finds, those that have failed too. How often one has run is unknown without its superblock. */
  readonly sessions: readonly { readonly id: string; readonly generation: number | undefined }[];
  /** Copies that are over and whose end may not be recorded yet. */
  readonly endedIds: readonly string[];
  /** Copies that a start leaves alone. */
  readonly outOfServiceIds: readonly string[];
}

/**
 * `volumes` undefined: nobody knows which are registered. `hints`: copies that the rows know. What the disk throws for
 * directories is thrown.
 */
export async function checkState(
  files: StateFiles,
  volumes: readonly VolumeSpec[] | undefined,
  hints: readonly SessionHint[] = [],
): Promise<StateCheck> {
  const core = await loadCore();
  let bytes = 0;
  const looking = readOnlyFiles(files, async (lengthBytes) => {
    bytes += lengthBytes;
  });
  const walk = new StateWalk(looking, core, volumes);
  await walk.run(hints);
  const { findings, tally } = walk.checks;
  return {
    findings: findings.items,
    omitted: findings.omitted,
    files: tally.files,
    bytes,
    sessions: walk.sessions.map(({ record, own }) => {
      return { id: record.id, generation: own === "lost" ? undefined : record.generation };
    }),
    endedIds: walk.endedIds,
    outOfServiceIds: [...walk.outOfServiceIds],
  };
}

class StateWalk {
  checks: Checks;
  readonly #volumes: ReadonlyMap<string, VolumeSpec> | undefined;
  readonly sessions: CheckedSession[] = [];
  readonly endedIds: string[] = [];
  readonly outOfServiceIds = new Set<string>();

  constructor(files: StateFiles, core: Core, volumes: readonly VolumeSpec[] | undefined) {
    this.checks = { files, core, findings: new FindingList(), tally: { files: 0 } };
    this.#volumes = volumes && new Map(volumes.map((spec) => [spec.uid, spec]));
  }

  async run(hints: readonly SessionHint[]): Promise<void> {
    const names = await this.checks.files.list("");
    if (names.includes(CLEAN_STOP_FILE)) await this.#cleanStop(CLEAN_STOP_FILE);
    const points = await checkPoints(this.checks, names);
    const sessions = await this.#sessions(points);
    this.#addPointsDamage(points, sessions);
    await this.#volumesWith(points, sessions);
    await this.#root(names);
    this.#addBarredCosts(points, hints);
  }

  #addBarredCosts({ points }: CheckedPoints, hints: readonly SessionHint[]): void {
    const nameOf = (uid: string) => this.#volumes?.get(uid)?.name ?? uid;
    const sessions = this.sessions.map(({ record }) => record);
    for (const [path, error] of this.checks.findings.barred) {
      const known = { sessions, hints, points, nameOf };
      const { cost, sessionIds } = costOfBarred(path, error, known);
      if (cost !== undefined) this.checks.findings.setCost(path, cost);
      for (const id of sessionIds) this.outOfServiceIds.add(id);
    }
  }

  async #sessions(points: CheckedPoints): Promise<CheckedSession[]> {
    const found: CheckedSession[] = [];
    for (const name of await this.#list(SESSIONS_DIRECTORY)) {
      const path = `${SESSIONS_DIRECTORY}/${name}`;
      if (!isSessionId(name)) {
        this.#unknown(path, "it is no copy's directory");
        continue;
      }
      await this.#directory(path, name, async () => {
        const session = await checkSession(this.checks, name, { points, volumes: this.#volumes });
        if (session?.record.state === "ended") this.endedIds.push(session.record.id);
        else if (session) found.push(session);
      });
    }
    this.sessions.push(...found);
    return found;
  }

  /** Which copies and volumes depend on a damaged points log is known only now. */
  #addPointsDamage({ damage }: CheckedPoints, sessions: readonly CheckedSession[]): void {
    const tracked = neededEpochs(sessions);
    const failing = sessions
      .filter(({ record, fails }) => fails && record.state === "live")
      .map(({ record }) => record.id);
    const costs = [
      failing.length > 0 ? `copies that may have had a later point fail (${failing.join(", ")})` : "",
      tracked.size > 0 ? `the next copies of all tracked pairs are full` : "",
    ];
    const cost = costs.filter((part) => part !== "").join("; ");
    const remedy = "start the box, then run the copies that have failed again; a start sets the log aside";
    for (const finding of damage.items) {
      if (!finding.repairable) this.checks.findings.add(finding);
      else this.checks.findings.add({ ...finding, severity: cost === "" ? "warning" : "error", cost, remedy });
    }
  }

  async #volumesWith({ points }: CheckedPoints, sessions: readonly CheckedSession[]): Promise<void> {
    const needed = neededEpochs(sessions);
    const names = await this.#list(VOLUMES_DIRECTORY);
    for (const uid of new Set([...names, ...needed.keys()])) {
      const path = `${VOLUMES_DIRECTORY}/${uid}`;
      const spec = this.#volumes?.get(uid);
      if (this.#volumes !== undefined && spec === undefined) {
        this.#unknown(path, "its volume is not registered in this box");
        continue;
      }
      await this.#directory(path, spec?.name ?? uid, () =>
        checkVolume(this.checks, uid, { spec, needed: needed.get(uid) ?? [], points }),
      );
    }
  }

  async #root(names: readonly string[]): Promise<void> {
    for (const name of names) {
      if (name === VOLUMES_DIRECTORY || name === SESSIONS_DIRECTORY || /^points-\d+\.log$/.test(name)) continue;
      if (name === CLEAN_STOP_FILE) continue;
      if (name === BOX_FILE) await this.#boxFile(name);
      else if (/^points-\d+\.log\.damaged$/.test(name)) this.#setAside(name);
      else if (name.endsWith(TEMPORARY_SUFFIX)) {
        const message = "it was being written when the daemon ended";
        this.checks.findings.add(harmless("left-over", { path: name, subject: "", message }));
      } else this.#unknown(name, "nobody knows this file");
    }
  }

  /** What it says, and that it cannot be read, is for whoever knows the database (domain/binding.ts). */
  async #boxFile(path: string): Promise<void> {
    this.checks.tally.files++;
    const context = { path, subject: "", cost: "", remedy: "" };
    try {
      const superblock = await openBoxFile(this.checks.files);
      await superblock.close();
      if (superblock.damagedSlot !== undefined) this.checks.findings.add(staleSlot(context, superblock.damagedSlot));
    } catch (cause) {
      const error = asTidemarkError(cause);
      if (!isDamage(error)) this.checks.findings.addError(error, context);
    }
  }

  async #cleanStop(path: string): Promise<void> {
    const cost = "whether another program wrote to a volume while the box was stopped is not noticed";
    const remedy = "if a volume may have been written to, cancel its copies and start them again";
    const context = { path, subject: "", cost, remedy };
    await reporting(this.checks, context, async () => {
      const { logEnds } = await readCleanStop(this.checks.files);
      if (logEnds) this.checks = { ...this.checks, logEnds };
    });
  }

  #setAside(path: string): void {
    this.checks.findings.add({
      ...{ kind: "set-aside", severity: "info", path, offsetBytes: undefined, page: undefined, subject: "" },
      ...{ message: "a points log that was damaged; a start has set it aside, and nothing reads it", cost: "" },
      ...{ remedy: "remove it when nobody wants to look at it any more", repairable: false },
    });
  }

  #unknown(path: string, message: string): void {
    const kind: FindingKind = "unknown";
    this.checks.findings.add({
      ...{ kind, severity: "warning", path, offsetBytes: undefined, page: undefined },
      ...{ subject: "", message, cost: "", repairable: false },
      remedy: "nothing uses it; move it out of the state directory when you know that it is not needed",
    });
  }

  /** What lies where a directory has to be may be anything. */
  async #directory(path: string, subject: string, check: () => Promise<void>): Promise<void> {
    try {
      await check();
    } catch (cause) {
      if (cause instanceof AssertionError) throw cause;
      const error = asTidemarkError(cause);
      if (isBarring(error)) this.checks.findings.addError(error, { path, subject, cost: "", remedy: "" });
      else this.#unknown(path, `it cannot be looked into: ${error.message}`);
    }
  }

  /** Names in a directory that a new state directory does not have yet. */
  async #list(directory: string): Promise<string[]> {
    const { files } = this.checks;
    return (await files.exists(directory)) ? files.list(directory) : [];
  }
}

/** By volume; copies that have failed need none. */
function neededEpochs(sessions: readonly CheckedSession[]): Map<string, NeededEpoch[]> {
  const needed = new Map<string, NeededEpoch[]>();
  for (const { record, fails } of sessions) {
    if (fails || !record.tracking || record.state !== "live") continue;
    for (const [{ volumeUid }, epoch] of [
      [record.source, record.sourceEpoch],
      [record.destination, record.destinationEpoch],
    ] as const)
      needed.set(volumeUid, [...(needed.get(volumeUid) ?? []), { epoch, sessionId: record.id }]);
  }
  return needed;
}
