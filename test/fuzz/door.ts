/** What a door offers to the loop that fuzzes it. */
import type { Chance } from "./chance.ts";

/** Something that must not be, in one line; the first words name the rule. */
export type Violation = string;

export interface Door<Input> {
  /** One case as text for the corpus and for findings, and back. */
  print(input: Input): string;
  parse(text: string): Input;
  generate(chance: Chance): Input;
  /** A relative of `input`; `other` may lend parts. */
  mutate(input: Input, other: Input, chance: Chance): Input;
  /** Runs one case against the production code and judges what came of it. */
  run(input: Input): Promise<readonly Violation[]>;
  /** Whether everybody else is still served; called after every batch of cases. */
  check(): Promise<readonly Violation[]>;
  /** Smaller relatives of a case, the most promising first; at most a few hundred. */
  smaller(input: Input): Iterable<Input>;
  /** A new beginning, as if no case had been run. */
  restart(): Promise<void>;
  close(): Promise<void>;
  /** Counts of the door's own for the report. */
  figures?(): Readonly<Record<string, unknown>>;
}
