/**
 * Paths: what the domain needs to know of the file system to decide whether a path may become a volume.
 *
 * Role: the port, its implementation on the real file system, and the rule. Opening and reading is the engine's.
 */
import { readFile, realpath, stat, statfs } from "node:fs/promises";
import { basename, dirname, isAbsolute, join } from "node:path";
import { TidemarkError } from "../base/errors.ts";
import { PATH_LENGTH_MAX, PATH_LOOKS_LATE_MAX, PATH_LOOKS_MAX } from "../base/limits.ts";
import type { Clock } from "../base/ports.ts";
import { SECTOR_SIZE_BYTES } from "../base/units.ts";
import { DeviceSteps } from "../engine/volume/device-steps.ts";

export interface PathFacts {
  readonly kind: "file" | "block" | "other";
  readonly sizeBytes: number;
  /** Space that a file takes; 0 when it holds nothing but holes. */
  readonly allocatedBytes: number;
}

export interface Paths {
  /** Absolute path without symbolic links. Throws PATH_NOT_FOUND, PERMISSION_DENIED, PATH_NOT_USABLE. */
  resolve(path: string): Promise<string>;
  /** Undefined when there is nothing at the path. */
  look(path: string): Promise<PathFacts | undefined>;
  /** Space on the file system of a directory. */
  space(directory: string): Promise<{ readonly freeBytes: number; readonly totalBytes: number }>;
}

export const systemPaths: Paths = {
  async resolve(path) {
    try {
      return await realpath(path);
    } catch (error) {
      throw pathError(path, error);
    }
  },
  async look(path) {
    try {
      const facts = await stat(path);
      if (facts.isBlockDevice())
        return { kind: "block", sizeBytes: await blockDeviceSize(facts.rdev), allocatedBytes: 0 };
      const kind = facts.isFile() ? "file" : "other";
      return { kind, sizeBytes: facts.size, allocatedBytes: facts.blocks * SECTOR_SIZE_BYTES };
    } catch (error) {
      if (codeOf(error) === "ENOENT" || codeOf(error) === "ENOTDIR") return undefined;
      throw pathError(path, error);
    }
  },
  async space(directory) {
    const facts = await statfs(directory);
    return { freeBytes: facts.bavail * facts.bsize, totalBytes: facts.blocks * facts.bsize };
  },
};

/**
 * The same with a limit for what requests name: a path on a file system that does not answer holds up its request only.
 * DEVICE_TIMEOUT.
 */
export function limitedPaths(paths: Paths, clock: Clock): Paths {
  const steps = new DeviceSteps(clock, { inTimeMax: PATH_LOOKS_MAX, lateMax: PATH_LOOKS_LATE_MAX });
  return {
    resolve: (path) => steps.run({ path, action: "look at", run: () => paths.resolve(path) }),
    look: (path) => steps.run({ path, action: "look at", run: () => paths.look(path) }),
    space: (directory) => paths.space(directory),
  };
}

/** Linux numbers devices in 12 bits of major and 20 of minor, spread over the 64 of `rdev`. */
async function blockDeviceSize(rdev: number): Promise<number> {
  const device = BigInt(rdev);
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xfffff000n);
  const minor = (device & 0xffn) | ((device >> 12n) & 0xffffff00n);
  const sectors = await readFile(`/sys/dev/block/${major}:${minor}/size`, "utf8");
  return Number(sectors.trim()) * SECTOR_SIZE_BYTES;
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error && "code" in error ? String(error.code) : undefined;
}

function pathError(path: string, error: unknown): TidemarkError {
  const metadata = { path };
  switch (codeOf(error)) {
    case "ENOENT":
    case "ENOTDIR":
      return new TidemarkError(
        "PATH_NOT_FOUND",
        { message: `there is nothing at ${path}`, hint: "check the path; it is looked up on the box", metadata },
        { cause: error },
      );
    case "EACCES":
    case "EPERM":
      return new TidemarkError(
        "PERMISSION_DENIED",
        { message: `the box may not look at ${path}`, hint: "give the daemon's user access to it", metadata },
        { cause: error },
      );
    default:
      return new TidemarkError(
        "PATH_NOT_USABLE",
        { message: `${path} cannot be used: ${codeOf(error) ?? "unknown reason"}`, hint: "use another path", metadata },
        { cause: error },
      );
  }
}

export interface PlacementRules {
  /** The box's own state, symbolic links resolved. */
  readonly dataDirectory: string;
  /** When not empty, a volume must lie in one of them. */
  readonly roots: readonly string[];
}

const KERNEL_DIRECTORIES = ["/proc", "/sys"];

/** Throws unless a resolved path may become a volume: PATH_NOT_USABLE, PERMISSION_DENIED. */
export function mayRegister(path: string, rules: PlacementRules): void {
  if (isInside(path, rules.dataDirectory))
    throw new TidemarkError("PATH_NOT_USABLE", {
      message: `${path} lies in the box's own data directory`,
      hint: "put the volume somewhere else",
      metadata: { path },
    });
  const kernel = KERNEL_DIRECTORIES.find((directory) => isInside(path, directory));
  if (kernel !== undefined)
    throw new TidemarkError("PATH_NOT_USABLE", {
      message: `${path} lies in ${kernel}, which holds no volumes`,
      hint: "name an image file or a block device",
      metadata: { path },
    });
  if (rules.roots.length > 0 && !rules.roots.some((root) => isInside(path, root)))
    throw new TidemarkError("PERMISSION_DENIED", {
      message: `${path} lies outside the directories that may hold volumes`,
      hint: `use one of ${rules.roots.join(", ")}`,
      metadata: { path },
    });
}

function isInside(path: string, directory: string): boolean {
  return path === directory || path.startsWith(directory.endsWith("/") ? directory : `${directory}/`);
}

/** Throws INVALID_ARGUMENT unless the text can be the absolute path of a file. */
export function checkPath(path: string): void {
  const refuse = (reason: string) => {
    throw new TidemarkError("INVALID_ARGUMENT", {
      message: `the path ${JSON.stringify(path.slice(0, 200))} ${reason}`,
      hint: "give the absolute path of an image file or block device on the box",
      field: "path",
    });
  };
  if (path === "") refuse("is empty");
  if (!isAbsolute(path)) refuse("is not absolute");
  if (path.includes("\0")) refuse("has a zero byte");
  if (Buffer.byteLength(path) > PATH_LENGTH_MAX) refuse("is too long");
}

/** The resolved path of a file that does not exist yet: its directory must. */
export async function resolveNew(paths: Paths, path: string): Promise<string> {
  return join(await paths.resolve(dirname(path)), basename(path));
}
