/**
 * One client, from its greeting to its end.
 *
 * Role: moves the channel from handshake to transmission, and reports to the server.
 * Invariants: `onGone` is called once, when the connection is closed and no operation of it touches a target any more.
 */
import { NBD_HANDSHAKE_TIMEOUT_MS } from "../../base/limits.ts";
import type { Clock } from "../../base/ports.ts";
import type { BufferPool } from "./buffer-pool.ts";
import type { Channel, ChannelUser } from "./channel.ts";
import { Handshake, type Negotiated } from "./handshake.ts";
import type { InFlightMemory } from "./in-flight-memory.ts";
import type { ExportTable } from "./io-target.ts";
import { Transmission } from "./transmission.ts";

export interface ConnectionParts {
  readonly channel: Channel;
  readonly exports: ExportTable;
  readonly pool: BufferPool;
  readonly memory: InFlightMemory;
  readonly clock: Clock;
  /** The client has chosen its export. */
  readonly onChosen: (connection: Connection, exportName: string) => void;
  readonly onGone: (connection: Connection) => void;
}

export class Connection implements ChannelUser {
  readonly #parts: ConnectionParts;
  readonly #handshake: Handshake;
  readonly #handshakeOver = new AbortController();
  #transmission: Transmission | undefined;
  #exportName: string | undefined;
  #gone = false;
  readonly #goneWaiters: (() => void)[] = [];

  constructor(parts: ConnectionParts) {
    this.#parts = parts;
    parts.channel.setUser(this);
    this.#handshake = new Handshake(parts.channel, parts.exports);
    void this.#limitHandshake();
  }

  /** Canonical name of the export in use; undefined while the client has not chosen. */
  get exportName(): string | undefined {
    return this.#exportName;
  }

  /** Bytes taken from the client and by it: while they stand still, it does. */
  get movedBytes(): number {
    return this.#parts.channel.movedBytes;
  }

  /** True when it holds memory that only its client can set free. */
  get waitsForClient(): boolean {
    return this.#transmission?.waitsForClient ?? false;
  }

  onInput(): void {
    const { channel } = this.#parts;
    const negotiated = this.#handshake.advance();
    if (negotiated !== undefined) this.#beginTransmission(negotiated);
    else if (channel.outputBlocked) channel.pause();
  }

  /** Resumes first: what comes next, handshake or transmission, may pause again. */
  onWritable(): void {
    this.#parts.channel.resume();
    this.onInput();
  }

  onPeerEnd(): void {
    this.#parts.channel.finish();
  }

  onClosed(): void {
    this.#leave();
  }

  /** Answers what is in flight, then closes. Without an export chosen: closes. */
  end(): void {
    if (this.#transmission === undefined) this.#parts.channel.finish();
    else this.#transmission.end();
  }

  /** Closes at once; operations in flight still run to their end. */
  abort(): void {
    this.#parts.channel.abort();
  }

  /** Resolves when the connection is closed and nothing of it is in flight. */
  gone(): Promise<void> {
    if (this.#gone) return Promise.resolve();
    return new Promise((resolve) => this.#goneWaiters.push(resolve));
  }

  #beginTransmission(negotiated: Negotiated): void {
    const { channel, onChosen } = this.#parts;
    this.#handshakeOver.abort();
    this.#exportName = negotiated.exportName;
    const transmission = new Transmission(channel, this.#parts, negotiated, () => this.#leave());
    this.#transmission = transmission;
    channel.setUser(transmission);
    onChosen(this, negotiated.exportName);
    // Requests may have come in the same packet as the choice.
    transmission.onInput();
  }

  async #limitHandshake(): Promise<void> {
    await this.#parts.clock.sleep(NBD_HANDSHAKE_TIMEOUT_MS, this.#handshakeOver.signal);
    if (this.#transmission === undefined) this.#parts.channel.abort();
  }

  #leave(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#handshakeOver.abort();
    this.#parts.onGone(this);
    for (const resolve of this.#goneWaiters) resolve();
  }
}
