/**
 * Encryption of what a snap store keeps: AES-256 in XTS mode, with a key from a file.
 *
 * Role: turns the bytes of a granule into what is stored at a slot, and back. Checksums cover the stored bytes.
 * Rules:
 *   1. The key is 64 bytes: two AES keys that differ. XTS with equal halves is weak, so such a key is refused.
 *   2. The tweak is the slot (8 bytes) and the first half of the store's uuid: equal granules at two places, or in two stores
 *      under one key, look different.
 *   3. The first page has a verifier: a wrong key is refused before anything is read or written.
 * What it protects: the content of granules on a disk that is stolen, sold or copied as a whole. What it does not: that
 * granules were stored, which, how many and when (headers are plain); that a slot holds again what it held before (XTS is
 * deterministic); content that somebody with access to the disk changes on purpose (CRC-32C is no signature: a changed block
 * of 16 bytes would decrypt to noise, or an older version to itself); and data in memory.
 */
import { createCipheriv, createDecipheriv } from "node:crypto";
import { close, constants, fstat, open, read } from "node:fs";
import { promisify } from "node:util";
import { TidemarkError } from "../../base/errors.ts";
import { pathError } from "../device/errno.ts";
import { viewOf } from "../durable/fields.ts";
import { type SnapCipherName, type SnapIdentity, UUID_BYTES, VERIFIER_BYTES } from "./snap-format.ts";

const ALGORITHM = "aes-256-xts";
export const SNAP_KEY_BYTES = 64;
const KEY_FILE_MODE = 0o600;
const TWEAK_BYTES = 16;
const VERIFIER_TEXT = new TextEncoder().encode("tidemark snap v1");

const openFile = promisify(open);
const closeFile = promisify(close);
const statFile = promisify(fstat);
const readFile = promisify(read);

/** How one store keeps payloads. */
export interface SnapCipher {
  readonly name: SnapCipherName;
  readonly verifier: Uint8Array;
  /** What is stored at `slot` for `plain`; a new array, or `plain` itself. */
  seal(slot: number, plain: Uint8Array): Uint8Array;
  /** The reverse. */
  open(slot: number, stored: Uint8Array): Uint8Array;
}

export class SnapKey {
  readonly #bytes: Uint8Array;

  /** KEY_INVALID: not 64 bytes, or two equal halves. `source` is for the message. */
  constructor(bytes: Uint8Array, source = "the key") {
    if (bytes.length !== SNAP_KEY_BYTES) throw keyInvalid(`${source} has ${bytes.length} bytes, not ${SNAP_KEY_BYTES}`);
    const half = SNAP_KEY_BYTES / 2;
    if (Buffer.compare(bytes.subarray(0, half), bytes.subarray(half)) === 0)
      throw keyInvalid(`the two halves of ${source} are equal`);
    this.#bytes = Uint8Array.from(bytes);
  }

  /** KEY_INVALID, also when it is no regular file or its mode is not 0600; PATH_NOT_FOUND, PERMISSION_DENIED. */
  static async fromFile(path: string): Promise<SnapKey> {
    let fd: number;
    try {
      fd = await openFile(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    } catch (error) {
      throw pathError(error, path);
    }
    try {
      const stats = await statFile(fd);
      if (!stats.isFile()) throw keyInvalid(`key file ${path} is no regular file`);
      const mode = stats.mode & 0o7777;
      if (mode !== KEY_FILE_MODE)
        throw keyInvalid(`key file ${path} has mode ${mode.toString(8).padStart(4, "0")}, not 0600`);
      const bytes = new Uint8Array(SNAP_KEY_BYTES + 1);
      const { bytesRead } = await readFile(fd, bytes, 0, bytes.length, 0);
      if (stats.size !== bytesRead) throw keyInvalid(`key file ${path} has ${stats.size} bytes, not ${SNAP_KEY_BYTES}`);
      return new SnapKey(bytes.subarray(0, bytesRead), `key file ${path}`);
    } catch (error) {
      throw pathError(error, path);
    } finally {
      await closeFile(fd);
    }
  }

  /** For the store with this uuid. */
  cipher(uuid: Uint8Array): SnapCipher {
    const key = this.#bytes;
    const tweak = (slot: number): Uint8Array => {
      const bytes = new Uint8Array(TWEAK_BYTES);
      viewOf(bytes).setUint32(0, slot, true);
      bytes.set(uuid.subarray(0, TWEAK_BYTES / 2), TWEAK_BYTES / 2);
      return bytes;
    };
    // No slot has this tweak: theirs begin with a number below 2^30.
    const known = new Uint8Array(VERIFIER_BYTES);
    known.set(uuid);
    known.set(VERIFIER_TEXT, UUID_BYTES);
    return {
      name: ALGORITHM,
      verifier: createCipheriv(ALGORITHM, key, new Uint8Array(TWEAK_BYTES).fill(0xff)).update(known),
      seal: (slot, plain) => createCipheriv(ALGORITHM, key, tweak(slot)).update(plain),
      open: (slot, stored) => createDecipheriv(ALGORITHM, key, tweak(slot)).update(stored),
    };
  }
}

const PLAIN: SnapCipher = {
  name: "none",
  verifier: new Uint8Array(VERIFIER_BYTES),
  seal: (_slot, plain) => plain,
  open: (_slot, stored) => stored,
};

export function cipherFor(key: SnapKey | undefined, uuid: Uint8Array): SnapCipher {
  return key === undefined ? PLAIN : key.cipher(uuid);
}

/** The cipher that the store was made with. KEY_INVALID when `key` is another one, missing, or not needed. */
export function cipherOf(identity: SnapIdentity, key: SnapKey | undefined): SnapCipher {
  const { owner, cipher: name } = identity;
  if (name !== "none" && key === undefined)
    throw keyInvalid(`snap data volume ${owner} is encrypted, and no key is given`);
  if (name === "none" && key !== undefined)
    throw keyInvalid(`snap data volume ${owner} is not encrypted, but a key is given`);
  const cipher = cipherFor(key, identity.uuid);
  if (Buffer.compare(cipher.verifier, identity.verifier) !== 0)
    throw keyInvalid(`the key given for snap data volume ${owner} is not the one it was made with`);
  return cipher;
}

function keyInvalid(message: string): TidemarkError {
  return new TidemarkError("KEY_INVALID", {
    message,
    hint: "name the key file that the pool was made with: 64 random bytes whose halves differ, mode 0600, owned by the user that runs the box",
  });
}
