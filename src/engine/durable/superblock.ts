/**
 * Superblock: a small record that is replaced as a whole, durably.
 *
 * Role: two slots of 4 KiB in one file, written in turn; the valid slot with the higher sequence number counts.
 * Invariants:
 *   1. Sequence number n lies in slot n % 2, so the slot that counts is never written to.
 *   2. A slot is valid only when its checksum over the whole slot, its kind and its owner are right.
 *   3. `value` is what is durable; it is replaced only after the sync.
 *   4. After a failed write (but for want of space) or sync the superblock takes no more values.
 * Layout: docs/file-formats.md "Superblock". Source: data-safety 1.8, 1.10 rule 3.
 */
import { assert } from "../../base/assert.ts";
import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import { STATE_OWNER_BYTES_MAX } from "../../base/limits.ts";
import { crc32c, loadCore } from "../map/core.ts";
import { encodeJson, getText, getWhole, OWNER_FIELD_BYTES, parseJson, putText, putWhole, viewOf } from "./fields.ts";
import { replaceFile, wasReplaced } from "./replace-file.ts";
import { corruptFile, fileTooNew, type StateFile, type StateFiles, wasOutOfSpace } from "./state-files.ts";

export type SuperblockKind = "volume" | "session" | "box";

export const SUPERBLOCK_SLOT_BYTES = 4096;
export const SUPERBLOCK_VERSION = 1;
const MAGIC = "TMSUPER\n";
const KIND_CODES: Record<SuperblockKind, number> = { volume: 1, session: 2, box: 3 };
const AT = { magic: 0, version: 8, kind: 10, length: 12, sequence: 16, owner: 24, payload: 96, checksum: 4092 };
export const SUPERBLOCK_PAYLOAD_BYTES_MAX = AT.checksum - AT.payload;

assert(AT.owner + STATE_OWNER_BYTES_MAX <= AT.payload, "the owner ends before the payload");

interface Slot {
  readonly sequence: number;
  readonly payload: Uint8Array;
}

function encodeSlot(kind: SuperblockKind, ownerId: string, sequence: number, payload: Uint8Array): Uint8Array {
  const slot = new Uint8Array(SUPERBLOCK_SLOT_BYTES);
  const view = viewOf(slot);
  putText(slot, AT.magic, 8, MAGIC);
  view.setUint16(AT.version, SUPERBLOCK_VERSION, true);
  view.setUint16(AT.kind, KIND_CODES[kind], true);
  view.setUint32(AT.length, payload.length, true);
  putWhole(view, AT.sequence, sequence);
  putText(slot, AT.owner, OWNER_FIELD_BYTES, ownerId);
  slot.set(payload, AT.payload);
  view.setUint32(AT.checksum, crc32c(slot.subarray(0, AT.checksum)), true);
  return slot;
}

/** undefined: damaged. Throws when it is whole, but not ours. */
function decodeSlot(
  path: string,
  index: number,
  kind: SuperblockKind,
  ownerId: string,
  slot: Uint8Array,
): Slot | undefined {
  if (slot.length !== SUPERBLOCK_SLOT_BYTES || getText(slot, AT.magic, 8) !== MAGIC) return undefined;
  const view = viewOf(slot);
  if (view.getUint32(AT.checksum, true) !== crc32c(slot.subarray(0, AT.checksum))) return undefined;
  const version = view.getUint16(AT.version, true);
  if (version > SUPERBLOCK_VERSION) throw fileTooNew(path, version, SUPERBLOCK_VERSION);
  const foundKind = Object.entries(KIND_CODES).find(([, code]) => code === view.getUint16(AT.kind, true))?.[0];
  const foundOwner = getText(slot, AT.owner, OWNER_FIELD_BYTES);
  if (foundKind !== kind || foundOwner !== ownerId) {
    throw corruptFile(path, `belongs to ${foundKind} ${foundOwner}, not to ${kind} ${ownerId}`, {
      belongsTo: `${foundKind} ${foundOwner}`,
    });
  }
  const sequence = getWhole(view, AT.sequence);
  const length = view.getUint32(AT.length, true);
  if (!(sequence > 0) || sequence % 2 !== index || length > SUPERBLOCK_PAYLOAD_BYTES_MAX) return undefined;
  return { sequence, payload: slot.slice(AT.payload, AT.payload + length) };
}

export class Superblock<T> {
  readonly path: string;
  #file: StateFile;
  readonly #kind: SuperblockKind;
  readonly #ownerId: string;
  readonly #decode: (value: unknown) => T;
  #sequence: number;
  #value: T;
  #damagedSlot: number | undefined;
  #failure: TidemarkError | undefined;
  #last: Promise<void> = Promise.resolve();

