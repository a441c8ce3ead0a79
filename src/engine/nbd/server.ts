/**
 * NBD front door: listens, and serves the exports of a table to any number of clients.
 *
 * Role: owns listeners and connections; runs on the event loop of the thread that owns the volumes, so a request never
 * crosses a thread. Invariants:
 *   1. An export counts as connected from the client's choice until nothing of that client is in flight.
 *   2. At most NBD_CONNECTIONS_MAX clients; one more is hung up on before it is greeted.
 *   3. Memory of requests is bounded for all together (in-flight-memory.ts). While some wait for it, a client that holds
 *      some and stands still for NBD_MEMORY_STALL_MS is hung up on.
 */
import { createServer, type Server, type Socket } from "node:net";
import { TidemarkError } from "../../base/errors.ts";
import { NBD_CONNECTIONS_MAX, NBD_IN_FLIGHT_TOTAL_BYTES_MAX, NBD_MEMORY_STALL_MS } from "../../base/limits.ts";
import type { Clock } from "../../base/ports.ts";
import { baseUri, bind, parseAddress } from "./address.ts";
import { BufferPool } from "./buffer-pool.ts";
import { Channel, type Transport } from "./channel.ts";
import { Connection } from "./connection.ts";
import { InFlightMemory } from "./in-flight-memory.ts";
import type { ExportTable } from "./io-target.ts";

export { exportUri } from "./address.ts";

export interface NbdServerOptions {
  readonly exports: ExportTable;
  readonly clock: Clock;
  /** A client has chosen an export. `peer` is `unix` or `HOST:PORT`. */
  readonly onConnect?: (exportName: string, peer: string) => void;
  /** A client that had chosen an export is gone, and nothing of it is in flight. */
  readonly onDisconnect?: (exportName: string, peer: string) => void;
  /** `stream` uses only Node's public stream interface, which is slower. Default `direct`. */
  readonly transport?: Transport;
  /** Memory that requests hold together. Default NBD_IN_FLIGHT_TOTAL_BYTES_MAX. */
  readonly memoryBytes?: number;
}

export class NbdServer {
  readonly #options: NbdServerOptions;
  readonly #pool = new BufferPool();
  readonly #listeners = new Set<Server>();
  readonly #connections = new Set<Connection>();
  readonly #memory: InFlightMemory;
  #watching = false;
  readonly #stopped = new AbortController();

  constructor(options: NbdServerOptions) {
    this.#options = options;
    this.#memory = new InFlightMemory(options.memoryBytes ?? NBD_IN_FLIGHT_TOTAL_BYTES_MAX, () => {
      if (!this.#watching) void this.#hangUpOnStalled();
    });
  }

  get #stopping(): boolean {
    return this.#stopped.signal.aborted;
  }

  /**
   * Listens on `unix:PATH` (mode 0660) or `HOST:PORT`; may be called for several addresses. Returns the URI of the
   * server without export name. Errors: INVALID_ARGUMENT, PATH_HELD, PATH_EXISTS, PATH_NOT_FOUND, PERMISSION_DENIED,
   * STOPPING.
   */
  async listen(address: string): Promise<string> {
    const parsed = parseAddress(address);
    if (this.#stopping) throw new TidemarkError("STOPPING", { message: "the NBD server is stopping" });
    const listener = createServer({ pauseOnConnect: true, allowHalfOpen: true });
    listener.on("connection", (socket) => this.#accept(socket));
    const bound = await bind(listener, parsed);
    // A connection that cannot be accepted (no descriptors left) is that client's loss, not the end of the server.
    listener.on("error", () => {});
    this.#listeners.add(listener);
    return baseUri(bound);
  }

  /** Clients that use the export. */
  connections(exportName: string): number {
    return this.#usersOf(exportName).length;
  }

  /** Hangs up on all clients of the export; resolves when nothing of them is in flight any more. */
  async disconnect(exportName: string): Promise<void> {
    const users = this.#usersOf(exportName);
    for (const connection of users) connection.abort();
    await Promise.all(users.map((connection) => connection.gone()));
  }

  /**
   * Stops listening, answers what is in flight, closes. After `graceMs` connections are cut; the call still resolves
   * only when no operation touches a target any more.
   */
  async close(options: { readonly graceMs: number }): Promise<void> {
    this.#stopped.abort();
    for (const listener of this.#listeners) listener.close();
    this.#listeners.clear();
    const connections = [...this.#connections];
    if (connections.length === 0) return;
    const allGone = new AbortController();
    const gone = Promise.all(connections.map((connection) => connection.gone())).then(() => allGone.abort());
    for (const connection of connections) connection.end();
    await this.#options.clock.sleep(options.graceMs, allGone.signal);
    for (const connection of this.#connections) connection.abort();
    await gone;
  }

  #accept(socket: Socket): void {
    if (this.#stopping || this.#connections.size >= NBD_CONNECTIONS_MAX) {
      socket.destroy();
      return;
    }
    const peer = socket.remoteAddress === undefined ? "unix" : `${socket.remoteAddress}:${socket.remotePort}`;
    const { exports, clock, onConnect, onDisconnect, transport = "direct" } = this.#options;
    const connection = new Connection({
      channel: new Channel(socket, this.#pool, transport),
      exports,
      clock,
      pool: this.#pool,
      memory: this.#memory,
      onChosen: (_, exportName) => onConnect?.(exportName, peer),
      onGone: (gone) => {
        this.#connections.delete(gone);
        if (gone.exportName !== undefined) onDisconnect?.(gone.exportName, peer);
      },
    });
    this.#connections.add(connection);
  }

  async #hangUpOnStalled(): Promise<void> {
    this.#watching = true;
    while (this.#memory.isAwaited && !this.#stopping) {
      const moved = new Map([...this.#connections].map((connection) => [connection, connection.movedBytes]));
      await this.#options.clock.sleep(NBD_MEMORY_STALL_MS, this.#stopped.signal);
      if (!this.#memory.isAwaited) break;
      for (const [connection, bytes] of moved)
        if (connection.waitsForClient && connection.movedBytes === bytes) connection.abort();
    }
    this.#watching = false;
  }

  #usersOf(exportName: string): Connection[] {
    return [...this.#connections].filter((connection) => connection.exportName === exportName);
  }
}
