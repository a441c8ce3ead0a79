/**
 * Parsers of single files and tables, each with good specimens: what it reads is compared with what was written.
 *
 * Rule: what comes out is exactly what went in, or a typed error; of a log, a beginning of what went in. With damage that was
 * resealed only the kind of error and the cost are judged.
 */
import { TidemarkError } from "../../src/base/errors.ts";
import { GRANULE_SIZE_BYTES } from "../../src/base/units.ts";
import { ActivityReplayer } from "../../src/engine/durable/activity-frames.ts";
import { FrameLog } from "../../src/engine/durable/frame-log.ts";
import { type MapHeader, readMap, writeMap } from "../../src/engine/durable/map-file.ts";
import { memoryStateFiles } from "../../src/engine/durable/memory-state-files.ts";
import { Superblock } from "../../src/engine/durable/superblock.ts";
import { loadCore } from "../../src/engine/map/core.ts";
import { PagedBitmap } from "../../src/engine/map/paged-bitmap.ts";
import { PointsLog } from "../../src/engine/session/points-log.ts";
import { SessionFiles } from "../../src/engine/session/session-files.ts";
import { decodeSessionRecord } from "../../src/engine/session/session-record.ts";
import { decodeVolumeRecord } from "../../src/engine/volume/volume-record.ts";
import { Chance } from "./chance.ts";
import { snapshotOf } from "./history.ts";

export const FILE_PARSERS = ["superblock", "frames", "activity", "points", "copied", "map"] as const;
export type FileParser = (typeof FILE_PARSERS)[number];

/** A file, and how it is read. */
export interface Specimen {
  readonly path: string;
  readonly bytes: Buffer;
  /** Files that have to be beside it. */
  readonly beside?: ReadonlyMap<string, Buffer>;
  /** What reading gives, in a form that can be compared. Throws typed errors. */
  readonly read: (bytes: Uint8Array) => Promise<unknown>;
}

const HISTORIES = 24;
const made = new Map<string, Promise<Specimen>>();

export function specimenOf(parser: FileParser, seed: number): Promise<Specimen> {
  const key = `${parser} ${seed}`;
  let specimen = made.get(key);
  if (specimen === undefined) {
    specimen = SPECIMENS[parser](seed);
    made.set(key, specimen);
  }
  return specimen;
}

const SPECIMENS: Readonly<Record<FileParser, (seed: number) => Promise<Specimen>>> = {
  superblock: async (seed) => {
    const [path, bytes] = await fileLike(seed, /\/super$/, "stopped");
    const [kind, owner = ""] = path.split("/");
    return {
      path,
      bytes,
      read: (damaged) =>
        withFile(path, damaged, async (files) => {
          const opened =
            kind === "volumes"
              ? await Superblock.open(files, path, "volume", owner, decodeVolumeRecord)
              : await Superblock.open(files, path, "session", owner, decodeSessionRecord);
          await opened.close();
          return { value: opened.value, damagedSlot: opened.damagedSlot };
        }),
    };
  },
  frames: logSpecimen(/\.log$/, () => (payload) => payload.toString("hex")),
  activity: logSpecimen(/\/al-\d+\.log$/, (path) => {
    const replayer = new ActivityReplayer();
    return (payload) => {
      replayer.add(path, payload);
      const { openEpoch, hotRegions, regionBits, sealed } = replayer.result();
      return JSON.stringify([openEpoch, [...hotRegions], [...regionBits].length, sealed.length]);
    };
  }),
  points: async (seed) => {
    const [path, bytes] = await fileLike(seed, /^points-\d+\.log$/, "killed");
    return { path, bytes, read: (damaged) => withFile(path, damaged, readPoints) };
  },
  copied: async (seed) => {
    const [path, bytes, files] = await fileLike(seed, /\/copied-\d+\.log$/, "killed");
    const directory = path.slice(0, path.lastIndexOf("/"));
    const id = directory.slice("sessions/".length);
    const beside = new Map([...files].filter(([other]) => other.startsWith(`${directory}/`) && other !== path));
    return { path, bytes, beside, read: (damaged) => readSession(path, damaged, beside, id) };
  },
  map: mapSpecimen,
};

async function fileLike(
  seed: number,
  name: RegExp,
  ending: "stopped" | "killed",
): Promise<[string, Buffer, ReadonlyMap<string, Buffer>]> {
  for (let history = seed % HISTORIES; ; history++) {
    const { files } = await snapshotOf(history, ending);
    const found = [...files].filter(([path]) => name.test(path));
    const chosen = found[seed % Math.max(1, found.length)];
    if (chosen !== undefined) return [...chosen, files];
  }
}

function logSpecimen(
  name: RegExp,
  reader: (path: string) => (payload: Buffer) => string,
): (seed: number) => Promise<Specimen> {
  return async (seed) => {
    const [path, bytes] = await fileLike(seed, name, "killed");
    const [owners, ownerId = ""] = path.split("/");
    const kind = owners === "volumes" ? "volume" : owners === "sessions" ? "session" : "box";
    const owner = kind === "box" ? (path.startsWith("points") ? "points" : "clean-stop") : ownerId;
    const read = (damaged: Uint8Array) =>
      withFile(path, damaged, async (files) => {
        const frames: string[] = [];
        const take = reader(path);
        const log = await FrameLog.open(files, path, kind, owner, (payload) => frames.push(take(Buffer.from(payload))));
        await log.close();
        return { frames };
      });
    return { path, bytes, read };
  };
}

