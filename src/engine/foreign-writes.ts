/**
 * Noticing that another program has written to a volume while the box was stopped.
 *
 * Role: a clean stop leaves, as its last file, a stamp of every volume (inode, size and time of the last write of a file);
 * a start compares. A volume whose stamp differs has changes that nobody tracked and old data that nobody preserved. With the
 * stamps goes where each log ended: a start after a clean stop knows what a torn tail and lost frames are.
 * Invariants:
 *   1. A stamp is removed, durably, before the engine writes to its volume, and only after all that follows from a
 *      difference is durable: a crash in between leads to the same comparison again. That of a volume which cannot be
 *      opened stays until it can; the ends of the logs go with the first start.
 *   2. No stamps (a kill, a power loss, a block device): nothing is concluded. Outside a clean stop a foreign write to an
 *      image file cannot be told from our own.
 * Source: data-safety 1.10 "Clean stop"; format: docs/file-formats.md.
 */
import { TidemarkError } from "../base/errors.ts";
import type { BlockDevice } from "../base/ports.ts";
import { encodeJson, parseJson } from "./durable/fields.ts";
import { FrameLog } from "./durable/frame-log.ts";
import { decodeLogEnd, encodeLogEnd, type LogEnd } from "./durable/log-end.ts";
import { corruptFile, type StateFiles } from "./durable/state-files.ts";
import type { Volume } from "./volume/volume.ts";

export const CLEAN_STOP_FILE = "clean-stop.log";
const NUMBER = 1;

/** By volume uid. */
export type Stamps = ReadonlyMap<string, string>;

/** What a stop has left. */
export interface CleanStop {
  readonly stamps: Stamps;
  /** By path; undefined when there was no clean stop, or a start since. */
  readonly logEnds: ReadonlyMap<string, LogEnd> | undefined;
}

const NOTHING: CleanStop = { stamps: new Map(), logEnds: undefined };

/** Writes, durably, the stamps that are still to be compared; without any there is no file. */
export function storeStamps(files: StateFiles, stamps: Stamps): Promise<void> {
  return store(files, { stamps, logEnds: undefined });
}

/** The last step of a clean stop. */
export function storeCleanStop(files: StateFiles, stamps: Stamps, logEnds: ReadonlyMap<string, LogEnd>): Promise<void> {
  return store(files, { stamps, logEnds });
}

async function store(files: StateFiles, { stamps, logEnds }: CleanStop): Promise<void> {
  if (stamps.size === 0) {
    if (!(await files.exists(CLEAN_STOP_FILE))) return;
    await files.remove(CLEAN_STOP_FILE);
    await files.syncDirectory("");
    return;
  }
  const ends = logEnds && Object.fromEntries([...logEnds].map(([path, end]) => [path, encodeLogEnd(end)]));
  const content = encodeJson({ stamps: Object.fromEntries(stamps), logs: ends });
  const log = await FrameLog.create(files, CLEAN_STOP_FILE, "box", "clean-stop", NUMBER, content);
  await log.abandon(); // it is durable, and nothing follows its one frame
}

/** What the last stop left; nothing after an unclean one. METADATA_CORRUPT, and what the disk may throw. */
export async function readCleanStop(files: StateFiles): Promise<CleanStop> {
  if (!(await files.exists(CLEAN_STOP_FILE))) return NOTHING;
  const found: CleanStop[] = [];
  const log = await FrameLog.find(files, CLEAN_STOP_FILE, "box", "clean-stop", (payload) => {
    found.push(decodeCleanStop(payload));
  });
  await log.abandon();
  const [content] = found;
  if (content === undefined || found.length > 1 || log.tornBytes > 0 || log.end.sequence > 1)
    throw corruptFile(CLEAN_STOP_FILE, "does not hold exactly one record");
  return content;
}

function decodeCleanStop(payload: Uint8Array): CleanStop {
  const content = parseJson(payload) as { stamps?: unknown; logs?: unknown } | null;
  const stamps = new Map<string, string>();
  for (const [uid, stamp] of entriesOf(content?.stamps)) {
    if (typeof stamp !== "string") throw makesNoSense();
    stamps.set(uid, stamp);
  }
  if (content?.logs === undefined) return { stamps, logEnds: undefined };
  const logEnds = new Map<string, LogEnd>();
  for (const [path, value] of entriesOf(content.logs)) {
    const end = decodeLogEnd(value);
    if (end === undefined) throw makesNoSense();
    logEnds.set(path, end);
  }
  return { stamps, logEnds };
}

function entriesOf(value: unknown): [string, unknown][] {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw makesNoSense();
  return Object.entries(value);
}

function makesNoSense(): TidemarkError {
  return corruptFile(CLEAN_STOP_FILE, "its record makes no sense");
}

/** Undefined when nobody else has written to the volume, as far as its stamp tells. */
export async function foreignWriteTo(
  volume: Volume,
  device: BlockDevice,
  stamp: string,
): Promise<TidemarkError | undefined> {
  if (stamp === "" || (await device.stamp()) === stamp) return undefined;
  return new TidemarkError("VOLUME_CHANGED_OUTSIDE", {
    message: `volume ${volume.name} (${volume.path}) was written to by another program while the box was stopped`,
    hint: "its next copies are full; keep other programs away from registered volumes",
    metadata: { volume: volume.name, path: volume.path },
  });
}
