/** What a run found wrong. A violation ends the run: the directory stays as it is for whoever looks into it. */
export class Violation extends Error {
  override readonly name = "Violation";
}

export function require(condition: boolean, message: () => string): asserts condition {
  if (!condition) throw new Violation(message());
}

/** What a run did; printed as it is. */
export class Tally {
  kills = 0;
  killsWhileStarting = 0;
  killsWhileStopping = 0;
  cleanStops = 0;
  commands = 0;
  refused = 0;
  points = 0;
  /** Points that the daemon was killed in and that had happened, and that had not. */
  pointsKilledHappened = 0;
  pointsKilledNot = 0;
  restarts = 0;
  /** Restarts of tracking copies that copied everything although they need not. */
  fullCopies = 0;
  widened = 0;
  writesAcknowledged = 0;
  copiesChecked = 0;
  bytesVerified = 0;
  readonly commandCounts: Record<string, number> = {};
  readonly refusals: Record<string, number> = {};

  count(of: Record<string, number>, name: string): void {
    of[name] = (of[name] ?? 0) + 1;
  }
}
