/** Stops the program on a mistake of ours. Caller mistakes are errors (errors.ts), never assertions. Stays on in production. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

export class AssertionError extends Error {
  constructor(message: string) {
    super(`assertion failed: ${message}`);
    this.name = "AssertionError";
  }
}

/**
 * For whoever catches errors of work that nobody waits for, or turns them into a state: a failed assertion is neither, it
 * ends the thread (data-safety 2.9).
 */
export function endOnBug(error: unknown): void {
  if (!(error instanceof AssertionError)) return;
  queueMicrotask(() => {
    throw error;
  });
}

/** Marks a branch that the types say cannot be reached. */
export function unreachable(value: never): never {
  throw new AssertionError(`unexpected value ${String(value)}`);
}
