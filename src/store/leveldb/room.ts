/** Room for opening a database anew: it turns the log into a table before it takes writes. */
import { open, readdir, stat, unlink } from "node:fs/promises";
import { join } from "node:path";
import { TidemarkError } from "../../base/errors.ts";
import { MiB } from "../../base/units.ts";

/** Manifest, new log, and the first records in it. */
const MARGIN_BYTES = 1 * MiB;
const PIECE_BYTES = 1 * MiB;
/** A name of LevelDB's own temporary files, which it removes when it finds one. */
const PROBE_NAME = "000000.dbtmp";

/** Writes as much as opening may need, durably, and removes it. METADATA_WRITE_FAILED. */
export async function requireRoom(directory: string): Promise<void> {
  const probe = join(directory, PROBE_NAME);
  try {
    await write(probe, MARGIN_BYTES + (await logBytes(directory)));
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const full = code === "ENOSPC" || code === "EDQUOT";
    throw new TidemarkError(
      "METADATA_WRITE_FAILED",
      {
        message: full
          ? `there is no room for the box's metadata in ${directory}`
          : `the box cannot store its metadata in ${directory}: ${message}`,
        hint: full
          ? "make room on the file system that holds the data directory, then try again; nothing was changed"
          : "look after the disk under the data directory, then try again; nothing was changed",
        metadata: { path: directory, systemCode: code ?? "UNKNOWN" },
      },
      { cause },
    );
  } finally {
    await unlink(probe).catch(() => undefined); // it may never have been made; LevelDB removes what is left
  }
}

async function logBytes(directory: string): Promise<number> {
  const names = (await readdir(directory)).filter((name) => name.endsWith(".log"));
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(directory, name))).size));
  return sizes.reduce((sum, size) => sum + size, 0);
}

async function write(path: string, lengthBytes: number): Promise<void> {
  const file = await open(path, "w", 0o600);
  try {
    const piece = Buffer.alloc(PIECE_BYTES, 0x5a);
    for (let done = 0; done < lengthBytes; ) {
      const { bytesWritten } = await file.write(piece, 0, Math.min(PIECE_BYTES, lengthBytes - done), done);
      done += bytesWritten;
    }
    await file.datasync();
  } finally {
    await file.close();
  }
}
