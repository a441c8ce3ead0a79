/**
 * State directory: what lies where in DIR, and that only one daemon uses it.
 *
 *   DIR/LOCK    flock of the daemon; its text is the pid of the holder
 *   DIR/db      LevelDB (store)
 *   DIR/state   the engine's files
 *   DIR/run     sockets, for the daemon's user only
 */
import { type FileHandle, mkdir, open, readdir, readFile, realpath, stat } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { TidemarkError } from "../base/errors.ts";

export interface StateDirectory {
  /** Symbolic links resolved. */
  readonly path: string;
  readonly database: string;
  readonly engine: string;
  readonly run: string;
  /** Gives the lock back. */
  release(): Promise<void>;
}

/** Exclusive lock on an open file, without waiting: 0, or -errno. */
export type LockFile = (fd: number) => Promise<number>;

const EAGAIN = 11;

/**
 * Makes the directory if needed, and locks it. STATE_DIRECTORY_LOCKED (names the holder), STATE_DIRECTORY_INVALID.
 * Without `lock` the database's own lock has to do.
 */
export async function openStateDirectory(given: string, lock: LockFile | undefined): Promise<StateDirectory> {
  let file: FileHandle | undefined;
  try {
    await makeDirectory(resolve(given));
    const path = await realpath(given);
    if (!(await stat(path)).isDirectory()) throw new Error("it is no directory");
    file = await open(join(path, "LOCK"), "a+", 0o600);
    if (lock !== undefined) await take(path, file, lock);
    const parts = partsOf(path);
    for (const part of Object.values(parts)) await makeDirectory(part);
    await file.truncate(0);
    await file.write(`${process.pid}\n`);
    const held = file;
    return { path, ...parts, release: () => held.close() };
  } catch (error) {
    await file?.close();
    throw error instanceof TidemarkError
      ? error
      : invalid(given, error, "name a directory that the daemon's user owns, or one that does not exist yet");
  }
}

/**
 * Locks a data directory that exists, and makes nothing but its LOCK file. STATE_DIRECTORY_LOCKED (names the holder),
 * STATE_DIRECTORY_INVALID.
 */
export async function lockStateDirectory(given: string, lock: LockFile | undefined): Promise<StateDirectory> {
  let file: FileHandle | undefined;
  try {
    if (lock === undefined) throw new Error("this system has no lock that says whether a daemon uses it");
    const path = await realpath(given);
    const parts = partsOf(path);
    if (!(await isDirectory(parts.engine)) && !(await isDirectory(parts.database)))
      throw new Error("there is neither `db` nor `state` in it");
    file = await open(join(path, "LOCK"), "a+", 0o600);
    await take(path, file, lock, "stop it first; a box that runs is checked with `tidemark scrub`");
    await file.truncate(0);
    await file.write(`${process.pid}\n`);
    const held = file;
    return { path, ...parts, release: () => held.close() };
  } catch (error) {
    await file?.close();
    throw error instanceof TidemarkError
      ? error
      : invalid(
          given,
          error,
          "name the directory that `tidemark serve` was given with --data, as a user who may write in it",
        );
  }
}

function partsOf(path: string): Pick<StateDirectory, "database" | "engine" | "run"> {
  return { database: join(path, "db"), engine: join(path, "state"), run: join(path, "run") };
}

async function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (facts) => facts.isDirectory(),
    () => false,
  );
}

/**
 * Makes a directory and those above it, for the daemon's user only. Not `mkdir` with `recursive`: that never returns
 * where the file system says "no such entry" for what cannot be made, such as below /proc.
 */
async function makeDirectory(path: string): Promise<void> {
  const make = () =>
    mkdir(path, { mode: 0o700 }).then(
      () => "done" as const,
      (error: NodeJS.ErrnoException) => {
        if (error.code === "EEXIST") return "done" as const;
        if (error.code === "ENOENT" && dirname(path) !== path) return "parent missing" as const;
        throw error;
      },
    );
  if ((await make()) === "done") return;
  await makeDirectory(dirname(path));
  if ((await make()) !== "done") throw new Error("nothing can be made there");
}

/**
 * Refuses a directory whose state belongs to a database that is not there: as a new box it would make copies fail whose
 * volumes it does not know. STATE_DIRECTORY_INVALID.
 */
export async function requireDatabase({ path, database, engine }: StateDirectory): Promise<void> {
  if (await exists(join(database, "CURRENT"))) return;
  const isNew = !(await hasEntries(join(engine, "sessions"))) && !(await hasEntries(join(engine, "volumes")));
  if (isNew && !(await exists(join(engine, "box")))) return;
  throw tornApart(`${database} is missing or empty, but ${engine} holds the state of a box`, path, database);
}

/** The other way round: copies that the database knows, and no state at all. STATE_DIRECTORY_INVALID. */
export async function requireState({ path, engine }: StateDirectory): Promise<void> {
  if (await exists(join(engine, "sessions"))) return;
  throw tornApart(`${engine} is missing or empty, but the database knows copies`, path, engine);
}

function tornApart(message: string, path: string, missing: string): TidemarkError {
  return new TidemarkError("STATE_DIRECTORY_INVALID", {
    message,
    hint: `put ${missing} back as it was beside the rest of ${path}; a new box needs an empty directory`,
    metadata: { path: missing },
  });
}

async function hasEntries(path: string): Promise<boolean> {
  return readdir(path).then(
    (names) => names.length > 0,
    () => false,
  );
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => error.code !== "ENOENT" && error.code !== "ENOTDIR",
  );
}

async function take(path: string, file: FileHandle, lock: LockFile, hint?: string): Promise<void> {
  const result = await lock(file.fd);
  if (result === 0) return;
  if (result === -EAGAIN) throw await lockedBy(path, hint);
  throw new Error(`it cannot be locked (error ${-result})`);
}

/** STATE_DIRECTORY_LOCKED, with the pid of the holder if it left one. */
export async function lockedBy(
  path: string,
  hint = "stop it, or give this daemon a data directory of its own",
): Promise<TidemarkError> {
  const text = await readFile(join(path, "LOCK"), "utf8").catch(() => "");
  const pid = /^\d+$/.exec(text.trim())?.[0];
  return new TidemarkError("STATE_DIRECTORY_LOCKED", {
    message: `${path} is in use by ${pid === undefined ? "another daemon" : `process ${pid}`}`,
    hint,
    metadata: pid === undefined ? { path } : { path, pid },
  });
}

function invalid(path: string, error: unknown, hint: string): TidemarkError {
  const reason = error instanceof Error ? error.message : String(error);
  return new TidemarkError(
    "STATE_DIRECTORY_INVALID",
    {
      message: `${path} cannot be used as the data directory: ${reason}`,
      hint,
      metadata: { path },
    },
    { cause: error },
  );
}
