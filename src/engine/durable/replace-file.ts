/**
 * A new file appears complete and durable, or not at all: temporary name, write, sync, rename, sync directory
 * (data-safety 1.8).
 */
import { directoryOf, type StateFile, type StateFiles } from "./state-files.ts";

/** Ending of names that a crash may leave behind; whoever lists a directory removes them. */
export const TEMPORARY_SUFFIX = ".new";

/** Replaces `path`, durably. Resolves with the file, open under its name. */
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
    await files.syncDirectory(directoryOf(path));
    await file.close();
  } catch (error) {
    await giveUp(files, file, temporary);
    throw error;
  }
  return files.open(path, { create: "must-exist" });
}

/** Gives the space back after a failure; the failure itself is what the caller hears of. */
async function giveUp(files: StateFiles, file: StateFile, temporary: string): Promise<void> {
  await Promise.allSettled([file.close()]);
  await Promise.allSettled([files.remove(temporary)]);
}
