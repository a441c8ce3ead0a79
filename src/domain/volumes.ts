/**
 * Volumes: register, create, resize, reopen, delete.
 *
 * Intent first: a row `creating` or `deleting` is durable before a file is made or removed; `reconcile` (at start) undoes
 * the first and finishes the second. A file is removed only when the box made it and, while undoing, only when it holds
 * no data: what stands at the path may be somebody else's.
 * Operations on one volume run one after the other (context.locks).
 */
import { TidemarkError } from "../base/errors.ts";
import { VOLUME_SIZE_BYTES_MAX, VOLUME_SIZE_BYTES_MIN } from "../base/limits.ts";
import { GRANULE_SIZE_BYTES, SECTOR_SIZE_BYTES } from "../base/units.ts";
import type { VolumeFacts, VolumeStatus } from "../engine/engine-api.ts";
import type { VolumeRow } from "../store/rows.ts";
import type { Change } from "../store/store.ts";
import { type Context, newUid } from "./context.ts";
import { type Intent, NO_INTENT } from "./intents.ts";
import type { NewEvent, Recorder } from "./journal.ts";
import { checkLabel } from "./names.ts";
import { type Page, type PageRequest, pageOf } from "./pages.ts";
import { checkPath, mayRegister, resolveNew } from "./paths.ts";
import { unavailableHint } from "./unavailable.ts";

/** A volume as it is now. */
export interface VolumeView {
  readonly name: string;
  readonly row: VolumeRow;
  readonly status: VolumeStatus;
}

export interface PartitionView {
  readonly name: string;
  readonly number: number;
  readonly offsetBytes: number;
  readonly sizeBytes: number;
  readonly type: string;
  readonly label: string;
  /** False when it does not begin on a granule. */
  readonly copyable: boolean;
}

export class Volumes {
  readonly #context: Context;

  constructor(context: Context) {
    this.#context = context;
  }

  /** Registers what is at `path`. `lu` 0: the lowest free one. Errors as VolumeService.RegisterVolume. */
  async register(
    request: { readonly path: string; readonly lu: number; readonly label: string },
    record: Recorder<VolumeView>,
  ): Promise<VolumeView> {
    const { engine, paths, rules } = this.#context;
    checkPath(request.path);
    checkLabel(request.label);
    const path = await paths.resolve(request.path);
    mayRegister(path, rules);
    const row = this.#reserve({ ...request, path, sizeBytes: 0, createdByBox: false });
    try {
      const facts = await engine.inspectPath(path);
      checkSize(facts.sizeBytes);
      return await this.#open({ ...row, sizeBytes: facts.sizeBytes }, "volume.registered", record);
    } catch (error) {
      this.#context.catalog.dropVolume(row.uid);
      throw error;
    }
  }

  /** Creates a sparse file and registers it. Errors as VolumeService.CreateVolume. */
  async create(
    request: { readonly path: string; readonly sizeBytes: number; readonly lu: number; readonly label: string },
    record: Recorder<VolumeView>,
  ): Promise<VolumeView> {
    const { engine, journal, catalog, paths, rules } = this.#context;
    checkPath(request.path);
    checkLabel(request.label);
    checkSize(request.sizeBytes);
    const path = await resolveNew(paths, request.path);
    mayRegister(path, rules);
    const row = this.#reserve({ ...request, path, createdByBox: true });
    try {
      if ((await paths.look(path)) !== undefined) throw pathExists(path);
      await journal.commit([{ table: "volumes", put: row }], []);
    } catch (error) {
      catalog.dropVolume(row.uid);
      throw error;
    }
    let made = false;
    try {
      await engine.createFile(path, row.sizeBytes);
      made = true;
      return await this.#open(row, "volume.created", record);
    } catch (error) {
      await this.#undoCreate(row, { removeFile: made });
      throw error;
    }
  }

  /** One volume. VOLUME_NOT_FOUND. */
  async get(name: string): Promise<VolumeView> {
    return this.#view(this.#context.catalog.volume(name));
  }

