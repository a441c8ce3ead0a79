/**
 * Scrubber: reads the engine's own files again while they are in use, compares them with what memory knows, and writes anew
 * what is damaged on the disk.
 *
 * How one target is scrubbed:
 *   1. note what memory says of its files: the records of its superblock, names, and how much of a log is acknowledged;
 *   2. read all of them, through the decoders of a start; a superblock is compared between two stores of it;
 *   3. when memory says something else now, files may have been replaced meanwhile: again from 1, up to ATTEMPTS times;
 *   4. what was found is true: a checkpoint writes it anew; look once more.
 * Invariants:
 *   1. Only what a start would read is looked at; files under construction are not.
 *   2. Nothing that writes waits for a scrub, but for the 8 KiB of a superblock.
 *   3. One target at a time, at most SCRUB_BYTES_PER_SECOND.
 * Source: data-safety 1.10 "Scrub".
 */
import { AssertionError } from "../../base/assert.ts";
import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import { SCRUB_BYTES_PER_SECOND } from "../../base/limits.ts";
import { granuleCountOf } from "../../base/units.ts";
import { ActivityReplayer } from "../durable/activity-frames.ts";
import { corruptFile, type StateFiles } from "../durable/state-files.ts";
import type { MetadataFinding, ScrubResult, ScrubTarget } from "../engine-api.ts";
import type { EnginePorts } from "../ports.ts";
import { decodeContinued, decodePoint } from "../session/points-log.ts";
import type { CopySession } from "../session/session.ts";
import { SESSIONS_DIRECTORY } from "../session/session-files.ts";
import type { SessionSet } from "../session/session-set.ts";
import { Mutex } from "../sync/mutex.ts";
import type { Volume } from "../volume/volume.ts";
import { mapFileOf } from "../volume/volume-record.ts";
import type { VolumeSet } from "../volume/volume-set.ts";
import { VOLUMES_DIRECTORY, type VolumeTracking } from "../volume/volume-tracking.ts";
import { requireCopied, sessionContext } from "./check-session.ts";
import { volumeContext } from "./check-volume.ts";
import { FindingList, findingOf } from "./finding.ts";
import { readOnlyFiles } from "./read-only-files.ts";
import { type Checks, checkLog, checkMap, reporting, staleSlot } from "./verify.ts";

/** Files that are replaced faster than they are read are no worry: they have just been written. */
const ATTEMPTS = 4;
/** Shorter pauses are saved up. */
const PAUSE_MS = 50;

/** One way of looking at a target. */
interface Look {
  /** Changes whenever files of the target are replaced. */
  readonly version: () => readonly unknown[];
  readonly read: (checks: Checks) => Promise<void>;
  /** Writes anew what memory knows better. */
  readonly repair: (findings: readonly MetadataFinding[]) => Promise<void>;
}

export class Scrubber {
  readonly #ports: EnginePorts;
  readonly #volumes: VolumeSet;
  readonly #sessions: SessionSet;
  readonly #turn = new Mutex();
  readonly #stopping = new AbortController();
  #debtMs = 0;

  constructor(parts: { readonly ports: EnginePorts; readonly volumes: VolumeSet; readonly sessions: SessionSet }) {
    this.#ports = parts.ports;
    this.#volumes = parts.volumes;
    this.#sessions = parts.sessions;
  }

