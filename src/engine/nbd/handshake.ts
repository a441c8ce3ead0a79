/**
 * Option haggling of one connection: from the greeting to the choice of an export.
 *
 * Role: reads client flags and options, answers them, and says which export was chosen with what was negotiated.
 * Invariants:
 *   1. Every option but the one that ends haggling gets exactly one final reply (ACK or an error).
 *   2. SET_META_CONTEXT replaces the selection even when it fails; the selection counts only for the export it named.
 *   3. Option data is at most NBD_OPTION_BYTES_MAX; longer data is thrown away unread and answered ERR_TOO_BIG.
 * Place for TLS: `#startTls` refuses; a later issue upgrades the channel there and forgets what was negotiated.
 * Specification: the NBD protocol, "Handshake", "Option types".
 */
import { AssertionError } from "../../base/assert.ts";
import { asTidemarkError } from "../../base/errors.ts";
import { NBD_OPTION_BYTES_MAX, NBD_REQUEST_BYTES_MAX } from "../../base/limits.ts";
import { KiB } from "../../base/units.ts";
import type { Channel } from "./channel.ts";
import type { ExportTable, IoTarget } from "./io-target.ts";
import { contextsOf, isQuery, type MetaContext, matchContexts, type SelectedContext } from "./meta-context.ts";
import { InvalidOption, OptionData } from "./option-data.ts";
import {
  exportNameReply,
  greeting,
  infoBlockSize,
  infoExport,
  infoText,
  metaContextReply,
  optionReply,
  serverReply,
} from "./option-replies.ts";
import {
  HANDSHAKE_FLAGS,
  INFO,
  OPTION,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC_HIGH,
  OPTION_MAGIC_LOW,
  REPLY,
  STRING_BYTES_MAX,
  transmissionFlagsOf,
} from "./protocol.ts";
import { CONTEXT_QUERIES_MAX, CONTEXTS_MAX, DISCARD_BYTES_MAX } from "./tuning.ts";

/** Writes smaller than the preferred size may cost more; any size and offset works. */
const BLOCK_SIZES = { minimum: 1, preferred: 4 * KiB, maximum: NBD_REQUEST_BYTES_MAX } as const;

/** What a client has chosen and negotiated. */
export interface Negotiated {
  readonly exportName: string;
  readonly target: IoTarget;
  readonly structured: boolean;
  readonly contexts: readonly SelectedContext[];
}

interface Selection {
  readonly exportName: string;
  readonly contexts: readonly SelectedContext[];
}

type Opened = { readonly name: string; readonly target: IoTarget } | undefined;

export class Handshake {
  readonly #channel: Channel;
  readonly #exports: ExportTable;
  #clientFlags: number | undefined;
  #structured = false;
  #selection: Selection | undefined;
  #discardBytes = 0;
  #discardedOption = 0;
  #over = false;

  constructor(channel: Channel, exports: ExportTable) {
    this.#channel = channel;
    this.#exports = exports;
    this.#say(greeting());
    channel.send();
  }

  /** Works off the inbox. Returns the outcome once an export is chosen; the rest of the inbox is then requests. */
  advance(): Negotiated | undefined {
    const outcome = this.#advance();
    this.#channel.send();
    return outcome;
  }

  #advance(): Negotiated | undefined {
    const channel = this.#channel;
    while (!this.#over && !channel.outputBlocked) {
      if (this.#clientFlags === undefined) {
        if (channel.unreadBytes < 4) return undefined;
        this.#takeClientFlags();
        continue;
      }
      if (!this.#discard()) return undefined;
      if (channel.unreadBytes < OPTION_HEADER_BYTES) return undefined;
      const at = channel.readStart;
      const option = channel.inboxView.getUint32(at + 8);
      const length = channel.inboxView.getUint32(at + 12);
      if (!this.#headerIsSound(at, option)) return this.#hangUp();
      if (length > NBD_OPTION_BYTES_MAX) {
        if (option === OPTION.EXPORT_NAME || length > DISCARD_BYTES_MAX) return this.#hangUp();
        channel.readStart += OPTION_HEADER_BYTES;
        this.#discardBytes = length;
        this.#discardedOption = option;
        continue;
      }
      if (channel.unreadBytes < OPTION_HEADER_BYTES + length) return undefined;
      channel.readStart += OPTION_HEADER_BYTES + length;
      const data = channel.inbox.subarray(at + OPTION_HEADER_BYTES, at + OPTION_HEADER_BYTES + length);
      const outcome = this.#answer(option, data);
      if (outcome !== undefined) return outcome;
    }
    return undefined;
  }

  #takeClientFlags(): void {
    const channel = this.#channel;
    const flags = channel.inboxView.getUint32(channel.readStart);
    channel.readStart += 4;
    this.#clientFlags = flags;
    const known = HANDSHAKE_FLAGS.FIXED_NEWSTYLE | HANDSHAKE_FLAGS.NO_ZEROES;
    if ((flags & ~known) !== 0) this.#hangUp();
  }

