/** Runs of several contestants in turn, and what a benchmark gets to work with. */
import { type BenchRow, median, ratioOf, rounded } from "./bench-row.ts";
import type { BenchOptions } from "./options.ts";
import type { Workspace } from "./workspace.ts";

export interface BenchContext {
  readonly options: BenchOptions;
  readonly work: Workspace;
  report(row: BenchRow): void;
  /** Something the reader of the figures must know. */
  note(text: string): void;
}

export type Contestants<T> = Readonly<Record<string, () => Promise<T>>>;
export const OURS = "ours";

/** Each contestant once uncounted, then `runs` times, in turn: what disturbs the machine disturbs all of them. */
export async function inTurn<T>(contestants: Contestants<T>, runs: number): Promise<Record<string, T[]>> {
  const results = Object.fromEntries(Object.keys(contestants).map((name): [string, T[]] => [name, []]));
  for (let round = 0; round <= runs; round++) {
    for (const [name, contestant] of Object.entries(contestants)) {
      const result = await contestant();
      if (round > 0) results[name]!.push(result);
    }
  }
  return results;
}

export interface RowForm {
  readonly bench: string;
  readonly case: string;
  readonly unit: string;
  readonly bar: number | null;
  readonly higherIsBetter: boolean;
}

/** The row of a series whose contestants include "ours". */
export function rowOf(form: RowForm, series: Readonly<Record<string, readonly number[]>>): BenchRow {
  const ours = series[OURS]!;
  const others = Object.entries(series).filter(([name]) => name !== OURS);
  const peers = Object.fromEntries(others.map(([name, values]) => [name, median(values)]));
  return {
    ...form,
    ours: rounded(median(ours)),
    peers: Object.fromEntries(Object.entries(peers).map(([name, value]) => [name, rounded(value)])),
    ratio: rounded(ratioOf(median(ours), peers, form.higherIsBetter)),
    runs: ours.length,
  };
}

/** The row of a figure without a peer, of which less is better: the bar is in its unit, the ratio is bar to figure. */
export function limitRow(form: Omit<RowForm, "higherIsBetter"> & { bar: number }, values: readonly number[]): BenchRow {
  const ours = median(values);
  const ratio = rounded(form.bar / Math.max(ours, Number.EPSILON));
  return { ...form, ours: rounded(ours), peers: {}, ratio, higherIsBetter: false, runs: values.length };
}

/** Whether a row reaches its bar; undefined if it has none. */
export function reaches(row: BenchRow): boolean | undefined {
  if (row.bar === null) return undefined;
  return row.ratio >= (Object.keys(row.peers).length === 0 ? 1 : row.bar);
}
