/** The part of the NBD oracle that looks at transmission: requests as they were sent, and whether each got its answer. */

export interface Awaited {
  readonly command: number;
  readonly flags: number;
  readonly cookie: bigint;
  readonly offset: bigint;
  readonly length: number;
  readonly must: "succeed" | "fail" | "either";
}

interface ExportView {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly sound: boolean;
  readonly structured: boolean;
  readonly contexts: number;
}

const READ = 0;
const WRITE = 1;
const DISC = 2;
const FLUSH = 3;
const CACHE = 5;
const WRITE_ZEROES = 6;
const BLOCK_STATUS = 7;
const REQUEST_BYTES_MAX = 32 * 2 ** 20;
const DISCARD_BYTES_MAX = 64 * 2 ** 20;
const ERRNOS: ReadonlySet<number> = new Set([1, 5, 12, 22, 28, 75, 95, 108]);
const CHUNK_BYTES_MAX = REQUEST_BYTES_MAX + 64;

/** `broken`: the stream ends in something that is no request, or in half of one. */
export function requestsIn(sent: Buffer, view: ExportView): { requests: Awaited[]; broken: boolean; goodbye: boolean } {
  const requests: Awaited[] = [];
  let at = 0;
  while (at + 28 <= sent.length) {
    if (sent.readUInt32BE(at) !== 0x25609513) return { requests, broken: true, goodbye: false };
    const [flags, command] = [sent.readUInt16BE(at + 4), sent.readUInt16BE(at + 6)];
    const length = sent.readUInt32BE(at + 24);
    const cookie = sent.readBigUInt64BE(at + 8);
    const offset = sent.readBigUInt64BE(at + 16);
    at += 28;
    if (command === DISC) return { requests, broken: false, goodbye: true };
    const request = { command, flags, cookie, offset, length };
    if (command === WRITE) {
      if (length > DISCARD_BYTES_MAX) {
        requests.push({ ...request, must: "fail" });
        return { requests, broken: false, goodbye: true };
      }
      if (at + length > sent.length) return { requests, broken: true, goodbye: false };
      at += length;
    }
    requests.push({ ...request, must: verdict(request, view) });
  }
  return { requests, broken: at < sent.length, goodbye: false };
}

function verdict(request: Omit<Awaited, "must">, view: ExportView): Awaited["must"] {
  const { command, flags, offset, length } = request;
  if (command > BLOCK_STATUS) return "fail";
  if (command === FLUSH)
    return flags > 1 ? "either" : offset === 0n && length === 0 && view.sound ? "succeed" : "either";
  const inside = offset + BigInt(length) <= BigInt(view.sizeBytes);
  if (!inside) return "fail";
  if (command !== READ && command !== CACHE && command !== BLOCK_STATUS && view.readOnly) return "fail";
  if ((command === READ || command === WRITE) && length > REQUEST_BYTES_MAX) return "fail";
  if (command === BLOCK_STATUS && (view.contexts === 0 || length === 0)) return "fail";
  if (flags > 1 || !view.sound || command === WRITE_ZEROES) return "either";
  return "succeed";
}

interface Open {
  readonly request: Awaited;
  /** Bytes of a read that have come, and chunks of a status. */
  covered: number;
  chunks: number;
}

export function judgeAnswers(
  received: Buffer,
  requests: readonly Awaited[],
  options: { structured: boolean; content: Uint8Array | undefined },
): { violations: string[]; unanswered: readonly Awaited[]; rest: number } {
  const reader = new AnswerReader(received, requests, options);
  try {
    reader.read();
    return { violations: [], unanswered: reader.unanswered, rest: reader.rest };
  } catch (error) {
    if (!(error instanceof Wrong)) throw error;
    return { violations: [error.message], unanswered: [], rest: 0 };
  }
}

class Wrong extends Error {}

class AnswerReader {
  readonly #bytes: Buffer;
  readonly #structured: boolean;
  readonly #content: Uint8Array | undefined;
  /** By cookie, in the order in which they were sent. */
  readonly #open = new Map<bigint, Open[]>();
  /** Cookies of more than one request: which of them is answered is not known. */
  readonly #shared = new Set<bigint>();
  #at = 0;

  constructor(
    bytes: Buffer,
    requests: readonly Awaited[],
    options: { structured: boolean; content: Uint8Array | undefined },
  ) {
    this.#bytes = bytes;
    this.#structured = options.structured;
    this.#content = options.content;
    for (const request of requests) {
      const list = this.#open.get(request.cookie) ?? [];
      list.push({ request, covered: 0, chunks: 0 });
      if (list.length > 1) this.#shared.add(request.cookie);
      this.#open.set(request.cookie, list);
    }
  }

