/**
 * What a command is given: where the server is, where output goes, how long it may take.
 *
 * Role: made once for each invocation by `perform` (perform.ts); commands read nothing from the process themselves.
 */
import type { Connection } from "./connection.ts";
import type { Output } from "./display/output.ts";

export interface CommandContext {
  /** Address in the form of `parseAddress`. */
  readonly address: string;
  readonly output: Output;
  /** Aborts on Ctrl-C. */
  readonly signal: AbortSignal;
  /** Moment (ms since 1970) at which the command must be done; undefined without --timeout. */
  readonly deadlineMs: number | undefined;
  /** Identity of a change, so that repeating the command after a doubt does it once. */
  readonly requestId: string;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Opens the connection at the first call; loads gRPC only then. */
  connect(): Promise<Connection>;
}
