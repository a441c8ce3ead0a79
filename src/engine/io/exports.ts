/** The exports of the engine: which names NBD clients may open, and what lies behind them. */
import { TidemarkError } from "../../base/errors.ts";
import { EXPORTS_MAX } from "../../base/limits.ts";
import type { ExportSpec } from "../engine-api.ts";
import type { ExportTable, IoTarget } from "../nbd/io-target.ts";
import type { Volume } from "../volume/volume.ts";
import { VolumeTarget } from "./volume-target.ts";

interface Entry {
  readonly spec: ExportSpec;
  readonly volume: Volume;
  target: VolumeTarget | undefined;
}

export class Exports implements ExportTable {
  readonly #entries = new Map<string, Entry>();
  readonly #aliases = new Map<string, string>();

  add(spec: ExportSpec, volume: Volume): void {
    if (this.#entries.size >= EXPORTS_MAX)
      throw new TidemarkError("LIMIT_EXCEEDED", {
        message: `there are ${EXPORTS_MAX} exports already`,
        hint: "remove exports that are not needed",
      });
    for (const name of [spec.name, ...spec.aliases])
      if (this.#entries.has(name) || this.#aliases.has(name))
        throw new TidemarkError("EXPORT_EXISTS", {
          message: `${name} is exported already`,
          hint: "`tidemark export list` shows its address",
        });
    this.#entries.set(spec.name, { spec, volume, target: undefined });
    for (const alias of spec.aliases) this.#aliases.set(alias, spec.name);
    volume.exportCount++;
  }

  require(name: string): ExportSpec {
    const entry = this.#entries.get(name);
    if (entry) return entry.spec;
    throw new TidemarkError("EXPORT_NOT_FOUND", {
      message: `${name} is not exported`,
      hint: "`tidemark export list` shows what is",
    });
  }

  remove(name: string): void {
    const { aliases } = this.require(name);
    const entry = this.#entries.get(name);
    if (entry) entry.volume.exportCount--;
    this.#entries.delete(name);
    for (const alias of aliases) this.#aliases.delete(alias);
  }

  names(): readonly string[] {
    return [...this.#entries.keys()];
  }

  /** One target an export, shared by its connections; undefined for an unknown name or an unavailable volume. */
  open(name: string): { readonly name: string; readonly target: IoTarget } | undefined {
    const entry = this.#entries.get(name) ?? this.#entries.get(this.#aliases.get(name) ?? "");
    if (!entry?.volume.online) return undefined;
    const { spec, volume } = entry;
    entry.target ??= new VolumeTarget(volume, spec.extent, spec.readOnly ? "read-only" : "writable");
    return { name: spec.name, target: entry.target };
  }
}
