/**
 * Frame log: an append-only file of checksummed, numbered, chained frames.
 *
 * Role: everything the engine appends durably (activity log, copied granules, points) goes through this.
 * How it works: appended payloads wait in a queue; one writer takes what is there, gives it numbers, and writes it in one
 * piece, so appends are stored and acknowledged in order. `sync` is a group commit.
 * Invariants:
 *   1. A frame is acknowledged only after every frame before it is stored.
 *   2. A caller of `sync` waits for an fdatasync that started after its call and after its appends were stored.
 *   3. After a failed sync, or a failed write that could not be undone, the log takes nothing more.
 *   4. After running out of space nothing of the failed frames is left, durably, and later appends are taken again.
 *   5. What `open` has replayed is durable (data-safety 1.10 rule 3); that the name is, the caller has seen to.
 * Layout: docs/file-formats.md "Frame log". Source: data-safety 1.8.
 */
import { assert, endOnBug } from "../../base/assert.ts";
import { asTidemarkError, TidemarkError } from "../../base/errors.ts";
import { STATE_LOG_FRAME_BYTES_MAX, STATE_LOG_QUEUE_BYTES_MAX, STATE_LOG_QUEUE_FRAMES_MAX } from "../../base/limits.ts";
import { loadCore } from "../map/core.ts";
import { encodeFrame, encodeLogHeader, FRAME_HEADER_BYTES, type FrameType, LOG_HEADER_BYTES } from "./frame.ts";
import { checkLogName, readLog } from "./frame-replay.ts";
import type { ExpectedEnd, LogEnd } from "./log-end.ts";
import { replaceFile } from "./replace-file.ts";
import { type StateFile, type StateFiles, wasOutOfSpace } from "./state-files.ts";

/** One write takes at most so much from the queue, or one frame. */
const GROUP_BYTES_MAX = 1024 * 1024;
const NO_PAYLOAD = new Uint8Array(0);

interface Waiting {
  readonly type: FrameType;
  readonly payload: Uint8Array;
  readonly resolve: (sequence: number) => void;
  readonly reject: (error: TidemarkError) => void;
}

/** Where the log ends. */
interface End {
  offsetBytes: number;
  sequence: number;
  checksum: number;
}

export class FrameLog {
  readonly path: string;
  /** From the header; names of the form `<name>-<number>.log` must agree with it. */
  readonly number: number;
  /** Length of the torn tail that was found. */
  readonly tornBytes: number;
  /** The torn tail is still there: nothing may be written. */
  #uncut: boolean;
  readonly #file: StateFile;
  readonly #logChecksum: number;
  readonly #end: End;
  #durableSequence: number;
  /** Sequence number of the last frame that carries a payload. */
  #lastDataSequence: number;
  #lastDataChecksum: number;
  #queue: Waiting[] = [];
  #queuedBytes = 0;
  /** Settles when everything appended so far is stored or refused. */
  #appended: Promise<unknown> = Promise.resolve();
  #writing: Promise<void> | undefined;
  /** Whether what is being written is more than a mark. */
  #writingData = false;
  /** Waits for its turn; whoever calls `sync` meanwhile joins it. */
  #nextSync: Promise<void> | undefined;
  #lastSync: Promise<void> = Promise.resolve();
  #failure: TidemarkError | undefined;
  #closing: Promise<void> | undefined;

  private constructor(
    file: StateFile,
    number: number,
    logChecksum: number,
    found: { end: End; lastDataSequence: number; lastDataChecksum: number; tornBytes: number },
  ) {
    const { end, lastDataSequence, lastDataChecksum, tornBytes } = found;
    this.path = file.path;
    this.number = number;
    this.tornBytes = tornBytes;
    this.#uncut = tornBytes > 0;
    this.#file = file;
    this.#logChecksum = logChecksum;
    this.#end = end;
    this.#durableSequence = end.sequence;
    this.#lastDataSequence = lastDataSequence;
    this.#lastDataChecksum = lastDataChecksum;
  }

