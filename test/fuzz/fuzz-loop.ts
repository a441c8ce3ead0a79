/**
 * The loop around a door: makes cases from a seed and the corpus, runs them, keeps and minimises what breaks a rule.
 *
 * Half of the cases are relatives of a kept case, the others are new. Cases that reach code no case before has reached join
 * the pool for this run (`coverage.ts`); what is worth keeping for good is moved into the corpus by hand.
 */
import { Accidents } from "./accidents.ts";
import { Chance } from "./chance.ts";
import { type KeptCase, writeFinding } from "./corpus.ts";
import type { Coverage } from "./coverage.ts";
import type { Door } from "./door.ts";
import { MemoryWatch } from "./memory-watch.ts";

/** The good client is asked after so many cases. */
const BATCH_CASES = 50;
/** The first part of a run warms up: growth of memory counts only after it. */
const WARM_UP_PART = 0.3;
const FINDINGS_MAX = 25;
const POOL_MAX = 2000;
const MINIMISE_TRIES_MAX = 300;
const MINIMISE_MS_MAX = 30_000;
/** Looking at what ran is expensive: done once for so many cases, of which all are kept if one has reached new code. */
const LOOK_CASES = 16;

export interface LoopOptions {
  readonly door: string;
  readonly seconds: number;
  readonly seed: number;
  /** Ends after so many cases, if that is earlier. */
  readonly casesMax?: number;
  readonly corpus: readonly KeptCase[];
  readonly coverage?: Coverage | undefined;
  /** Told of each case before it runs, so that one that ends the process is known. */
  readonly onCase?: (text: string) => void;
  /** Looks at what ran after every case, and is told of those that reached new code. */
  readonly onGrown?: ((text: string) => void) | undefined;
  /** Where findings go; the default writes files. */
  readonly keep?: (rule: string, text: string) => string;
}

export interface Finding {
  readonly violation: string;
  readonly file: string;
  readonly case: number;
}

export interface LoopReport {
  readonly door: string;
  readonly seconds: number;
  /** Of the process of the door, what it fuzzes included. */
  readonly processorSeconds: number;
  readonly seed: number;
  readonly cases: number;
  readonly casesPerSecond: number;
  readonly crashes: number;
  /** Cases that broke a rule, more than the distinct ones in `findings`. */
  readonly violations: number;
  readonly rssMaxMiB: number;
  readonly corpus: number;
  /** Cases kept for this run because they, or one beside them, reached new code. */
  readonly grown: number;
  readonly slowestMs: number;
  readonly findings: readonly Finding[];
  readonly figures: Readonly<Record<string, unknown>>;
}

export async function fuzz<Input>(door: Door<Input>, options: LoopOptions): Promise<LoopReport> {
  const loop = new Loop(door, options);
  return loop.run();
}

class Loop<Input> {
  readonly #door: Door<Input>;
  readonly #options: LoopOptions;
  readonly #accidents = new Accidents();
  readonly #memory = new MemoryWatch();
  readonly #pool: Input[];
  readonly #findings = new Map<string, Finding>();
  /** Cases since the last look at what ran. */
  readonly #recent: Input[] = [];
  #cases = 0;
  #violations = 0;
  #crashes = 0;
  #grown = 0;
  #slowestMs = 0;

  constructor(door: Door<Input>, options: LoopOptions) {
    this.#door = door;
    this.#options = options;
    this.#pool = options.corpus.map(({ text }) => door.parse(text));
  }

