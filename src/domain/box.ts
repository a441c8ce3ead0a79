/**
 * Box: one storage server, put together and brought to life.
 *
 * Order of the start (data-safety §1.10, as far as the domain's part goes): rows, volumes half made or half deleted, engine,
 * rows of copies by what the engine has, intents of requests, unfinished resizes, NBD and exports. A volume that cannot be opened stays registered and unavailable; the others go on.
 */
import { asTidemarkError, TidemarkError } from "../base/errors.ts";
import type { Clock, Random } from "../base/ports.ts";
import type { EngineApi, EngineEvent } from "../engine/engine-api.ts";
import type { BoxRow, EventRow } from "../store/rows.ts";
import type { Store } from "../store/store.ts";
import type { BoundDatabase } from "./binding.ts";
import { Catalog, volumeSpecOf } from "./catalog.ts";
import { type Context, newUid } from "./context.ts";
import { Copies, type CopyTotals } from "./copies.ts";
import { Data } from "./data.ts";
import { diagnose, type Environment, type Finding } from "./diagnose.ts";
import { Exports } from "./exports.ts";
import { Intents } from "./intents.ts";
import { Journal, type Recorder } from "./journal.ts";
import { KeyedMutex } from "./keyed-mutex.ts";
import { type Page, type PageRequest, pageOf } from "./pages.ts";
import { limitedPaths, type Paths } from "./paths.ts";
import { RequestIds } from "./request-ids.ts";
import { Scrubs } from "./scrubs.ts";
import { Troubles } from "./troubles.ts";
import { Volumes, type VolumeView } from "./volumes.ts";
import { Watches } from "./watches.ts";

export interface BoxOptions {
  readonly store: Store;
  /** The same store where it is bound to the state (binding.ts), to be asked how that goes. */
  readonly binding?: Pick<BoundDatabase, "lag">;
  readonly engine: EngineApi;
  readonly clock: Clock;
  readonly random: Random;
  readonly paths: Paths;
  readonly report: Context["report"];
  /** Number asked for; undefined: the one it has, 1 for a new box. */
  readonly number: number | undefined;
  /** Symbolic links resolved. */
  readonly dataDirectory: string;
  /** Directory of the engine's files, inside the data directory. */
  readonly stateDirectory: string;
  /** When not empty, volumes must lie in one of them. */
  readonly roots: readonly string[];
  /** Where NBD listens, as EngineApi.listenNbd; undefined: nowhere. */
  readonly nbdAddress: string | undefined;
  readonly environment: Environment;
  /** Whether its metadata is scrubbed without being asked for. */
  readonly scrub: "weekly" | "off";
}

export interface BoxFacts {
  readonly number: number;
  readonly uid: string;
  readonly startedMs: number;
  readonly nbdAddress: string;
  readonly volumes: number;
  readonly exports: number;
  readonly copies: CopyTotals;
  readonly nbdConnections: number;
  readonly dataDirectory: string;
}

export class Box {
  readonly volumes: Volumes;
  readonly exports: Exports;
  readonly copies: Copies;
  readonly data: Data;
  readonly watches: Watches;
  readonly scrubs: Scrubs;
  readonly requests: RequestIds;
  readonly #context: Context;
  readonly #intents: Intents;
  readonly #options: BoxOptions;
  readonly #row: BoxRow;
  readonly #startedMs: number;
  readonly #troubles: Troubles;
  #nbdConnections = 0;

