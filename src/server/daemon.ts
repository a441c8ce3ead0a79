/**
 * Daemon: the box's life from an empty directory to an answering API, and back.
 *
 * Order: lock the data directory, store, its binding to the state, engine thread, box (recovery, NBD, exports), API last, so that whoever gets an
 * answer gets it from a complete box. The way back is the reverse.
 */
import { readFileSync } from "node:fs";
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { ServerInterceptor } from "@grpc/grpc-js";
import type { Logger } from "pino";
import { systemClock, systemRandom } from "../base/clock.ts";
import { TidemarkError } from "../base/errors.ts";
import { bindDatabase, requireMatch } from "../domain/binding.ts";
import { Box } from "../domain/box.ts";
import { systemPaths } from "../domain/paths.ts";
import { native } from "../engine/device/native.ts";
import type { StateFiles } from "../engine/durable/state-files.ts";
import { systemStateFiles } from "../engine/durable/system-state-files.ts";
import { type EngineClient, type EngineExit, startEngineThread } from "../engine/worker/engine-client.ts";
import { openLevelStore } from "../store/leveldb/leveldb.ts";
import { checkLogs } from "../store/leveldb/log-check.ts";
import type { Store } from "../store/store.ts";
import { addressText } from "./addresses.ts";
import { type GrpcServer, startGrpcServer } from "./grpc-server.ts";
import { type DaemonOptions, defaultAddresses } from "./options.ts";
import { lockedBy, openStateDirectory, requireDatabase, requireState, type StateDirectory } from "./state-directory.ts";
import { THREAD_POOL_SIZE, threadPoolSize } from "./thread-pool.ts";

/** How old the figure of resident memory in GetBox may be: reading it costs more than all the rest of the call. */
const MEMORY_FIGURE_MS = 1000;

export interface Daemon {
  readonly addresses: readonly string[];
  readonly nbdAddress: string;
  readonly boxNumber: number;
  /** Finishes what runs, makes everything durable, gives the data directory back. Idempotent. */
  stop(): Promise<void>;
}

export interface DaemonPorts {
  readonly log: Logger;
  /** Identities, roles and audit come in here. */
  readonly interceptors: readonly ServerInterceptor[];
  /** Called when the engine thread ended by itself; the daemon serves no more then. */
  readonly onEngineLost: (exit: EngineExit) => void;
}

/** What has been opened so far, so that it can be closed again when the next step fails. */
interface Opened {
  directory: StateDirectory;
  store?: Store;
  engine?: EngineClient;
  box?: Box;
  server?: GrpcServer;
}

/** Starts a daemon. Nothing stays open when it throws. */
export async function startDaemon(options: DaemonOptions, ports: DaemonPorts): Promise<Daemon> {
  const lock = native?.lockExclusiveAsync;
  const opened: Opened = { directory: await openStateDirectory(options.dataDirectory, lock) };
  try {
    const { box, server } = await openAll(opened, options, ports);
    const { number, nbdAddress } = box.facts();
    let stopping: Promise<void> | undefined;
    return {
      addresses: server.addresses,
      nbdAddress,
      boxNumber: number,
      stop() {
        stopping ??= closeAll(opened);
        return stopping;
      },
    };
  } catch (error) {
    await closeAll(opened).catch((failure) => ports.log.error({ err: failure }, "closing after a failed start"));
    throw error;
  }
}

