/** `tidemark volume attachments` */
import { isIntact } from "../attach/attach.ts";
import { attachmentObject } from "../attach/display.ts";
import { type Attachment, attachmentsDirectory, listAttachments } from "../attach/record.ts";
import type { CommandContext } from "../context.ts";
import type { Column } from "../display/table.ts";

const COLUMNS: readonly Column<Attachment>[] = [
  { title: "NAME", cell: ({ record }) => record.name },
  { title: "LABEL", cell: ({ record }) => record.label },
  { title: "DEVICE", cell: ({ record }) => record.device },
  { title: "ACCESS", cell: ({ record }) => (record.readOnly ? "read-only" : "read-write") },
  { title: "METHOD", cell: ({ record }) => record.method },
  { title: "STATE", cell: (attachment) => (isIntact(attachment) ? "attached" : "broken") },
  { title: "SERVER", cell: ({ record }) => record.address },
];

/** What is attached on this machine; needs no server. */
export async function volumeAttachments(context: CommandContext): Promise<void> {
  const all = listAttachments(attachmentsDirectory(context.environment));
  if (!context.output.json) return context.output.table(COLUMNS, all);
  for (const attachment of all) {
    const state = isIntact(attachment) ? "attached" : "broken";
    context.output.object({ ...attachmentObject(attachment.record), state });
  }
}
