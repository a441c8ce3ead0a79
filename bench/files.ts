/** Image files of the benchmarks, and the state of the page cache they are measured in. */
import { createCipheriv, randomBytes } from "node:crypto";
import { type FileHandle, open, writeFile } from "node:fs/promises";
import { MiB } from "./sizes.ts";
import { run } from "./workspace.ts";

const PIECE_BYTES = MiB;
const EXTENT_BYTES = 256 * 1024;

/** A file without holes, content random, written back. */
export async function denseFile(path: string, sizeBytes: number): Promise<void> {
  await withFile(path, "wx", async (file) => {
    const noise = noiseSource();
    for (let at = 0; at < sizeBytes; at += PIECE_BYTES) await file.write(noise(PIECE_BYTES), 0, PIECE_BYTES, at);
    await file.datasync();
  });
}

/** A file of which one tenth, in extents of 256 KiB at random places, holds random data; the rest are holes. */
export async function sparseFile(path: string, sizeBytes: number): Promise<void> {
  await withFile(path, "wx", async (file) => {
    await file.truncate(sizeBytes);
    const noise = noiseSource();
    const slots = Math.floor(sizeBytes / EXTENT_BYTES);
    for (const slot of distinctNumbers(Math.floor(slots / 10), slots)) {
      await file.write(noise(EXTENT_BYTES), 0, EXTENT_BYTES, slot * EXTENT_BYTES);
    }
    await file.datasync();
  });
}

export async function datasync(path: string): Promise<void> {
  await withFile(path, "r+", (file) => file.datasync());
}

/** Reads a file once, so that it is in the page cache. */
export async function warm(path: string): Promise<void> {
  await withFile(path, "r", async (file) => {
    const buffer = Buffer.allocUnsafe(PIECE_BYTES);
    while ((await file.read(buffer, 0, PIECE_BYTES, null)).bytesRead > 0);
  });
}

/** Empties the page cache of the machine. Needs root. */
export async function dropCaches(): Promise<void> {
  await run("sync", []);
  await writeFile("/proc/sys/vm/drop_caches", "3");
}

export function distinctNumbers(count: number, limit: number): number[] {
  const chosen = new Set<number>();
  while (chosen.size < count) chosen.add(Math.floor(Math.random() * limit));
  return [...chosen];
}

/** Fresh random bytes each time, cheaper than the system's. */
export function noiseSource(): (lengthBytes: number) => Buffer {
  const cipher = createCipheriv("aes-128-ctr", randomBytes(16), randomBytes(16));
  return (lengthBytes) => cipher.update(Buffer.alloc(lengthBytes));
}

async function withFile<T>(path: string, flags: string, use: (file: FileHandle) => Promise<T>): Promise<T> {
  const file = await open(path, flags);
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}
