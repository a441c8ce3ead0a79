/** Damage to a state directory as a whole: to the bytes of its files, and to which file lies where. */
import { anyByteDamage, applyAll, type ByteDamage } from "./byte-damage.ts";
import type { Chance } from "./chance.ts";
import type { Ending, Snapshot } from "./history.ts";
import { kindOf } from "./pages-door.ts";
import { anyJsonDamage, changeJson, type JsonDamage, reseal } from "./reseal.ts";

export type StateDamage =
  | {
      readonly kind: "bytes";
      readonly path: string;
      readonly damages: readonly ByteDamage[];
      readonly resealed: boolean;
    }
  | { readonly kind: "json"; readonly path: string; readonly change: JsonDamage }
  /** The `version`-th content it had before. */
  | { readonly kind: "earlier"; readonly path: string; readonly version: number }
  /** One page of it is one page of another file. */
  | {
      readonly kind: "page";
      readonly path: string;
      readonly page: number;
      readonly from: string;
      readonly fromPage: number;
    }
  | { readonly kind: "swap" | "copy" | "rename"; readonly path: string; readonly other: string }
  | { readonly kind: "remove"; readonly path: string }
  | { readonly kind: "add"; readonly path: string; readonly hex: string };

const PAGE_BYTES = 4096;

/** The directory after the damage, and the paths it touched. What does not apply changes nothing. */
export function damageState(
  snapshot: Snapshot,
  damages: readonly StateDamage[],
): { files: Map<string, Buffer>; paths: string[] } {
  const files = new Map(snapshot.files);
  const paths = new Set<string>();
  for (const damage of damages) {
    const bytes = files.get(damage.path);
    if (damage.kind === "add") {
      files.set(damage.path, Buffer.from(damage.hex, "hex"));
      paths.add(damage.path);
      continue;
    }
    if (bytes === undefined) continue;
    paths.add(damage.path);
    const changed = damagedFile(snapshot, files, damage, bytes);
    if (changed !== undefined) files.set(damage.path, changed);
    else if (damage.kind === "remove") files.delete(damage.path);
    else if ("other" in damage) {
      const other = files.get(damage.other);
      paths.add(damage.other);
      files.set(damage.other, bytes);
      if (damage.kind === "rename") files.delete(damage.path);
      if (damage.kind === "swap" && other !== undefined) files.set(damage.path, other);
    }
  }
  return { files, paths: [...paths] };
}

function damagedFile(
  snapshot: Snapshot,
  files: ReadonlyMap<string, Buffer>,
  damage: StateDamage,
  bytes: Buffer,
): Buffer | undefined {
  switch (damage.kind) {
    case "bytes": {
      const damaged = applyAll(bytes, damage.damages);
      return damage.resealed ? reseal(damage.path, damaged) : damaged;
    }
    case "json":
      return changeJson(damage.path, bytes, damage.change);
    case "earlier": {
      const versions = snapshot.earlier.get(damage.path) ?? [];
      return versions[damage.version % Math.max(1, versions.length)] ?? bytes;
    }
    case "page": {
      const from = files.get(damage.from)?.subarray(damage.fromPage * PAGE_BYTES, (damage.fromPage + 1) * PAGE_BYTES);
      const damaged = Buffer.from(bytes);
      from?.copy(damaged, damage.page * PAGE_BYTES);
      return damaged;
    }
    default:
      return undefined;
  }
}

export function anyStateDamage(chance: Chance, snapshot: Snapshot): StateDamage {
  const paths = [...snapshot.files.keys()];
  const kind = chance.pick([...new Set(paths.map(kindOf))]);
  const path = chance.pick(paths.filter((one) => kindOf(one) === kind));
  const bytes = snapshot.files.get(path) as Buffer;
  const likely = paths.filter((one) => kindOf(one) === kind && one !== path);
  const other = likely.length > 0 && chance.odds(70) ? chance.pick(likely) : chance.pick(paths);
  const pageOf = (one: string) => chance.below(Math.ceil((snapshot.files.get(one)?.length ?? 1) / PAGE_BYTES));
  switch (
    chance.weighted({ bytes: 45, json: 15, earlier: 10, page: 10, swap: 5, copy: 4, rename: 3, remove: 5, add: 3 })
  ) {
    case "bytes": {
      const damages = Array.from({ length: chance.between(1, 3) }, () => anyByteDamage(chance, bytes.length, 8));
      return { kind: "bytes", path, damages, resealed: chance.odds(50) };
    }
    case "json":
      return { kind: "json", path, change: anyJsonDamage(chance) };
    case "earlier":
      return { kind: "earlier", path, version: chance.below(20) };
    case "page":
      return { kind: "page", path, page: pageOf(path), from: other, fromPage: pageOf(other) };
    case "swap":
      return { kind: "swap", path, other };
    case "copy":
      return { kind: "copy", path, other };
    case "rename":
      return { kind: "rename", path, other: strangePath(chance, path) };
    case "remove":
      return { kind: "remove", path };
    case "add":
      return {
        kind: "add",
        path: strangePath(chance, path),
        hex: chance.odds(50) ? "" : bytes.subarray(0, 600).toString("hex"),
      };
  }
}

function strangePath(chance: Chance, path: string): string {
  const directory = path.includes("/") ? path.slice(0, path.lastIndexOf("/") + 1) : "";
  const names = [
    "points-99999.log",
    "al-7.log",
    "al-1.log",
    "super.new",
    "epoch-9-9.map",
    "copied-77.log",
    "pending-0.map",
    "x",
  ];
  if (chance.odds(15)) return `sessions/${chance.pick(["c99", "c1", "x", "c0"])}/super`;
  if (chance.odds(10)) return `volumes/${chance.pick(["zz", "a"])}/super`;
  return `${directory}${chance.pick(names)}`;
}

/**
 * Whether the truth can still be asked for: one damage, and not one that pretends to be the engine's own writing. After a kill
 * the end of a log and the newer slot of a superblock may be what was just being written, and nobody can tell.
 */
export function keepsTruth(damages: readonly StateDamage[], ending: Ending): boolean {
  const [damage] = damages;
  if (damage === undefined || damages.length > 1) return false;
  if (damage.kind === "json" || (damage.kind === "bytes" && damage.resealed)) return false;
  return ending === "stopped" || damage.path.endsWith(".map");
}
