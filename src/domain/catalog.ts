/**
 * Catalog: the volumes and exports of the box, as the store has them, and what names mean.
 *
 * Role: memory image of two tables, kept by the use cases after their commits; finds things by name. Reserving a name is
 * one synchronous step, so two requests never get the same one.
 * Invariants: LU numbers, labels and paths are unique, those of volumes being made included.
 */
import { TidemarkError } from "../base/errors.ts";
import { EXPORTS_MAX, LU_NUMBER_MAX, VOLUMES_MAX } from "../base/limits.ts";
import type { EngineApi, ExtentRef, PartitionFacts, VolumeSpec } from "../engine/engine-api.ts";
import type { ExportRow, VolumeRow } from "../store/rows.ts";
import { type CanonicalName, parseCanonicalName, partitionName, volumeName } from "./names.ts";

/** A volume or a partition, found by its name. */
export interface Target {
  readonly volume: VolumeRow;
  /** 0 for the whole volume. */
  readonly partition: number;
  readonly extent: ExtentRef;
}

export class Catalog {
  readonly #engine: EngineApi;
  readonly #boxNumber: number;
  readonly #volumes = new Map<string, VolumeRow>();
  readonly #byLu = new Map<number, VolumeRow>();
  readonly #byLabel = new Map<string, VolumeRow>();
  readonly #byPath = new Map<string, VolumeRow>();
  readonly #exports = new Map<string, ExportRow>();

  constructor(engine: EngineApi, boxNumber: number) {
    this.#engine = engine;
    this.#boxNumber = boxNumber;
  }

