/**
 * Progress of copies: a bar that redraws its line on a terminal, otherwise a plain line at most every two seconds.
 *
 * Invariants: what is shown never goes back; the last state is always shown; nothing is written with --json.
 */
import { GRANULE_SIZE_BYTES } from "../../base/units.ts";
import type { Copy } from "../../gen/tidemark/v1/copy.ts";
import type { Output } from "./output.ts";
import { formatDuration, formatRate, formatSize } from "./units.ts";
import { isComplete, isCopying, phaseWord } from "./words.ts";

const LINE_INTERVAL_MS = 2000;
const REDRAW_INTERVAL_MS = 100;
const BAR_CELLS = 24;
/** The shown rate is that of the last seconds, so that copying in large steps does not make it jump. */
const RATE_WINDOW_MS = 15_000;
const RATE_SAMPLE_MS = 500;

/** Milliseconds that never go back. */
export type Monotonic = () => number;

export interface Totals {
  readonly plannedBytes: bigint;
  readonly doneBytes: bigint;
  readonly copying: number;
  readonly etaSeconds: number;
}

/** Sums over the copies of one command. */
export function totalsOf(copies: readonly Copy[]): Totals {
  let planned = 0n;
  let pending = 0n;
  let copying = 0;
  let etaSeconds = 0;
  for (const copy of copies) {
    planned += copy.plannedGranules;
    pending += isComplete(copy) ? 0n : copy.pendingGranules;
    if (isCopying(copy)) copying++;
    etaSeconds = Math.max(etaSeconds, Number(copy.etaSeconds));
  }
  const granule = BigInt(GRANULE_SIZE_BYTES);
  const done = pending > planned ? 0n : planned - pending;
  return { plannedBytes: planned * granule, doneBytes: done * granule, copying, etaSeconds };
}

/** Part done in percent, rounded down: 100 only when all is done. */
export function percentOf(totals: Totals): number {
  if (totals.plannedBytes === 0n) return totals.copying === 0 ? 100 : 0;
  return Number((totals.doneBytes * 100n) / totals.plannedBytes);
}

/** One line: `45% of 4GiB, 310MiB/s, eta 9s`. */
export function progressText(totals: Totals, bytesPerSecond: number): string {
  const parts = [`${percentOf(totals)}% of ${formatSize(totals.plannedBytes)}`];
  if (totals.copying > 0 && bytesPerSecond > 0) parts.push(formatRate(bytesPerSecond));
  const left = Number(totals.plannedBytes - totals.doneBytes);
  const eta = totals.etaSeconds > 0 ? totals.etaSeconds : bytesPerSecond > 0 ? left / bytesPerSecond : 0;
  if (totals.copying > 0 && eta > 0) parts.push(`eta ${formatDuration(eta)}`);
  return parts.join(", ");
}

/** `[=======>      ] ` of fixed width. */
export function barText(percent: number): string {
  const full = Math.floor((percent * BAR_CELLS) / 100);
  const head = full < BAR_CELLS ? ">" : "";
  return `[${"=".repeat(full)}${head}${" ".repeat(BAR_CELLS - full - head.length)}]`;
}

/** Bytes a second over the last `RATE_WINDOW_MS`, from at most 31 samples. */
export class RateWindow {
  readonly #now: Monotonic;
  #samples: { readonly ms: number; readonly bytes: bigint }[] = [];

  constructor(now: Monotonic) {
    this.#now = now;
  }

  /** Notes how much is done now. Less than before (a copy was started again) begins anew. */
  add(bytes: bigint): void {
    const ms = this.#now();
    const last = this.#samples.at(-1);
    if (last !== undefined && bytes < last.bytes) this.#samples = [];
    else if (last !== undefined && ms - last.ms < RATE_SAMPLE_MS) return;
    this.#samples.push({ ms, bytes });
    this.#samples = this.#samples.filter((sample) => ms - sample.ms <= RATE_WINDOW_MS);
  }

  /** 0 while it is not known. */
  bytesPerSecond(): number {
    const [first, last] = [this.#samples[0], this.#samples.at(-1)];
    if (first === undefined || last === undefined || last.ms <= first.ms) return 0;
    return (Number(last.bytes - first.bytes) * 1000) / (last.ms - first.ms);
  }
}

export class Progress {
  readonly #output: Output;
  readonly #now: Monotonic;
  readonly #copies = new Map<string, Copy>();
  #shownMs = Number.NEGATIVE_INFINITY;
  #shownText = "";
  readonly #rate: RateWindow;

  constructor(output: Output, now: Monotonic = () => performance.now()) {
    this.#output = output;
    this.#now = now;
    this.#rate = new RateWindow(now);
  }

  /** Takes the newest state of one copy and shows it when it is time to. */
  update(copy: Copy): void {
    this.#copies.set(copy.id, copy);
    this.#rate.add(totalsOf([...this.#copies.values()]).doneBytes);
    const interval = this.#onTerminal() ? REDRAW_INTERVAL_MS : LINE_INTERVAL_MS;
    if (this.#now() - this.#shownMs >= interval) this.#show();
  }

  /** Shows the final state and ends the line. */
  finish(): void {
    if (this.#copies.size === 0 || this.#output.json) return;
    this.#show();
    if (this.#onTerminal()) this.#output.stderr.write("\n");
  }

  #onTerminal(): boolean {
    return this.#output.stderr.isTTY === true;
  }

  #show(): void {
    if (this.#output.json) return;
    const copies = [...this.#copies.values()];
    const totals = totalsOf(copies);
    const names = copies.length === 1 ? (copies[0]?.id ?? "") : `${copies.length} copies`;
    const state = totals.copying > 0 || copies.length !== 1 ? "copying" : phaseWord(copies[0]!);
    const text = progressText(totals, this.#rate.bytesPerSecond());
    this.#shownMs = this.#now();
    if (this.#onTerminal()) this.#redraw(`${names} ${barText(percentOf(totals))} ${text}`);
    else this.#line(`${names} ${state} ${text}`);
  }

  #redraw(text: string): void {
    const rest = " ".repeat(Math.max(0, this.#shownText.length - text.length));
    this.#output.stderr.write(`\r${text}${rest}`);
    this.#shownText = text;
  }

  #line(text: string): void {
    if (text === this.#shownText) return;
    this.#output.stderr.write(`${text}\n`);
    this.#shownText = text;
  }
}
