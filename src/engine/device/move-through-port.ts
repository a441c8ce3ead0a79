/**
 * Moves data between two devices through the BlockDevice port, on the caller's thread.
 *
 * Role: for devices that have no descriptor (memory, fault) or cannot share one with a worker; the same rules as
 * move-direct.ts, without sharing of extents.
 */
import type { BlockDevice, MoveResult, MoveRun } from "../../base/ports.ts";
import { KiB } from "../../base/units.ts";
import type { MoveTally } from "./move-tally.ts";
import { stretchEnd } from "./zero-test.ts";

const PIECE_BYTES = 256 * KiB;
const EXTENTS_MAX = 64;

/** See Mover.move. */
export async function moveThroughPort(
  from: BlockDevice,
  to: BlockDevice,
  runs: readonly MoveRun[],
  tally: MoveTally,
): Promise<MoveResult> {
  const move = new PortMove(from, to, tally);
  for (const run of runs) {
    if (!(await move.run(run))) break;
  }
  return move.tally.result;
}

class PortMove {
  readonly tally: MoveTally;
  readonly #from: BlockDevice;
  readonly #to: BlockDevice;
  readonly #buffer = Buffer.allocUnsafeSlow(PIECE_BYTES);

  constructor(from: BlockDevice, to: BlockDevice, tally: MoveTally) {
    this.#from = from;
    this.#to = to;
    this.tally = tally;
  }

  /** False when the budget ended inside the run. */
  async run(run: MoveRun): Promise<boolean> {
    let at = 0;
    while (at < run.lengthBytes) {
      if (this.tally.mayStop(at)) return false;
      for (const extent of await this.#sourceExtents(run, at)) {
        const end = at + extent.lengthBytes;
        at = extent.zero ? await this.#zero(run, at, end) : await this.#copy(run, at, end);
        if (at < end) break;
      }
    }
    return true;
  }

  async #sourceExtents(run: MoveRun, at: number) {
    const lengthBytes = run.lengthBytes - at;
    if (!this.#from.capabilities.holes) return [{ lengthBytes, zero: false }];
    try {
      return await this.#from.allocation(run.fromOffsetBytes + at, lengthBytes, EXTENTS_MAX);
    } catch (error) {
      throw this.tally.failure(error, "source");
    }
  }

  async #zero(run: MoveRun, at: number, end: number): Promise<number> {
    await this.#makeZero(run, at, end);
    this.tally.zeroed(end - at);
    return end;
  }

  /** Zeros the destination unless it is a hole already. */
  async #makeZero(run: MoveRun, at: number, end: number): Promise<void> {
    const offsetBytes = run.toOffsetBytes + at;
    const lengthBytes = end - at;
    try {
      if (!(await this.#isHole(offsetBytes, lengthBytes))) {
        await this.#to.zero(offsetBytes, lengthBytes, { release: "allow" });
      }
    } catch (error) {
      throw this.tally.failure(error, "destination");
    }
  }

  async #isHole(offsetBytes: number, lengthBytes: number): Promise<boolean> {
    if (!this.#to.capabilities.holes) return false;
    const [first] = await this.#to.allocation(offsetBytes, lengthBytes, 1);
    return first?.zero === true && first.lengthBytes === lengthBytes;
  }

  /** Copies from byte `at` of the run to `end` or to where the budget ends; returns where it stopped. */
  async #copy(run: MoveRun, begin: number, end: number): Promise<number> {
    let at = begin;
    while (at < end && !this.tally.mayStop(at)) {
      const pieceEnd = this.tally.pieceEnd(at, end, PIECE_BYTES);
      const piece = this.#buffer.subarray(0, pieceEnd - at);
      try {
        if (!this.#from.tryRead(run.fromOffsetBytes + at, piece))
          await this.#from.read(run.fromOffsetBytes + at, piece);
      } catch (error) {
        throw this.tally.failure(error, "source");
      }
      await this.#store(run, at, piece);
      at = pieceEnd;
    }
    return at;
  }

  /** Writes the piece; stretches of zeros become zeros without being written where the source cannot tell its holes. */
  async #store(run: MoveRun, at: number, piece: Buffer): Promise<void> {
    if (this.#from.capabilities.holes) return this.#write(run.toOffsetBytes + at, piece);
    let done = 0;
    while (done < piece.length) {
      const zeroEnd = stretchEnd(piece, done, piece.length, true);
      if (zeroEnd > done) {
        await this.#makeZero(run, at + done, at + zeroEnd);
        this.tally.zeroesMoved(zeroEnd - done);
      }
      const dataEnd = stretchEnd(piece, zeroEnd, piece.length, false);
      if (dataEnd > zeroEnd) await this.#write(run.toOffsetBytes + at + zeroEnd, piece.subarray(zeroEnd, dataEnd));
      done = dataEnd;
    }
  }

  async #write(offsetBytes: number, piece: Buffer): Promise<void> {
    try {
      if (!this.#to.tryWrite(offsetBytes, piece)) await this.#to.write(offsetBytes, piece);
    } catch (error) {
      throw this.tally.failure(error, "destination");
    }
    this.tally.copied(piece.length);
  }
}
