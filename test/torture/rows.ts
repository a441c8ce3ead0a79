/** What the store has agrees with what the engine has, and both with what was made. */

import { VolumeState } from "../../src/gen/tidemark/v1/volume.ts";
import { type Clients, call } from "../server/fixture.ts";
import type { Contents } from "./contents.ts";
import type { CopyBook } from "./copy-book.ts";
import { SCRATCH_NAME, type ScratchVolume } from "./scratch-volume.ts";
import { require } from "./violations.ts";

export async function requireRows(
  clients: Clients,
  { contents, book, scratch }: { contents: Contents; book: CopyBook; scratch: ScratchVolume },
): Promise<void> {
  const listed = (await call(clients.volumes, "listVolumes", { pageSize: 0, pageToken: "" })).volumes;
  const offered = (await call(clients.exports, "listExports", { pageSize: 0, pageToken: "" })).exports;
  const isScratch = ({ name }: { readonly name: string }) => name === SCRATCH_NAME;
  scratch.settle(listed.find(isScratch), offered.find(isScratch));
  const volumes = listed.filter((volume) => !isScratch(volume));
  const exports = offered.filter((one) => !isScratch(one));
  const wanted = contents.volumes.map(({ label, sizeBytes }) => `${label} ${sizeBytes}`).join(", ");
  const found = volumes.map(({ name, sizeBytes }) => `${name} ${sizeBytes}`).join(", ");
  require(found === wanted, () => `volumes are ${found}, expected ${wanted}`);
  for (const volume of volumes) {
    require(volume.state === VolumeState.ONLINE, () => `${volume.name} is not online: ${volume.stateReason}`);
    for (const { id, heldBy } of volume.epochs)
      for (const holder of heldBy)
        require(book.find(holder)?.tracking === true, () =>
          `epoch ${id} of ${volume.name} is held by ${holder}, which does not track`);
  }
  const names = exports.map(({ name }) => name).join(", ");
  require(names === contents.volumes.map(({ label }) => label).join(", "), () => `exports are ${names}`);
  const { box } = await call(clients.box, "getBox", {});
  const counted = (box?.copying ?? 0) + (box?.tracking ?? 0);
  require(box?.failed === 0, () => `${box?.failed} copies are counted as failed`);
  require(counted <= book.copies.size, () => `${counted} copies are counted, ${book.copies.size} exist`);
  await requireEvents(clients);
}

/** Events have ascending ids, and tell of nothing that must not happen. */
async function requireEvents(clients: Clients): Promise<void> {
  const { events } = await call(clients.box, "listEvents", { pageSize: 1000, pageToken: "", subject: "" });
  let last = 0n;
  for (const { id, type, subject, message } of events) {
    require(id > last, () => `event ${id} comes after ${last}`);
    last = id;
    const bad = ["volume.failed", "export.unavailable", "copy.failed"].includes(type);
    require(!bad, () => `event ${type} of ${subject}: ${message}`);
  }
}