  /** A client that does not speak fixed newstyle may only name its export. */
  #headerIsSound(at: number, option: number): boolean {
    const view = this.#channel.inboxView;
    if (view.getUint32(at) !== OPTION_MAGIC_HIGH || view.getUint32(at + 4) !== OPTION_MAGIC_LOW) return false;
    return (this.#clientFlags! & HANDSHAKE_FLAGS.FIXED_NEWSTYLE) !== 0 || option === OPTION.EXPORT_NAME;
  }

  /** Throws away what is left of an oversized option; true when nothing of it is left. */
  #discard(): boolean {
    if (this.#discardBytes === 0) return true;
    const gone = Math.min(this.#discardBytes, this.#channel.unreadBytes);
    this.#channel.readStart += gone;
    this.#discardBytes -= gone;
    if (this.#discardBytes > 0) return false;
    this.#refuse(this.#discardedOption, REPLY.ERR_TOO_BIG, `option data is longer than ${NBD_OPTION_BYTES_MAX} bytes`);
    return true;
  }

  #answer(option: number, data: Buffer): Negotiated | undefined {
    try {
      return this.#dispatch(option, new OptionData(data));
    } catch (error) {
      if (!(error instanceof InvalidOption)) throw error;
      if (option === OPTION.EXPORT_NAME) return this.#hangUp();
      this.#refuse(option, error.reply, error.message);
      return undefined;
    }
  }

  #dispatch(option: number, data: OptionData): Negotiated | undefined {
    switch (option) {
      case OPTION.EXPORT_NAME:
        return this.#exportName(data);
      case OPTION.ABORT:
        this.#acknowledge(option);
        this.#over = true;
        this.#channel.finish();
        return undefined;
      case OPTION.LIST:
        this.#list(data);
        return undefined;
      case OPTION.STARTTLS:
        this.#startTls(data);
        return undefined;
      case OPTION.INFO:
      case OPTION.GO:
        return this.#info(option, data);
      case OPTION.STRUCTURED_REPLY:
        data.end();
        this.#structured = true;
        this.#acknowledge(option);
        return undefined;
      case OPTION.LIST_META_CONTEXT:
      case OPTION.SET_META_CONTEXT:
        this.#metaContext(option, data);
        return undefined;
      default:
        this.#refuse(option, REPLY.ERR_UNSUP, "option is not supported");
        return undefined;
    }
  }

  #exportName(data: OptionData): Negotiated | undefined {
    const requested = data.rest(STRING_BYTES_MAX);
    const opened = this.#openQuietly(requested);
    if (opened === undefined) return this.#hangUp();
    const { target } = opened;
    const flags = transmissionFlagsOf({ readOnly: target.readOnly, structured: this.#structured });
    const zeroes = (this.#clientFlags! & HANDSHAKE_FLAGS.NO_ZEROES) === 0;
    this.#say(exportNameReply(target.sizeBytes, flags, zeroes ? { padding: "zeroes" } : { padding: "none" }));
    return this.#conclude(requested, opened);
  }

  /** EXPORT_NAME has no way to say why not: the connection ends. */
  #openQuietly(name: string): Opened {
    try {
      return this.#exports.open(name);
    } catch (error) {
      if (error instanceof AssertionError) throw error;
      return undefined;
    }
  }

  #list(data: OptionData): void {
    data.end();
    for (const name of this.#exports.names()) this.#say(optionReply(OPTION.LIST, REPLY.SERVER, serverReply(name)));
    this.#acknowledge(OPTION.LIST);
  }

  #startTls(data: OptionData): void {
    data.end();
    this.#refuse(OPTION.STARTTLS, REPLY.ERR_POLICY, "TLS is not configured on this server");
  }