  /** VOLUME_NOT_FOUND. */
  targets(uid: string | undefined): ScrubTarget[] {
    const volumes = uid === undefined ? this.#volumes.all() : [this.#volumes.require(uid)];
    const tracked = volumes.filter((volume) => this.#volumes.trackingOf(volume.uid) !== undefined);
    const sessions = new Set(volumes.flatMap((volume) => [...volume.leaving, ...volume.entering]));
    return [
      { kind: "points", id: "" },
      ...tracked.map((volume): ScrubTarget => ({ kind: "volume", id: volume.uid })),
      ...[...sessions].map((session): ScrubTarget => ({ kind: "session", id: session.id })),
    ];
  }

  /** STOPPING. */
  scrub(target: ScrubTarget): Promise<ScrubResult> {
    return this.#turn.run(async () => {
      const tally = { files: 0, bytes: 0 };
      const look = this.#lookAt(target);
      const findings = look ? await this.#lookUntilSure(look, tally) : [];
      if (!look || findings.length === 0) return { ...tally, findings: [] };
      this.#refuseStopped();
      try {
        await look.repair(findings);
      } catch (error) {
        return {
          ...tally,
          findings: findings.map((finding) => ({ finding: unrepaired(finding, error), repaired: false })),
        };
      }
      const left = await this.#lookUntilSure(this.#lookAt(target) ?? look, { files: 0, bytes: 0 });
      const isLeft = (finding: MetadataFinding) =>
        left.some(({ path, kind }) => path === finding.path && kind === finding.kind);
      return { ...tally, findings: findings.map((finding) => ({ finding, repaired: !isLeft(finding) })) };
    });
  }

  /** Ends what is under way, with STOPPING, and waits for it. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#turn.run(async () => undefined);
  }

  /** What is found when nothing is replaced meanwhile; nothing when that cannot be had. */
  async #lookUntilSure(look: Look, tally: { files: number; bytes: number }): Promise<readonly MetadataFinding[]> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const before = look.version();
      const findings = new FindingList();
      const files = readOnlyFiles(this.#ports.files, (lengthBytes) => this.#pace(lengthBytes, tally), "medium");
      await look.read({ files, core: this.#ports.core, findings, tally });
      const after = look.version();
      if (findings.items.length === 0) return [];
      if (before.every((part, index) => part === after[index])) return findings.items;
    }
    return [];
  }

  async #pace(lengthBytes: number, tally: { bytes: number }): Promise<void> {
    tally.bytes += lengthBytes;
    this.#debtMs += (lengthBytes * 1000) / SCRUB_BYTES_PER_SECOND;
    if (this.#debtMs >= PAUSE_MS) {
      const pauseMs = this.#debtMs;
      this.#debtMs = 0;
      await this.#ports.clock.sleep(pauseMs, this.#stopping.signal);
    }
    this.#refuseStopped();
  }

  #refuseStopped(): void {
    if (this.#stopping.signal.aborted)
      throw new TidemarkError("STOPPING", { message: "the box is stopping", hint: "scrub again when it runs again" });
  }

  /** Undefined when there is no such target any more. */
  #lookAt({ kind, id }: ScrubTarget): Look | undefined {
    if (kind === "points") return this.#lookAtPoints();
    if (kind === "volume") {
      const volume = this.#volumes.find(id);
      const tracking = this.#volumes.trackingOf(id);
      const isThere = () => this.#volumes.trackingOf(id) === tracking;
      return volume && tracking && lookAtVolume(volume, tracking, { superFiles: this.#superFiles(), isThere });
    }
    const session = this.#sessions.find(id);
    return session && lookAtSession(session, this.#superFiles());
  }

  #lookAtPoints(): Look {
    const sessions = this.#sessions;
    return {
      version: () => sessions.pointsLogs.map(({ path }) => path),
      async read(checks) {
        for (const { path, storedBytes } of sessions.pointsLogs) {
          const context = {
            ...{ path, subject: "", cost: "copies that had a point lately fail, and all that track become full" },
            remedy: "make room and look after the disk below the data directory, then scrub again",
          };
          const owner = { kind: "box", id: "points" };
          const onPayload = (payload: Uint8Array) => {
            if (decodeContinued(payload) !== undefined) return;
            for (const map of decodePoint(path, payload, checks.core).maps.values()) map.dispose();
          };
          await checkLog(checks, context, owner, onPayload, storedBytes);
        }
      },
      repair: () => sessions.renewPoints(),
    };
  }

  /** A superblock is read between two stores, which must not wait: two slots, without a pause. */
  #superFiles(): StateFiles {
    return readOnlyFiles(this.#ports.files, async () => undefined, "medium");
  }
}

