/** Files and devices before they are volumes: looked at, created, removed. */
import { constants } from "node:fs";
import { open, realpath, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { TidemarkError } from "../../base/errors.ts";
import type { Clock } from "../../base/ports.ts";
import { pathError } from "../device/errno.ts";
import { inspectPath } from "../device/open-device.ts";
import type { VolumeFacts } from "../engine-api.ts";

/** What a path would be as a volume. Throws every refusal of `openDevice`. */
export async function inspectVolumePath(path: string, clock: Clock): Promise<VolumeFacts> {
  const facts = await inspectPath(path, { clock });
  return {
    uid: "",
    path: facts.path,
    backing: facts.kind,
    sizeBytes: facts.sizeBytes,
    readOnly: facts.readOnly,
    cloneRange: facts.cloneDomain !== undefined,
  };
}

/** A sparse file of `sizeBytes`; file and name are durable when it resolves. PATH_EXISTS, NO_SPACE, PATH_NOT_FOUND. */
export async function createVolumeFile(path: string, sizeBytes: number): Promise<void> {
  try {
    const file = await open(
      path,
      constants.O_RDWR | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW,
      0o600,
    );
    try {
      await file.truncate(sizeBytes);
      await file.sync();
    } catch (error) {
      await unlink(path);
      throw error;
    } finally {
      await file.close();
    }
    const directory = await open(dirname(await realpath(path)), constants.O_RDONLY);
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  } catch (error) {
    if ((error as { code?: unknown }).code === "EEXIST")
      throw new TidemarkError("PATH_EXISTS", {
        message: `${path} exists already`,
        hint: "register it with `tidemark volume register`, or choose another path",
        metadata: { path },
      });
    throw pathError(error, path);
  }
}

/** Removes a file that the box created. A missing one is not an error. */
export async function removeVolumeFile(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if ((error as { code?: unknown }).code === "ENOENT") return;
    throw pathError(error, path);
  }
}