  private constructor(
    file: StateFile,
    identity: { path: string; kind: SuperblockKind; ownerId: string },
    decode: (value: unknown) => T,
    state: { sequence: number; value: T; damagedSlot: number | undefined },
  ) {
    this.path = identity.path;
    this.#file = file;
    this.#kind = identity.kind;
    this.#ownerId = identity.ownerId;
    this.#decode = decode;
    this.#sequence = state.sequence;
    this.#value = state.value;
    this.#damagedSlot = state.damagedSlot;
  }

  /**
   * A new file, durable with `first` in both slots when it resolves. `decode` checks what JSON gives back and throws
   * when it is wrong. `replaces` "damaged": what is there cannot be read; it stays until the new one is complete.
   * PATH_EXISTS, LIMIT_EXCEEDED, METADATA_WRITE_FAILED.
   */
  static async create<T>(
    files: StateFiles,
    path: string,
    kind: SuperblockKind,
    ownerId: string,
    first: T,
    decode: (value: unknown) => T,
    replaces: "nothing" | "damaged" = "nothing",
  ): Promise<Superblock<T>> {
    await loadCore();
    if (replaces === "nothing" && (await files.exists(path))) {
      throw new TidemarkError("PATH_EXISTS", { message: `${path} exists already`, metadata: { path } });
    }
    const { payload, value } = checkedPayload(path, first, decode);
    const file = await replaceFile(files, path, async (slots) => {
      for (const sequence of [1, 2]) {
        await slots.write((sequence % 2) * SUPERBLOCK_SLOT_BYTES, encodeSlot(kind, ownerId, sequence, payload));
      }
    });
    return new Superblock(file, { path, kind, ownerId }, decode, { sequence: 2, value, damagedSlot: undefined });
  }

