/**
 * NBD client written byte by byte for the tests: it can send what no decent client sends, and it takes nothing from the
 * server's own code, so that both have to agree with the protocol.
 */
import { connect, type Socket } from "node:net";

export const OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;
export const CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;
export const FLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16, PAYLOAD_LEN: 32 } as const;
export const REP_NAMES: Readonly<Record<number, string>> = {
  1: "ACK",
  2: "SERVER",
  3: "INFO",
  4: "META_CONTEXT",
  2147483649: "ERR_UNSUP",
  2147483650: "ERR_POLICY",
  2147483651: "ERR_INVALID",
  2147483654: "ERR_UNKNOWN",
  2147483655: "ERR_SHUTDOWN",
  2147483657: "ERR_TOO_BIG",
};
export const ERRNO_NAMES: Readonly<Record<number, string>> = {
  0: "ok",
  1: "EPERM",
  5: "EIO",
  12: "ENOMEM",
  22: "EINVAL",
  28: "ENOSPC",
  75: "EOVERFLOW",
  95: "ENOTSUP",
  108: "ESHUTDOWN",
};

export interface OptionReply {
  readonly option: number;
  readonly type: string;
  readonly data: Buffer;
}

export interface Chunk {
  readonly type: number;
  readonly last: boolean;
  readonly payload: Buffer;
}

/** The complete answer to one request. */
export interface Answer {
  readonly cookie: bigint;
  /** Name of the error, or `ok`. */
  readonly error: string;
  readonly text: string;
  /** Where it failed, if the server said so. */
  readonly errorOffset: number | undefined;
  /** Data of a read. */
  readonly data: Buffer;
  readonly chunks: readonly Chunk[];
  readonly simple: boolean;
}

export interface RequestFields {
  readonly command: number;
  readonly flags?: number;
  readonly offset?: number | bigint;
  readonly length?: number;
  readonly cookie?: number | bigint;
  readonly payload?: Uint8Array;
  readonly magic?: number;
}

export class ConnectionEnded extends Error {
  constructor() {
    super("the server closed the connection");
  }
}

