/** What every service is made of. */
import type { Box } from "../../domain/box.ts";
import type { RequestIds } from "../../domain/request-ids.ts";
import type { LogError } from "../handlers.ts";

export interface ServiceParts {
  readonly box: Box;
  readonly requests: RequestIds;
  readonly log: LogError;
}