  /** Registered volumes in order of their LU numbers. */
  volumes(): VolumeRow[] {
    const rows = [...this.#volumes.values()].filter(({ state }) => state === "registered");
    return rows.sort((a, b) => a.lu - b.lu);
  }

  /** Every volume, those being made or removed included. */
  allVolumes(): VolumeRow[] {
    return [...this.#volumes.values()];
  }

  exports(): ExportRow[] {
    return [...this.#exports.values()].sort((a, b) => compareNames(a.name, b.name));
  }

  get volumeCount(): number {
    return this.#volumes.size;
  }

  get exportCount(): number {
    return this.#exports.size;
  }

  nameOf(volume: VolumeRow): string {
    return volumeName(this.#boxNumber, volume.lu);
  }

  volumeByUid(uid: string): VolumeRow | undefined {
    return this.#volumes.get(uid);
  }

  exportsOf(uid: string): ExportRow[] {
    return [...this.#exports.values()].filter(({ volumeUid }) => volumeUid === uid);
  }

  exportByName(name: string): ExportRow | undefined {
    return this.#exports.get(name);
  }

  /** Lowest LU number that is free. LIMIT_EXCEEDED when the box is full. */
  freeLu(): number {
    if (this.#volumes.size >= VOLUMES_MAX)
      throw new TidemarkError("LIMIT_EXCEEDED", {
        message: `the box has ${VOLUMES_MAX} volumes, which is the most`,
        hint: "delete a volume, or start another box",
      });
    let lu = 1;
    while (this.#byLu.has(lu)) lu++;
    return lu;
  }

  /** Adds a volume, or throws VOLUME_EXISTS, LABEL_EXISTS, PATH_REGISTERED, LIMIT_EXCEEDED. */
  reserve(row: VolumeRow): void {
    this.freeLu();
    if (row.lu > LU_NUMBER_MAX)
      throw new TidemarkError("INVALID_ARGUMENT", {
        message: `LU numbers go up to ${LU_NUMBER_MAX}`,
        hint: "take a smaller number, or 0 for the lowest free one",
        field: "lu",
      });
    const holder = this.#byLu.get(row.lu);
    if (holder !== undefined)
      throw new TidemarkError("VOLUME_EXISTS", {
        message: `${this.nameOf(holder)} exists already`,
        hint: "take another LU number, or 0 for the lowest free one",
        field: "lu",
        metadata: { name: this.nameOf(holder), path: holder.path },
      });
    const labelled = row.label === "" ? undefined : this.#byLabel.get(row.label);
    if (labelled !== undefined)
      throw new TidemarkError("LABEL_EXISTS", {
        message: `${this.nameOf(labelled)} has the label ${row.label} already`,
        hint: "take another label",
        field: "label",
        metadata: { name: this.nameOf(labelled) },
      });
    const registered = this.#byPath.get(row.path);
    if (registered !== undefined)
      throw new TidemarkError("PATH_REGISTERED", {
        message: `${row.path} is volume ${this.nameOf(registered)} already`,
        hint: `use ${this.nameOf(registered)}, or delete it first`,
        field: "path",
        metadata: { name: this.nameOf(registered), path: row.path },
      });
    this.putVolume(row);
  }

  putVolume(row: VolumeRow): void {
    this.dropVolume(row.uid);
    this.#volumes.set(row.uid, row);
    this.#byLu.set(row.lu, row);
    this.#byPath.set(row.path, row);
    if (row.label !== "") this.#byLabel.set(row.label, row);
  }

  dropVolume(uid: string): void {
    const row = this.#volumes.get(uid);
    if (row === undefined) return;
    this.#volumes.delete(uid);
    this.#byLu.delete(row.lu);
    this.#byPath.delete(row.path);
    this.#byLabel.delete(row.label);
  }

  putExport(row: ExportRow): void {
    this.#exports.set(row.name, row);
  }

  dropExport(name: string): void {
    this.#exports.delete(name);
  }

  /** LIMIT_EXCEEDED when no export can be added. */
  refuseFullExports(): void {
    if (this.#exports.size >= EXPORTS_MAX)
      throw new TidemarkError("LIMIT_EXCEEDED", {
        message: `the box has ${EXPORTS_MAX} exports, which is the most`,
        hint: "remove an export",
      });
  }

  /** The volume of a canonical name or label. VOLUME_NOT_FOUND; INVALID_ARGUMENT for an empty name or a partition. */
  volume(name: string, field = "name"): VolumeRow {
    const { volume, partition } = this.find(name, field);
    if (partition === 0) return volume;
    throw new TidemarkError("INVALID_ARGUMENT", {
      message: `${name} is a partition; a whole volume is needed here`,
      hint: `use ${this.nameOf(volume)}`,
      field,
    });
  }

  /** What a name means, without looking into the partition table. VOLUME_NOT_FOUND, INVALID_ARGUMENT. */
  find(name: string, field = "name"): { readonly volume: VolumeRow; readonly partition: number } {
    if (name === "")
      throw new TidemarkError("INVALID_ARGUMENT", {
        message: "no volume is named",
        hint: "give the name of a volume, such as g1d2, or its label",
        field,
      });
    const canonical = parseCanonicalName(name);
    const volume = canonical === undefined ? this.#byLabel.get(name) : this.#canonical(canonical);
    if (volume === undefined || volume.state !== "registered") throw this.#notFound(name, canonical, field);
    return { volume, partition: canonical?.partition ?? 0 };
  }

  /** A volume or partition with its place. As `find`, PARTITION_NOT_FOUND, and what reading the table may throw. */
  async target(name: string, field = "name"): Promise<Target> {
    const { volume, partition } = this.find(name, field);
    return { volume, partition, extent: await this.extentOf(volume, partition) };
  }

  /** Place of a volume (partition 0) or partition. PARTITION_NOT_FOUND, VOLUME_UNAVAILABLE. */
  async extentOf(volume: VolumeRow, partition: number): Promise<ExtentRef> {
    const name = this.nameOf(volume);
    if (partition === 0) return { volumeUid: volume.uid, name, offsetBytes: 0, lengthBytes: volume.sizeBytes };
    const found = (await this.#engine.partitions(volume.uid)).find(({ number }) => number === partition);
    if (found === undefined)
      throw new TidemarkError("PARTITION_NOT_FOUND", {
        message: `${name} has no partition ${partition}`,
        hint: `tidemark partition list ${name} shows those it has`,
        metadata: { name: partitionName(this.#boxNumber, volume.lu, partition) },
      });
    return this.partitionExtent(volume, found);
  }

  partitionExtent(volume: VolumeRow, { number, offsetBytes, sizeBytes }: PartitionFacts): ExtentRef {
    const name = partitionName(this.#boxNumber, volume.lu, number);
    return { volumeUid: volume.uid, name, offsetBytes, lengthBytes: sizeBytes };
  }

  #canonical({ box, lu }: CanonicalName): VolumeRow | undefined {
    return box === this.#boxNumber ? this.#byLu.get(lu) : undefined;
  }

  #notFound(name: string, canonical: CanonicalName | undefined, field: string): TidemarkError {
    const elsewhere = canonical !== undefined && canonical.box !== this.#boxNumber;
    return new TidemarkError("VOLUME_NOT_FOUND", {
      message: elsewhere
        ? `${name} belongs to box ${canonical.box}, this is box ${this.#boxNumber}`
        : `there is no volume ${JSON.stringify(name.slice(0, 100))}`,
      hint: "tidemark volume list shows the volumes of this box",
      field,
      metadata: { name: name.slice(0, 100) },
    });
  }
}

/** A volume as the engine is told of it at start; of a resize that was interrupted the smaller size counts. */
export function volumeSpecOf(boxNumber: number, row: VolumeRow): VolumeSpec {
  const sizeBytes = row.resizingToBytes === 0 ? row.sizeBytes : Math.min(row.sizeBytes, row.resizingToBytes);
  return { uid: row.uid, name: volumeName(boxNumber, row.lu), path: row.path, sizeBytes };
}

/** Order of canonical names by their numbers. */
export function compareNames(a: string, b: string): number {
  const [left, right] = [parseCanonicalName(a), parseCanonicalName(b)];
  if (left === undefined || right === undefined) return a < b ? -1 : a > b ? 1 : 0;
  return left.lu - right.lu || left.partition - right.partition;
}