  /**
   * Makes durable what is there, then reads it; that the name is durable, the caller has seen to (data-safety 1.10 rule 3).
   * One damaged slot is survived and reported by `damagedSlot`.
   * PATH_NOT_FOUND; METADATA_CORRUPT when no slot is whole or the file belongs to somebody else; SCHEMA_TOO_NEW.
   */
  static async open<T>(
    files: StateFiles,
    path: string,
    kind: SuperblockKind,
    ownerId: string,
    decode: (value: unknown) => T,
  ): Promise<Superblock<T>> {
    await loadCore();
    const file = await files.open(path, { create: "must-exist" });
    try {
      await file.sync();
      const slots: (Slot | undefined)[] = [];
      const bytes = await file.read(0, 2 * SUPERBLOCK_SLOT_BYTES);
      for (const index of [0, 1]) {
        const slot = bytes.subarray(index * SUPERBLOCK_SLOT_BYTES, (index + 1) * SUPERBLOCK_SLOT_BYTES);
        slots.push(decodeSlot(path, index, kind, ownerId, slot));
      }
      const { current, damagedSlot } = chooseSlot(path, slots[0], slots[1]);
      const value = decodePayload(path, current.payload, decode);
      return new Superblock(file, { path, kind, ownerId }, decode, { sequence: current.sequence, value, damagedSlot });
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  get value(): T {
    return this.#value;
  }

  /** Slot (0 or 1) that was damaged or stale at `open`: a torn write of a value never acknowledged, or a bad disk. */
  get damagedSlot(): number | undefined {
    return this.#damagedSlot;
  }

  /** The same for people. After a clean stop it is no torn write. */
  get slotDamage(): TidemarkError | undefined {
    if (this.#damagedSlot === undefined) return undefined;
    return new TidemarkError("METADATA_CORRUPT", {
      message: `slot ${this.#damagedSlot} of ${this.path} is damaged or older than it should be; the other slot counts`,
      hint: "nothing is lost by it: look after the disk under the data directory, then `tidemark scrub`",
      metadata: { path: this.path },
    });
  }

  /** Durable on return; calls are done in order. LIMIT_EXCEEDED and out of space (METADATA_WRITE_FAILED): nothing changed; otherwise METADATA_WRITE_FAILED is final. */
  store(value: T): Promise<void> {
    const done = this.#last.then(() => this.#store(value));
    this.#last = done.catch(() => undefined);
    return done;
  }

  /**
   * Writes a slot that `open` found damaged or stale anew, before anything is done on the strength of the other one. What a
   * torn write has left there could otherwise be completed by the next write of the slot, if that is torn as well: then an
   * old record would count whose files are gone. What `damagedSlot` says stays. Errors as `store`.
   */
  async heal(): Promise<void> {
    const damaged = this.#damagedSlot;
    if (damaged === undefined) return;
    await this.store(this.#value);
    this.#damagedSlot = damaged;
  }

  /**
   * Reads the file again, between two stores: the slot that does not count and is damaged or stale, if any. `files` is what to
   * read through. METADATA_CORRUPT, too, when it does not say what `value` says; PATH_NOT_FOUND, MEDIUM_ERROR.
   */
  verify(files: StateFiles): Promise<number | undefined> {
    const done = this.#last.then(() => this.#verify(files));
    this.#last = done.then(
      () => undefined,
      () => undefined,
    );
    return done;
  }

  /**
   * Makes the file anew, with `value` in both slots, between two stores: for one that is damaged or gone. Durable when it
   * resolves. METADATA_WRITE_FAILED: nothing changed; when the new file could not be opened nothing can be stored any more.
   */
  renew(files: StateFiles): Promise<void> {
    const done = this.#last.then(() => this.#renew(files));
    this.#last = done.catch(() => undefined);
    return done;
  }

  /** Waits for what is being stored. */
  async close(): Promise<void> {
    await this.#last;
    await this.#file.close();
  }

  async #verify(files: StateFiles): Promise<number | undefined> {
    const found = await Superblock.open(files, this.path, this.#kind, this.#ownerId, this.#decode);
    await found.close();
    if (found.#sequence === this.#sequence && JSON.stringify(found.#value) === JSON.stringify(this.#value))
      return found.#damagedSlot;
    throw corruptFile(
      this.path,
      `its newest whole slot is number ${found.#sequence}, but ${this.#sequence} was stored`,
      {
        sequence: String(found.#sequence),
      },
    );
  }

  async #renew(files: StateFiles): Promise<void> {
    if (this.#failure) throw this.#failure;
    const { payload } = checkedPayload(this.path, this.#value, this.#decode);
    const first = this.#sequence + 1;
    const old = this.#file;
    try {
      this.#file = await replaceFile(files, this.path, async (slots) => {
        for (const sequence of [first, first + 1]) {
          const slot = encodeSlot(this.#kind, this.#ownerId, sequence, payload);
          await slots.write((sequence % 2) * SUPERBLOCK_SLOT_BYTES, slot);
        }
      });
    } catch (error) {
      // What is open here may be a file without a name: nothing that is stored in it would be found again.
      if (wasReplaced(error)) this.#failure = noLongerTheFile(this.path, error);
      throw error;
    }
    this.#sequence = first + 1;
    this.#damagedSlot = undefined;
    await old.close().catch(() => undefined); // it has no name any more
  }

  async #store(value: T): Promise<void> {
    if (this.#failure) throw this.#failure;
    const next = checkedPayload(this.path, value, this.#decode);
    const sequence = this.#sequence + 1;
    try {
      const slot = encodeSlot(this.#kind, this.#ownerId, sequence, next.payload);
      await this.#file.write((sequence % 2) * SUPERBLOCK_SLOT_BYTES, slot);
      await this.#file.sync();
    } catch (error) {
      // Out of space leaves the slot of the present value whole; the other one is written again then.
      if (!wasOutOfSpace(error)) this.#failure = asTidemarkError(error);
      throw error;
    }
    this.#sequence = sequence;
    this.#value = next.value;
    this.#damagedSlot = undefined;
  }
}

function noLongerTheFile(path: string, cause: unknown): TidemarkError {
  return new TidemarkError("METADATA_WRITE_FAILED", {
    message: `${path} was written anew and could not be opened again: ${asTidemarkError(cause).detail.message}`,
    hint: "start the daemon again; nothing is lost by it",
    metadata: { path },
  });
}

/** What a value becomes on disk and what will be read back from there; nothing is written that could not be read. */
function checkedPayload<T>(path: string, value: T, decode: (value: unknown) => T): { payload: Uint8Array; value: T } {
  const payload = encodeJson(value);
  if (payload.length > SUPERBLOCK_PAYLOAD_BYTES_MAX) {
    throw new TidemarkError("LIMIT_EXCEEDED", {
      message: `the record for ${path} takes ${payload.length} bytes; a superblock holds ${SUPERBLOCK_PAYLOAD_BYTES_MAX}`,
      hint: "use shorter paths and labels",
      metadata: { path },
    });
  }
  return { payload, value: decode(parseJson(payload)) };
}

function decodePayload<T>(path: string, payload: Uint8Array, decode: (value: unknown) => T): T {
  let value: unknown;
  try {
    value = parseJson(payload);
  } catch {
    throw corruptFile(path, "the record in it is no JSON");
  }
  try {
    return decode(value);
  } catch (error) {
    const { code, message } = asTidemarkError(error);
    if (code === "SCHEMA_TOO_NEW") throw error;
    throw corruptFile(path, `the record in it cannot be used: ${message}`);
  }
}

function chooseSlot(
  path: string,
  even: Slot | undefined,
  odd: Slot | undefined,
): { current: Slot; damagedSlot: number | undefined } {
  if (even === undefined && odd === undefined) throw corruptFile(path, "both superblock slots are damaged");
  if (even === undefined) return { current: odd as Slot, damagedSlot: 0 };
  if (odd === undefined) return { current: even, damagedSlot: 1 };
  const current = even.sequence > odd.sequence ? even : odd;
  // Values alternate, so the other slot holds the one before: anything else is a write that the disk lost.
  const stale = Math.abs(even.sequence - odd.sequence) !== 1;
  return { current, damagedSlot: stale ? (current === even ? 1 : 0) : undefined };
}
