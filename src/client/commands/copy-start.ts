/** `tidemark copy start SRC DST [SRC DST ...] --kind opc|quickopc [--pace 1..15] [--wait]` */
import { PACE_MAX, PACE_MIN, SESSIONS_PER_POINT_MAX } from "../../base/limits.ts";
import { type CopyPair, CopyServiceClient, StartCopyResponse } from "../../gen/tidemark/v1/copy.ts";
import type { CommandContext } from "../context.ts";
import { parseWhole } from "../display/units.ts";
import { COPY_COLUMNS, COPY_KINDS } from "../display/words.ts";
import { usageError } from "../failure.ts";
import type { CopyStartOptions } from "../grammar/copy.ts";
import { waitForCopies } from "./copy-wait.ts";

export async function copyStart(
  context: CommandContext,
  operands: readonly string[],
  options: CopyStartOptions,
): Promise<void> {
  const pairs = pairsOf(operands);
  const kind = COPY_KINDS[options.kind]!; // the grammar lets only these through
  const pace = options.pace === undefined ? 0 : parsePace(options.pace);
  const connection = await context.connect();
  const client = connection.client(CopyServiceClient);
  const request = { pairs, kind, pace, requestId: context.requestId };
  const started = await connection.unary(client, client.startCopy, request);
  const copies = options.wait === true ? await waitForCopies(context, started.copies) : started.copies;
  if (context.output.json) context.output.message(StartCopyResponse, { copies });
  else context.output.table(COPY_COLUMNS, copies);
}

export function parsePace(text: string): number {
  return parseWhole(text, { what: "a pace", min: PACE_MIN, max: PACE_MAX });
}

function pairsOf(operands: readonly string[]): CopyPair[] {
  if (operands.length % 2 !== 0) {
    throw usageError("a destination is missing", "tidemark copy start SOURCE DESTINATION [SOURCE DESTINATION ...]");
  }
  if (operands.length / 2 > SESSIONS_PER_POINT_MAX) {
    throw usageError("too many pairs for one point", `at most ${SESSIONS_PER_POINT_MAX} pairs`);
  }
  const pairs: CopyPair[] = [];
  for (let index = 0; index < operands.length; index += 2) {
    pairs.push({ source: operands[index]!, destination: operands[index + 1]! });
  }
  return pairs;
}
