/** Reads the data of one option, refusing what does not fit: lengths are the client's claim and checked against the data. */
import { REPLY, STRING_BYTES_MAX } from "./protocol.ts";

/** The option is wrong; answered with `reply` and the message. */
export class InvalidOption extends Error {
  readonly reply: number;
  constructor(message: string, reply: number = REPLY.ERR_INVALID) {
    super(message);
    this.name = "InvalidOption";
    this.reply = reply;
  }
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

export class OptionData {
  readonly #data: Buffer;
  #at = 0;

  constructor(data: Buffer) {
    this.#data = data;
  }

  uint16(): number {
    return this.#take(2).readUInt16BE();
  }

  uint32(): number {
    return this.#take(4).readUInt32BE();
  }

  /** A string with its 32-bit length in front. */
  string(): string {
    const length = this.uint32();
    if (length > STRING_BYTES_MAX) throw new InvalidOption(`a string is longer than ${STRING_BYTES_MAX} bytes`);
    return decode(this.#take(length));
  }

  /** All that is left, as a string. */
  rest(lengthMax: number): string {
    const left = this.#data.length - this.#at;
    if (left > lengthMax) throw new InvalidOption(`a string is longer than ${lengthMax} bytes`);
    return decode(this.#take(left));
  }

  /** Nothing may be left. */
  end(): void {
    if (this.#at !== this.#data.length) throw new InvalidOption("option has more data than it should");
  }

  #take(length: number): Buffer {
    if (length > this.#data.length - this.#at) throw new InvalidOption("option data is too short");
    const taken = this.#data.subarray(this.#at, this.#at + length);
    this.#at += length;
    return taken;
  }
}

function decode(bytes: Buffer): string {
  try {
    return decoder.decode(bytes);
  } catch (error) {
    if (error instanceof TypeError) throw new InvalidOption("a string is not UTF-8");
    throw error;
  }
}
