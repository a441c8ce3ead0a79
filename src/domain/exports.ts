/**
 * Exports: volumes and partitions offered over NBD.
 *
 * An export is durable: it is offered again after a restart. One whose volume or partition is not there then stays
 * listed, is not offered, and an event and `doctor` say so.
 */
import { TidemarkError } from "../base/errors.ts";
import type { ExportStatus } from "../engine/engine-api.ts";
import type { ExportRow } from "../store/rows.ts";
import { compareNames, type Target } from "./catalog.ts";
import type { Context } from "./context.ts";
import type { Recorder } from "./journal.ts";
import { type Page, type PageRequest, pageOf } from "./pages.ts";
import { unavailable } from "./unavailable.ts";

export interface ExportView {
  readonly row: ExportRow;
  /** Label of the volume; empty for partitions. */
  readonly label: string;
  /** NBD URI; empty when the box does not listen. */
  readonly uri: string;
  readonly connections: number;
}

export class Exports {
  readonly #context: Context;
  /** NBD URI of the server without an export name; empty while it does not listen. */
  #serverUri = "";
  /** Exports that could not be offered, with the reason. */
  readonly #unavailable = new Map<string, string>();

  constructor(context: Context) {
    this.#context = context;
  }

  get serverUri(): string {
    return this.#serverUri;
  }

  get unavailable(): ReadonlyMap<string, string> {
    return this.#unavailable;
  }

  /** Listens and offers what was exported before. `address` as EngineApi.listenNbd. */
  async open(address: string): Promise<void> {
    this.#serverUri = await this.#context.engine.listenNbd(address);
    for (const row of this.#context.catalog.exports()) await this.#offerAgain(row);
  }

  /** A volume is open again: what of it could not be offered is offered now. */
  async volumeIsBack(uid: string): Promise<void> {
    await this.#context.locks.run([uid], async () => {
      for (const row of this.#context.catalog.exportsOf(uid))
        if (this.#unavailable.delete(row.name)) await this.#offerAgain(row);
    });
  }

  /** Offers a volume or partition. Errors as ExportService.AddExport. */
  async add(
    request: { readonly name: string; readonly readOnly: boolean },
    record: Recorder<ExportView>,
  ): Promise<ExportView> {
    const { volume, partition } = this.#context.catalog.find(request.name);
    if (this.#serverUri === "")
      throw new TidemarkError("NBD_NOT_LISTENING", {
        message: "the box does not listen for NBD clients",
        hint: "start the daemon with --nbd unix:PATH or --nbd HOST:PORT",
      });
    return this.#context.locks.run([volume.uid], async () => {
      const current = this.#context.catalog.volumeByUid(volume.uid);
      if (current === undefined || current.state !== "registered") this.#context.catalog.find(request.name);
      const extent = await this.#context.catalog.extentOf(current ?? volume, partition);
      return this.#add({ volume: current ?? volume, partition, extent }, request, record);
    });
  }

  /** One export. EXPORT_NOT_FOUND. */
  async get(name: string): Promise<ExportView> {
    const row = this.#row(name);
    return this.#view(row, await this.#context.engine.exportStatus());
  }

