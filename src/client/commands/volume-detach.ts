/** `tidemark volume detach NAME [--force]` */
import { setTimeout as sleep } from "node:timers/promises";
import { ExportServiceClient } from "../../gen/tidemark/v1/export.ts";
import { beingWorkedOn } from "../attach/attach.ts";
import { attachmentObject } from "../attach/display.ts";
import { isAlive } from "../attach/process.ts";
import { type Attachment, attachmentsDirectory, listAttachments } from "../attach/record.ts";
import { undoAttachment } from "../attach/undo.ts";
import { Connection } from "../connection.ts";
import type { CommandContext } from "../context.ts";
import { asFailure, Failure } from "../failure.ts";

/** The server may take a moment to notice that our own client has gone. */
const EXPORT_BUSY_ATTEMPTS = 20;
const EXPORT_BUSY_PAUSE_MS = 100;

/** Works without a server too: then only the export stays, and that is said. */
export async function volumeDetach(
  context: CommandContext,
  name: string,
  options: { readonly force?: boolean },
): Promise<void> {
  const attachment = findAttachment(context, name);
  const { record } = attachment;
  if (isAlive(record.busy)) throw beingWorkedOn(record);
  const unflushedWrites = options.force === true ? "give up" : "keep";
  await undoAttachment(attachment, { afterFailure: "throw", unflushedWrites });
  if (record.exportAdded) await removeExport(context, record.address, record.name);
  if (context.output.json) context.output.object({ attachment: attachmentObject(record) });
  else context.output.line(`${record.name} detached from ${record.device || "this machine"}`);
}

function findAttachment(context: CommandContext, name: string): Attachment {
  const all = listAttachments(attachmentsDirectory(context.environment));
  const named = all.filter(({ record }) => [record.name, record.label, record.device].includes(name) && name !== "");
  const here = named.filter(({ record }) => record.address === context.address);
  const [only, ...others] = here.length > 0 ? here : named;
  if (only === undefined) {
    throw new Failure("NOT_FOUND", `${name} is not attached here`, {
      reason: "NOT_ATTACHED",
      hint: "tidemark volume attachments",
    });
  }
  if (others.length > 0) {
    const devices = [only, ...others].map(({ record }) => record.device).join(", ");
    const message = `${name} is attached from several boxes`;
    throw new Failure("FAILED_PRECONDITION", message, { reason: "AMBIGUOUS", hint: `name the device: ${devices}` });
  }
  return only;
}

/** The export is on the server the volume was attached from, which need not be the one named now. */
async function removeExport(context: CommandContext, address: string, name: string): Promise<void> {
  if (address === context.address) return removeExportAfterDetach(context, await context.connect(), name);
  const connection = new Connection({ address, deadlineMs: context.deadlineMs, signal: context.signal });
  try {
    await removeExportAfterDetach(context, connection, name);
  } finally {
    connection.close();
  }
}

/** Removes the export attach had added. Other clients may use it by now: then it stays, and that is said. */
export async function removeExportAfterDetach(
  context: CommandContext,
  connection: Connection,
  name: string,
): Promise<void> {
  const client = connection.client(ExportServiceClient);
  for (let attempt = 1; ; attempt++) {
    try {
      await connection.unary(client, client.removeExport, { name, force: false, requestId: "" });
      return;
    } catch (error) {
      const failure = asFailure(error);
      if (failure.code === "NOT_FOUND") return;
      const retry = failure.reason === "EXPORT_BUSY" && attempt < EXPORT_BUSY_ATTEMPTS;
      if (!retry) return context.output.note(`tidemark: the export of ${name} stays: ${failure.message}`);
    }
    await sleep(EXPORT_BUSY_PAUSE_MS);
  }
}
