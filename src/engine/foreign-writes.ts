/**
 * Noticing that another program has written to a volume while the box was stopped.
 *
 * Role: a clean stop leaves, as its last file, a stamp of every volume (inode, size and time of the last write of a file);
 * a start compares. A volume whose stamp differs has changes that nobody tracked and old data that nobody preserved.
 * Invariants:
 *   1. A stamp is removed, durably, before the engine writes to its volume, and only after all that follows from a
 *      difference is durable: a crash in between leads to the same comparison again. That of a volume which cannot be
 *      opened stays until it can.
 *   2. No stamps (a kill, a power loss, a block device): nothing is concluded. Outside a clean stop a foreign write to an
 *      image file cannot be told from our own.
 * Source: data-safety 1.10 "Clean stop"; format: docs/file-formats.md.
 */
import { asTidemarkError, TidemarkError } from "../base/errors.ts";
import type { BlockDevice } from "../base/ports.ts";
import { encodeJson, parseJson } from "./durable/fields.ts";
import { FrameLog } from "./durable/frame-log.ts";
import { isDamage, type StateFiles } from "./durable/state-files.ts";
import type { Volume } from "./volume/volume.ts";

export const CLEAN_STOP_FILE = "clean-stop.log";
const NUMBER = 1;

/** By volume uid. */
export type Stamps = ReadonlyMap<string, string>;

/** Writes what a clean stop found, durably; without stamps there is no file. */
export async function storeStamps(files: StateFiles, stamps: Stamps): Promise<void> {
  if (stamps.size === 0) {
    if (!(await files.exists(CLEAN_STOP_FILE))) return;
    await files.remove(CLEAN_STOP_FILE);
    await files.syncDirectory("");
    return;
  }
  const log = await FrameLog.create(
    files,
    CLEAN_STOP_FILE,
    "box",
    "clean-stop",
    NUMBER,
    encodeJson(Object.fromEntries(stamps)),
  );
  await log.close();
}

/** What the last stop left; nothing after an unclean one. A damaged file says nothing. */
export async function readStamps(files: StateFiles): Promise<Stamps> {
  const stamps = new Map<string, string>();
  if (!(await files.exists(CLEAN_STOP_FILE))) return stamps;
  try {
    const log = await FrameLog.open(files, CLEAN_STOP_FILE, "box", "clean-stop", (payload) => {
      for (const [uid, stamp] of readStampFrame(payload)) stamps.set(uid, stamp);
    });
    await log.close();
  } catch (cause) {
    const error = asTidemarkError(cause);
    if (!isDamage(error)) throw error;
    stamps.clear();
  }
  return stamps;
}

/** The stamps of the file's one frame. */
export function readStampFrame(payload: Uint8Array): [uid: string, stamp: string][] {
  const entries = Object.entries(parseJson(payload) as Record<string, unknown>);
  return entries.filter((entry): entry is [string, string] => typeof entry[1] === "string");
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
