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
/** Weight of the newest measurement in the shown rate. */
const RATE_SMOOTHING = 0.3;
const RATE_INTERVAL_MS = 200;

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

export class Progress {
  readonly #output: Output;
  readonly #now: Monotonic;
  readonly #copies = new Map<string, Copy>();
  #shownMs = Number.NEGATIVE_INFINITY;
  #shownText = "";
  #rate = 0;
  #rateAt: { ms: number; bytes: bigint } | undefined;

  constructor(output: Output, now: Monotonic = () => performance.now()) {
    this.#output = output;
    this.#now = now;
  }

  /** Takes the newest state of one copy and shows it when it is time to. */
  update(copy: Copy): void {
    this.#copies.set(copy.id, copy);
    this.#measure();
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

  #measure(): void {
    const ms = this.#now();
    const bytes = totalsOf([...this.#copies.values()]).doneBytes;
    const last = this.#rateAt;
    if (last === undefined) this.#rateAt = { ms, bytes };
    else if (ms - last.ms >= RATE_INTERVAL_MS) {
      const rate = (Number(bytes - last.bytes) * 1000) / (ms - last.ms);
      if (rate >= 0) this.#rate = this.#rate === 0 ? rate : this.#rate + RATE_SMOOTHING * (rate - this.#rate);
      this.#rateAt = { ms, bytes };
    }
  }

  #show(): void {
    if (this.#output.json) return;
    const copies = [...this.#copies.values()];
    const totals = totalsOf(copies);
    const names = copies.length === 1 ? (copies[0]?.id ?? "") : `${copies.length} copies`;
    const state = totals.copying > 0 || copies.length !== 1 ? "copying" : phaseWord(copies[0]!);
    const text = progressText(totals, this.#rate);
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
