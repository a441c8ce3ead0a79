/**
 * Damaged and stale metadata pages: one page of one file of a stopped box's state directory is not what the engine wrote, and the
 * box is started.
 *
 * Rule (data-safety 3.2 #9): it is noticed, or what comes of it is exactly what would have come without it. Counts by kind of file
 * and kind of damage are in the report.
 */
import { Chance } from "./chance.ts";
import type { Door, Violation } from "./door.ts";
import { type Snapshot, snapshotOf } from "./history.ts";
import { type Outcome, revive } from "./revive.ts";

const PAGE_BYTES = 4096;
/** Histories, each a state directory of its own. */
const HISTORIES = 400;

const DAMAGES = ["flip", "zero", "stale", "truncate"] as const;
type PageDamage = (typeof DAMAGES)[number];

export interface PageCase {
  readonly history: number;
  readonly path: string;
  readonly page: number;
  readonly damage: PageDamage;
  /** Which bit is flipped, and which of the earlier versions comes back. */
  readonly choice: number;
}

type Count = Record<Outcome | "violated", number>;

export class PagesDoor implements Door<PageCase> {
  readonly #counts = new Map<string, Count>();

  readonly #histories: number;

  private constructor(histories: number) {
    this.#histories = histories;
  }

  static async open(histories: number = HISTORIES): Promise<PagesDoor> {
    return new PagesDoor(histories);
  }

  print(input: PageCase): string {
    return `${JSON.stringify(input)}\n`;
  }

  parse(text: string): PageCase {
    return JSON.parse(text) as PageCase;
  }

  generate(chance: Chance): PageCase {
    const damage = chance.pick(DAMAGES);
    return {
      history: chance.below(this.#histories),
      path: "",
      page: chance.below(1000),
      damage,
      choice: chance.below(2 ** 31),
    };
  }

  mutate(input: PageCase, _other: PageCase, chance: Chance): PageCase {
    return { ...input, page: chance.below(1000), choice: chance.below(2 ** 31) };
  }

  *smaller(): IterableIterator<PageCase> {}

  async run(input: PageCase): Promise<readonly Violation[]> {
    const snapshot = await snapshotOf(input.history, "stopped");
    const [path, bytes] = place(snapshot, input);
    const page = input.page % Math.ceil(bytes.length / PAGE_BYTES);
    const damaged = damagedFile(snapshot, path, bytes, { ...input, page });
    if (damaged === undefined || damaged.equals(bytes)) return [];
    const files = new Map(snapshot.files).set(path, damaged);
    const { outcome, violations } = await revive(snapshot, files, [path], "truth");
    const kind = kindOf(path);
    const count = this.#counts.get(`${kind} ${input.damage}`) ?? { refused: 0, told: 0, quiet: 0, violated: 0 };
    count[violations.length > 0 ? "violated" : outcome]++;
    this.#counts.set(`${kind} ${input.damage}`, count);
    return violations.map((text) => `${kind} ${input.damage}: ${text} (${path} page ${page})`);
  }

  async check(): Promise<readonly Violation[]> {
    return [];
  }

  async restart(): Promise<void> {}

  async close(): Promise<void> {}

  figures(): Record<string, unknown> {
    const pages = [...this.#counts.values()].reduce(
      (sum, { refused, told, quiet, violated }) => sum + refused + told + quiet + violated,
      0,
    );
    return { pages, counts: Object.fromEntries([...this.#counts].sort()) };
  }
}

/** The file of the case: the one it names, or one that its choice picks. */
function place(snapshot: Snapshot, input: PageCase): [string, Buffer] {
  const named = snapshot.files.get(input.path);
  if (named !== undefined) return [input.path, named];
  // First a kind, then a file of it: otherwise the most frequent kind gets most of the cases.
  const chance = new Chance(input.choice);
  const paths = [...snapshot.files.keys()];
  const kind = chance.pick([...new Set(paths.map(kindOf))]);
  const path = chance.pick(paths.filter((one) => kindOf(one) === kind));
  return [path, snapshot.files.get(path) as Buffer];
}

/** Undefined: there is no such damage here, such as an earlier version of a file that was written once. */
function damagedFile(snapshot: Snapshot, path: string, bytes: Buffer, input: PageCase): Buffer | undefined {
  const from = input.page * PAGE_BYTES;
  const end = Math.min(bytes.length, from + PAGE_BYTES);
  const chance = new Chance(input.choice + 1);
  switch (input.damage) {
    case "flip": {
      const damaged = Buffer.from(bytes);
      const at = from + chance.below(end - from);
      damaged[at] = (damaged[at] as number) ^ (1 << chance.below(8));
      return damaged;
    }
    case "zero":
      return Buffer.from(bytes).fill(0, from, end);
    case "truncate":
      return Buffer.from(bytes.subarray(0, from));
    case "stale": {
      const pages = (snapshot.earlier.get(path) ?? [])
        .map((version) => version.subarray(from, from + PAGE_BYTES))
        .filter((page) => page.length > 0 && !page.equals(bytes.subarray(from, end)));
      if (pages.length === 0) return undefined;
      const stale = chance.pick(pages);
      const damaged = Buffer.from(bytes);
      damaged.fill(0, from, end);
      stale.copy(damaged, from, 0, Math.min(stale.length, end - from));
      return damaged;
    }
  }
}

/** What a state file is, from its name. */
export function kindOf(path: string): string {
  const owner = path.startsWith("volumes/") ? "volume " : path.startsWith("sessions/") ? "session " : "";
  const name = path.slice(path.lastIndexOf("/") + 1);
  return owner + name.replace(/[0-9]+(-[0-9]+)?/g, "n");
}
