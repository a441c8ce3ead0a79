/** Troubles that the engine tells: each is an event once, and again when it lasts; not every time it is tried again. */
import type { Clock } from "../base/ports.ts";

/** The same trouble is told again after this long. */
const AGAIN_AFTER_MS = 10 * 60_000;
/** Different ones remembered; beyond that the oldest is forgotten, and may be told again earlier. */
const TROUBLES_MAX = 256;

export class Troubles {
  readonly #clock: Clock;
  /** Message to the time it was told, oldest first. */
  readonly #told = new Map<string, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** True when this has to be told now. */
  isNews(message: string): boolean {
    const nowMs = this.#clock.monotonicMs();
    const toldMs = this.#told.get(message);
    if (toldMs !== undefined && nowMs - toldMs < AGAIN_AFTER_MS) return false;
    this.#told.delete(message);
    this.#told.set(message, nowMs);
    for (const oldest of this.#told.keys()) {
      if (this.#told.size <= TROUBLES_MAX) break;
      this.#told.delete(oldest);
    }
    return true;
  }
}