export class RawClient {
  readonly socket: Socket;
  structured = false;
  readonly #chunks: Buffer[] = [];
  #buffered = 0;
  #ended = false;
  #wake: (() => void) | undefined;
  /** Lengths of reads by cookie: a simple reply does not say how long it is. */
  readonly #reads = new Map<bigint, { readonly offset: number; readonly length: number }>();
  #nextCookie = 1n;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#buffered += chunk.length;
      this.#wake?.();
    });
    socket.on("error", () => {});
    for (const event of ["end", "close"]) {
      socket.on(event, () => {
        this.#ended = true;
        this.#wake?.();
      });
    }
  }

  /** Connects to a server at `nbd://HOST:PORT` or `nbd+unix:///?socket=PATH`; nothing is sent yet. */
  static async connect(base: string): Promise<RawClient> {
    const url = new URL(base);
    const path = url.searchParams.get("socket");
    const socket =
      path === null ? connect({ host: url.hostname.replace(/[[\]]/g, ""), port: Number(url.port) }) : connect({ path });
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    return new RawClient(socket);
  }

  /** Connects, haggles and enters transmission. Returns the client and the export's size and flags. */
  static async open(
    base: string,
    name: string,
    options: { structured?: boolean; contexts?: readonly string[] } = {},
  ): Promise<RawClient> {
    const client = await RawClient.connect(base);
    await client.greet();
    if (options.structured ?? true) await client.negotiateStructured();
    if (options.contexts !== undefined) {
      await client.option(OPT.SET_META_CONTEXT, metaQuery(name, options.contexts));
    }
    const replies = await client.option(OPT.GO, infoQuery(name));
    if (replies.at(-1)?.type !== "ACK") throw new Error(`GO was answered ${replies.at(-1)?.type}`);
    return client;
  }

  send(...parts: Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  async bytes(length: number): Promise<Buffer> {
    while (this.#buffered < length) {
      if (this.#ended) throw new ConnectionEnded();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const all = this.#chunks.length === 1 ? this.#chunks[0]! : Buffer.concat(this.#chunks);
    this.#chunks.length = 0;
    if (all.length > length) this.#chunks.push(all.subarray(length));
    this.#buffered = all.length - length;
    return all.subarray(0, length);
  }

  /** True when the server hangs up without sending anything more. */
  async hungUp(): Promise<boolean> {
    try {
      await this.bytes(1);
      return false;
    } catch (error) {
      if (error instanceof ConnectionEnded) return true;
      throw error;
    }
  }

  close(): void {
    this.socket.destroy();
  }

  // --- handshake

  async greet(clientFlags = 3): Promise<{ readonly flags: number }> {
    const greeting = await this.bytes(18);
    if (greeting.subarray(0, 16).toString("latin1") !== "NBDMAGICIHAVEOPT") throw new Error("wrong greeting");
    this.send(uint32(clientFlags));
    return { flags: greeting.readUInt16BE(16) };
  }

  async negotiateStructured(): Promise<void> {
    const replies = await this.option(OPT.STRUCTURED_REPLY);
    if (replies[0]?.type !== "ACK") throw new Error("structured replies were refused");
    this.structured = true;
  }

  /** Sends an option and returns all its replies, the final one last. */
  async option(option: number, data: Uint8Array = Buffer.alloc(0)): Promise<OptionReply[]> {
    this.send(Buffer.from("IHAVEOPT"), uint32(option), uint32(data.length), data);
    return this.optionReplies();
  }

  async optionReplies(): Promise<OptionReply[]> {
    const replies: OptionReply[] = [];
    for (;;) {
      const header = await this.bytes(20);
      if (header.readBigUInt64BE(0) !== 0x3e889045565a9n) throw new Error("wrong magic of an option reply");
      const type = REP_NAMES[header.readUInt32BE(12)] ?? `unknown ${header.readUInt32BE(12)}`;
      const data = Buffer.from(await this.bytes(header.readUInt32BE(16)));
      replies.push({ option: header.readUInt32BE(8), type, data });
      if (type === "ACK" || type.startsWith("ERR_")) return replies;
    }
  }

  // --- transmission

  /** The bytes of a request; remembers reads, so that their answers can be understood. */
  encode(request: RequestFields): Buffer {
    const cookie = BigInt(request.cookie ?? this.#nextCookie++);
    const length = request.length ?? request.payload?.length ?? 0;
    const header = Buffer.alloc(28);
    header.writeUInt32BE(request.magic ?? 0x25609513, 0);
    header.writeUInt16BE(request.flags ?? 0, 4);
    header.writeUInt16BE(request.command, 6);
    header.writeBigUInt64BE(cookie, 8);
    header.writeBigUInt64BE(BigInt(request.offset ?? 0), 16);
    header.writeUInt32BE(length, 24);
    if (request.command === CMD.READ) this.#reads.set(cookie, { offset: Number(request.offset ?? 0), length });
    return request.payload === undefined ? header : Buffer.concat([header, request.payload]);
  }

  /** Sends one request and waits for its answer; no other may be outstanding. */
  async request(fields: RequestFields): Promise<Answer> {
    this.send(this.encode(fields));
    return this.answer();
  }

  /** The next answer, whichever request it belongs to. Chunks of different answers must not be mixed. */
  async answer(): Promise<Answer> {
    const magic = (await this.bytes(4)).readUInt32BE();
    if (magic === 0x67446698) return this.#simpleAnswer();
    if (magic !== 0x668e33ef) throw new Error(`wrong magic of a reply: ${magic.toString(16)}`);
    if (!this.structured) throw new Error("structured reply was not negotiated");
    return this.#structuredAnswer();
  }

  async #simpleAnswer(): Promise<Answer> {
    const rest = await this.bytes(12);
    const errno = rest.readUInt32BE(0);
    const cookie = rest.readBigUInt64BE(4);
    const read = this.#reads.get(cookie);
    if (read !== undefined && this.structured) throw new Error("a read must be answered by a structured reply");
    this.#reads.delete(cookie);
    const data = read !== undefined && errno === 0 ? Buffer.from(await this.bytes(read.length)) : Buffer.alloc(0);
    return { cookie, error: nameOf(errno), text: "", errorOffset: undefined, data, chunks: [], simple: true };
  }

  async #structuredAnswer(): Promise<Answer> {
    const chunks: Chunk[] = [];
    let cookie: bigint | undefined;
    for (;;) {
      const header = await this.bytes(16);
      const last = (header.readUInt16BE(0) & 1) === 1;
      const chunkCookie = header.readBigUInt64BE(4);
      if (cookie !== undefined && cookie !== chunkCookie) throw new Error("chunks of two answers are mixed");
      cookie = chunkCookie;
      const payload = Buffer.from(await this.bytes(header.readUInt32BE(12)));
      chunks.push({ type: header.readUInt16BE(2), last, payload });
      if (last) break;
      const magic = (await this.bytes(4)).readUInt32BE();
      if (magic !== 0x668e33ef) throw new Error("a chunk was expected");
    }
    return this.#understand(cookie, chunks);
  }

  #understand(cookie: bigint, chunks: readonly Chunk[]): Answer {
    const read = this.#reads.get(cookie);
    this.#reads.delete(cookie);
    const failure = chunks.find(({ type }) => type >= 0x8000);
    const data = Buffer.alloc(read?.length ?? 0);
    for (const { type, payload } of chunks) {
      if (type === 1) data.set(payload.subarray(8), Number(payload.readBigUInt64BE(0)) - read!.offset);
    }
    const textLength = failure?.payload.readUInt16BE(4) ?? 0;
    return {
      cookie,
      error: nameOf(failure?.payload.readUInt32BE(0) ?? 0),
      text: failure?.payload.toString("utf8", 6, 6 + textLength) ?? "",
      errorOffset: failure?.type === 0x8002 ? Number(failure.payload.readBigUInt64BE(6 + textLength)) : undefined,
      data: failure === undefined ? data : Buffer.alloc(0),
      chunks,
      simple: false,
    };
  }
}

function nameOf(errno: number): string {
  return ERRNO_NAMES[errno] ?? `errno ${errno}`;
}

export function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/** A string with its length in front. */
export function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([uint32(bytes.length), bytes]);
}

/** Data of INFO and GO. */
export function infoQuery(name: string, infos: readonly number[] = []): Buffer {
  return Buffer.concat([text(name), uint16(infos.length), ...infos.map(uint16)]);
}

/** Data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function metaQuery(name: string, queries: readonly string[]): Buffer {
  return Buffer.concat([text(name), uint32(queries.length), ...queries.map(text)]);
}

/** Descriptors of a BLOCK_STATUS chunk: `[length, flags]` pairs, and the context they belong to. */
export function statusOf(chunk: Chunk): { readonly contextId: number; readonly extents: [number, number][] } {
  const extents: [number, number][] = [];
  for (let at = 4; at < chunk.payload.length; at += 8) {
    extents.push([chunk.payload.readUInt32BE(at), chunk.payload.readUInt32BE(at + 4)]);
  }
  return { contextId: chunk.payload.readUInt32BE(0), extents };
}
