/**
 * The writer: a host that keeps changing the source over NBD while everything else happens.
 *
 * Role: sends one numbered record after the other, each only after the one before was acknowledged: then "the copy is the
 * source at one instant" means "the copy holds the records 1 to k and no other", for some k.
 */
import { systemClock } from "../base/clock.ts";
import { MiB, SECTOR_SIZE_BYTES } from "../base/units.ts";
import { QuickstartFailure } from "./failure.ts";
import type { NbdClient } from "./nbd-client.ts";
import { SeededNumbers } from "./random-bytes.ts";
import type { RecordLog } from "./record-log.ts";

/** Between two records, so that the difference stays small against the image. */
const PAUSE_MS = 2;
const RECORD_SECTORS_MAX = 32;
/** Most records go to the first part of the image, as hosts have hot places; every tenth goes anywhere. */
const HOT_PART = 16;
const WAIT_MS = 5;

export class Writer {
  readonly #client: NbdClient;
  readonly #log: RecordLog;
  readonly #numbers: SeededNumbers;
  readonly #signal: AbortSignal;
  #acknowledged = 0;
  #stopped = false;
  #running: Promise<void> | undefined;
  #failure: unknown;

  constructor(client: NbdClient, log: RecordLog, seed: Uint8Array, signal: AbortSignal) {
    this.#client = client;
    this.#log = log;
    this.#numbers = new SeededNumbers(seed);
    this.#signal = signal;
  }

  /** Number of the last record that the server has acknowledged. */
  get acknowledged(): number {
    return this.#acknowledged;
  }

  start(): void {
    this.#running ??= this.#run().catch((error: unknown) => {
      this.#failure = error;
    });
  }

  /** Resolves when `count` more records than now are acknowledged. Throws when the writer failed. */
  async advance(count: number): Promise<void> {
    const until = this.#acknowledged + count;
    while (this.#acknowledged < until) {
      this.#throwIfFailed();
      await systemClock.sleep(WAIT_MS, this.#signal);
    }
  }

  /** Resolves when the last record is acknowledged and durable. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
    this.#throwIfFailed();
    await this.#client.flush();
  }

  /** The accident: one stretch of the source is overwritten, in records of at most 1 MiB. The writer has been stopped. */
  async overwrite(offsetBytes: number, lengthBytes: number): Promise<void> {
    const endBytes = offsetBytes + lengthBytes;
    for (let at = offsetBytes; at < endBytes; at += MiB) await this.#send(at, Math.min(MiB, endBytes - at));
    await this.#client.flush();
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const { offsetBytes, lengthBytes } = this.#place();
      await this.#send(offsetBytes, lengthBytes);
      await systemClock.sleep(PAUSE_MS, this.#signal);
    }
  }

  async #send(offsetBytes: number, lengthBytes: number): Promise<void> {
    this.#throwIfFailed();
    const number = this.#log.add(offsetBytes, lengthBytes);
    await this.#client.write(offsetBytes, this.#log.contentOf(number));
    this.#acknowledged = number;
  }

  #place(): { offsetBytes: number; lengthBytes: number } {
    const sectors = this.#client.sizeBytes / SECTOR_SIZE_BYTES;
    const hot = Math.max(1, Math.floor(sectors / HOT_PART));
    const first = this.#numbers.below(this.#numbers.below(10) === 0 ? sectors : hot);
    const count = Math.min(1 + this.#numbers.below(RECORD_SECTORS_MAX), sectors - first);
    return { offsetBytes: first * SECTOR_SIZE_BYTES, lengthBytes: count * SECTOR_SIZE_BYTES };
  }

  #throwIfFailed(): void {
    if (this.#signal.aborted) throw new QuickstartFailure("interrupted", "");
    if (this.#failure === undefined) return;
    const reason = this.#failure instanceof Error ? this.#failure.message : String(this.#failure);
    throw new QuickstartFailure(`the writer could not go on: ${reason}`, "look at the box's log", {
      cause: this.#failure,
    });
  }
}