  /**
   * A new log, durable when it resolves, with `first` as its first frame if given. Replaces what has that name: numbers
   * are never used twice, so that can only be left over from a crash.
   */
  static async create(
    files: StateFiles,
    path: string,
    kind: string,
    ownerId: string,
    number: number,
    first?: Uint8Array,
  ): Promise<FrameLog> {
    await loadCore();
    checkLogName(path, number);
    const { bytes: header, checksum: logChecksum } = encodeLogHeader({ kind, ownerId, number });
    const end: End = { offsetBytes: LOG_HEADER_BYTES, sequence: 0, checksum: logChecksum };
    const file = await replaceFile(files, path, async (fresh) => {
      await fresh.write(0, header);
      if (first === undefined) return;
      const frame = encodeGroup([{ type: "data", payload: first }], end, logChecksum, 0);
      await fresh.write(end.offsetBytes, frame.bytes);
      Object.assign(end, frame.end);
    });
    const lastData = { lastDataSequence: end.sequence, lastDataChecksum: end.checksum };
    return new FrameLog(file, number, logChecksum, { end, ...lastData, tornBytes: 0 });
  }

  /**
   * Opens a log, gives the payload of each frame to `onFrame` in order (the callee owns it), cuts off a torn tail.
   * When it throws, what `onFrame` has received must be dropped. PATH_NOT_FOUND; METADATA_CORRUPT names file and offset;
   * SCHEMA_TOO_NEW.
   */
  static async open(
    files: StateFiles,
    path: string,
    kind: string,
    ownerId: string,
    onFrame: (payload: Uint8Array, sequence: number) => void,
  ): Promise<FrameLog> {
    const log = await FrameLog.find(files, path, kind, ownerId, onFrame);
    try {
      await log.cutTail();
      return log;
    } catch (error) {
      await log.abandon();
      throw error;
    }
  }

