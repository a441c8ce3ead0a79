/**
 * A small NBD client: fixed newstyle over a unix socket, simple replies.
 *
 * Role: the host of the quickstart. It knows nothing of Tidemark, so that what it sees is what any NBD client sees.
 * Invariants:
 *   1. A request is answered once; when the connection ends every open request fails.
 *   2. At most REQUESTS_MAX requests are open.
 * Specification: the NBD protocol, "Fixed newstyle negotiation" and "Transmission".
 */
import { createConnection, type Socket } from "node:net";
import { assert } from "../base/assert.ts";

const GREETING = Buffer.from("NBDMAGICIHAVEOPT");
const OPTION_MAGIC = Buffer.from("IHAVEOPT");
const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
const FLAG_FIXED_NEWSTYLE = 1;
const FLAG_NO_ZEROES = 2;
const OPTION_GO = 7;
const REPLY_ACK = 1;
const REPLY_INFO = 3;
const INFO_EXPORT = 0;
const REQUEST_MAGIC = 0x25609513;
const SIMPLE_REPLY_MAGIC = 0x67446698;
const COMMAND = { READ: 0, WRITE: 1, DISCONNECT: 2, FLUSH: 3 } as const;
const REQUESTS_MAX = 64;

interface OpenRequest {
  /** 0 unless it reads. */
  readonly lengthBytes: number;
  resolve(data: Buffer): void;
  reject(error: Error): void;
}

/** The server answered a request or an option with an error, or the connection ended. */
export class NbdFailure extends Error {
  override readonly name = "NbdFailure";
}

export class NbdClient {
  readonly sizeBytes: number;
  readonly #socket: Socket;
  readonly #open = new Map<bigint, OpenRequest>();
  #nextCookie = 1n;
  #ended: Error | undefined;

  private constructor(socket: Socket, reader: ByteReader, sizeBytes: number) {
    this.#socket = socket;
    this.sizeBytes = sizeBytes;
    void this.#receive(reader);
  }

  /** Opens an export. Aborting the signal breaks the connection. Throws NbdFailure. */
  static async connect(path: string, exportName: string, signal: AbortSignal): Promise<NbdClient> {
    const socket = createConnection({ path });
    const abort = () => socket.destroy(new NbdFailure("interrupted"));
    signal.addEventListener("abort", abort, { once: true });
    socket.once("close", () => signal.removeEventListener("abort", abort));
    socket.on("error", () => {}); // told by the reader
    const reader = new ByteReader(socket);
    try {
      if (signal.aborted) throw new NbdFailure("interrupted");
      const sizeBytes = await negotiate(socket, reader, exportName);
      return new NbdClient(socket, reader, sizeBytes);
    } catch (error) {
      socket.destroy();
      throw error;
    }
  }

  read(offsetBytes: number, lengthBytes: number): Promise<Buffer> {
    return this.#request(COMMAND.READ, offsetBytes, lengthBytes, undefined);
  }

  /** Resolves when the server has acknowledged the write. */
  async write(offsetBytes: number, data: Buffer): Promise<void> {
    await this.#request(COMMAND.WRITE, offsetBytes, data.length, data);
  }

  async flush(): Promise<void> {
    await this.#request(COMMAND.FLUSH, 0, 0, undefined);
  }

