/**
 * Judges one NBD conversation: what a client sent, byte for byte, and what it got.
 *
 * Role: reads the sent bytes as the protocol says they must be read, and checks that the server's bytes are the greeting, one
 * final reply to each option in order, and one complete answer to each request, in any order. It shares no code with the server.
 * A server may close without answering only when the client has broken the protocol, has said goodbye, or is gone.
 * Specification: the NBD protocol; the limits of docs/nbd.md (64 KiB of option data, requests of 32 MiB).
 */
import { EXPORTS, STILL_CONTENT } from "./nbd-exports.ts";
import { type Awaited, judgeAnswers, requestsIn } from "./nbd-oracle-answers.ts";

export interface Conversation {
  readonly sent: Buffer;
  readonly received: Buffer;
  /** `ended`: the client closed its side and waited for the server's end. `vanished`: it was cut, by either side's error. */
  readonly end: "ended" | "vanished";
  /** The server closed before the client did. */
  readonly serverFirst: boolean;
  /** Time that passed since it connected. */
  readonly elapsedMs: number;
  /** More clients than the server takes may have been there. */
  readonly crowded: boolean;
}

const OPTION_BYTES_MAX = 65_536;
const DISCARD_BYTES_MAX = 64 * 2 ** 20;
const HANDSHAKE_MS = 10_000;
const REPLY_MAGIC = 0x3e889045565a9n;
const ACK = 1;
const SERVER = 2;
const INFO = 3;
const META_CONTEXT = 4;
const ERROR_BIT = 0x80000000;

/** Replies that may come before the final one, by option. */
const BEFORE_ACK: Readonly<Record<number, number>> = { 3: SERVER, 6: INFO, 7: INFO, 9: META_CONTEXT, 10: META_CONTEXT };
const MAY_BE_ACKNOWLEDGED: ReadonlySet<number> = new Set([2, 3, 6, 7, 8, 9, 10]);

/** Thrown to leave the walk: `legal` when what is missing may be missing. */
class WalkEnds extends Error {
  readonly legal: boolean;
  constructor(message: string, legal: boolean) {
    super(message);
    this.legal = legal;
  }
}

export function judge(conversation: Conversation): string[] {
  const { received, crowded } = conversation;
  if (received.length === 0 && crowded) return [];
  const walk = new Walk(conversation);
  try {
    return walk.judge();
  } catch (error) {
    if (!(error instanceof WalkEnds)) throw error;
    return error.legal ? [] : [error.message];
  }
}

class Walk {
  readonly #talk: Conversation;
  #sentAt = 0;
  #gotAt = 0;
  #structured = false;
  #contexts: { readonly exportName: string; readonly count: number } | undefined;

  constructor(talk: Conversation) {
    this.#talk = talk;
  }

