/** What ends the quickstart early, in words for the person who ran it. */

/** Something could not be done, or a check did not hold. Exit code 1. */
export class QuickstartFailure extends Error {
  /** What to do next. */
  readonly hint: string;

  constructor(message: string, hint: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "QuickstartFailure";
    this.hint = hint;
  }
}

/** The command line is wrong. Exit code 2. */
export class QuickstartUsage extends Error {
  override readonly name = "QuickstartUsage";
}

/** Throws QuickstartFailure unless a check holds. */
export function check(holds: boolean, what: string): void {
  if (holds) return;
  throw new QuickstartFailure(
    `the check failed: ${what}`,
    "this is a defect of Tidemark: please report it with the output above",
  );
}

/** Throws when Ctrl-C was pressed. */
export function throwIfInterrupted(signal: AbortSignal): void {
  if (signal.aborted) throw new QuickstartFailure("interrupted", "", { cause: signal.reason });
}
