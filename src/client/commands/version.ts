/** `tidemark version` */
import { BoxServiceClient } from "../../gen/tidemark/v1/box.ts";
import type { CommandContext } from "../context.ts";
import { Failure } from "../failure.ts";
import { clientVersion } from "../version.ts";

/** Prints the client's version, and the server's when one answers. */
export async function version(context: CommandContext): Promise<void> {
  const client = clientVersion();
  const server = await serverVersion(context);
  if (context.output.json) context.output.object(server === undefined ? { client } : { client, server });
  else {
    context.output.line(`tidemark ${client}`);
    if (server !== undefined) context.output.line(`server ${server} at ${context.address}`);
  }
}

async function serverVersion(context: CommandContext): Promise<string | undefined> {
  const connection = await context.connect();
  const client = connection.client(BoxServiceClient);
  try {
    return (await connection.unary(client, client.getBox, {})).box?.version;
  } catch (error) {
    if (error instanceof Failure && (error.code === "UNAVAILABLE" || error.code === "PERMISSION_DENIED"))
      return undefined;
    throw error;
  }
}