  judge(): string[] {
    const greeting = this.#got(18, "the greeting");
    if (greeting.toString("latin1", 0, 16) !== "NBDMAGICIHAVEOPT") return ["greeting: it is not that of a server"];
    if (this.#sentLeft < 4) return this.#over("client flags were not sent");
    const flags = this.#take(4).readUInt32BE();
    if ((flags & ~3) !== 0) return this.#hungUp("unknown client flags");
    for (;;) {
      const chosen = this.#option(flags);
      if (Array.isArray(chosen)) return chosen;
      if (chosen !== undefined) return this.#transmission(chosen);
    }
  }

  /** One option: undefined to go on, a name when transmission begins, or what is wrong when the walk is over. */
  #option(flags: number): string | string[] | undefined {
    if (this.#sentLeft < 16) return this.#over("half an option header");
    const head = this.#take(16);
    if (head.toString("latin1", 0, 8) !== "IHAVEOPT") return this.#hungUp("wrong option magic");
    const [code, length] = [head.readUInt32BE(8), head.readUInt32BE(12)];
    if ((flags & 1) === 0 && code !== 1) return this.#hungUp("an option without fixed newstyle");
    if (length > OPTION_BYTES_MAX && (code === 1 || length > DISCARD_BYTES_MAX)) return this.#hungUp("a vast option");
    if (this.#sentLeft < length) return this.#over("half an option");
    const data = this.#take(length);
    if (code === 1) return this.#exportName(flags, data);
    const replies = this.#replies(code, length);
    if (Array.isArray(replies)) return replies;
    if (code === 2 && replies.final === ACK) return this.#over("the client has said goodbye");
    if (replies.final !== ACK) {
      if (code === 10) this.#contexts = undefined;
      return undefined;
    }
    if (code === 8) this.#structured = true;
    const name = nameIn(data);
    if (code === 10) this.#contexts = { exportName: name, count: replies.count };
    if ((code === 6 || code === 7) && replies.sizeBytes !== EXPORTS[name]?.sizeBytes && name !== "good")
      return [`info: export "${name}" was said to have ${replies.sizeBytes} bytes`];
    return code === 7 ? name : undefined;
  }

  #exportName(flags: number, data: Buffer): string | string[] {
    const name = data.toString();
    const facts = EXPORTS[name];
    if (this.#gotLeft === 0 && facts === undefined) return this.#hungUp("an unknown export");
    const reply = this.#got(flags & 2 ? 10 : 134, "the reply to EXPORT_NAME");
    if (Number(reply.readBigUInt64BE(0)) !== facts?.sizeBytes && name !== "good")
      return [`export name: "${name}" was said to have ${reply.readBigUInt64BE(0)} bytes`];
    return name;
  }

  #replies(code: number, length: number): { final: number; count: number; sizeBytes: number | undefined } | string[] {
    let count = 0;
    let sizeBytes: number | undefined;
    for (;;) {
      const head = this.#got(20, `a reply to option ${code}`);
      if (head.readBigUInt64BE(0) !== REPLY_MAGIC) return ["option reply: wrong magic"];
      if (head.readUInt32BE(8) !== code)
        return [`option reply: option ${head.readUInt32BE(8)} answered instead of ${code}`];
      const type = head.readUInt32BE(12);
      const data = this.#got(head.readUInt32BE(16), "the data of an option reply");
      if (type >= ERROR_BIT) {
        if (data.length > 4096) return [`option reply: an error text of ${data.length} bytes`];
        return { final: type, count, sizeBytes };
      }
      if (length > OPTION_BYTES_MAX) return ["option reply: an oversized option was accepted"];
      if (type === ACK && MAY_BE_ACKNOWLEDGED.has(code)) return { final: type, count, sizeBytes };
      if (type !== BEFORE_ACK[code]) return [`option reply: type ${type} to option ${code}`];
      if (type === INFO && data.readUInt16BE(0) === 0) sizeBytes = Number(data.readBigUInt64BE(2));
      count++;
    }
  }

  #transmission(name: string): string[] {
    const { sent, received, end } = this.#talk;
    const facts = EXPORTS[name];
    if (facts === undefined) return name === "good" ? [] : [`info: unknown export "${name}" was given`];
    const stream = requestsIn(sent.subarray(this.#sentAt), {
      sizeBytes: facts.sizeBytes,
      readOnly: facts.readOnly,
      sound: facts.sound,
      structured: this.#structured,
      contexts: this.#contexts?.exportName === name ? this.#contexts.count : 0,
    });
    const answers = judgeAnswers(received.subarray(this.#gotAt), stream.requests, {
      structured: this.#structured,
      content: name === "still" ? STILL_CONTENT : undefined,
    });
    if (answers.violations.length > 0) return answers.violations.map((text) => `${text} (export ${name})`);
    if (stream.broken || end === "vanished") return this.#closedFirst(stream.broken, stream.goodbye);
    const open: readonly Awaited[] = answers.unanswered;
    if (open.length > 0 || answers.rest > 0)
      return [
        `unanswered: ${open.length} of ${stream.requests.length} requests (first: command ${open[0]?.command} length ${open[0]?.length}), ${answers.rest} odd bytes at the end (export ${name})`,
      ];
    return this.#closedFirst(stream.broken, stream.goodbye);
  }

  #closedFirst(broken: boolean, goodbye: boolean): string[] {
    if (!this.#talk.serverFirst || broken || goodbye) return [];
    return ["closed: the server ended transmission without a reason"];
  }

  get #sentLeft(): number {
    return this.#talk.sent.length - this.#sentAt;
  }

  get #gotLeft(): number {
    return this.#talk.received.length - this.#gotAt;
  }

  #take(length: number): Buffer {
    this.#sentAt += length;
    return this.#talk.sent.subarray(this.#sentAt - length, this.#sentAt);
  }

  #got(length: number, what: string): Buffer {
    if (this.#gotLeft >= length) {
      this.#gotAt += length;
      return this.#talk.received.subarray(this.#gotAt - length, this.#gotAt);
    }
    const { end, elapsedMs, crowded } = this.#talk;
    throw new WalkEnds(`unanswered: ${what} is missing`, end === "vanished" || elapsedMs >= HANDSHAKE_MS || crowded);
  }

  /** The client sent nothing more: the server has nothing more to say. */
  #over(why: string): string[] {
    const { serverFirst, elapsedMs, crowded } = this.#talk;
    if (this.#gotLeft > 0) return [`surplus: ${this.#gotLeft} bytes after ${why}`];
    if (!serverFirst || elapsedMs >= HANDSHAKE_MS || crowded || why.includes("goodbye")) return [];
    return [`closed: the server ended the handshake after ${why}`];
  }

  /** The client broke the protocol beyond repair: the server closes without a word. */
  #hungUp(why: string): string[] {
    return this.#gotLeft > 0 ? [`surplus: ${this.#gotLeft} bytes after ${why}`] : [];
  }
}

function nameIn(data: Buffer): string {
  const length = data.length < 4 ? 0 : data.readUInt32BE(0);
  return data.toString("utf8", 4, 4 + length);
}
