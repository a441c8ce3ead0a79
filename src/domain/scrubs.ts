/**
 * Scrubs: the box's own metadata, read again from the disk while it runs; asked for, and once a week by itself.
 *
 * Role: goes through what the engine offers, one target after the other, tells what was found, and records it as events.
 * Invariants: at most SCRUBS_MAX at once, which share the engine's rate; one ends soon after its signal aborts.
 */
import { endOnBug } from "../base/assert.ts";
import { asTidemarkError, TidemarkError } from "../base/errors.ts";
import { SCRUB_FIRST_MS, SCRUB_INTERVAL_MS, SCRUBS_MAX } from "../base/limits.ts";
import type { MetadataFinding } from "../engine/engine-api.ts";
import type { Context } from "./context.ts";
import type { NewEvent } from "./journal.ts";
import { inDataDirectory } from "./row-checks.ts";

export interface ScrubFinding {
  /** Its path is relative to the data directory. */
  readonly finding: MetadataFinding;
  readonly state: "repaired" | "left";
}

export interface ScrubProgress {
  /** Undefined: only how far it is. */
  readonly found: ScrubFinding | undefined;
  readonly files: number;
  readonly bytes: number;
  /** Targets done, of so many. */
  readonly done: number;
  readonly total: number;
}

export class Scrubs {
  readonly #context: Context;
  readonly #stopping = new AbortController();
  #count = 0;
  #weekly: Promise<void> = Promise.resolve();

  constructor(context: Context) {
    this.#context = context;
  }

  /** Scrubs by itself from now on, until `stop`. */
  startWeekly(): void {
    this.#weekly = this.#runWeekly();
  }

  /** Ends every scrub; the engine's part of it ends with the engine. */
  stop(): void {
    this.#stopping.abort();
  }

  /** Resolves when the scrub that goes by itself has ended, after `stop`. */
  get ended(): Promise<void> {
    return this.#weekly;
  }

  /** One volume with its copies, or everything if `volume` is empty. VOLUME_NOT_FOUND, LIMIT_EXCEEDED, STOPPING. */
  async *run(volume: string, signal: AbortSignal): AsyncGenerator<ScrubProgress, void, undefined> {
    const { engine, catalog } = this.#context;
    const uid = volume === "" ? undefined : catalog.volume(volume, "volume").uid;
    if (this.#count >= SCRUBS_MAX)
      throw new TidemarkError("LIMIT_EXCEEDED", {
        message: `${SCRUBS_MAX} scrubs are under way`,
        hint: "wait for one of them",
      });
    this.#count++;
    try {
      const targets = await engine.scrubTargets(uid);
      const progress = { files: 0, bytes: 0, done: 0, total: targets.length };
      yield { ...progress, found: undefined };
      for (const target of targets) {
        if (signal.aborted || this.#stopping.signal.aborted) return;
        const { files, bytes, findings } = await engine.scrub(target);
        progress.files += files;
        progress.bytes += bytes;
        progress.done++;
        const found = findings.map(({ finding, repaired }) => (repaired ? mended(finding) : left(finding)));
        await this.#record(found);
        for (const one of found) yield { ...progress, found: one };
        yield { ...progress, found: undefined };
      }
    } finally {
      this.#count--;
    }
  }

  async #record(found: readonly ScrubFinding[]): Promise<void> {
    if (found.length > 0) await this.#context.journal.keep([], found.flatMap(eventsOf));
  }

  async #runWeekly(): Promise<void> {
    const { clock, report } = this.#context;
    const { signal } = this.#stopping;
    await clock.sleep(SCRUB_FIRST_MS, signal);
    while (!signal.aborted) {
      try {
        for await (const { found } of this.run("", signal))
          if (found) report(`scrub: ${found.finding.path}: ${found.finding.message} (${found.state})`, undefined);
      } catch (error) {
        endOnBug(error);
        if (asTidemarkError(error).code !== "STOPPING") report("the weekly scrub did not come to its end", error);
      }
      await clock.sleep(SCRUB_INTERVAL_MS, signal);
    }
  }
}

function left(finding: MetadataFinding): ScrubFinding {
  return { finding: inDataDirectory(finding), state: "left" };
}

/** Memory had it: nothing is lost. */
function mended(finding: MetadataFinding): ScrubFinding {
  const remedy = "nothing needs to be done: it was written anew from memory";
  return { finding: { ...inDataDirectory(finding), cost: "", remedy }, state: "repaired" };
}

/** That it was found, and that it was put right. */
function eventsOf({ finding, state }: ScrubFinding): NewEvent[] {
  const { path, kind, page, offsetBytes, subject, message, cost, remedy } = finding;
  const attributes = {
    ...{ path, kind, cost, remedy },
    ...(page === undefined ? {} : { page: String(page) }),
    ...(offsetBytes === undefined ? {} : { offsetBytes: String(offsetBytes) }),
  };
  const damaged: NewEvent = { type: "metadata.damaged", subject, message: `${path}: ${message}`, attributes };
  if (state === "left") return [damaged];
  const repaired = { path, kind };
  return [damaged, { type: "metadata.repaired", subject, message: `${path} was written anew`, attributes: repaired }];
}