  private constructor(options: BoxOptions, row: BoxRow) {
    const { store, engine, clock, random, report } = options;
    const paths = limitedPaths(options.paths, clock);
    this.#options = options;
    this.#row = row;
    this.#startedMs = clock.nowMs();
    const journal = new Journal(store, clock, report);
    this.#intents = new Intents(clock);
    this.#troubles = new Troubles(clock);
    const catalog = new Catalog(engine, row.number);
    const rules = { dataDirectory: options.dataDirectory, roots: options.roots };
    const locks = new KeyedMutex();
    this.#context = { engine, journal, catalog, locks, clock, random, paths, rules, report };
    this.volumes = new Volumes(this.#context);
    this.exports = new Exports(this.#context);
    this.copies = new Copies(this.#context);
    this.data = new Data(engine, catalog);
    this.watches = new Watches(clock, journal, this.copies);
    this.scrubs = new Scrubs(this.#context);
    this.requests = new RequestIds(store, clock, this.#intents, () => journal.isSettled);
  }

  /** Starts a box. STATE_DIRECTORY_INVALID for another number than it has, METADATA_CORRUPT, and what NBD may throw. */
  static async start(options: BoxOptions): Promise<Box> {
    const box = new Box(options, await settleRow(options));
    await box.#start();
    return box;
  }

  facts(): BoxFacts {
    const { catalog, rules } = this.#context;
    return {
      number: this.#row.number,
      uid: this.#row.uid,
      startedMs: this.#startedMs,
      nbdAddress: this.exports.serverUri,
      volumes: catalog.volumeCount,
      exports: catalog.exportCount,
      copies: this.copies.totals(),
      nbdConnections: this.#nbdConnections,
      dataDirectory: rules.dataDirectory,
    };
  }

  /** Opens an unavailable volume again, with its exports. Errors as VolumeService.ReopenVolume. */
  async reopenVolume(name: string, record: Recorder<VolumeView>): Promise<VolumeView> {
    const view = await this.volumes.reopen(name, record);
    await this.exports.volumeIsBack(view.row.uid);
    return view;
  }

  diagnose(): Promise<Finding[]> {
    const { volumes, exports, copies } = this;
    const { environment, binding } = this.#options;
    return diagnose(this.#context, { volumes, exports, copies, lag: binding?.lag }, environment);
  }

  /** Events, oldest first, of one object if `subject` is not empty. */
  events(subject: string, request: PageRequest): Page<EventRow> {
    const { events } = this.#context.journal;
    const items = subject === "" ? events : events.filter((row) => row.subject === subject);
    const keyOf = ({ id }: EventRow) => String(id);
    const compare = ({ id }: EventRow, key: string) => id - Number(key);
    return pageOf({ name: "events", filter: subject, items, keyOf, compare }, request);
  }

  /**
   * Ends watches and scrubs, then the engine: everything is durable afterwards, or the error names what is not. The store
   * stays open.
   */
  async stop(): Promise<void> {
    const { engine, journal, report } = this.#context;
    this.watches.stop();
    this.scrubs.stop();
    journal.stop();
    const failure = await engine.stop().then(
      () => undefined,
      (error: unknown) => asTidemarkError(error),
    );
    await this.scrubs.ended;
    const message = failure ? `the box stopped, not in order: ${failure.message}` : "the box stopped";
    await journal
      .commit([], [{ type: "box.stopped", subject: "", message }])
      .catch((error) => report("the stop was not recorded", error));
    if (failure) throw failure;
  }

  async #start(): Promise<void> {
    const { engine, journal, catalog } = this.#context;
    const { store, stateDirectory, nbdAddress } = this.#options;
    await journal.load();
    await this.requests.load();
    await this.#intents.load(store);
    await this.copies.load(store);
    for await (const row of store.scan("volumes")) catalog.putVolume(row);
    for await (const row of store.scan("exports")) catalog.putExport(row);
    engine.onEvent((event) => this.#onEngineEvent(event));
    await this.volumes.reconcile();
    const volumes = catalog.volumes().map((row) => volumeSpecOf(this.#row.number, row));
    const found = await engine.start({ stateDirectory, volumes, sessions: this.copies.hints });
    await this.copies.adopt(found);
    const { sessions } = found;
    const hasVolume = (uid: string) => catalog.volumeByUid(uid) !== undefined;
    const { ended, outOfService } = this.copies;
    await journal.commit(this.#intents.decideAll({ sessions, ended, hasVolume }, outOfService), []);
    await this.volumes.reconcileSizes();
    if (nbdAddress !== undefined) await this.exports.open(nbdAddress);
    const message = `the box started with ${volumes.length} volumes and ${found.sessions.length} copy sessions`;
    await journal.commit([], [{ type: "box.started", subject: "", message }]);
    if (this.#options.scrub === "weekly") this.scrubs.startWeekly();
  }

  #onEngineEvent(event: EngineEvent): void {
    const { catalog, journal, report } = this.#context;
    this.copies.onEngineEvent(event);
    if (event.type === "nbd.connected") this.#nbdConnections++;
    else if (event.type === "nbd.disconnected") this.#nbdConnections--;
    else if (event.type === "volume.failed") {
      const row = catalog.volumeByUid(event.uid);
      const subject = row === undefined ? event.uid : catalog.nameOf(row);
      const { message } = event.failure.detail;
      const attributes = { code: event.failure.code };
      void journal.keep([], [{ type: "volume.failed", subject, message, attributes }]);
    } else if (event.type === "engine.trouble" && this.#troubles.isNews(event.message)) {
      report(event.message, undefined);
      void journal.keep([], [{ type: "engine.trouble", subject: "", message: event.message }]);
    }
  }
}

/** The box's identity: made at the first start, checked at every later one. */
async function settleRow({ store, clock, random, number, dataDirectory }: BoxOptions): Promise<BoxRow> {
  const found = await store.get("box", "box");
  if (found === undefined) {
    const row: BoxRow = { number: number ?? 1, uid: newUid(random), createdMs: clock.nowMs() };
    await store.commit([{ table: "box", put: row }]);
    return row;
  }
  if (number !== undefined && number !== found.number)
    throw new TidemarkError("STATE_DIRECTORY_INVALID", {
      message: `${dataDirectory} belongs to box ${found.number}, not ${number}`,
      hint: `start it with --box ${found.number} or without --box; another box needs a data directory of its own`,
      metadata: { box: String(found.number) },
    });
  return found;
}