  async run(): Promise<LoopReport> {
    const { seconds, casesMax = Number.POSITIVE_INFINITY } = this.#options;
    const begin = performance.now();
    const elapsed = () => (performance.now() - begin) / 1000;
    this.#accidents.watch();
    try {
      for (const input of [...this.#pool]) await this.#one(input);
      this.#options.coverage?.reachedNew(); // what the corpus reaches is not new
      this.#recent.length = 0;
      while (elapsed() < seconds && this.#cases < casesMax && this.#findings.size < FINDINGS_MAX) {
        await this.#one(this.#next());
        if (this.#cases % BATCH_CASES === 0) await this.#afterBatch();
        if (elapsed() > seconds * WARM_UP_PART) await this.#memory.warm();
      }
      await this.#afterBatch();
      for (const violation of await this.#memory.violations()) {
        this.#violations++;
        this.#note(violation, "(the whole run)");
      }
    } finally {
      this.#accidents.unwatch();
    }
    return this.#report(elapsed());
  }

  async #one(input: Input): Promise<void> {
    this.#cases++;
    this.#options.onCase?.(this.#door.print(input));
    const began = performance.now();
    const violations = await this.#judge(input);
    this.#slowestMs = Math.max(this.#slowestMs, performance.now() - began);
    this.#recent.push(input);
    if (this.#recent.length >= (this.#options.onGrown ? 1 : LOOK_CASES)) this.#look();
    if (violations.length > 0) await this.#found(input, violations);
  }

  #look(): void {
    const recent = this.#recent.splice(0);
    if (!this.#options.coverage?.reachedNew() || this.#pool.length >= POOL_MAX) return;
    this.#pool.push(...recent);
    this.#grown += recent.length;
    for (const input of recent) this.#options.onGrown?.(this.#door.print(input));
  }

  #next(): Input {
    const chance = Chance.ofCase(this.#options.seed, this.#cases);
    if (this.#pool.length === 0 || chance.odds(50)) return this.#door.generate(chance);
    return this.#door.mutate(chance.pick(this.#pool), chance.pick(this.#pool), chance);
  }

  async #judge(input: Input): Promise<string[]> {
    let violations: readonly string[];
    try {
      violations = await this.#door.run(input);
    } catch (error) {
      violations = [`the door's own run failed: ${error instanceof Error ? (error.stack ?? "") : String(error)}`];
    }
    await new Promise((resolve) => setImmediate(resolve));
    const accidents = this.#accidents.take();
    this.#crashes += accidents.length;
    return [...violations, ...accidents];
  }

  async #found(input: Input, violations: readonly string[]): Promise<void> {
    this.#violations++;
    const [first = ""] = violations;
    const rule = ruleOf(first);
    if (this.#findings.has(rule) || this.#findings.size >= FINDINGS_MAX) return;
    const least = await this.#minimise(input, rule);
    await this.#door.restart();
    this.#note(first, this.#door.print(least));
  }

  #note(violation: string, text: string): void {
    const rule = ruleOf(violation);
    if (this.#findings.has(rule)) return;
    const file = (this.#options.keep ?? ((name, content) => writeFinding(this.#options.door, name, content)))(
      rule,
      text,
    );
    this.#findings.set(rule, { violation: violation.slice(0, 600), file, case: this.#cases });
  }

  /** Takes away from the case as long as the same rule is broken by what is left. */
  async #minimise(input: Input, rule: string): Promise<Input> {
    let least = input;
    let tries = 0;
    const endMs = performance.now() + MINIMISE_MS_MAX;
    for (let again = true; again; ) {
      again = false;
      for (const smaller of this.#door.smaller(least)) {
        if (++tries > MINIMISE_TRIES_MAX || performance.now() > endMs) return least;
        await this.#door.restart();
        const violations = await this.#judge(smaller);
        if (!violations.some((violation) => ruleOf(violation) === rule)) continue;
        least = smaller;
        again = true;
        break;
      }
    }
    return least;
  }

  async #afterBatch(): Promise<void> {
    this.#memory.sample();
    const violations = [...(await this.#door.check()), ...this.#accidents.take()];
    if (violations.length === 0) return;
    this.#violations++;
    for (const violation of violations)
      this.#note(violation, `after case ${this.#cases} of seed ${this.#options.seed}`);
    await this.#door.restart();
  }

  #report(seconds: number): LoopReport {
    const { door, seed } = this.#options;
    const { user, system } = process.cpuUsage();
    return {
      door,
      seconds: round(seconds),
      processorSeconds: round((user + system) / 1e6),
      seed,
      cases: this.#cases,
      casesPerSecond: round(this.#cases / seconds),
      crashes: this.#crashes,
      violations: this.#violations,
      rssMaxMiB: this.#memory.rssMaxMiB,
      corpus: this.#options.corpus.length,
      grown: this.#grown,
      slowestMs: Math.round(this.#slowestMs),
      findings: [...this.#findings.values()],
      figures: this.#door.figures?.() ?? {},
    };
  }
}

/** Violations that differ in numbers and names only are one finding. */
function ruleOf(violation: string): string {
  return violation
    .slice(0, 160)
    .replace(/"[^"]*"/g, '""')
    .replace(/[0-9]+/g, "0");
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
