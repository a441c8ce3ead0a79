/**
 * Opening, closing, resizing, creating: steps that a stalled device may keep from ever ending.
 *
 * Role: gives each a limit, and sees to it that a stalled one costs no more than its own volume.
 * Invariants:
 *   1. At most DEVICE_STEPS_MAX steps are under way within their time, at most DEVICE_STEPS_LATE_MAX beyond it: each may
 *      hold a thread of the pool for good.
 *   2. While a step is under way at a path, also beyond its time, no other begins there.
 *   3. What ends too late is undone: a device that opens then is closed again.
 */
import { TidemarkError } from "../../base/errors.ts";
import { DEVICE_STEP_TIMEOUT_MS, DEVICE_STEPS_LATE_MAX, DEVICE_STEPS_MAX } from "../../base/limits.ts";
import type { Clock } from "../../base/ports.ts";
import { within } from "../sync/deadline.ts";

export interface DeviceStep<T> {
  readonly path: string;
  /** As in "cannot <action> <path>". */
  readonly action: string;
  run(): Promise<T>;
  /** Takes back what the step has done when nobody waits for it any more. */
  undo?(result: T): Promise<void>;
}

export class DeviceSteps {
  readonly #clock: Clock;
  readonly #paths = new Set<string>();
  #inTime = 0;
  #late = 0;
  #waiting: (() => void)[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** The step's result. DEVICE_TIMEOUT when it takes too long, or when an earlier one at the path has not ended. */
  async run<T>(step: DeviceStep<T>): Promise<T> {
    if (this.#paths.has(step.path)) throw timedOut(step, "an earlier step there has not ended");
    this.#paths.add(step.path);
    try {
      while (this.#inTime >= DEVICE_STEPS_MAX) await new Promise<void>((resolve) => this.#waiting.push(resolve));
      if (this.#late >= DEVICE_STEPS_LATE_MAX) throw timedOut(step, `${this.#late} other devices do not answer`);
    } catch (error) {
      this.#paths.delete(step.path);
      this.#waiting.shift()?.(); // the turn that is not taken
      throw error;
    }
    this.#inTime++;
    return this.#limited(step);
  }

  async #limited<T>(step: DeviceStep<T>): Promise<T> {
    const running = step.run();
    let late = false;
    try {
      return await within(this.#clock, DEVICE_STEP_TIMEOUT_MS, running, () => {
        late = true;
        return timedOut(step, `it does not answer within ${DEVICE_STEP_TIMEOUT_MS / 1000} s`);
      });
    } finally {
      this.#inTime--;
      this.#waiting.shift()?.();
      if (late) void this.#awaitLate(step, running);
      else this.#paths.delete(step.path);
    }
  }

  async #awaitLate<T>(step: DeviceStep<T>, running: Promise<T>): Promise<void> {
    this.#late++;
    try {
      const result = await running;
      await step.undo?.(result);
    } catch {
      // Nobody waits for it any more, and who did was told.
    } finally {
      this.#late--;
      this.#paths.delete(step.path);
    }
  }
}

function timedOut({ path, action }: DeviceStep<unknown>, reason: string): TidemarkError {
  return new TidemarkError("DEVICE_TIMEOUT", {
    message: `cannot ${action} ${path}: ${reason}`,
    hint: "look after the device and the kernel log (dmesg), then try again",
    metadata: { path },
  });
}
