/** Options of the quickstart. */
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { VOLUME_SIZE_BYTES_MAX } from "../base/limits.ts";
import { MiB, SECTOR_SIZE_BYTES } from "../base/units.ts";
import { parseSize } from "../client/display/units.ts";
import { QuickstartUsage } from "./failure.ts";

const SIZE_BYTES_DEFAULT = 256 * MiB;
/** Below this mke2fs makes no useful ext4 file system. */
const SIZE_BYTES_MIN = 16 * MiB;

export const USAGE = `usage: npm run quickstart [-- [IMAGE] [--size SIZE] [--keep] [--json]]

Starts a box in a temporary directory, copies a disk image with QuickOPC while a writer keeps changing it, copies
again, restores, and checks every byte.

  IMAGE        raw image of a disk or partition; it is copied first and never changed.
               Without it an ext4 image is made.
  --size SIZE  size of the image that is made (default 256MiB)
  --keep       leave the box running, to go on with it
  --json       print the result as one JSON object
`;

export interface QuickstartOptions {
  /** Absolute path; undefined: an image is made. */
  readonly image: string | undefined;
  readonly sizeBytes: number;
  readonly keep: boolean;
  readonly json: boolean;
}

/** "help" when help is asked for. Throws QuickstartUsage. */
export function parseOptions(argv: readonly string[], environment: NodeJS.ProcessEnv): QuickstartOptions | "help" {
  const { values, positionals } = parseGiven(argv);
  if (values.help === true) return "help";
  if (positionals.length > 1) throw new QuickstartUsage("give one image, or none");
  const [image] = positionals;
  if (image !== undefined && values.size !== undefined)
    throw new QuickstartUsage("--size is for the image that is made; a given image has its own size");
  // npm changes into the package's directory; the user meant the one where npm was started.
  const from = environment["INIT_CWD"] ?? process.cwd();
  return {
    image: image === undefined ? undefined : resolve(from, image),
    sizeBytes: values.size === undefined ? SIZE_BYTES_DEFAULT : sizeOf(values.size),
    keep: values.keep === true,
    json: values.json === true,
  };
}

function parseGiven(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      allowPositionals: true,
      options: {
        size: { type: "string" },
        keep: { type: "boolean" },
        json: { type: "boolean" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (error) {
    throw new QuickstartUsage(error instanceof Error ? error.message : String(error));
  }
}

function sizeOf(text: string): number {
  let bytes: number;
  try {
    bytes = Number(parseSize(text));
  } catch (error) {
    throw new QuickstartUsage(error instanceof Error ? error.message : String(error));
  }
  if (bytes < SIZE_BYTES_MIN || bytes > VOLUME_SIZE_BYTES_MAX || bytes % SECTOR_SIZE_BYTES !== 0)
    throw new QuickstartUsage(`--size ${text}: give at least 16MiB, in whole sectors of 512 bytes`);
  return bytes;
}