async function openAll(
  opened: Opened,
  options: DaemonOptions,
  { log, interceptors, onEngineLost }: DaemonPorts,
): Promise<{ box: Box; server: GrpcServer }> {
  const { directory } = opened;
  const defaults = defaultAddresses(directory.run);
  const nbd = options.nbd ?? defaults.nbd;
  await requireDatabase(directory);
  const report = (what: string, error: unknown) => log.error({ err: error }, what);
  const files = systemStateFiles(directory.engine);
  if ((await checkLogs(directory.database)) === "torn") await tryCopy(directory, files, report);
  const database = await openLevelStore(directory.database).catch(async (error: unknown) => {
    const locked = error instanceof TidemarkError && error.code === "STATE_DIRECTORY_LOCKED";
    throw locked ? await lockedBy(directory.path) : error;
  });
  opened.store = database;
  if ((await database.list("copies", { limit: 1 })).length > 0) await requireState(directory);
  // Before the engine: what has no row in a database that has lost some would have failed, durably.
  const store = await bindDatabase(database, files, report);
  opened.store = store;
  const engine = startEngineThread();
  opened.engine = engine;
  engine.onExit((exit) => {
    if (!exit.expected) onEngineLost(exit);
  });
  const box = await Box.start({
    store,
    binding: store,
    engine,
    clock: systemClock,
    random: systemRandom,
    paths: systemPaths,
    report,
    number: options.boxNumber,
    dataDirectory: directory.path,
    stateDirectory: directory.engine,
    roots: [],
    nbdAddress: nbd === "none" ? undefined : addressText(nbd),
    scrub: options.scrub,
    environment: {
      nodeVersion: process.version,
      threadPoolSize: threadPoolSize(process.env),
      threadPoolSizeWanted: THREAD_POOL_SIZE,
    },
  });
  opened.box = box;
  const version = packageVersion();
  const memory = memoryFigure();
  const server = await startGrpcServer(
    { box, requests: box.requests, log: (error) => log.error({ err: error }, "a call failed unexpectedly") },
    {
      addresses: options.addresses.length === 0 ? [defaults.api] : options.addresses,
      descriptorSet: readFileSync(new URL("../gen/descriptors.binpb", import.meta.url)),
      interceptors,
      processFacts: (addresses) => ({ version, addresses, memoryBytes: memory() }),
    },
  );
  opened.server = server;
  return { box, server };
}

/**
 * A log without its end, as a kill or power failure may leave it: opening cuts it for good, so whatever refuses the start then
 * is found in a copy first, if there is room for one.
 */
async function tryCopy(
  { path, database }: StateDirectory,
  files: StateFiles,
  report: (what: string, error: unknown) => void,
): Promise<void> {
  const temporary = await copyOf(database).catch((error: unknown) => report("db could not be tried in a copy", error));
  if (temporary === undefined) return;
  try {
    const store = await openLevelStore(join(temporary, "db"));
    await requireMatch(store, files).finally(() => store.close());
  } catch (error) {
    if (!(error instanceof TidemarkError)) throw error;
    const message = error.detail.message.replaceAll(temporary, path);
    throw new TidemarkError(error.code, { ...error.detail, message }, { cause: error });
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

async function copyOf(database: string): Promise<string> {
  const temporary = await mkdtemp(join(tmpdir(), "tidemark-start-"));
  try {
    await cp(database, join(temporary, "db"), { recursive: true });
    return temporary;
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
}

/** Closes what is open, last opened first; goes on after a failure and throws the first one. */
async function closeAll({ directory, store, engine, box, server }: Opened): Promise<void> {
  const failures: unknown[] = [];
  const attempt = async (step: (() => Promise<void>) | undefined) => {
    await step?.().catch((error: unknown) => failures.push(error));
  };
  // Watches first: they would hold up the server until its grace is over.
  box?.watches.stop();
  box?.scrubs.stop();
  await attempt(server && (() => server.stop()));
  await attempt(box && (() => box.stop()));
  await attempt(engine && (() => engine.stop()));
  await attempt(store && (() => store.close()));
  await attempt(() => directory.release());
  if (failures.length > 0) throw failures[0];
}

function packageVersion(): string {
  const file = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  const { version } = JSON.parse(file) as { version: string };
  return version;
}

function memoryFigure(): () => number {
  let bytes = 0;
  let readMs = Number.NEGATIVE_INFINITY;
  return () => {
    const nowMs = systemClock.monotonicMs();
    if (nowMs - readMs >= MEMORY_FIGURE_MS) {
      bytes = process.memoryUsage.rss();
      readMs = nowMs;
    }
    return bytes;
  };
}
