/** `tidemark status` */
import { BoxServiceClient, GetBoxResponse } from "../../gen/tidemark/v1/box.ts";
import type { CommandContext } from "../context.ts";
import { formatDuration, formatSize, formatTime } from "../display/units.ts";

export async function status(context: CommandContext): Promise<void> {
  const connection = await context.connect();
  const client = connection.client(BoxServiceClient);
  const response = await connection.unary(client, client.getBox, {});
  if (context.output.json) return context.output.message(GetBoxResponse, response);
  const box = response.box;
  if (box === undefined) return;
  const upSeconds = box.startTime === undefined ? 0 : Date.now() / 1000 - Number(box.startTime.seconds);
  context.output.facts([
    ["box", `g${box.number}`],
    ["uid", box.uid],
    ["version", box.version],
    ["started", `${formatTime(box.startTime)} (${formatDuration(upSeconds)} ago)`],
    ["addresses", box.addresses.join(", ")],
    ["nbd", box.nbdAddress === "" ? "not listening" : box.nbdAddress],
    ["data", box.dataDirectory],
    ["volumes", String(box.volumes)],
    ["exports", `${box.exports}, ${box.nbdConnections} clients connected`],
    ["copies", `${box.copying} copying, ${box.tracking} tracking, ${box.failed} failed`],
    ["memory", formatSize(box.memoryBytes)],
  ]);
}