  /** Volumes in order of their LU numbers. */
  async list(request: PageRequest): Promise<Page<VolumeView>> {
    const { catalog } = this.#context;
    const page = pageOf(
      {
        name: "volumes",
        filter: "",
        items: catalog.volumes(),
        keyOf: ({ lu }) => String(lu),
        compare: ({ lu }, key) => lu - Number(key),
      },
      request,
    );
    return { ...page, items: await Promise.all(page.items.map((row) => this.#view(row))) };
  }

  /** Changes the size; 0 takes over the backing's. Errors as VolumeService.ResizeVolume. */
  resize(
    request: { readonly name: string; readonly sizeBytes: number; readonly shrink: "allow" | "refuse" },
    record: Recorder<VolumeView>,
  ): Promise<VolumeView> {
    const { uid } = this.#context.catalog.volume(request.name);
    return this.#context.locks.run([uid], () => this.#resize(uid, request, record));
  }

  /** Opens an unavailable volume again. Errors as VolumeService.ReopenVolume. */
  reopen(name: string, record: Recorder<VolumeView>): Promise<VolumeView> {
    const { uid } = this.#context.catalog.volume(name);
    return this.#context.locks.run([uid], async () => {
      const { engine, journal, catalog } = this.#context;
      const row = this.#present(uid, name);
      const subject = catalog.nameOf(row);
      const { online, failure } = await engine.volumeStatus(uid);
      const { sizeBytes } = await engine.reopenVolume(uid).catch((error: unknown) => {
        if (!(error instanceof TidemarkError)) throw error;
        const hint = unavailableHint(subject, row, error);
        throw new TidemarkError(error.code, { ...error.detail, hint }, { cause: error });
      });
      // A resize that timed out has come about after all.
      const meantBytes = row.resizingToBytes;
      const isMeant = meantBytes < row.sizeBytes ? sizeBytes <= meantBytes : sizeBytes === meantBytes;
      const resized = meantBytes !== 0 && isMeant;
      const present: VolumeRow = resized ? { ...row, sizeBytes, resizingToBytes: 0 } : row;
      const view: VolumeView = { name: subject, row: present, status: await engine.volumeStatus(uid) };
      const message = `${subject} is open again; it was not available: ${failure?.detail.message ?? "it was not open"}`;
      const events: NewEvent[] = online ? [] : [{ type: "volume.reopened", subject, message }];
      await journal.commit(
        [...(resized ? [{ table: "volumes", put: present } as const] : []), ...record(view)],
        events,
      );
      if (resized) catalog.putVolume(present);
      return view;
    });
  }

  /** Takes a volume out of the box. Errors as VolumeService.DeleteVolume. */
  async delete(
    request: { readonly name: string; readonly file: "keep" | "remove" },
    record: Recorder<undefined>,
    intent: Intent = NO_INTENT,
  ): Promise<void> {
    if (intent.earlier?.done === true) return this.#context.journal.keep(record(undefined), []);
    const { uid } = this.#context.catalog.volume(request.name);
    return this.#context.locks.run([uid], () => this.#delete(uid, request.file, record, intent));
  }

  /** Partitions in order of their numbers. VOLUME_NOT_FOUND, VOLUME_UNAVAILABLE, MEDIUM_ERROR. */
  async partitions(name: string, request: PageRequest): Promise<Page<PartitionView>> {
    const { catalog, engine } = this.#context;
    const volume = catalog.volume(name, "volume");
    const found = await engine.partitions(volume.uid);
    const items = found
      .map((facts): PartitionView => {
        const copyable = facts.offsetBytes % GRANULE_SIZE_BYTES === 0;
        return { ...facts, name: catalog.partitionExtent(volume, facts).name, copyable };
      })
      .sort((a, b) => a.number - b.number);
    const filter = volume.uid;
    const keyOf = ({ number }: PartitionView) => String(number);
    const compare = ({ number }: PartitionView, key: string) => number - Number(key);
    return pageOf({ name: "partitions", filter, items, keyOf, compare }, request);
  }

  /**
   * Finishes or undoes what a crash left half done, before the engine opens the volumes. Afterwards the catalog holds
   * registered volumes only.
   */
  async reconcile(): Promise<void> {
    const { catalog, journal, report } = this.#context;
    for (const row of catalog.allVolumes()) {
      if (row.state === "registered") continue;
      await this.#removeLeftFile(row).catch((error) => report(`${row.path} could not be removed`, error));
      await journal.commit([{ table: "volumes", remove: row.uid }], []);
      catalog.dropVolume(row.uid);
    }
  }

  /** Finishes a resize that a crash interrupted, when the engine runs. */
  async reconcileSizes(): Promise<void> {
    const { catalog, engine, report } = this.#context;
    for (const row of catalog.volumes()) {
      // Of one that is away nobody can say how large it is: its intent stays.
      if (row.resizingToBytes === 0 || !(await engine.volumeStatus(row.uid)).online) continue;
      const request = { name: catalog.nameOf(row), sizeBytes: row.resizingToBytes, shrink: "allow" as const };
      await this.resize(request, () => []).catch((error) =>
        report(`resize of ${request.name} was not finished`, error),
      );
    }
  }

  #reserve(request: {
    readonly path: string;
    readonly lu: number;
    readonly label: string;
    readonly sizeBytes: number;
    readonly createdByBox: boolean;
  }): VolumeRow {
    const { catalog, random, clock } = this.#context;
    const row: VolumeRow = {
      uid: newUid(random),
      lu: request.lu === 0 ? catalog.freeLu() : request.lu,
      label: request.label,
      path: request.path,
      sizeBytes: request.sizeBytes,
      backing: "file",
      createdByBox: request.createdByBox,
      createdMs: clock.nowMs(),
      state: "creating",
      resizingToBytes: 0,
    };
    catalog.reserve(row);
    return row;
  }

  /** Opens a reserved volume and makes its row durable. Leaves nothing open when it throws. */
  async #open(row: VolumeRow, type: NewEvent["type"], record: Recorder<VolumeView>): Promise<VolumeView> {
    const { engine, journal, catalog, report } = this.#context;
    const name = catalog.nameOf(row);
    const facts = await engine.addVolume({ uid: row.uid, name, path: row.path, sizeBytes: row.sizeBytes });
    try {
      const registered: VolumeRow = { ...row, state: "registered", backing: facts.backing, sizeBytes: facts.sizeBytes };
      const view: VolumeView = { name, row: registered, status: await engine.volumeStatus(row.uid) };
      const event: NewEvent = {
        type,
        subject: name,
        message: `${name} ${type === "volume.created" ? "created" : "registered"} at ${row.path}`,
        attributes: { path: row.path, sizeBytes: String(facts.sizeBytes), label: row.label },
      };
      await journal.commit([{ table: "volumes", put: registered }, ...record(view)], [event]);
      catalog.putVolume(registered);
      return view;
    } catch (error) {
      await engine.removeVolume(row.uid).catch((failure) => report(`${name} was left open`, failure));
      throw error;
    }
  }

  async #undoCreate(row: VolumeRow, { removeFile }: { removeFile: boolean }): Promise<void> {
    const { engine, journal, catalog, report } = this.#context;
    try {
      if (removeFile) await engine.removeFile(row.path);
      await journal.keep([{ table: "volumes", remove: row.uid }], []);
    } catch (error) {
      report(`the intent to create ${row.path} stays until the next start`, error);
    }
    catalog.dropVolume(row.uid);
  }

  async #view(row: VolumeRow): Promise<VolumeView> {
    const { engine, catalog } = this.#context;
    return { name: catalog.nameOf(row), row, status: await engine.volumeStatus(row.uid) };
  }

  async #resize(
    uid: string,
    request: { readonly name: string; readonly sizeBytes: number; readonly shrink: "allow" | "refuse" },
    record: Recorder<VolumeView>,
  ): Promise<VolumeView> {
    const { engine, journal, catalog, paths } = this.#context;
    const row = this.#present(uid, request.name);
    const name = catalog.nameOf(row);
    this.#refuseExported(row, "resized");
    refuseOutOfService(name, await engine.volumeStatus(uid));
    if (request.sizeBytes !== 0) checkSize(request.sizeBytes);
    const target = request.sizeBytes === 0 ? (await paths.look(row.path))?.sizeBytes : request.sizeBytes;
    const shrinks = target !== undefined && target < row.sizeBytes;
    if (shrinks && request.shrink === "refuse") throw shrinkRefused(name, row.sizeBytes, target);
    const isMeant = request.sizeBytes !== 0 && target !== row.sizeBytes && !(await this.#hasCopies(uid));
    if (isMeant) {
      // A crash after the file was cut or extended leaves one of another size than the volume: the row says that it was meant.
      const intent = { ...row, resizingToBytes: request.sizeBytes };
      await journal.commit([{ table: "volumes", put: intent }], []);
      catalog.putVolume(intent);
    }
    let facts: VolumeFacts;
    try {
      facts = await engine.resizeVolume(uid, request.sizeBytes);
    } catch (error) {
      // A device that did not answer may still do what it was asked: then the intent says that it was meant.
      if (isMeant && !isTimeout(error)) await this.#restore(row);
      throw error;
    }
    const resized: VolumeRow = { ...row, sizeBytes: facts.sizeBytes, resizingToBytes: 0 };
    const view: VolumeView = { name, row: resized, status: await engine.volumeStatus(uid) };
    const event: NewEvent = {
      type: "volume.resized",
      subject: name,
      message: `${name} resized from ${row.sizeBytes} to ${facts.sizeBytes} bytes`,
      attributes: { fromBytes: String(row.sizeBytes), sizeBytes: String(facts.sizeBytes) },
    };
    await journal.commit([{ table: "volumes", put: resized }, ...record(view)], [event]);
    catalog.putVolume(resized);
    return view;
  }

  /** Then the engine refuses; a start that found the intent would take its copies for misplaced. No copy begins meanwhile. */
  async #hasCopies(uid: string): Promise<boolean> {
    const sessions = await this.#context.engine.sessions();
    return sessions.some(({ source, destination }) => source.volumeUid === uid || destination.volumeUid === uid);
  }

  async #restore(row: VolumeRow): Promise<void> {
    const { journal, catalog } = this.#context;
    const settled = { ...row, resizingToBytes: 0 };
    catalog.putVolume(settled);
    await journal.keep([{ table: "volumes", put: settled }], []);
  }

  async #delete(uid: string, file: "keep" | "remove", record: Recorder<undefined>, intent: Intent): Promise<void> {
    const { engine, journal, catalog } = this.#context;
    const row = this.#present(uid, "");
    const name = catalog.nameOf(row);
    this.#refuseExported(row, "deleted");
    if (file === "remove" && !row.createdByBox)
      throw new TidemarkError("INVALID_ARGUMENT", {
        message: `the box did not create ${row.path}, so it does not remove it`,
        hint: `delete ${name} without its file, then remove the file yourself`,
        field: "delete_file",
        metadata: { path: row.path },
      });
    const removal: Change[] = [{ table: "volumes", remove: uid }];
    const event: NewEvent = {
      type: "volume.deleted",
      subject: name,
      message: `${name} taken out of the box, its file ${file === "remove" ? "removed" : "kept"}`,
      attributes: { path: row.path, file },
    };
    await engine.removeVolume(uid);
    try {
      if (file === "keep") await journal.commit([...removal, ...record(undefined)], [event]);
      else {
        const deleting: Change = { table: "volumes", put: { ...row, state: "deleting" } };
        await journal.commit([deleting, ...intent.begin({ action: "delete-volume", volumeUid: uid })], []);
      }
    } catch (error) {
      intent.withdraw(); // nothing of it was stored
      await this.#openAgain(row);
      throw error;
    }
    if (file === "remove") {
      catalog.putVolume({ ...row, state: "deleting" });
      await engine.removeFile(row.path).catch((error) => {
        // It may still be removed: the next start sees to it.
        if (isTimeout(error)) throw error;
        return this.#takeBack(row, intent, error);
      });
      await journal.keep([...removal, ...record(undefined)], [event]);
    }
    catalog.dropVolume(uid);
  }

  /** A file that cannot be removed: the volume stays, and the caller hears why. */
  async #takeBack(row: VolumeRow, intent: Intent, error: unknown): Promise<never> {
    const { journal, catalog } = this.#context;
    await journal.keep([{ table: "volumes", put: row }, ...intent.withdraw()], []);
    catalog.putVolume(row);
    await this.#openAgain(row);
    throw error;
  }

  /** Opens a volume whose removal did not come about. */
  async #openAgain(row: VolumeRow): Promise<void> {
    const { engine, catalog, report } = this.#context;
    const name = catalog.nameOf(row);
    const spec = { uid: row.uid, name, path: row.path, sizeBytes: row.sizeBytes };
    const { failure } = await engine.takeBackVolume(spec);
    if (failure) report(`${name} could not be opened again`, new TidemarkError(failure.code, failure.detail));
  }

  /** The volume, unless it went while the caller waited for its lock. */
  #present(uid: string, name: string): VolumeRow {
    const row = this.#context.catalog.volumeByUid(uid);
    if (row !== undefined && row.state === "registered") return row;
    throw new TidemarkError("VOLUME_NOT_FOUND", {
      message: `the volume ${name} has just been deleted`,
      hint: "tidemark volume list shows the volumes of this box",
      field: "name",
    });
  }

  #refuseExported(row: VolumeRow, verb: string): void {
    const [first] = this.#context.catalog.exportsOf(row.uid);
    if (first === undefined) return;
    throw new TidemarkError("VOLUME_BUSY", {
      message: `${this.#context.catalog.nameOf(row)} is exported as ${first.name} and cannot be ${verb}`,
      hint: `tidemark export remove ${first.name}, then try again`,
      metadata: { export: first.name },
    });
  }

  async #removeLeftFile(row: VolumeRow): Promise<void> {
    const { engine, paths, report } = this.#context;
    const facts = await paths.look(row.path);
    if (facts === undefined || facts.kind !== "file") return;
    const meant = row.state === "deleting" && row.createdByBox;
    const untouched = facts.allocatedBytes === 0 && (facts.sizeBytes === row.sizeBytes || facts.sizeBytes === 0);
    if (meant || (row.state === "creating" && row.createdByBox && untouched)) await engine.removeFile(row.path);
    else report(`${row.path} was left by an interrupted creation and holds data`, undefined);
  }
}

