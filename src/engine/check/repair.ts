/**
 * Repair of a state directory that no daemon uses: makes durable what the next start would make of it, through the same
 * code, and removes what nothing names. It never invents content.
 *
 * How: the engine is started on the files with every volume unavailable, so that nothing is copied or written but its own
 * state, and stopped in order. Volumes that another program may have written to meanwhile keep their stamps
 * (foreign-writes.ts), so the next real start still compares them.
 */
import { TidemarkError } from "../../base/errors.ts";
import { CHECK_FINDINGS_MAX } from "../../base/limits.ts";
import { createMover } from "../device/mover.ts";
import { directoryOf, type StateFiles } from "../durable/state-files.ts";
import { createEngine } from "../engine.ts";
import type { MetadataFinding, VolumeSpec } from "../engine-api.ts";
import { removeVolumeDirectory, VOLUMES_DIRECTORY } from "../volume/volume-tracking.ts";
import { checkState, type StateCheck } from "./check-state.ts";
import { isSurvived } from "./finding.ts";

export interface StateRepair {
  /** What the engine said of what it could not keep. */
  readonly said: readonly string[];
  /** The state as it is now. */
  readonly after: StateCheck;
}

/** False: a start would be refused, or leave something alone, and so is a repair. */
export function isRepairable(findings: readonly MetadataFinding[]): boolean {
  return findings.every(({ kind, cost, repairable }) => repairable || isSurvived(kind) || cost === "");
}

/** Throws what the disk throws; what was repaired until then stays so. */
export async function repairState(files: StateFiles, volumes: readonly VolumeSpec[]): Promise<StateRepair> {
  const said = await startAndStop(files, volumes);
  for (const finding of (await checkState(files, volumes)).findings)
    if (finding.kind === "left-over" && finding.repairable) await removeLeftOver(files, finding.path);
  return { said, after: await checkState(files, volumes) };
}

async function startAndStop(files: StateFiles, volumes: readonly VolumeSpec[]): Promise<string[]> {
  const said: string[] = [];
  let lose: (error: TidemarkError) => void = () => undefined;
  const lost = new Promise<never>((_, reject) => {
    lose = reject;
  });
  const engine = await createEngine({
    lose: (error) => lose(error),
    ports: async () => ({
      files,
      mover: createMover({ workers: 0 }),
      identityOf: async (path) => [path],
      openDevice: async (path) => {
        throw new TidemarkError("VOLUME_UNAVAILABLE", { message: `${path} is not opened by a repair` });
      },
    }),
  });
  engine.onEvent((event) => {
    if (event.type === "engine.trouble" && said.length < CHECK_FINDINGS_MAX) said.push(event.message);
  });
  const run = async () => {
    await engine.start({ stateDirectory: "", volumes });
    await engine.stop();
  };
  await Promise.race([run(), lost]);
  return said;
}

/** A file, or the directory of a volume that is not tracked. */
async function removeLeftOver(files: StateFiles, path: string): Promise<void> {
  const uid = path.startsWith(`${VOLUMES_DIRECTORY}/`) ? path.slice(VOLUMES_DIRECTORY.length + 1) : "";
  if (uid !== "" && !uid.includes("/")) return removeVolumeDirectory(files, uid);
  await files.remove(path);
  await files.syncDirectory(directoryOf(path));
}
