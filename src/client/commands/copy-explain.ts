/** `tidemark copy explain SRC DST --kind opc|quickopc` */
import { CopyServiceClient, ExplainCopyResponse } from "../../gen/tidemark/v1/copy.ts";
import type { CommandContext } from "../context.ts";
import { COPY_KINDS, explainFacts } from "../display/words.ts";

export async function copyExplain(
  context: CommandContext,
  wanted: { readonly source: string; readonly destination: string; readonly kind: string },
): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(CopyServiceClient);
  const response = await connection.unary(client, client.explainCopy, { ...wanted, kind: COPY_KINDS[wanted.kind]! });
  if (context.output.json) context.output.message(ExplainCopyResponse, response);
  else context.output.facts(explainFacts(response));
}
