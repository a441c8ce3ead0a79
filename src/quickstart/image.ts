/**
 * The image that is copied: a working copy of the one that was given, or one that is made here.
 *
 * Invariant: a given image is opened for reading only; everything that is registered and written to lies in the
 * temporary directory.
 */
import { spawn } from "node:child_process";
import { constants as access, accessSync } from "node:fs";
import { constants, copyFile, type FileHandle, mkdir, open, rm, stat, statfs, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { MiB, SECTOR_SIZE_BYTES } from "../base/units.ts";
import { formatSize } from "../client/display/units.ts";
import { QuickstartFailure, throwIfInterrupted } from "./failure.ts";
import { bytesOfSeed } from "./random-bytes.ts";
import { PIECE_BYTES } from "./record-log.ts";

/** Left free on the file system of the temporary directory. */
const SPARE_BYTES = 64 * MiB;
/** Part of a made image that holds data. */
const FILLED_PART = 0.375;
const QCOW2_MAGIC = Buffer.from([0x51, 0x46, 0x49, 0xfb]);
/** The content of a made image is the same every time. */
const SEED = Buffer.from("tidemark example");

export interface Image {
  readonly kind: "given" | "ext4" | "synthetic";
  /** The untouched original, for comparison. */
  readonly originalPath: string;
  /** The working copy that is registered; a whole number of sectors. */
  readonly workingPath: string;
  readonly sizeBytes: number;
  /** Space that the working copy takes. */
  readonly dataBytes: number;
  /** What it is, in words. */
  readonly description: string;
  /** Throws when the original was changed by somebody else meanwhile: then nothing that was compared counts. */
  verifyUntouched(): Promise<void>;
}

/** Makes the working copy of a given image. Throws QuickstartFailure. */
export async function takeImage(
  path: string,
  directory: string,
  { signal, say }: { signal: AbortSignal; say: (text: string) => void },
): Promise<Image> {
  const facts = await lookAt(path);
  say(`${path} is copied; it stays as it is`);
  const workingPath = join(directory, "source.img");
  const reflinked = facts.isFile() && (await reflink(path, workingPath));
  if (!reflinked) {
    await requireSpace(directory, 2 * Math.min(facts.size, facts.blocks * SECTOR_SIZE_BYTES));
    await copySparse(path, workingPath, signal);
  } else await requireSpace(directory, Math.min(facts.size, facts.blocks * SECTOR_SIZE_BYTES));
  const sizeBytes = await wholeSectors(workingPath);
  const how = reflinked ? "a reflink of it" : "a copy of it";
  return {
    kind: "given",
    originalPath: path,
    workingPath,
    sizeBytes,
    dataBytes: await allocatedBytes(workingPath),
    description: `${path} (the box works on ${how})`,
    async verifyUntouched() {
      const now = await stat(path);
      if (now.mtimeMs === facts.mtimeMs && now.size === facts.size) return;
      throw new QuickstartFailure(
        `${path} was changed by another program while it was compared`,
        "stop what writes to it, for example the virtual machine, and run the quickstart again",
      );
    },
  };
}

async function lookAt(path: string) {
  const facts = await stat(path).catch((error: NodeJS.ErrnoException) => {
    throw new QuickstartFailure(`${path} cannot be used: ${error.code ?? error.message}`, "check the path", {
      cause: error,
    });
  });
  if (!facts.isFile())
    throw new QuickstartFailure(
      `${path} is no regular file`,
      "give an image file; a block device can be read into one with `dd`, or registered with `tidemark volume register`",
    );
  if (facts.size === 0) throw new QuickstartFailure(`${path} is empty`, "give the raw image of a disk or partition");
  const magic = Buffer.alloc(QCOW2_MAGIC.length);
  const file = await openForReading(path);
  try {
    await file.read(magic, 0, magic.length, 0);
  } finally {
    await file.close();
  }
  if (magic.equals(QCOW2_MAGIC))
    throw new QuickstartFailure(
      `${path} is a qcow2 image, not a raw one`,
      `convert it first: qemu-img convert -O raw ${path} disk.raw`,
    );
  return facts;
}

function openForReading(path: string): Promise<FileHandle> {
  return open(path, "r").catch((error: NodeJS.ErrnoException) => {
    throw new QuickstartFailure(`${path} cannot be read: ${error.code ?? error.message}`, "check its permissions", {
      cause: error,
    });
  });
}

/** Makes an image: an ext4 file system full of files where e2fsprogs is installed, otherwise data and holes. */
export async function makeImage(
  sizeBytes: number,
  directory: string,
  { signal, programs = programDirectories() }: { signal: AbortSignal; programs?: readonly string[] },
): Promise<Image> {
  await requireSpace(directory, Math.round(3 * FILLED_PART * sizeBytes));
  const originalPath = join(directory, "original.img");
  const workingPath = join(directory, "source.img");
  const mke2fs = findProgram("mke2fs", programs);
  if (mke2fs === undefined) await fillSynthetic(originalPath, sizeBytes, signal);
  else await fillExt4(mke2fs, originalPath, sizeBytes, { directory, signal });
  if (!(await reflink(originalPath, workingPath))) await copySparse(originalPath, workingPath, signal);
  const dataBytes = await allocatedBytes(workingPath);
  const made = mke2fs === undefined ? "made of data and holes (mke2fs is not installed)" : "an ext4 file system";
  return {
    kind: mke2fs === undefined ? "synthetic" : "ext4",
    originalPath,
    workingPath,
    sizeBytes,
    dataBytes,
    description: made,
    async verifyUntouched() {},
  };
}

async function fillExt4(
  mke2fs: string,
  path: string,
  sizeBytes: number,
  { directory, signal }: { directory: string; signal: AbortSignal },
): Promise<void> {
  const tree = join(directory, "files");
  const budget = Math.floor(FILLED_PART * sizeBytes);
  await mkdir(join(tree, "notes"), { recursive: true });
  await mkdir(join(tree, "data"), { recursive: true });
  for (let number = 1; number <= 100; number++)
    await writeFile(join(tree, "notes", `${number}.txt`), `note ${number}\n`.repeat(number));
  for (let number = 1, left = budget; left > 0; number++) {
    throwIfInterrupted(signal);
    const bytes = Math.min(left, 8 * MiB);
    await writeFile(join(tree, "data", `${number}.bin`), bytesOfSeed(SEED, number, bytes));
    left -= bytes;
  }
  const size = `${Math.floor(sizeBytes / 1024)}k`;
  await run(mke2fs, ["-q", "-F", "-t", "ext4", "-L", "tidemark", "-d", tree, path, size], signal);
  await rm(tree, { recursive: true });
}

/** Runs of data with holes between them. */
async function fillSynthetic(path: string, sizeBytes: number, signal: AbortSignal): Promise<void> {
  const file = await open(path, "wx");
  try {
    await file.truncate(sizeBytes);
    for (let at = 0, number = 1; at < sizeBytes; at += 8 * MiB, number++) {
      throwIfInterrupted(signal);
      const bytes = Math.min(Math.floor(FILLED_PART * 8) * MiB, sizeBytes - at);
      await file.write(bytesOfSeed(SEED, number, bytes), 0, bytes, at);
    }
  } finally {
    await file.close();
  }
}

/** A copy that shares its blocks with the original, where the file system can do that. */
async function reflink(from: string, to: string): Promise<boolean> {
  try {
    await copyFile(from, to, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL);
    return true;
  } catch {
    await rm(to, { force: true }); // it cannot: the caller copies
    return false;
  }
}

/** A copy in which stretches of zeros are holes. */
async function copySparse(from: string, to: string, signal: AbortSignal): Promise<void> {
  const source = await openForReading(from);
  try {
    const target = await open(to, "wx");
    try {
      const piece = Buffer.alloc(PIECE_BYTES);
      const zeros = Buffer.alloc(64 * 1024);
      let endBytes = 0;
      for (;;) {
        throwIfInterrupted(signal);
        const { bytesRead } = await source.read(piece, 0, piece.length, endBytes);
        if (bytesRead === 0) break;
        for (let at = 0; at < bytesRead; at += zeros.length) {
          const part = piece.subarray(at, Math.min(at + zeros.length, bytesRead));
          if (part.compare(zeros, 0, part.length) !== 0) await writeAll(target, part, endBytes + at);
        }
        endBytes += bytesRead;
      }
      await target.truncate(endBytes);
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

async function writeAll(file: FileHandle, data: Buffer, offsetBytes: number): Promise<void> {
  for (let at = 0; at < data.length; )
    at += (await file.write(data, at, data.length - at, offsetBytes + at)).bytesWritten;
}

/** A volume is a whole number of sectors: the working copy is extended with zeros. */
async function wholeSectors(path: string): Promise<number> {
  const file = await open(path, "r+");
  try {
    const { size } = await file.stat();
    const sizeBytes = Math.ceil(size / SECTOR_SIZE_BYTES) * SECTOR_SIZE_BYTES;
    if (sizeBytes !== size) await file.truncate(sizeBytes);
    return sizeBytes;
  } finally {
    await file.close();
  }
}

async function allocatedBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * SECTOR_SIZE_BYTES;
}

async function requireSpace(directory: string, neededBytes: number): Promise<void> {
  const facts = await statfs(directory);
  const freeBytes = facts.bavail * facts.bsize;
  if (freeBytes >= neededBytes + SPARE_BYTES) return;
  const needed = formatSize(BigInt(neededBytes + SPARE_BYTES));
  throw new QuickstartFailure(
    `${directory} has ${formatSize(BigInt(freeBytes))} free; ${needed} are needed`,
    "free some space, or set TMPDIR to a directory with more of it",
  );
}

/** mke2fs lies in /usr/sbin, which is not on everybody's PATH. */
function programDirectories(): string[] {
  const named = (process.env["PATH"] ?? "").split(delimiter).filter((directory) => directory !== "");
  return [...named, "/usr/sbin", "/sbin"];
}

function findProgram(name: string, directories: readonly string[]): string | undefined {
  return directories
    .map((directory) => join(directory, name))
    .find((path) => {
      try {
        accessSync(path, access.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

function run(program: string, args: readonly string[], signal: AbortSignal): Promise<void> {
  const child = spawn(program, args, { stdio: ["ignore", "ignore", "pipe"], signal });
  let complaints = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    complaints = (complaints + text).slice(-4000);
  });
  return new Promise((resolve, reject) => {
    const fail = (reason: string, cause?: unknown) =>
      reject(new QuickstartFailure(`${program} failed: ${reason}`, "give an image of your own", { cause }));
    child.once("error", (error) => fail(error.message, error));
    child.once("close", (code) => (code === 0 ? resolve() : fail(complaints.trim() || `exit code ${code}`)));
  });
}