  get unanswered(): Awaited[] {
    return [...this.#open.values()].flat().map(({ request }) => request);
  }

  /** Bytes at the end that are no complete answer. */
  get rest(): number {
    return this.#bytes.length - this.#at;
  }

  read(): void {
    while (this.rest >= 16) {
      const begin = this.#at;
      const magic = this.#bytes.readUInt32BE(begin);
      if (magic !== 0x67446698 && magic !== 0x668e33ef) throw new Wrong(`answer: magic ${magic.toString(16)}`);
      const complete = magic === 0x67446698 ? this.#simple() : this.#chunk();
      if (complete) continue;
      this.#at = begin;
      return;
    }
  }

  #simple(): boolean {
    const [error, cookie] = [this.#bytes.readUInt32BE(this.#at + 4), this.#bytes.readBigUInt64BE(this.#at + 8)];
    const open = this.#find(cookie);
    const { command, length } = open.request;
    if (this.#structured && (command === READ || command === BLOCK_STATUS) && !this.#shared.has(cookie))
      throw new Wrong(`answer: a simple reply to command ${command} although structured replies were negotiated`);
    if (error !== 0) this.#checkError(error);
    this.#at += 16;
    if (command === READ && error === 0) {
      if (this.#shared.has(cookie)) return this.#lose();
      if (this.rest < length) return false;
      this.#checkData(open.request.offset, this.#bytes.subarray(this.#at, this.#at + length));
      this.#at += length;
    }
    this.#answered(open, error === 0 ? "succeed" : "fail");
    return true;
  }

  #chunk(): boolean {
    if (!this.#structured) throw new Wrong("answer: a structured reply that was not negotiated");
    if (this.rest < 20) return false;
    const bytes = this.#bytes;
    const at = this.#at;
    const [flags, type] = [bytes.readUInt16BE(at + 4), bytes.readUInt16BE(at + 6)];
    const cookie = bytes.readBigUInt64BE(at + 8);
    const length = bytes.readUInt32BE(at + 16);
    if (flags > 1) throw new Wrong(`answer: chunk flags ${flags}`);
    if (length > CHUNK_BYTES_MAX) throw new Wrong(`answer: a chunk of ${length} bytes`);
    const open = this.#find(cookie);
    if (this.rest < 20 + length) return false;
    const payload = bytes.subarray(at + 20, at + 20 + length);
    this.#at += 20 + length;
    const failed = this.#chunkContent(open, type, payload, flags);
    if (flags === 0) return true;
    if (!failed && !this.#shared.has(cookie)) this.#checkWhole(open, type);
    this.#answered(open, failed ? "fail" : "succeed");
    return true;
  }

  /** True for an error. */
  #chunkContent(open: Open, type: number, payload: Buffer, flags: number): boolean {
    const { request } = open;
    open.chunks++;
    if (type >= 0x8000) {
      if (payload.length < 6) throw new Wrong("answer: a short error chunk");
      const text = payload.readUInt16BE(4);
      if (payload.length !== 6 + text + (type === 0x8002 ? 8 : 0))
        throw new Wrong("answer: the length of an error chunk is wrong");
      if (text === 0) throw new Wrong("answer: an error without a text");
      this.#checkError(payload.readUInt32BE(0));
      return true;
    }
    if (this.#shared.has(request.cookie)) return false;
    if (type === 0) {
      if (payload.length > 0 || flags === 0) throw new Wrong("answer: an odd chunk of type NONE");
      return false;
    }
    if (type === 1 && request.command === READ) {
      const [from, length] = [payload.readBigUInt64BE(0), payload.length - 8];
      const end = from + BigInt(length);
      if (length <= 0 || from < request.offset || end > request.offset + BigInt(request.length))
        throw new Wrong("answer: data outside what was asked for");
      open.covered += length;
      this.#checkData(from, payload.subarray(8));
      return false;
    }
    if (type === 5 && request.command === BLOCK_STATUS) {
      checkStatus(request, payload);
      return false;
    }
    throw new Wrong(`answer: a chunk of type ${type} to command ${request.command}`);
  }

  #checkWhole({ request, covered, chunks }: Open, type: number): void {
    if (request.command === READ && covered !== request.length)
      throw new Wrong(`answer: a read of ${request.length} bytes got ${covered}`);
    if (request.command === READ && (request.flags & 4) !== 0 && request.length > 0 && chunks > 1)
      throw new Wrong("answer: a read was fragmented although it must not be");
    if (request.command === BLOCK_STATUS && type !== 5) throw new Wrong("answer: block status without a status");
  }

  #checkData(offset: bigint, data: Buffer): void {
    if (this.#content === undefined) return;
    const from = Number(offset);
    if (Buffer.compare(data, this.#content.subarray(from, from + data.length)) !== 0)
      throw new Wrong(`data: ${data.length} bytes at ${offset} are not what the volume holds`);
  }

  #checkError(error: number): void {
    if (!ERRNOS.has(error)) throw new Wrong(`answer: error number ${error}`);
  }

  #find(cookie: bigint): Open {
    const open = this.#open.get(cookie)?.[0];
    if (open === undefined) throw new Wrong("answer: nobody asked, or it was answered before");
    return open;
  }

  #answered(open: Open, how: "succeed" | "fail"): void {
    const { cookie, must, command, length, offset, flags } = open.request;
    const list = this.#open.get(cookie);
    list?.shift();
    if (list?.length === 0) this.#open.delete(cookie);
    if (this.#shared.has(cookie) || must === "either" || must === how) return;
    throw new Wrong(`answer: command ${command} flags ${flags} offset ${offset} length ${length} must ${must}`);
  }

  /** Two reads share a cookie: how long the answer is cannot be known, and nothing after it either. */
  #lose(): boolean {
    this.#open.clear();
    this.#at = this.#bytes.length;
    return true;
  }
}

function checkStatus(request: Awaited, payload: Buffer): void {
  const count = (payload.length - 4) / 8;
  if (!Number.isInteger(count) || count < 1) throw new Wrong("status: no descriptor, or half of one");
  if ((request.flags & 8) !== 0 && count !== 1)
    throw new Wrong(`status: ${count} descriptors although one was asked for`);
  let total = 0;
  for (let at = 4; at < payload.length; at += 8) {
    const length = payload.readUInt32BE(at);
    if (length === 0) throw new Wrong("status: an empty descriptor");
    total += length;
  }
  if (total > request.length) throw new Wrong("status: descriptors reach beyond what was asked for");
}