  /**
   * As `open`, and changes nothing: `cutTail` comes before anything is appended, or `abandon` instead of `close`. A log that
   * lacks what is `expected` is damaged.
   */
  static async find(
    files: StateFiles,
    path: string,
    kind: string,
    ownerId: string,
    onFrame: (payload: Uint8Array, sequence: number) => void,
    expected?: ExpectedEnd,
  ): Promise<FrameLog> {
    await loadCore();
    const file = await files.open(path, { create: "must-exist" });
    try {
      await file.sync();
      const { number, checksum, end: found } = await readLog(file, kind, ownerId, onFrame, expected);
      const tornBytes = found.fileBytes - found.endBytes;
      const end = { offsetBytes: found.endBytes, sequence: found.sequence, checksum: found.checksum };
      const { lastDataSequence, lastDataChecksum } = found;
      return new FrameLog(file, number, checksum, { end, lastDataSequence, lastDataChecksum, tornBytes });
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** The torn tail that was found is gone, durably. METADATA_WRITE_FAILED. */
  async cutTail(): Promise<void> {
    if (!this.#uncut) return;
    await this.#file.truncate(this.#end.offsetBytes);
    await this.#file.sync();
    this.#uncut = false;
  }

  /** Closes a log to which nothing has been appended, and leaves it as it was found: not even a mark is written. */
  abandon(): Promise<void> {
    this.#closing ??= this.#file.close();
    return this.#closing;
  }

  /** Bytes of the file that are in use. */
  get sizeBytes(): number {
    return this.#end.offsetBytes;
  }

  /** Where it ends; after `close`, for good. */
  get end(): LogEnd {
    return {
      sequence: this.#end.sequence,
      dataSequence: this.#lastDataSequence,
      dataChecksum: this.#lastDataChecksum,
    };
  }

  /** So many frames are durable, those after the last payload not counted. */
  get durableFrames(): number {
    return Math.min(this.#durableSequence, this.#lastDataSequence);
  }

  /** Nothing is taken any more (invariant 3). */
  get failed(): boolean {
    return this.#failure !== undefined;
  }

  /** Everything appended so far is durable, but for a mark. */
  get isDurable(): boolean {
    const stored = !this.#writingData && this.#queue.every(({ type }) => type === "mark");
    return stored && this.#durableSequence >= this.#lastDataSequence;
  }

  /**
   * Stored when it resolves, with the frame's sequence number; calls are stored in order. The payload belongs to the log
   * until then. LIMIT_EXCEEDED: nothing happened. METADATA_WRITE_FAILED after running out of space (metadata `systemCode`
   * ENOSPC, EDQUOT): the frame is not in the log, durably, and later calls may succeed. METADATA_WRITE_FAILED otherwise:
   * final, and only a replay can say whether the frame is there.
   */
  append(payload: Uint8Array): Promise<number> {
    assert(this.#closing === undefined, `${this.path} is open`);
    return this.#append("data", payload);
  }

  /** Everything appended before this call is durable when it resolves. METADATA_WRITE_FAILED is final. */
  sync(): Promise<void> {
    if (this.#failure) return Promise.reject(this.#failure);
    if (this.isDurable) return Promise.resolve();
    this.#nextSync ??= this.#syncAfter(this.#lastSync);
    return this.#nextSync;
  }

  /** `append`, then `sync`. */
  async appendDurable(payload: Uint8Array): Promise<number> {
    const [sequence] = await Promise.all([this.append(payload), this.sync()]);
    return sequence;
  }

  /**
   * Makes everything durable, marks it so that later damage to it is told from a torn tail (unless there is no room for the
   * mark), closes. Idempotent. After a failure it only closes.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    try {
      await this.#appended;
      if (this.#failure || this.#end.sequence === 0) return;
      await this.sync();
      await this.#appended; // the mark that follows a sync
      if (this.#lastDataSequence === this.#end.sequence)
        await this.#append("mark", NO_PAYLOAD).catch((error) => {
          if (!wasOutOfSpace(error)) throw error;
        });
      if (this.#durableSequence < this.#end.sequence) await this.#syncAfter(this.#lastSync);
    } finally {
      await this.#file.close();
    }
  }

  #append(type: FrameType, payload: Uint8Array): Promise<number> {
    assert(!this.#uncut, `the torn tail of ${this.path} is cut off before anything is appended`);
    if (this.#failure) return Promise.reject(this.#failure);
    const refusal = this.#refusal(payload.length);
    if (refusal) return Promise.reject(refusal);
    const stored = new Promise<number>((resolve, reject) => {
      this.#queue.push({ type, payload, resolve, reject });
    });
    this.#queuedBytes += payload.length;
    this.#appended = stored.catch(() => undefined);
    this.#writing ??= this.#writeQueue();
    return stored;
  }

  #refusal(payloadBytes: number): TidemarkError | undefined {
    if (payloadBytes > STATE_LOG_FRAME_BYTES_MAX) {
      return new TidemarkError("LIMIT_EXCEEDED", {
        message: `a record of ${payloadBytes} bytes is larger than a frame of ${this.path} may be (${STATE_LOG_FRAME_BYTES_MAX})`,
        hint: "fire fewer sessions at one point",
        metadata: { path: this.path },
      });
    }
    const full = this.#queue.length >= STATE_LOG_QUEUE_FRAMES_MAX;
    if (!full && this.#queuedBytes + payloadBytes <= STATE_LOG_QUEUE_BYTES_MAX) return undefined;
    return new TidemarkError("LIMIT_EXCEEDED", {
      message: `too much is waiting to be written to ${this.path}`,
      hint: "the disk under the state directory is too slow for this load; try again",
      metadata: { path: this.path },
    });
  }

  async #writeQueue(): Promise<void> {
    // Whoever appends in the same turn goes with the first write.
    await Promise.resolve();
    while (this.#queue.length > 0) {
      const group = this.#takeGroup();
      this.#writingData = group.some((waiting) => waiting.type === "data");
      const encoded = encodeGroup(group, this.#end, this.#logChecksum, this.#durableSequence);
      try {
        await this.#file.write(this.#end.offsetBytes, encoded.bytes);
      } catch (error) {
        await this.#undo(group, asTidemarkError(error));
        this.#writingData = false;
        continue;
      }
      let sequence = this.#end.sequence;
      Object.assign(this.#end, encoded.end);
      if (encoded.lastData) {
        this.#lastDataSequence = encoded.lastData.sequence;
        this.#lastDataChecksum = encoded.lastData.checksum;
      }
      this.#writingData = false;
      for (const waiting of group) waiting.resolve(++sequence);
    }
    this.#writing = undefined;
  }

  #takeGroup(): Waiting[] {
    let bytes = 0;
    let count = 0;
    for (const { payload } of this.#queue) {
      const size = FRAME_HEADER_BYTES + payload.length;
      if (count > 0 && bytes + size > GROUP_BYTES_MAX) break;
      bytes += size;
      count++;
    }
    const group = count === this.#queue.length ? this.#queue : this.#queue.slice(0, count);
    this.#queue = count === this.#queue.length ? [] : this.#queue.slice(count);
    for (const { payload } of group) this.#queuedBytes -= payload.length;
    return group;
  }

  /**
   * After a failed write: its frames and all that wait behind them are refused. Out of space is undone first, so that nothing
   * that was refused can ever be replayed; all else is final.
   */
  async #undo(group: readonly Waiting[], error: TidemarkError): Promise<void> {
    const refused = [...group, ...this.#takeAll()];
    let reason = error;
    if (wasOutOfSpace(error)) {
      try {
        await this.#file.truncate(this.#end.offsetBytes);
        await this.#file.sync();
        this.#durableSequence = this.#end.sequence;
      } catch (cause) {
        reason = asTidemarkError(cause);
      }
    }
    if (reason !== error || !wasOutOfSpace(error)) {
      this.#failure ??= reason;
      refused.push(...this.#takeAll());
    }
    for (const { reject } of refused) reject(reason);
  }

  #takeAll(): Waiting[] {
    const all = this.#queue;
    this.#queue = [];
    this.#queuedBytes = 0;
    return all;
  }

  async #syncAfter(before: Promise<void>): Promise<void> {
    await before;
    // From here on callers need a sync of their own: their appends may not be among those waited for.
    const mine = this.#syncNow();
    this.#nextSync = undefined;
    this.#lastSync = mine.catch(() => undefined);
    return mine;
  }

  async #syncNow(): Promise<void> {
    await this.#appended;
    if (this.#failure) throw this.#failure;
    const covered = this.#end.sequence;
    try {
      await this.#file.sync();
    } catch (error) {
      this.#failure ??= asTidemarkError(error);
      throw error;
    }
    this.#durableSequence = Math.max(this.#durableSequence, covered);
    this.#proveEnd();
  }

  /**
   * Damage to the last frame would look like a torn tail for as long as nothing follows it. A mark says that it was durable;
   * the mark itself may be lost, so nobody waits for it.
   */
  #proveEnd(): void {
    if (this.#failure || this.#queue.length > 0 || this.#writing || this.#lastDataSequence < this.#end.sequence) return;
    this.#append("mark", NO_PAYLOAD).catch(endOnBug); // what fails for good is met by the next append
  }
}

/** Encodes frames that follow `end`. */
function encodeGroup(
  group: readonly Pick<Waiting, "type" | "payload">[],
  end: End,
  logChecksum: number,
  durableSequence: number,
): { bytes: Uint8Array; end: End; lastData: { sequence: number; checksum: number } | undefined } {
  const total = group.reduce((sum, { payload }) => sum + FRAME_HEADER_BYTES + payload.length, 0);
  const bytes = new Uint8Array(total);
  let { sequence, checksum } = end;
  let lastData: { sequence: number; checksum: number } | undefined;
  let at = 0;
  for (const { type, payload } of group) {
    const header = { type, previousChecksum: checksum, sequence: ++sequence, durableSequence };
    checksum = encodeFrame(bytes, at, logChecksum, header, payload);
    if (type === "data") lastData = { sequence, checksum };
    at += FRAME_HEADER_BYTES + payload.length;
  }
  return { bytes, end: { offsetBytes: end.offsetBytes + total, sequence, checksum }, lastData };
}

/** Reads a log for one look at it: makes durable what is there, cuts off nothing. Throws what `FrameLog.open` throws. */
export async function readFoundLog(
  files: StateFiles,
  path: string,
  kind: string,
  ownerId: string,
  onFrame: (payload: Uint8Array, sequence: number) => void,
): Promise<void> {
  await loadCore();
  const file = await files.open(path, { create: "must-exist" });
  try {
    await file.sync();
    await readLog(file, kind, ownerId, onFrame);
  } finally {
    await file.close();
  }
}
