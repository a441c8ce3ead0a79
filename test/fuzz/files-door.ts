/**
 * The files door: the parsers of everything on disk, one file at a time, and the start of the engine on whole state directories.
 *
 * Three kinds of cases: `file`, one parser on one damaged file; `table` and `rows`, partition tables and rows of the store; `state`,
 * the engine started on a damaged directory of a box with a history (revive.ts).
 */
import { anyByteDamage, applyAll, type ByteDamage } from "./byte-damage.ts";
import type { Chance } from "./chance.ts";
import type { Door, Violation } from "./door.ts";
import { type Ending, type Snapshot, snapshotOf } from "./history.ts";
import { readTables, resealTable, tableOf } from "./partition-specimens.ts";
import { anyJsonDamage, changeJson, type JsonDamage, reseal } from "./reseal.ts";
import { revive } from "./revive.ts";
import { anyRowDamage, type RowDamage, readRows } from "./row-specimens.ts";
import { errorViolation, FILE_PARSERS, type FileParser, falsehood, type Specimen, specimenOf } from "./specimens.ts";
import { anyStateDamage, damageState, keepsTruth, type StateDamage } from "./state-damage.ts";

const HISTORIES = 60;
const SPECIMENS = 40;
const STATE_DAMAGES_MAX = 3;

export type FilesCase =
  | {
      readonly kind: "file";
      readonly parser: FileParser;
      readonly seed: number;
      readonly damages: readonly ByteDamage[];
      readonly json?: JsonDamage;
      readonly resealed: boolean;
    }
  | {
      readonly kind: "table";
      readonly table: "mbr" | "gpt";
      readonly seed: number;
      readonly damages: readonly { readonly piece: number; readonly damage: ByteDamage }[];
      readonly resealed: boolean;
    }
  | { readonly kind: "rows"; readonly damage: RowDamage }
  | {
      readonly kind: "state";
      readonly history: number;
      readonly ending: Ending;
      readonly damages: readonly StateDamage[];
    };

export class FilesDoor implements Door<FilesCase> {
  readonly #counts: Record<string, number> = {};

  /** Made before the first case, because cases are made without waiting. */
  readonly #snapshots: ReadonlyMap<string, Snapshot>;

  private constructor(snapshots: ReadonlyMap<string, Snapshot>) {
    this.#snapshots = snapshots;
  }

  static async open(histories: number = HISTORIES): Promise<FilesDoor> {
    const snapshots = new Map<string, Snapshot>();
    for (let history = 0; history < histories; history++)
      for (const ending of ["stopped", "killed"] as const)
        snapshots.set(`${history} ${ending}`, await snapshotOf(history, ending));
    return new FilesDoor(snapshots);
  }

  print(input: FilesCase): string {
    return `${JSON.stringify(input)}\n`;
  }

  parse(text: string): FilesCase {
    return JSON.parse(text) as FilesCase;
  }

  generate(chance: Chance): FilesCase {
    switch (chance.weighted({ file: 50, table: 15, rows: 10, state: 25 })) {
      case "file": {
        const parser = chance.pick(FILE_PARSERS);
        const plain = { kind: "file", parser, seed: chance.below(SPECIMENS), resealed: chance.odds(45) } as const;
        if (chance.odds(15)) return { ...plain, damages: [], json: anyJsonDamage(chance), resealed: true };
        return { ...plain, damages: someDamages(chance, parser === "map" ? 700 : 6000) };
      }
      case "table": {
        const damages = Array.from({ length: chance.between(1, 4) }, () => ({
          piece: chance.below(8),
          damage: anyByteDamage(chance, 512, 8),
        }));
        const table = chance.pick(["mbr", "gpt"] as const);
        return {
          kind: "table",
          table,
          seed: chance.below(SPECIMENS),
          damages,
          resealed: table === "gpt" && chance.odds(50),
        };
      }
      case "rows":
        return { kind: "rows", damage: anyRowDamage(chance, (length) => anyByteDamage(chance, length, 1)) };
      case "state": {
        const count = chance.pick([1, 1, 1, 2, 3]);
        const ending = chance.pick(["stopped", "killed"] as const);
        return this.#stateCase(chance, { ending, damages: [] }, count);
      }
    }
  }