function lookAtVolume(
  volume: Volume,
  tracking: VolumeTracking,
  { superFiles, isThere }: { readonly superFiles: StateFiles; readonly isThere: () => boolean },
): Look {
  const directory = `${VOLUMES_DIRECTORY}/${volume.uid}`;
  const context = (name: string) => {
    const sessions = [...volume.leaving, ...volume.entering].filter((session) => session.tracking);
    const needed = sessions.map((session) => ({ sessionId: session.id, epoch: 0 }));
    return volumeContext(`${directory}/${name}`, volume.name, needed);
  };
  return {
    version: () => [tracking.record, tracking.activity.number, isThere()],
    async read(checks) {
      if (!isThere()) return;
      const { record } = tracking;
      const { number, sizeBytes } = tracking.activity;
      await checkSuper(checks, context("super"), () => tracking.verifySuper(superFiles));
      for (const [id, , , serial] of record.epochs) {
        if (serial === 0) continue;
        const expected = { kind: "epoch", ownerId: volume.uid, generation: id, bitCount: volume.chain.granuleCount };
        await checkMap(checks, context(mapFileOf(id, serial)), expected);
      }
      const replayer = new ActivityReplayer();
      for (let log = record.log; ; ) {
        const file = context(`al-${log}.log`);
        const onPayload = (payload: Uint8Array) => replayer.add(file.path, payload);
        const stored = log === number ? sizeBytes : undefined;
        if (!(await checkLog(checks, file, { kind: "volume", id: volume.uid }, onPayload, stored))) break;
        if (log === number) break;
        const next = replayer.continuedIn;
        if (next === undefined) {
          checks.findings.add(findingOf(corruptFile(file.path, `is not continued in log ${number}`), file));
          break;
        }
        log = next;
      }
    },
    async repair(findings) {
      if (findings.some(isOfSuper)) await tracking.renewSuper();
      if (!findings.every(isOfSuper)) await tracking.checkpoint("running");
    },
  };
}

function lookAtSession(session: CopySession, superFiles: StateFiles): Look {
  const { files, id } = session;
  const directory = `${SESSIONS_DIRECTORY}/${id}`;
  const logPath = () => `${directory}/${files.logFile}`;
  return {
    version: () => [files.record, files.logFile, files.mapFile, session.generation, session.state === "ended"],
    async read(checks) {
      if (session.state === "ended") return;
      const { record, mapFile, logBytes } = files;
      const context = (path: string) => sessionContext(record, id, path);
      const granuleCount = granuleCountOf(record.source.lengthBytes);
      const log = logPath();
      await checkSuper(checks, context(`${directory}/super`), () => files.verifySuper(superFiles));
      if (mapFile !== undefined) {
        const expected = { kind: "pending", ownerId: id, generation: record.generation, bitCount: granuleCount };
        await checkMap(checks, context(`${directory}/${mapFile}`), expected);
      }
      const onPayload = (payload: Uint8Array) => requireCopied(log, payload, record, granuleCount);
      await checkLog(checks, context(log), { kind: "session", id }, onPayload, logBytes);
    },
    repair: (findings) =>
      session.durable.run(async () => {
        if (session.state === "ended") return;
        if (findings.some(isOfSuper)) await files.renewSuper();
        if (findings.some(({ path }) => path === logPath()))
          await files.checkpointWithNewLog(session.record(), session.missing());
        else if (!findings.every(isOfSuper)) await files.checkpoint(session.record(), session.missing());
      }),
  };
}

function isOfSuper({ path }: MetadataFinding): boolean {
  return path.endsWith("/super");
}

/** What memory knows is not lost: it can be written when the cause is gone. */
function unrepaired(finding: MetadataFinding, cause: unknown): MetadataFinding {
  if (cause instanceof AssertionError) throw cause;
  const { message, detail } = asTidemarkError(cause);
  return {
    ...finding,
    remedy: `${detail.hint ?? "mend the cause"}, then scrub again: it could not be written anew (${message})`,
  };
}

async function checkSuper(
  checks: Checks,
  context: Parameters<typeof staleSlot>[0],
  verify: () => Promise<number | undefined>,
): Promise<void> {
  await reporting(checks, context, async () => {
    const slot = await verify();
    if (slot !== undefined) checks.findings.add(staleSlot(context, slot));
  });
}
