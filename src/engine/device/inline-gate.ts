/**
 * Decides whether a device may be written on the caller's thread.
 *
 * Role: memory of slowness, so that a stalling device holds the thread once, not again and again. The gate closes
 *   - while an asynchronous operation has been under way for longer than DEVICE_STALLED_MS;
 *   - after one write that took longer than DEVICE_STALLED_MS, or two inline writes longer than DEVICE_SLOW_MS within
 *     DEVICE_SLOW_PAUSE_MS (one alone may be the scheduler's doing): for that pause, doubled when it happens again soon
 *     after. A flush or a cold read may take its time: it closes the gate only while it is under way.
 */
import {
  DEVICE_SLOW_MS,
  DEVICE_SLOW_PAUSE_MS,
  DEVICE_SLOW_PAUSE_MS_MAX,
  DEVICE_STALLED_MS,
} from "../../base/limits.ts";
import type { Clock } from "../../base/ports.ts";

export class InlineGate {
  readonly #clock: Clock;
  /** Start times of asynchronous operations under way, oldest first. */
  readonly #underWay = new Map<number, number>();
  #nextToken = 0;
  #closedUntilMs = 0;
  #pauseMs = DEVICE_SLOW_PAUSE_MS;
  #lastSlowMs = Number.NEGATIVE_INFINITY;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Time to hand to `ended`, or -1 when the gate is closed. */
  begin(): number {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs < this.#closedUntilMs) return -1;
    if (this.#underWay.size > 0) {
      for (const startedMs of this.#underWay.values()) {
        if (nowMs - startedMs > DEVICE_STALLED_MS) return -1;
        break; // the oldest decides
      }
    }
    return nowMs;
  }

  /** A write on the caller's thread that began at `beganMs` has ended. */
  ended(beganMs: number): void {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - beganMs > DEVICE_SLOW_MS) this.#slow(nowMs, nowMs - beganMs);
  }

  /** Token to hand to `asyncEnded`. */
  asyncBegan(): number {
    const token = this.#nextToken++;
    this.#underWay.set(token, this.#clock.monotonicMs());
    return token;
  }

  /** Only a slow write is remembered. */
  asyncEnded(token: number, kind: "write" | "other"): void {
    const startedMs = this.#underWay.get(token);
    this.#underWay.delete(token);
    if (startedMs === undefined || kind === "other") return;
    const nowMs = this.#clock.monotonicMs();
    // The thread pool's queue is in this time, so only a stall counts.
    if (nowMs - startedMs > DEVICE_STALLED_MS) this.#slow(nowMs, nowMs - startedMs);
  }

  #slow(nowMs: number, tookMs: number): void {
    if (nowMs < this.#closedUntilMs) {
      this.#closedUntilMs = nowMs + this.#pauseMs;
      return;
    }
    const second = nowMs - this.#lastSlowMs < DEVICE_SLOW_PAUSE_MS;
    const again = this.#closedUntilMs > 0 && nowMs - this.#closedUntilMs < 2 * this.#pauseMs;
    this.#lastSlowMs = nowMs;
    if (tookMs <= DEVICE_STALLED_MS && !second && !again) return;
    this.#pauseMs = again ? Math.min(this.#pauseMs * 2, DEVICE_SLOW_PAUSE_MS_MAX) : DEVICE_SLOW_PAUSE_MS;
    this.#closedUntilMs = nowMs + this.#pauseMs;
  }
}
