/**
 * Damage to a row of bytes, whatever they mean. Each kind is a plain record, so that a case can be kept, replayed and
 * made smaller; `applyDamage` never changes its input.
 */
import type { Chance } from "./chance.ts";

export type ByteDamage =
  | { readonly kind: "flip"; readonly at: number; readonly mask: number }
  | { readonly kind: "set"; readonly at: number; readonly hex: string }
  | { readonly kind: "zero"; readonly at: number; readonly length: number }
  | { readonly kind: "insert"; readonly at: number; readonly hex: string }
  | { readonly kind: "remove"; readonly at: number; readonly length: number }
  | { readonly kind: "repeat"; readonly at: number; readonly length: number }
  | { readonly kind: "move"; readonly at: number; readonly length: number; readonly to: number }
  | { readonly kind: "truncate"; readonly at: number }
  | { readonly kind: "extend"; readonly length: number; readonly byte: number };

const EXTEND_BYTES_MAX = 16_384;

export function applyDamage(bytes: Uint8Array, damage: ByteDamage): Buffer {
  const from = Buffer.from(bytes);
  switch (damage.kind) {
    case "flip":
      if (damage.at < from.length) from[damage.at] = (from[damage.at] as number) ^ damage.mask;
      return from;
    case "set": {
      const value = Buffer.from(damage.hex, "hex");
      value.copy(from, Math.min(damage.at, from.length));
      return from;
    }
    case "zero":
      return damage.at < from.length ? from.fill(0, damage.at, Math.min(from.length, damage.at + damage.length)) : from;
    case "insert":
      return Buffer.concat([from.subarray(0, damage.at), Buffer.from(damage.hex, "hex"), from.subarray(damage.at)]);
    case "remove":
      return Buffer.concat([from.subarray(0, damage.at), from.subarray(damage.at + damage.length)]);
    case "repeat": {
      const end = damage.at + damage.length;
      return Buffer.concat([from.subarray(0, end), from.subarray(damage.at, end), from.subarray(end)]);
    }
    case "move": {
      const piece = Buffer.from(from.subarray(damage.at, damage.at + damage.length));
      piece.copy(from, Math.min(damage.to, from.length));
      return from;
    }
    case "truncate":
      return from.subarray(0, damage.at);
    case "extend":
      return Buffer.concat([from, Buffer.alloc(damage.length, damage.byte)]);
  }
}

export function applyAll(bytes: Uint8Array, damages: readonly ByteDamage[]): Buffer {
  return damages.reduce<Buffer>(applyDamage, Buffer.from(bytes));
}

/** Damage to `length` bytes; places on a grid of `grain` are preferred, because that is where fields and pages begin. */
export function anyByteDamage(chance: Chance, length: number, grain = 4): ByteDamage {
  const place = () => {
    const at = chance.below(Math.max(length, 1));
    return chance.odds(50) ? at - (at % chance.pick([grain, 512, 4096])) : at;
  };
  const span = () => chance.pick([1, 2, 4, 8, 24, 40, 64, 512, 4096]);
  const kind = chance.weighted({
    flip: 30,
    set: 20,
    zero: 10,
    insert: 8,
    remove: 8,
    repeat: 6,
    move: 8,
    truncate: 8,
    extend: 4,
  });
  switch (kind) {
    case "flip":
      return { kind, at: place(), mask: 1 << chance.below(8) };
    case "set": {
      const width = chance.pick([1, 2, 4, 8] as const);
      const bytes = Buffer.alloc(8);
      if (chance.odds(50)) bytes.writeBigUInt64LE(chance.boundary(width * 8));
      else bytes.writeBigUInt64BE(chance.boundary(width * 8) << BigInt(64 - width * 8));
      return { kind, at: place(), hex: bytes.subarray(0, width).toString("hex") };
    }
    case "zero":
    case "remove":
    case "repeat":
      return { kind, at: place(), length: span() };
    case "insert":
      return { kind, at: place(), hex: chance.bytes(chance.between(1, 16)).toString("hex") };
    case "move":
      return { kind, at: place(), length: span(), to: place() };
    case "truncate":
      return { kind, at: place() };
    case "extend":
      return { kind, length: chance.between(1, EXTEND_BYTES_MAX), byte: chance.pick([0, 0xff, 0x54]) };
  }
}
