/** Waiting with a limit: a device that does not answer must not hold up everybody who manages sessions. */
import type { TidemarkError } from "../../base/errors.ts";
import type { Clock } from "../../base/ports.ts";

/** The step's result; throws `late()` when it takes longer than `timeoutMs`. The step itself goes on. */
export async function within<T>(
  clock: Clock,
  timeoutMs: number,
  step: Promise<T>,
  late: () => TidemarkError,
): Promise<T> {
  const timer = new AbortController();
  const limit = clock.sleep(timeoutMs, timer.signal).then(() => {
    if (timer.signal.aborted) return undefined;
    throw late();
  });
  try {
    const first = await Promise.race([step.then((value) => ({ value })), limit]);
    if (first) return first.value;
    return await step;
  } finally {
    timer.abort();
  }
}
