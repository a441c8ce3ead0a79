/** ExportService: converts, and calls domain/exports.ts. */

import type { ExportView } from "../../domain/exports.ts";
import { type ExportServiceServer, ExportServiceService as methods } from "../../gen/tidemark/v1/export.ts";
import { toExport } from "../convert.ts";
import { mutation, unary } from "../handlers.ts";
import type { ServiceParts } from "./parts.ts";

export function exportService(parts: ServiceParts): ExportServiceServer {
  const { log } = parts;
  const { exports } = parts.box;
  return {
    addExport: mutation(
      parts,
      methods.addExport,
      ({ name, readOnly }, record) => exports.add({ name, readOnly }, record),
      (view: ExportView) => ({ export: toExport(view) }),
    ),
    getExport: unary(log, async ({ name }) => ({ export: toExport(await exports.get(name)) })),
    listExports: unary(log, async (request) => {
      const { items, nextPageToken } = await exports.list(request);
      return { exports: items.map(toExport), nextPageToken };
    }),
    removeExport: mutation(
      parts,
      methods.removeExport,
      async ({ name, force }, record) => {
        await exports.remove({ name, clients: force ? "disconnect" : "refuse" }, record);
        return undefined;
      },
      () => ({}),
    ),
  };
}
