/**
 * The state files for somebody who only looks: the production decoders run on it and nothing on the disk changes.
 *
 * Invariants:
 *   1. What would make a found file durable (`sync`, `syncDirectory`) does nothing: who checks does not act on what it read.
 *   2. Every call that would change something is a mistake of ours.
 * `onRead` is told of every read before it is given back; it may wait, which bounds the rate. `source` "medium": what the system
 * has in its cache is not good enough.
 */
import { AssertionError } from "../../base/assert.ts";
import type { StateFile, StateFiles } from "../durable/state-files.ts";

export function readOnlyFiles(
  files: StateFiles,
  onRead: (lengthBytes: number) => Promise<void>,
  source: "cache" | "medium" = "cache",
): StateFiles {
  return {
    async open(path, { create }) {
      if (create !== "must-exist") return refuse(`make ${path}`);
      const file = await files.open(path, { create });
      if (source === "medium") await file.forgetCached?.();
      return readOnlyFile(file, onRead);
    },
    list: (directory) => files.list(directory),
    exists: (path) => files.exists(path),
    rename: (from) => refuse(`rename ${from}`),
    remove: (path) => refuse(`remove ${path}`),
    makeDirectory: (path) => refuse(`make ${path}`),
    removeDirectory: (path) => refuse(`remove ${path}`),
    syncDirectory: async () => undefined,
  };
}

function readOnlyFile(file: StateFile, onRead: (lengthBytes: number) => Promise<void>): StateFile {
  return {
    path: file.path,
    size: () => file.size(),
    async read(offsetBytes, lengthBytes) {
      const bytes = await file.read(offsetBytes, lengthBytes);
      await onRead(bytes.length);
      return bytes;
    },
    write: () => refuse(`write to ${file.path}`),
    truncate: () => refuse(`cut ${file.path}`),
    sync: async () => undefined,
    close: () => file.close(),
  };
}

async function refuse(what: string): Promise<never> {
  throw new AssertionError(`a check does not ${what}`);
}
