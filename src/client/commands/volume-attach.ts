/** `tidemark volume attach NAME [--read-only]` */
import { type Export, ExportServiceClient } from "../../gen/tidemark/v1/export.ts";
import { attachVolume, chooseMethod } from "../attach/attach.ts";
import { attachmentObject } from "../attach/display.ts";
import { type AttachmentRecord, attachmentsDirectory } from "../attach/record.ts";
import type { Connection } from "../connection.ts";
import type { CommandContext } from "../context.ts";
import { Failure } from "../failure.ts";
import { removeExportAfterDetach } from "./volume-detach.ts";

/** Prints the path of the block device. */
export async function volumeAttach(
  context: CommandContext,
  name: string,
  options: { readonly readOnly?: boolean },
): Promise<void> {
  chooseMethod(); // what is missing here is said before anything changes on the server
  const connection = await context.connect();
  const readOnly = options.readOnly === true;
  const { found, added } = await exportOf(connection, context, name, readOnly);
  const request = {
    name: found.name,
    label: found.label,
    address: context.address,
    uri: found.uri,
    readOnly: readOnly || found.readOnly,
    exportAdded: added,
  };
  let record: AttachmentRecord;
  try {
    record = await attachVolume(attachmentsDirectory(context.environment), request);
  } catch (error) {
    if (added) await removeExportAfterDetach(context, connection, found.name);
    throw error;
  }
  if (context.output.json) context.output.object({ attachment: attachmentObject(record) });
  else context.output.line(record.device);
}

async function exportOf(
  connection: Connection,
  context: CommandContext,
  name: string,
  readOnly: boolean,
): Promise<{ found: Export; added: boolean }> {
  const client = connection.client(ExportServiceClient);
  const existing = await connection.unary(client, client.getExport, { name }).catch((error: unknown) => {
    if (error instanceof Failure && error.code === "NOT_FOUND" && error.reason === "EXPORT_NOT_FOUND") return undefined;
    throw error;
  });
  if (existing?.export !== undefined) {
    if (existing.export.readOnly && !readOnly) throw exportedReadOnly(existing.export);
    return { found: existing.export, added: false };
  }
  const request = { name, readOnly, requestId: context.requestId };
  const { export: found } = await connection.unary(client, client.addExport, request);
  if (found === undefined)
    throw new Failure("INTERNAL", "the server answered without an export", { hint: "update it" });
  return { found, added: true };
}

function exportedReadOnly(found: Export): Failure {
  return new Failure("FAILED_PRECONDITION", `${found.name} is exported read-only`, {
    reason: "READ_ONLY",
    hint: `--read-only, or \`tidemark export remove ${found.name}\` first`,
  });
}
