/** Paths of the command line, from the root on: the daemon does not stay in the directory it was started in. */
import { resolve } from "node:path";
import { TidemarkError } from "../base/errors.ts";

/** INVALID_ARGUMENT when the path is relative and there is nothing it could be relative to. `option` is named then. */
export function absolutePath(path: string, option: string): string {
  try {
    return resolve(path);
  } catch (cause) {
    throw new TidemarkError(
      "INVALID_ARGUMENT",
      {
        message: `${option} ${path}: the working directory no longer exists`,
        hint: "change to a directory that exists, or give an absolute path",
      },
      { cause },
    );
  }
}
