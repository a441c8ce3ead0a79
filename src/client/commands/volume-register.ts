/** `tidemark volume register PATH` */
import { resolve } from "node:path";
import { LU_NUMBER_MAX } from "../../base/limits.ts";
import { RegisterVolumeResponse, VolumeServiceClient } from "../../gen/tidemark/v1/volume.ts";
import type { CommandContext } from "../context.ts";
import { parseWhole } from "../display/units.ts";

export interface LuOptions {
  readonly lu?: string;
  readonly label?: string;
}

/** Sends an absolute path: the server has a working directory of its own. Prints the volume's name. */
export async function volumeRegister(context: CommandContext, path: string, options: LuOptions): Promise<void> {
  const lu = parseLu(options.lu);
  const connection = await context.connect();
  const client = connection.client(VolumeServiceClient);
  const response = await connection.unary(client, client.registerVolume, {
    path: resolve(path),
    lu,
    label: options.label ?? "",
    requestId: context.requestId,
  });
  if (context.output.json) context.output.message(RegisterVolumeResponse, response);
  else context.output.line(response.volume?.name ?? "");
}

/** LU number given by the user; 0 lets the server choose. */
export function parseLu(text: string | undefined): number {
  return text === undefined ? 0 : parseWhole(text, { what: "an LU number", min: 1, max: LU_NUMBER_MAX });
}
