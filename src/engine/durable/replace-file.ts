/**
 * A new file appears complete and durable, or not at all: temporary name, write, sync, rename, sync directory
 * (data-safety 1.8).
 */
import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import { directoryOf, type StateFile, type StateFiles } from "./state-files.ts";

/** Ending of names that a crash may leave behind; whoever lists a directory removes them. */
export const TEMPORARY_SUFFIX = ".new";

/**
 * Replaces `path`, durably. Resolves with the file, open under its name. A failure after which the name may belong to the new
 * file already has the metadata `replaced`: what was open under the name before must not be written to any more.
 */
export async function replaceFile(
  files: StateFiles,
  path: string,
  write: (file: StateFile) => Promise<void>,
): Promise<StateFile> {
  const temporary = path + TEMPORARY_SUFFIX;
  const file = await files.open(temporary, { create: "may-exist" });
  try {
    await file.truncate(0);
    await write(file);
    await file.sync();
    await files.rename(temporary, path);
  } catch (error) {
    await giveUp(files, file, temporary);
    throw error;
  }
  try {
    await files.syncDirectory(directoryOf(path));
    await file.close();
    return await files.open(path, { create: "must-exist" });
  } catch (cause) {
    await Promise.allSettled([file.close()]);
    const { code, detail } = asTidemarkError(cause);
    throw new TidemarkError(code, { ...detail, metadata: { ...detail.metadata, replaced: "yes" } });
  }
}

export function wasReplaced(error: unknown): boolean {
  return asTidemarkError(error).detail.metadata?.["replaced"] !== undefined;
}

/** Gives the space back after a failure; the failure itself is what the caller hears of. */
async function giveUp(files: StateFiles, file: StateFile, temporary: string): Promise<void> {
  await Promise.allSettled([file.close()]);
  await Promise.allSettled([files.remove(temporary)]);
}
