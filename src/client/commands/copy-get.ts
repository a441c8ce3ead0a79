/** `tidemark copy get ID` */
import { CopyServiceClient, GetCopyResponse } from "../../gen/tidemark/v1/copy.ts";
import type { CommandContext } from "../context.ts";
import { copyFacts } from "../display/words.ts";

export async function copyGet(context: CommandContext, id: string): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(CopyServiceClient);
  const response = await connection.unary(client, client.getCopy, { id });
  if (context.output.json) context.output.message(GetCopyResponse, response);
  else if (response.copy !== undefined) context.output.facts(copyFacts(response.copy));
}
