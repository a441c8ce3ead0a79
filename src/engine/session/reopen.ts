/**
 * A volume that was away comes back while the box runs.
 *
 * Order: reserve it, so that nothing else is done with it; wait until no piece of a copy uses the failed device (new pieces
 * find the volume away); close it; open it again as it was; compare it with what a clean stop noted, if it has not been
 * open since; only then hosts and copies use it.
 */
import { TidemarkError } from "../../base/errors.ts";
import { BARRIER_TIMEOUT_MS } from "../../base/limits.ts";
import type { BlockDevice } from "../../base/ports.ts";
import type { VolumeFacts } from "../engine-api.ts";
import { foreignWriteTo, storeStamps } from "../foreign-writes.ts";
import type { EnginePorts } from "../ports.ts";
import { within } from "../sync/deadline.ts";
import type { Volume } from "../volume/volume.ts";
import type { VolumeSet } from "../volume/volume-set.ts";
import type { Copier } from "./copier.ts";
import { piecesEnd } from "./stop.ts";

export interface ReopenHost {
  readonly ports: EnginePorts;
  readonly stopping: AbortSignal;
  readonly volumes: VolumeSet;
  readonly copier: Copier;
  /** Runs a task while no session begins or ends. STOPPING. */
  alone<T>(task: () => Promise<T>): Promise<T>;
  /** Another program has written to the volume. Durable when it resolves. */
  foreignWrite(volume: Volume, error: TidemarkError): Promise<void>;
  /** Lets copies go on that waited for a volume. */
  resume(): void;
}

/** One that is online stays as it is. Errors as EngineApi.reopenVolume. */
export async function reopenVolume(host: ReopenHost, uid: string): Promise<VolumeFacts> {
  const { volumes } = host;
  const volume = await host.alone(async () => volumes.reserve(uid, "opened again"));
  try {
    if (!volume.online) {
      await allPiecesEnd(host, volume);
      await volumes.reopen(uid);
      host.resume();
    }
    return volumes.facts(uid);
  } finally {
    volumes.release(uid);
  }
}

async function allPiecesEnd({ ports, stopping, copier }: ReopenHost, volume: Volume): Promise<void> {
  const sessions = [...new Set([...volume.entering, ...volume.leaving])];
  const ending = Promise.all(
    sessions.map(async (session) => {
      await piecesEnd(copier, session);
      await session.durable.run(async () => undefined); // a failure that is on its way to the disk is there
    }),
  );
  const late = () =>
    new TidemarkError("DEVICE_TIMEOUT", {
      message: `volume ${volume.name} cannot be opened again: ${volume.path} does not answer what it was asked before`,
      hint: "look after the device and the kernel log (dmesg), then try again",
      metadata: { volume: volume.name, path: volume.path },
    });
  await within(ports.clock, BARRIER_TIMEOUT_MS, ending, late, stopping);
}

/** Before anybody uses a device that comes back; as recovery does at the start (foreign-writes.ts). */
export async function noticeForeignWrite(host: ReopenHost, volume: Volume, device: BlockDevice): Promise<void> {
  const { expectedStamp } = volume;
  if (expectedStamp === undefined) return;
  const foreign = await foreignWriteTo(volume, device, expectedStamp);
  await host.alone(async () => {
    if (foreign) await host.foreignWrite(volume, foreign);
    volume.expectedStamp = undefined;
    await storeStamps(host.ports.files, host.volumes.expectedStamps());
  });
}