  #stateCase(
    chance: Chance,
    from: { readonly ending: Ending; readonly damages: readonly StateDamage[] },
    count: number,
  ): FilesCase {
    const history = chance.below(this.#snapshots.size / 2);
    const snapshot = this.#snapshots.get(`${history} ${from.ending}`);
    if (snapshot === undefined) throw new Error(`no history ${history}`);
    const more = Array.from({ length: count }, () => anyStateDamage(chance, snapshot));
    return {
      kind: "state",
      history,
      ending: from.ending,
      damages: [...from.damages, ...more].slice(-STATE_DAMAGES_MAX),
    };
  }

  mutate(input: FilesCase, other: FilesCase, chance: Chance): FilesCase {
    switch (input.kind) {
      case "file": {
        const lent = other.kind === "file" ? other.damages : [];
        const damages = chance.shuffled([...input.damages, ...lent, ...someDamages(chance, 6000)]).slice(0, 4);
        return { ...input, seed: chance.odds(50) ? chance.below(SPECIMENS) : input.seed, damages };
      }
      case "table": {
        const more = { piece: chance.below(8), damage: anyByteDamage(chance, 512, 8) };
        return { ...input, damages: [...input.damages, more].slice(-5) };
      }
      case "rows":
        return { kind: "rows", damage: { ...input.damage, key: chance.below(100) } };
      case "state":
        return this.#stateCase(chance, chance.odds(50) ? { ...input, damages: [] } : input, 1);
    }
  }

  *smaller(input: FilesCase): IterableIterator<FilesCase> {
    if (input.kind === "rows") return;
    for (let at = 0; at < input.damages.length; at++)
      yield { ...input, damages: input.damages.filter((_, index) => index !== at) } as FilesCase;
  }

  async run(input: FilesCase): Promise<readonly Violation[]> {
    this.#counts[input.kind] = (this.#counts[input.kind] ?? 0) + 1;
    switch (input.kind) {
      case "file":
        return fileCase(input);
      case "table":
        return tableCase(input);
      case "rows":
        return (await readRows(input.damage)).map((text) => `rows: ${text}`);
      case "state":
        return stateCase(input);
    }
  }

  async check(): Promise<readonly Violation[]> {
    return [];
  }

  async restart(): Promise<void> {}

  async close(): Promise<void> {}

  figures(): Record<string, unknown> {
    return { ...this.#counts };
  }
}

function someDamages(chance: Chance, length: number): ByteDamage[] {
  return Array.from({ length: chance.pick([1, 1, 1, 2, 3]) }, () => anyByteDamage(chance, length, 8));
}

async function fileCase(input: Extract<FilesCase, { kind: "file" }>): Promise<Violation[]> {
  const specimen = await specimenOf(input.parser, input.seed);
  let bytes = applyAll(specimen.bytes, input.damages);
  if (input.resealed) bytes = reseal(specimen.path, bytes);
  if (input.json !== undefined) bytes = changeJson(specimen.path, bytes, input.json);
  const told = (text: string) => `${input.parser}: ${text}`;
  let found: unknown;
  try {
    found = await specimen.read(bytes);
  } catch (error) {
    const text = errorViolation(error, specimen.path);
    return text === undefined ? [] : [told(text)];
  }
  if (input.resealed) return [];
  const text = falsehood(input.parser, await wholeOf(specimen), found);
  return text === undefined ? [] : [told(`wrong content: ${text}`)];
}

const wholes = new WeakMap<Specimen, Promise<unknown>>();

function wholeOf(specimen: Specimen): Promise<unknown> {
  let whole = wholes.get(specimen);
  if (whole === undefined) {
    whole = specimen.read(specimen.bytes);
    wholes.set(specimen, whole);
  }
  return whole;
}

async function tableCase(input: Extract<FilesCase, { kind: "table" }>): Promise<Violation[]> {
  const specimen = tableOf(input.table, input.seed);
  const pieces = specimen.pieces.map(({ offsetBytes, bytes }) => ({ offsetBytes, bytes }));
  for (const { piece, damage } of input.damages) {
    const one = pieces[piece % pieces.length];
    if (one !== undefined) one.bytes = applyAll(one.bytes, [damage]);
  }
  const damaged = input.resealed ? resealTable(pieces) : pieces;
  const { partitions, violations } = await readTables(damaged, specimen.sizeBytes);
  const found = violations.map((text) => `${input.table}: ${text}`);
  const saysGpt = pieces[0]?.bytes.equals(specimen.pieces[0]?.bytes ?? Buffer.alloc(0)) === true;
  if (input.table === "mbr" || input.resealed || !saysGpt || partitions === undefined) return found;
  const whole = await readTables(specimen.pieces, specimen.sizeBytes);
  if (JSON.stringify(whole.partitions) !== JSON.stringify(partitions))
    found.push("gpt: wrong content: other partitions");
  return found;
}

async function stateCase(input: Extract<FilesCase, { kind: "state" }>): Promise<Violation[]> {
  const snapshot = await snapshotOf(input.history, input.ending);
  const { files, paths } = damageState(snapshot, input.damages);
  const truth = keepsTruth(input.damages, input.ending);
  const { violations } = await revive(snapshot, files, paths, truth ? "truth" : "robust");
  return violations.map((text) => `state: ${text}`);
}
