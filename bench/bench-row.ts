/** The row every benchmark reports, and the arithmetic they share. */

export interface BenchRow {
  readonly bench: string;
  readonly case: string;
  readonly unit: string;
  /** Median of our runs. */
  readonly ours: number;
  /** Median of each peer's runs, by name. */
  readonly peers: Readonly<Record<string, number>>;
  /** Ours against the best peer, larger is better; 1 when there is no peer. */
  readonly ratio: number;
  /** The ratio to reach, or null where the figure only informs. */
  readonly bar: number | null;
  readonly higherIsBetter: boolean;
  readonly runs: number;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Ours against the best of the peers, oriented so that larger is better; 1 when there is none. */
export function ratioOf(ours: number, peers: Readonly<Record<string, number>>, higherIsBetter: boolean): number {
  const values = Object.values(peers);
  if (values.length === 0) return 1;
  return higherIsBetter ? ours / Math.max(...values) : Math.min(...values) / ours;
}

export function rounded(value: number): number {
  return Number(value.toPrecision(4));
}
