/** `tidemark copy pace ID PACE` */
import { CopyServiceClient, SetCopyPaceResponse } from "../../gen/tidemark/v1/copy.ts";
import type { CommandContext } from "../context.ts";
import { COPY_COLUMNS } from "../display/words.ts";
import { parsePace } from "./copy-start.ts";

export async function copyPace(context: CommandContext, id: string, pace: string): Promise<void> {
  const request = { id, pace: parsePace(pace), requestId: context.requestId };
  const connection = await context.connect();
  const client = connection.client(CopyServiceClient);
  const response = await connection.unary(client, client.setCopyPace, request);
  if (context.output.json) context.output.message(SetCopyPaceResponse, response);
  else context.output.table(COPY_COLUMNS, response.copy === undefined ? [] : [response.copy]);
}
