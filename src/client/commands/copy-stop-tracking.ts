/** `tidemark copy stop-tracking ID` */
import { CopyServiceClient, StopTrackingResponse } from "../../gen/tidemark/v1/copy.ts";
import type { CommandContext } from "../context.ts";
import { COPY_COLUMNS } from "../display/words.ts";

export async function copyStopTracking(context: CommandContext, id: string): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(CopyServiceClient);
  const response = await connection.unary(client, client.stopTracking, { id, requestId: context.requestId });
  if (context.output.json) context.output.message(StopTrackingResponse, response);
  else context.output.table(COPY_COLUMNS, response.copy === undefined ? [] : [response.copy]);
}
