/**
 * A case for the NBD door: what several clients do, step by step, as plain records.
 *
 * Every message is described by its fields, so that a field can be wrong while the rest is right; damage to its bytes comes on
 * top. `bytesOf` turns a message into what goes over the wire.
 */
import { applyAll, type ByteDamage } from "./byte-damage.ts";

export type NbdMessage =
  | { readonly is: "flags"; readonly value: number; readonly damage?: readonly ByteDamage[] }
  | {
      readonly is: "option";
      readonly code: number;
      /** Data in pieces, so that lengths inside it can be wrong on their own. */
      readonly data: string;
      /** Claimed length, when it is not that of the data. */
      readonly length?: number;
      readonly magic?: string;
      readonly damage?: readonly ByteDamage[];
    }
  | {
      readonly is: "request";
      readonly command: number;
      readonly flags: number;
      readonly cookie: string;
      readonly offset: string;
      readonly length: number;
      /** Bytes of payload that are sent. */
      readonly payload: number;
      readonly magic?: number;
      readonly damage?: readonly ByteDamage[];
    }
  | { readonly is: "raw"; readonly hex: string };

export type NbdStep =
  | { readonly do: "open"; readonly client: number }
  /** `split`: so many bytes first, the rest after some turns. `cut`: only so many bytes at all. `times`: again and again. */
  | {
      readonly do: "send";
      readonly client: number;
      readonly message: NbdMessage;
      readonly split?: number;
      readonly cut?: number;
      readonly times?: number;
    }
  /** The client closes its sending side, or vanishes. */
  | { readonly do: "end" | "vanish"; readonly client: number }
  /** The client stops taking what the server sends, or goes on. */
  | { readonly do: "stall" | "take"; readonly client: number }
  | { readonly do: "turns"; readonly count: number }
  | { readonly do: "clock"; readonly ms: number }
  /** Operations that the slow device holds go on. */
  | { readonly do: "release" }
  /** So many further clients connect and say nothing. */
  | { readonly do: "crowd"; readonly count: number };

export interface NbdScript {
  readonly steps: readonly NbdStep[];
}

const PAYLOAD_BYTE = 0x5a;

export function bytesOf(message: NbdMessage): Buffer {
  if (message.is === "raw") return Buffer.from(message.hex, "hex");
  const plain =
    message.is === "flags" ? flagsOf(message.value) : message.is === "option" ? optionOf(message) : requestOf(message);
  return applyAll(plain, message.damage ?? []);
}

function flagsOf(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function optionOf(option: Extract<NbdMessage, { is: "option" }>): Buffer {
  const data = Buffer.from(option.data, "hex");
  const head = Buffer.alloc(16);
  head.write(option.magic ?? "IHAVEOPT", 0, 8, "latin1");
  head.writeUInt32BE(option.code, 8);
  head.writeUInt32BE(option.length ?? data.length, 12);
  return Buffer.concat([head, data]);
}

function requestOf(request: Extract<NbdMessage, { is: "request" }>): Buffer {
  const bytes = Buffer.alloc(28 + request.payload, PAYLOAD_BYTE);
  bytes.writeUInt32BE(request.magic ?? 0x25609513, 0);
  bytes.writeUInt16BE(request.flags, 4);
  bytes.writeUInt16BE(request.command, 6);
  bytes.writeBigUInt64BE(BigInt(request.cookie), 8);
  bytes.writeBigUInt64BE(BigInt(request.offset), 16);
  bytes.writeUInt32BE(request.length, 24);
  return bytes;
}

export function printScript(script: NbdScript): string {
  return `${script.steps.map((step) => JSON.stringify(step)).join("\n")}\n`;
}

export function parseScript(text: string): NbdScript {
  const lines = text.split("\n").filter((line) => line.trim() !== "" && !line.startsWith("#"));
  return { steps: lines.map((line) => JSON.parse(line) as NbdStep) };
}
