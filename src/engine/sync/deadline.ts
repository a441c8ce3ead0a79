/** Waiting with a limit: a device that does not answer must not hold up everybody who manages sessions. */
import { TidemarkError } from "../../base/errors.ts";
import type { Clock } from "../../base/ports.ts";

/**
 * The step's result; throws `late()` when it takes longer than `timeoutMs`, and STOPPING when `stopping` aborts. The step
 * itself goes on.
 */
export async function within<T>(
  clock: Clock,
  timeoutMs: number,
  step: Promise<T>,
  late: () => TidemarkError,
  stopping?: AbortSignal,
): Promise<T> {
  const timer = new AbortController();
  const stop = () => timer.abort();
  if (stopping?.aborted) stop();
  stopping?.addEventListener("abort", stop, { once: true });
  let over = false;
  const limit = clock.sleep(timeoutMs, timer.signal).then(() => {
    if (over) return undefined;
    throw stopping?.aborted ? stopped() : late();
  });
  try {
    const first = await Promise.race([step.then((value) => ({ value })), limit]);
    if (first) return first.value;
    return await step;
  } finally {
    over = true;
    stopping?.removeEventListener("abort", stop);
    timer.abort();
  }
}

/** Resolves when all tasks have ended, well or badly, or when the time is over; they go on then. */
export async function endedWithin(
  clock: Clock,
  timeoutMs: number,
  tasks: Iterable<Promise<unknown>>,
): Promise<"ended" | "late"> {
  const timer = new AbortController();
  const ended = Promise.allSettled(tasks).then(() => "ended" as const);
  try {
    return await Promise.race([ended, clock.sleep(timeoutMs, timer.signal).then(() => "late" as const)]);
  } finally {
    timer.abort();
  }
}

function stopped(): TidemarkError {
  return new TidemarkError("STOPPING", { message: "the daemon is stopping", hint: "try again when it runs again" });
}