/** Before an intent is written that could not be withdrawn for certain. OUT_OF_SERVICE. */
function refuseOutOfService(name: string, { failure }: VolumeStatus): void {
  if (failure?.code !== "OUT_OF_SERVICE") return;
  const { detail } = failure;
  throw new TidemarkError("OUT_OF_SERVICE", { ...detail, message: `volume ${name} is ${detail.message}` });
}

/** The device did not answer in time: nobody can say yet what has been done. */
function isTimeout(error: unknown): boolean {
  return error instanceof TidemarkError && error.code === "DEVICE_TIMEOUT";
}

function checkSize(sizeBytes: number): void {
  const refuse = (reason: string) => {
    throw new TidemarkError("SIZE_INVALID", {
      message: `a volume cannot have ${sizeBytes} bytes: ${reason}`,
      hint: `use a multiple of ${SECTOR_SIZE_BYTES} from ${VOLUME_SIZE_BYTES_MIN} to ${VOLUME_SIZE_BYTES_MAX}`,
      field: "size_bytes",
      metadata: { sizeBytes: String(sizeBytes) },
    });
  };
  if (sizeBytes < VOLUME_SIZE_BYTES_MIN) refuse("it would be empty");
  if (sizeBytes > VOLUME_SIZE_BYTES_MAX) refuse("it would be too large");
  if (sizeBytes % SECTOR_SIZE_BYTES !== 0) refuse(`it is no multiple of ${SECTOR_SIZE_BYTES}`);
}

function pathExists(path: string): TidemarkError {
  return new TidemarkError("PATH_EXISTS", {
    message: `there is something at ${path} already`,
    hint: "take another path, or register what is there",
    field: "path",
    metadata: { path },
  });
}

function shrinkRefused(name: string, fromBytes: number, toBytes: number): TidemarkError {
  return new TidemarkError("SIZE_INVALID", {
    message: `${name} would shrink from ${fromBytes} to ${toBytes} bytes and lose what lies behind`,
    hint: "set allow_shrink (tidemark volume resize --allow-shrink) if that is meant",
    field: "allow_shrink",
    metadata: { fromBytes: String(fromBytes), toBytes: String(toBytes) },
  });
}
