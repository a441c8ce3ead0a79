/**
 * Decides whether a device may be written on the caller's thread.
 *
 * Role: memory of slowness. A write that took longer than DEVICE_SLOW_MS closes the gate for DEVICE_SLOW_PAUSE_MS, twice
 * as long each time it happens again soon, so that a stalling device holds the thread once, not again and again.
 */
import { DEVICE_SLOW_MS, DEVICE_SLOW_PAUSE_MS, DEVICE_SLOW_PAUSE_MS_MAX } from "../../base/limits.ts";
import type { Clock } from "../../base/ports.ts";

/** An asynchronous write has the thread pool's queue in its time, so it must be this many times slower to count. */
const ASYNC_FACTOR = 5;

export class InlineGate {
  readonly #clock: Clock;
  #closedUntilMs = 0;
  #pauseMs = DEVICE_SLOW_PAUSE_MS;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Time to hand to `ended`, or -1 when the gate is closed. */
  begin(): number {
    const nowMs = this.#clock.monotonicMs();
    return nowMs < this.#closedUntilMs ? -1 : nowMs;
  }

  ended(beganMs: number): void {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - beganMs > DEVICE_SLOW_MS) this.#close(nowMs);
  }

  asyncBegin(): number {
    return this.#clock.monotonicMs();
  }

  asyncEnded(beganMs: number): void {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - beganMs > DEVICE_SLOW_MS * ASYNC_FACTOR) this.#close(nowMs);
  }

  #close(nowMs: number): void {
    if (nowMs < this.#closedUntilMs) {
      // Still slow while paused: the pause begins anew but does not grow.
      this.#closedUntilMs = nowMs + this.#pauseMs;
      return;
    }
    const soon = this.#closedUntilMs > 0 && nowMs - this.#closedUntilMs < 2 * this.#pauseMs;
    this.#pauseMs = soon ? Math.min(this.#pauseMs * 2, DEVICE_SLOW_PAUSE_MS_MAX) : DEVICE_SLOW_PAUSE_MS;
    this.#closedUntilMs = nowMs + this.#pauseMs;
  }
}
