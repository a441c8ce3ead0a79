/**
 * Opening, closing, resizing, creating: steps that a stalled device may keep from ever ending.
 *
 * Role: gives each a limit, and sees to it that a stalled one costs no more than its own volume.
 * Invariants:
 *   1. A bounded number of steps is under way within their time, and a bounded number beyond it: each may hold a thread of
 *      the pool for good.
 *   2. Steps at one path come one after the other; after one that is beyond its time none begins there until it has ended.
 *   3. What ends too late is undone: a device that opens then is closed again.
 */
import { TidemarkError } from "../../base/errors.ts";
import { DEVICE_STEP_TIMEOUT_MS } from "../../base/limits.ts";
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

export interface StepLimits {
  readonly inTimeMax: number;
  readonly lateMax: number;
}

interface UnderWay {
  late: boolean;
  /** When it has ended or is late. */
  readonly over: Promise<void>;
  readonly end: () => void;
}

export class DeviceSteps {
  readonly #clock: Clock;
  readonly #limits: StepLimits;
  readonly #paths = new Map<string, UnderWay>();
  #inTime = 0;
  #late = 0;
  #waiting: (() => void)[] = [];

  constructor(clock: Clock, limits: StepLimits) {
    this.#clock = clock;
    this.#limits = limits;
  }

  /** The step's result. DEVICE_TIMEOUT when it takes too long, or when an earlier one at the path did. */
  async run<T>(step: DeviceStep<T>): Promise<T> {
    for (let earlier = this.#paths.get(step.path); earlier; earlier = this.#paths.get(step.path)) {
      if (earlier.late) throw timedOut(step, "what was begun there earlier has not ended");
      await earlier.over;
    }
    const mine = underWay();
    this.#paths.set(step.path, mine);
    try {
      await this.#takeTurn(step);
    } catch (error) {
      this.#leavePath(step.path, mine);
      throw error;
    }
    return this.#limited(step, mine);
  }

  async #takeTurn(step: DeviceStep<unknown>): Promise<void> {
    const { inTimeMax, lateMax } = this.#limits;
    while (this.#inTime >= inTimeMax) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    if (this.#late >= lateMax) {
      this.#waiting.shift()?.(); // the turn that is not taken
      throw timedOut(step, `${this.#late} other devices do not answer`);
    }
    this.#inTime++;
  }

  async #limited<T>(step: DeviceStep<T>, mine: UnderWay): Promise<T> {
    const running = step.run();
    try {
      return await within(this.#clock, DEVICE_STEP_TIMEOUT_MS, running, () => {
        mine.late = true;
        return timedOut(step, `it does not answer within ${DEVICE_STEP_TIMEOUT_MS / 1000} s`);
      });
    } finally {
      this.#inTime--;
      this.#waiting.shift()?.();
      if (mine.late) {
        mine.end();
        void this.#awaitLate(step, running, mine);
      } else this.#leavePath(step.path, mine);
    }
  }

  async #awaitLate<T>(step: DeviceStep<T>, running: Promise<T>, mine: UnderWay): Promise<void> {
    this.#late++;
    try {
      const result = await running;
      await step.undo?.(result);
    } catch {
      // Nobody waits for it any more, and who did was told.
    } finally {
      this.#late--;
      this.#leavePath(step.path, mine);
    }
  }

  #leavePath(path: string, mine: UnderWay): void {
    this.#paths.delete(path);
    mine.end();
  }
}

function underWay(): UnderWay {
  let end: () => void = () => undefined;
  const over = new Promise<void>((resolve) => {
    end = resolve;
  });
  return { late: false, over, end };
}

function timedOut({ path, action }: DeviceStep<unknown>, reason: string): TidemarkError {
  return new TidemarkError("DEVICE_TIMEOUT", {
    message: `cannot ${action} ${path}: ${reason}`,
    hint: "look after the device and the kernel log (dmesg), then try again",
    metadata: { path },
  });
}