  /** Exports in order of their names. */
  async list(request: PageRequest): Promise<Page<ExportView>> {
    const page = pageOf(
      {
        name: "exports",
        filter: "",
        items: this.#context.catalog.exports(),
        keyOf: ({ name }) => name,
        compare: ({ name }, key) => compareNames(name, key),
      },
      request,
    );
    const status = page.items.length === 0 ? [] : await this.#context.engine.exportStatus();
    return { ...page, items: page.items.map((row) => this.#view(row, status)) };
  }

  /** Stops offering. Errors as ExportService.RemoveExport. */
  async remove(
    request: { readonly name: string; readonly clients: "disconnect" | "refuse" },
    record: Recorder<undefined>,
  ): Promise<void> {
    const { volumeUid } = this.#row(request.name);
    return this.#context.locks.run([volumeUid], async () => {
      const { engine, journal, catalog } = this.#context;
      const row = this.#row(request.name);
      if (this.#serverUri !== "" && !this.#unavailable.has(row.name))
        await engine.removeExport(row.name, { force: request.clients === "disconnect" });
      const event = {
        type: "export.removed",
        subject: row.name,
        message: `${row.name} is no longer exported`,
      } as const;
      await journal
        .commit([{ table: "exports", remove: row.name }, ...record(undefined)], [event])
        .catch(async (error: unknown) => {
          if (this.#serverUri !== "") await this.#offerAgain(row);
          throw error;
        });
      catalog.dropExport(row.name);
      this.#unavailable.delete(row.name);
    });
  }

  async #add(
    { volume, partition, extent }: Target,
    { readOnly }: { readonly readOnly: boolean },
    record: Recorder<ExportView>,
  ): Promise<ExportView> {
    const { engine, journal, catalog, clock, report } = this.#context;
    if (catalog.exportByName(extent.name) !== undefined)
      throw new TidemarkError("EXPORT_EXISTS", {
        message: `${extent.name} is exported already`,
        hint: `use it, or remove it first: tidemark export remove ${extent.name}`,
        field: "name",
        metadata: { name: extent.name },
      });
    catalog.refuseFullExports();
    const { facts, failure } = await engine.volumeStatus(volume.uid);
    if (failure !== undefined) throw unavailable(catalog.nameOf(volume), volume, failure);
    if (facts?.readOnly === true && !readOnly)
      throw new TidemarkError("READ_ONLY", {
        message: `${extent.name} can only be read`,
        hint: "export it read-only (tidemark export add --read-only)",
        field: "read_only",
      });
    const row: ExportRow = {
      name: extent.name,
      volumeUid: volume.uid,
      partition,
      readOnly,
      createdMs: clock.nowMs(),
      sizeBytes: extent.lengthBytes,
    };
    const aliases = partition === 0 && volume.label !== "" ? [volume.label] : [];
    await engine.addExport({ name: row.name, aliases, extent, readOnly });
    try {
      const view = this.#view(row, []);
      const event = {
        type: "export.added",
        subject: row.name,
        message: `${row.name} is exported ${readOnly ? "read-only" : "writable"} as ${view.uri}`,
        attributes: { uri: view.uri, readOnly: String(readOnly) },
      } as const;
      await journal.commit([{ table: "exports", put: row }, ...record(view)], [event]);
      catalog.putExport(row);
      return view;
    } catch (error) {
      await engine
        .removeExport(row.name, { force: true })
        .catch((left) => report(`the export ${row.name} was left open`, left));
      throw error;
    }
  }

  async #offerAgain(row: ExportRow): Promise<void> {
    const { engine, catalog, journal } = this.#context;
    try {
      const volume = catalog.volumeByUid(row.volumeUid);
      if (volume === undefined)
        throw new TidemarkError("VOLUME_NOT_FOUND", { message: `the volume of export ${row.name} is gone` });
      const { failure } = await engine.volumeStatus(volume.uid);
      if (failure !== undefined) throw unavailable(catalog.nameOf(volume), volume, failure);
      const extent = await catalog.extentOf(volume, row.partition);
      const aliases = row.partition === 0 && volume.label !== "" ? [volume.label] : [];
      await engine.addExport({ name: row.name, aliases, extent, readOnly: row.readOnly });
    } catch (error) {
      if (!(error instanceof TidemarkError) || error.code === "STOPPING" || error.code === "INTERNAL") throw error;
      this.#unavailable.set(row.name, error.message);
      const message = `${row.name} is not exported: ${error.message}`;
      await journal.keep([], [{ type: "export.unavailable", subject: row.name, message }]);
    }
  }

  #row(name: string): ExportRow {
    const exported = this.#context.catalog.exportByName(name) ?? this.#byLabel(name);
    if (exported !== undefined) return exported;
    throw new TidemarkError("EXPORT_NOT_FOUND", {
      message: name === "" ? "no export is named" : `${JSON.stringify(name.slice(0, 100))} is not exported`,
      hint: "tidemark export list shows the exports of this box",
      field: "name",
    });
  }

  #byLabel(name: string): ExportRow | undefined {
    const { catalog } = this.#context;
    const volume = catalog.volumes().find(({ label }) => label !== "" && label === name);
    return volume === undefined ? undefined : catalog.exportByName(catalog.nameOf(volume));
  }

  #view(row: ExportRow, status: readonly ExportStatus[]): ExportView {
    const { catalog } = this.#context;
    const label = row.partition === 0 ? (catalog.volumeByUid(row.volumeUid)?.label ?? "") : "";
    const connections = status.find(({ name }) => name === row.name)?.connections ?? 0;
    return { row, label, uri: exportUri(this.#serverUri, row.name), connections };
  }
}

/** URI of an export, from the server's: `nbd+unix:///NAME?socket=PATH` or `nbd://HOST:PORT/NAME`. */
export function exportUri(serverUri: string, name: string): string {
  if (serverUri === "") return "";
  const query = serverUri.indexOf("?");
  const base = (query < 0 ? serverUri : serverUri.slice(0, query)).replace(/\/+$/, "");
  const rest = query < 0 ? "" : serverUri.slice(query);
  // `nbd+unix:` has an empty host: `nbd+unix://` and then the path.
  const root = base.endsWith(":") ? `${base}//` : base;
  return `${root}/${encodeURIComponent(name)}${rest}`;
}
