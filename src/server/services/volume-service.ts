/** VolumeService: converts, and calls domain/volumes.ts. */

import type { VolumeView } from "../../domain/volumes.ts";
import { VolumeServiceService as methods, type VolumeServiceServer } from "../../gen/tidemark/v1/volume.ts";
import { exactNumber, toPartition, toVolume } from "../convert.ts";
import { mutation, unary } from "../handlers.ts";
import type { ServiceParts } from "./parts.ts";

export function volumeService(parts: ServiceParts): VolumeServiceServer {
  const { log } = parts;
  const { volumes } = parts.box;
  return {
    registerVolume: mutation(
      parts,
      methods.registerVolume,
      ({ path, lu, label }, record) => volumes.register({ path, lu, label }, record),
      (view: VolumeView) => ({ volume: toVolume(view) }),
    ),
    createVolume: mutation(
      parts,
      methods.createVolume,
      ({ path, lu, label, sizeBytes }, record) =>
        volumes.create({ path, lu, label, sizeBytes: exactNumber(sizeBytes, "size_bytes") }, record),
      (view: VolumeView) => ({ volume: toVolume(view) }),
    ),
    getVolume: unary(log, async ({ name }) => ({ volume: toVolume(await volumes.get(name)) })),
    listVolumes: unary(log, async (request) => {
      const { items, nextPageToken } = await volumes.list(request);
      return { volumes: items.map(toVolume), nextPageToken };
    }),
    resizeVolume: mutation(
      parts,
      methods.resizeVolume,
      ({ name, sizeBytes, allowShrink }, record) => {
        const shrink = allowShrink ? "allow" : "refuse";
        return volumes.resize({ name, sizeBytes: exactNumber(sizeBytes, "size_bytes"), shrink }, record);
      },
      (view: VolumeView) => ({ volume: toVolume(view) }),
    ),
    reopenVolume: mutation(
      parts,
      methods.reopenVolume,
      async ({ name }, record) => parts.box.reopenVolume(name, record),
      (view: VolumeView) => ({ volume: toVolume(view) }),
    ),
    deleteVolume: mutation(
      parts,
      methods.deleteVolume,
      async ({ name, deleteFile }, record, intent) => {
        await volumes.delete({ name, file: deleteFile ? "remove" : "keep" }, record, intent);
        return undefined;
      },
      () => ({}),
    ),
    listPartitions: unary(log, async (request) => {
      const { items, nextPageToken } = await volumes.partitions(request.volume, request);
      return { partitions: items.map(toPartition), nextPageToken };
    }),
  };
}