  #info(option: number, data: OptionData): Negotiated | undefined {
    const requested = data.string();
    const wanted = new Set<number>();
    for (let left = data.uint16(); left > 0; left--) wanted.add(data.uint16());
    data.end();
    const opened = this.#open(option, requested);
    if (opened === undefined) return undefined;
    const { name, target } = opened;
    const flags = transmissionFlagsOf({ readOnly: target.readOnly, structured: this.#structured });
    const say = (info: Buffer) => this.#say(optionReply(option, REPLY.INFO, info));
    say(infoExport(target.sizeBytes, flags));
    if (wanted.has(INFO.NAME)) say(infoText(INFO.NAME, name));
    if (wanted.has(INFO.DESCRIPTION)) say(infoText(INFO.DESCRIPTION, `Tidemark volume ${name}`));
    say(infoBlockSize(BLOCK_SIZES));
    this.#acknowledge(option);
    return option === OPTION.GO ? this.#conclude(requested, opened) : undefined;
  }

  /** Opens an export, or answers the option with the reason why it cannot be had. */
  #open(option: number, name: string): Opened {
    try {
      const opened = this.#exports.open(name);
      if (opened === undefined) this.#refuse(option, REPLY.ERR_UNKNOWN, `export "${name}" does not exist`);
      return opened;
    } catch (error) {
      if (error instanceof AssertionError) throw error;
      const { code, message } = asTidemarkError(error);
      this.#refuse(option, code === "STOPPING" ? REPLY.ERR_SHUTDOWN : REPLY.ERR_POLICY, message);
      return undefined;
    }
  }

  #conclude(requested: string, { name, target }: NonNullable<Opened>): Negotiated {
    this.#over = true;
    const contexts = this.#selection?.exportName === requested ? this.#selection.contexts : [];
    return { exportName: name, target, structured: this.#structured, contexts };
  }

  #metaContext(option: number, data: OptionData): void {
    const set = option === OPTION.SET_META_CONTEXT;
    if (set) this.#selection = undefined;
    if (!this.#structured) throw new InvalidOption("negotiate structured replies first");
    const exportName = data.string();
    const queries = readQueries(data);
    const opened = this.#open(option, exportName);
    if (opened === undefined) return;
    const all = contextsOf(opened.target);
    const matching = queries.length === 0 && !set ? all : matchContexts(all, queries);
    if (set) this.#select(exportName, matching);
    const contexts = set ? this.#selection!.contexts : matching.map((context) => ({ ...context, id: 0 }));
    for (const context of contexts) this.#say(optionReply(option, REPLY.META_CONTEXT, metaContextReply(context)));
    this.#acknowledge(option);
  }

  #select(exportName: string, matching: readonly MetaContext[]): void {
    if (matching.length > CONTEXTS_MAX) {
      throw new InvalidOption(`more than ${CONTEXTS_MAX} contexts selected`, REPLY.ERR_TOO_BIG);
    }
    this.#selection = { exportName, contexts: matching.map((context, index) => ({ ...context, id: index + 1 })) };
  }

  #acknowledge(option: number): void {
    this.#say(optionReply(option, REPLY.ACK));
  }

  #refuse(option: number, reply: number, message: string): void {
    this.#say(optionReply(option, reply, Buffer.from(message).subarray(0, STRING_BYTES_MAX)));
  }

  #say(message: Buffer): void {
    this.#channel.reserve(message.length).append(message);
  }

  /** What was answered before still goes out: the client may have sent several options at once. */
  #hangUp(): undefined {
    this.#over = true;
    this.#channel.send();
    this.#channel.abort();
    return undefined;
  }
}

function readQueries(data: OptionData): string[] {
  const count = data.uint32();
  if (count > CONTEXT_QUERIES_MAX) throw new InvalidOption("too many queries", REPLY.ERR_TOO_BIG);
  const queries: string[] = [];
  for (let index = 0; index < count; index++) {
    const query = data.string();
    if (!isQuery(query)) throw new InvalidOption(`"${query}" has no namespace`);
    queries.push(query);
  }
  data.end();
  return queries;
}
