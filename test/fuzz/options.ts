/** Options of `npm run fuzz`. */
export const DOORS = ["nbd", "grpc", "files", "pages"] as const;
export type DoorName = (typeof DOORS)[number];

export interface FuzzOptions {
  readonly door: DoorName;
  readonly seconds: number;
  readonly seed: number;
  /** Cases at most; damaged pages for the door `pages`. */
  readonly count: number | undefined;
  readonly json: boolean;
  /** Cases that reach new code are added to the corpus. */
  readonly grow: boolean;
  /** A case to run instead of new ones. */
  readonly replay: string | undefined;
}

export const USAGE = `usage: npm run fuzz -- --door nbd|grpc|files|pages [--seconds N] [--count N] [--seed S] [--replay FILE] [--grow] [--json]

  --door      what is fed with bad input: the NBD server, the gRPC API, the parsers of everything on disk, or
              whole state directories of which one page is damaged
  --seconds   how long (60)
  --count     ends after so many cases or damaged pages
  --seed      where chance begins; the same seed and commit give the same cases (1)
  --replay    runs the case in this file once and says what it breaks
  --grow      adds small cases that reach new code to the corpus
  --json      prints the report as one JSON object and nothing else
`;

export class FuzzUsage extends Error {}

/** Throws FuzzUsage. */
export function parseOptions(args: readonly string[]): FuzzOptions {
  const values = new Map<string, string>();
  let json = false;
  let grow = false;
  for (let at = 0; at < args.length; at++) {
    const name = args[at] ?? "";
    if (name === "--json") json = true;
    else if (name === "--grow") grow = true;
    else if (["--door", "--seconds", "--count", "--pages", "--seed", "--replay"].includes(name)) {
      const value = args[++at];
      if (value === undefined) throw new FuzzUsage(`${name} needs a value`);
      values.set(name, value);
    } else throw new FuzzUsage(`unknown option ${name}`);
  }
  const pages = number(values, "--pages");
  const door = values.get("--door") ?? (pages === undefined ? undefined : "pages");
  const known = DOORS.find((name) => name === door);
  if (known === undefined) throw new FuzzUsage(door === undefined ? "--door is missing" : `there is no door ${door}`);
  const count = number(values, "--count") ?? pages;
  return {
    door: known,
    seconds: number(values, "--seconds") ?? (count === undefined ? 60 : 24 * 3600),
    seed: number(values, "--seed") ?? 1,
    count,
    json,
    grow,
    replay: values.get("--replay"),
  };
}

function number(values: ReadonlyMap<string, string>, name: string): number | undefined {
  const text = values.get(name);
  if (text === undefined) return undefined;
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new FuzzUsage(`${name} ${text} is not a whole number`);
}
