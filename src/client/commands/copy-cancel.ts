/** `tidemark copy cancel ID` */
import { CancelCopyResponse, CopyServiceClient } from "../../gen/tidemark/v1/copy.ts";
import type { CommandContext } from "../context.ts";

/** Says whether the destination can be used. */
export async function copyCancel(context: CommandContext, id: string): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(CopyServiceClient);
  const response = await connection.unary(client, client.cancelCopy, { id, requestId: context.requestId });
  if (context.output.json) return context.output.message(CancelCopyResponse, response);
  const destination = response.copy?.destination ?? "the destination";
  const state = response.destinationUsable ? "holds a complete copy" : "is not a complete copy";
  context.output.line(`${id} cancelled; ${destination} ${state}`);
}