async function readPoints(files: ReturnType<typeof memoryStateFiles>): Promise<unknown> {
  const core = await loadCore();
  const { log, points, damage } = await PointsLog.open(files, core);
  await log.close();
  const frames = points.map(({ maps, ...record }) => {
    const runs = [...maps].map(([id, map]) => [id, [...runsOf(map)]]);
    for (const map of maps.values()) map.dispose();
    return JSON.stringify([record, runs]);
  });
  if (damage !== undefined) throw damage;
  return { frames };
}

async function readSession(
  path: string,
  damaged: Uint8Array,
  beside: ReadonlyMap<string, Buffer>,
  id: string,
): Promise<unknown> {
  const core = await loadCore();
  return withFile(
    path,
    damaged,
    async (files) => {
      const superblock = await SessionFiles.openSuperblock(files, id);
      const record = superblock.value;
      const granuleCount = Math.ceil(record.source.lengthBytes / GRANULE_SIZE_BYTES);
      const pointMap = record.mapFile === undefined ? new PagedBitmap(core, granuleCount, "full") : undefined;
      const { sessionFiles, missing } = await SessionFiles.find(files, core, superblock, record, {
        pointMap,
        granuleCount,
      });
      const pending = new Set<number>();
      for (const { first, count } of runsOf(missing)) for (let at = 0; at < count; at++) pending.add(first + at);
      missing.dispose();
      await sessionFiles.begin();
      await sessionFiles.close();
      return { pending };
    },
    beside,
  );
}

async function mapSpecimen(seed: number): Promise<Specimen> {
  const chance = new Chance(seed + 77);
  const core = await loadCore();
  const bitCount = chance.pick([1, 384, 32_767, 32_768, 32_769, 100_000, 400_000, 2 ** 20 + 5]);
  const map = new PagedBitmap(core, bitCount, chance.odds(20) ? "full" : "empty");
  for (let left = chance.pick([0, 1, 5, 200, 3000]); left > 0; left--) {
    const first = chance.below(bitCount);
    map.setRange(first, Math.min(chance.pick([1, 1, 2, 40, 40_000]), bitCount - first));
  }
  const header: MapHeader = {
    kind: chance.pick(["pending", "epoch"]),
    ownerId: "v1",
    generation: chance.below(9),
    bitCount,
  };
  const path = "volumes/v1/epoch-1-1.map";
  const files = await madeDirectories(path);
  await writeMap(files, path, header, map);
  map.dispose();
  return {
    path,
    bytes: Buffer.from(files.contents(path)),
    read: (damaged) =>
      withFile(path, damaged, async (there) => {
        const found = await readMap(there, path, header, core);
        const runs = [...runsOf(found)];
        found.dispose();
        return runs;
      }),
  };
}

function* runsOf(map: PagedBitmap): IterableIterator<{ first: number; count: number }> {
  for (let at = 0; at < map.bitCount; ) {
    const run = map.nextRun(at, map.bitCount);
    if (run === undefined) return;
    yield run;
    at = run.first + run.count;
  }
}

async function withFile<T>(
  path: string,
  bytes: Uint8Array,
  run: (files: ReturnType<typeof memoryStateFiles>) => Promise<T>,
  beside: ReadonlyMap<string, Buffer> = new Map(),
): Promise<T> {
  const files = await madeDirectories(path);
  for (const [other, content] of beside) files.damage(other, content);
  files.damage(path, bytes);
  return run(files);
}

async function madeDirectories(path: string): Promise<ReturnType<typeof memoryStateFiles>> {
  const files = memoryStateFiles();
  const parts = path.split("/").slice(0, -1);
  for (let depth = 1; depth <= parts.length; depth++) await files.makeDirectory(parts.slice(0, depth).join("/"));
  return files;
}

/** What is wrong with what a damaged specimen gave, compared with what the whole one gives; undefined if nothing is. */
export function falsehood(parser: FileParser, whole: unknown, damaged: unknown): string | undefined {
  if (parser === "copied") {
    const [wanted, found] = [whole, damaged] as { pending: Set<number> }[];
    for (const granule of wanted?.pending ?? [])
      if (!found?.pending.has(granule)) return "fewer granules are missing than do";
    return undefined;
  }
  if (parser === "superblock") {
    const [wanted, found] = [whole, damaged] as { value: unknown; damagedSlot: number | undefined }[];
    if (JSON.stringify(wanted?.value) === JSON.stringify(found?.value) || found?.damagedSlot !== undefined)
      return undefined;
    return "another record, and no slot is said to be damaged";
  }
  if (parser === "map") return JSON.stringify(whole) === JSON.stringify(damaged) ? undefined : "another map";
  const [wanted, found] = [whole, damaged] as { frames: string[] }[];
  const isBeginning = found?.frames.every((frame, index) => frame === wanted?.frames[index]);
  return isBeginning ? undefined : "what is read is no beginning of what was written";
}

const READ_ERRORS: ReadonlySet<string> = new Set(["METADATA_CORRUPT", "SCHEMA_TOO_NEW", "PATH_NOT_FOUND"]);

/** What is wrong with an error that a parser threw; `path`: the damaged file, which it has to name. */
export function errorViolation(error: unknown, path: string): string | undefined {
  if (!(error instanceof TidemarkError)) {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return `not typed: ${text.split("\n").slice(0, 4).join(" | ")}`;
  }
  if (!READ_ERRORS.has(error.code)) return `not typed: ${error.code}: ${error.message}`;
  if (error.detail.hint === undefined) return `no hint: ${error.message}`;
  const text = `${error.message} ${JSON.stringify(error.detail.metadata ?? {})}`;
  return text.includes(path) ? undefined : `no file: "${error.message}" does not name the damaged file`;
}
