/**
 * Ends the engine when its own state can no longer be trusted.
 *
 * Role: wraps StateFiles. After a failed sync the system may have marked pages clean that never reached the disk, and a write
 * that failed for anything but want of space, or could not be cut off again, has left nobody knows what: whether the record is there is then only known
 * after a new start. So the operation neither succeeds nor fails, nothing that waits for it goes on (gates stay closed,
 * nothing is acknowledged), and `lose` ends the engine; the next start recovers from what is on the disk.
 * Invariants:
 *   1. While armed, no caller ever sees a failure that is final.
 *   2. After the first one, and after `end`, no operation settles any more.
 * Not armed while the engine starts: the start is refused with the error.
 * Source: data-safety 1.2 "Metadata: abort the process, recover at start".
 */
import { asTidemarkError, type TidemarkError } from "../../base/errors.ts";
import { type StateFile, type StateFiles, wasOutOfSpace } from "./state-files.ts";

export class FailStop {
  readonly #lose: (error: TidemarkError) => void;
  #armed = false;
  #lost = false;

  constructor(lose: (error: TidemarkError) => void) {
    this.#lose = lose;
  }

  arm(): void {
    this.#armed = true;
  }

  /** The engine has stopped: what a stalled device lets go on later must not touch files that the next start uses. */
  end(): void {
    this.#lost = true;
  }

  guard(files: StateFiles): StateFiles {
    const run = <T>(operation: () => Promise<T>) => this.#run(operation);
    return {
      open: (path, options) => run(async () => this.#guardFile(await files.open(path, options))),
      rename: (from, to) => run(() => files.rename(from, to)),
      remove: (path) => run(() => files.remove(path)),
      list: (directory) => run(() => files.list(directory)),
      makeDirectory: (path) => run(() => files.makeDirectory(path)),
      removeDirectory: (path) => run(() => files.removeDirectory(path)),
      syncDirectory: (directory) => run(() => files.syncDirectory(directory)),
      exists: (path) => run(() => files.exists(path)),
    };
  }

  #guardFile(file: StateFile): StateFile {
    const run = <T>(operation: () => Promise<T>) => this.#run(operation);
    return {
      path: file.path,
      size: () => run(() => file.size()),
      read: (offsetBytes, lengthBytes) => run(() => file.read(offsetBytes, lengthBytes)),
      write: (offsetBytes, data) => run(() => file.write(offsetBytes, data)),
      truncate: (lengthBytes) => run(() => file.truncate(lengthBytes)),
      sync: () => run(() => file.sync()),
      forgetCached: () => run(async () => file.forgetCached?.()),
      close: () => run(() => file.close()),
    };
  }

  async #run<T>(operation: () => Promise<T>): Promise<T> {
    if (this.#lost) return never();
    try {
      const value = await operation();
      return this.#lost ? await never() : value;
    } catch (error) {
      if (this.#lost) return never();
      if (!this.#armed || !isFinal(error)) throw error;
      this.#lost = true;
      this.#lose(asTidemarkError(error));
      return never();
    }
  }
}

function isFinal(error: unknown): boolean {
  const { operation, systemCode } = asTidemarkError(error).detail.metadata ?? {};
  if (systemCode === undefined || wasOutOfSpace(error)) return false;
  return operation === "write" || operation === "truncate" || operation === "sync";
}

function never(): Promise<never> {
  return new Promise(() => undefined);
}