  /** Says goodbye; open requests fail. */
  close(): void {
    if (this.#ended === undefined) this.#socket.write(requestHeader(COMMAND.DISCONNECT, 0n, 0, 0));
    this.#socket.end();
    this.#end(new NbdFailure("the connection was closed"));
  }

  #request(command: number, offsetBytes: number, lengthBytes: number, payload: Buffer | undefined): Promise<Buffer> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended);
    assert(this.#open.size < REQUESTS_MAX, "requests are bounded");
    const cookie = this.#nextCookie++;
    return new Promise((resolve, reject) => {
      this.#open.set(cookie, { lengthBytes: command === COMMAND.READ ? lengthBytes : 0, resolve, reject });
      this.#socket.cork();
      this.#socket.write(requestHeader(command, cookie, offsetBytes, lengthBytes));
      if (payload !== undefined) this.#socket.write(payload);
      this.#socket.uncork();
    });
  }

  async #receive(reader: ByteReader): Promise<void> {
    try {
      for (;;) {
        const header = await reader.take(16);
        if (header.readUInt32BE(0) !== SIMPLE_REPLY_MAGIC) throw new NbdFailure("the server's reply is malformed");
        const error = header.readUInt32BE(4);
        const cookie = header.readBigUInt64BE(8);
        const request = this.#open.get(cookie);
        if (request === undefined) throw new NbdFailure("the server answered what was not asked");
        const data = error === 0 ? await reader.take(request.lengthBytes) : Buffer.alloc(0);
        this.#open.delete(cookie);
        if (error === 0) request.resolve(data);
        else request.reject(new NbdFailure(`the server refused a request: error ${error}`));
      }
    } catch (error) {
      this.#end(error instanceof Error ? error : new NbdFailure(String(error)));
    }
  }

  #end(error: Error): void {
    this.#ended ??= error;
    const requests = [...this.#open.values()];
    this.#open.clear();
    for (const request of requests) request.reject(this.#ended);
    this.#socket.destroySoon();
  }
}

/** Haggles until the export is open; returns its size. */
async function negotiate(socket: Socket, reader: ByteReader, exportName: string): Promise<number> {
  const greeting = await reader.take(18);
  if (!greeting.subarray(0, 16).equals(GREETING)) throw new NbdFailure("this is no NBD server");
  if ((greeting.readUInt16BE(16) & FLAG_FIXED_NEWSTYLE) === 0) throw new NbdFailure("the server is not fixed newstyle");
  const name = Buffer.from(exportName);
  const hello = Buffer.alloc(4 + 16 + 4 + name.length + 2);
  hello.writeUInt32BE(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES, 0);
  OPTION_MAGIC.copy(hello, 4);
  hello.writeUInt32BE(OPTION_GO, 12);
  hello.writeUInt32BE(4 + name.length + 2, 16);
  hello.writeUInt32BE(name.length, 20);
  name.copy(hello, 24); // no information is asked for: the last two bytes stay 0
  socket.write(hello);
  let sizeBytes: number | undefined;
  for (;;) {
    const header = await reader.take(20);
    if (header.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) throw new NbdFailure("the server's reply is malformed");
    const type = header.readUInt32BE(12);
    const data = await reader.take(header.readUInt32BE(16));
    if (type === REPLY_INFO && data.readUInt16BE(0) === INFO_EXPORT) sizeBytes = Number(data.readBigUInt64BE(2));
    if (type === REPLY_ACK) break;
    if (type >= 0x80000000) throw new NbdFailure(`export ${exportName} cannot be opened: ${data.toString() || type}`);
  }
  if (sizeBytes === undefined) throw new NbdFailure("the server did not tell the size of the export");
  return sizeBytes;
}

function requestHeader(command: number, cookie: bigint, offsetBytes: number, lengthBytes: number): Buffer {
  const header = Buffer.alloc(28);
  header.writeUInt32BE(REQUEST_MAGIC, 0);
  header.writeUInt16BE(command, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(BigInt(offsetBytes), 16);
  header.writeUInt32BE(lengthBytes, 24);
  return header;
}

/** Exactly as many bytes as asked for; the socket is read only as fast as they are taken. */
class ByteReader {
  readonly #chunks: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(socket: Socket) {
    this.#chunks = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  }

  async take(lengthBytes: number): Promise<Buffer> {
    const pieces = [this.#rest];
    let have = this.#rest.length;
    while (have < lengthBytes) {
      const next = await this.#chunks.next();
      if (next.done === true) throw new NbdFailure("the server closed the connection");
      pieces.push(next.value);
      have += next.value.length;
    }
    const all = pieces.length === 1 ? this.#rest : Buffer.concat(pieces, have);
    this.#rest = all.subarray(lengthBytes);
    return all.subarray(0, lengthBytes);
  }
}
