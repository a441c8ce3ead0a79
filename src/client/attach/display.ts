/** The JSON form of an attachment; part of the documented output, so it names its fields one by one. */
import type { AttachmentRecord } from "./record.ts";

export function attachmentObject(record: AttachmentRecord) {
  const { name, label, device, uri, method, readOnly, exportAdded, address } = record;
  return { name, label, device, uri, method, readOnly, exportAdded, address };
}
