/**
 * Protobuf messages as trees of fields, so that a message can be wrong in ways no generated encoder allows: fields twice, of an
 * unknown number, of another wire type, numbers beyond their type, text that is no UTF-8.
 *
 * Made along the descriptors that the server itself gives (reflection).
 */
import type { DescField, DescMessage } from "@bufbuild/protobuf";
import { ScalarType } from "@bufbuild/protobuf";
import type { Chance } from "./chance.ts";

export interface WireField {
  /** Field number. */
  readonly f: number;
  /** Wire type: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes. */
  readonly w: number;
  /** Wire types 0, 1 and 5: the number. */
  readonly v?: string;
  /** Wire type 2: text, bytes in hex, or a message; the first two as often as `times` says. */
  readonly s?: string;
  readonly h?: string;
  readonly m?: readonly WireField[];
  readonly times?: number;
}

/** `{dir}` in a text becomes the directory of the box. */
export function encodeFields(fields: readonly WireField[], directory: string): Buffer {
  return Buffer.concat(fields.map((field) => encodeField(field, directory)));
}

function encodeField(field: WireField, directory: string): Buffer {
  const tag = varint((BigInt(field.f) << 3n) | BigInt(field.w));
  const number = BigInt.asUintN(64, BigInt(field.v ?? 0));
  switch (field.w) {
    case 0:
      return Buffer.concat([tag, varint(number)]);
    case 1: {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64LE(number);
      return Buffer.concat([tag, bytes]);
    }
    case 5: {
      const bytes = Buffer.alloc(4);
      bytes.writeUInt32LE(Number(number & 0xffffffffn));
      return Buffer.concat([tag, bytes]);
    }
    case 2: {
      const once = field.m ? encodeFields(field.m, directory) : contentOf(field, directory);
      const bytes =
        field.times === undefined ? once : Buffer.alloc(once.length * field.times, once.length > 0 ? once : 0);
      return Buffer.concat([tag, varint(BigInt(bytes.length)), bytes]);
    }
    default:
      return tag;
  }
}

function contentOf(field: WireField, directory: string): Buffer {
  if (field.h !== undefined) return Buffer.from(field.h, "hex");
  return Buffer.from((field.s ?? "").replaceAll("{dir}", directory));
}

function varint(value: bigint): Buffer {
  const bytes: number[] = [];
  let left = value;
  do {
    bytes.push(Number(left & 0x7fn) | (left > 0x7fn ? 0x80 : 0));
    left >>= 7n;
  } while (left > 0n);
  return Buffer.from(bytes);
}

/** Texts by what their field is called; the names are those of the box that the door starts. */
const TEXTS: readonly (readonly [name: RegExp, values: readonly string[]])[] = [
  [
    /^path$/,
    [
      "{dir}/a.img",
      "{dir}/b.img",
      "{dir}/new1.img",
      "{dir}/new2.img",
      "{dir}/new3.img",
      "{dir}",
      "{dir}/",
      "{dir}/no/x",
      "{dir}/link",
      "{dir}/empty.img",
      "{dir}/odd.img",
      "/",
      "/dev/null",
      "/proc/self/mem",
      "relative.img",
      "",
      "{dir}/../x",
      "{dir}/nul\0.img",
      "{dir}/\u202e.img",
      "{dir}/data/db",
      "{dir}/data/state",
    ],
  ],
  [/^label$/, ["", "la", "lb", "lc", "g1d1", "x y", "-", "a/b", "\u00e4", "\0", "l".repeat(64), "l".repeat(65)]],
  [/^ids?$/, ["c1", "c2", "c3", "c9", "c0", "c01", "", "1", "c99999999999999999999", "C1", "c1 "]],
  [/^page_token$/, ["", "00000000", "abcdef0123", "Z2dk", "\u00ff", "00000000Zzk", "x".repeat(200)]],
  [/^request_id$/, ["", "", "", "r1", "r2", "r".repeat(64), "r".repeat(65), "\0", " "]],
  [
    /^(name|source|destination|volume|subject)$/,
    [
      "g1d1",
      "g1d2",
      "g1d3",
      "g1d5",
      "la",
      "lb",
      "g1d1p1",
      "g1d1p0",
      "g1d1p129",
      "g1d99",
      "g2d1",
      "g01d1",
      "G1D1",
      "",
      "*",
      "c1",
      "g1d18446744073709551616",
      "nobody",
    ],
  ],
];
const ANY_TEXT = ["", "a", "\0", "\ud7ff", "x".repeat(300), "%s%n", "{dir}", "__proto__", "constructor"];

/** A message of this type; `strange` fields come in as often as `percent` says. */
export function anyFields(chance: Chance, type: DescMessage, percent: number): WireField[] {
  const fields: WireField[] = [];
  for (const field of type.fields) {
    if (chance.odds(field.name === "request_id" ? 80 : 15)) continue;
    const count = field.fieldKind === "list" || field.fieldKind === "map" ? chance.pick([0, 1, 1, 2, 3, 20]) : 1;
    for (let left = count; left > 0; left--) fields.push(anyField(chance, field, percent));
  }
  if (chance.odds(percent)) fields.push(strangeField(chance));
  if (chance.odds(percent) && fields.length > 0) fields.push(chance.pick(fields));
  return fields;
}

function anyField(chance: Chance, field: DescField, percent: number): WireField {
  const f = field.number;
  if (chance.odds(percent)) return { ...strangeField(chance), f };
  if (field.message) return { f, w: 2, m: anyFields(chance, field.message, percent) };
  if (field.enum) return { f, w: 0, v: chance.odds(80) ? String(chance.below(5)) : String(chance.boundary(64)) };
  const scalar = field.fieldKind === "scalar" ? field.scalar : field.fieldKind === "list" ? field.scalar : undefined;
  switch (scalar) {
    case ScalarType.STRING:
      return textField(chance, field, percent);
    case ScalarType.BYTES:
      return {
        f,
        w: 2,
        h: chance.bytes(chance.pick([0, 1, 511, 512, 64])).toString("hex"),
        times: chance.pick([1, 1, 16, 2048]),
      };
    case ScalarType.BOOL:
      return { f, w: 0, v: chance.pick(["0", "1", "1", "2", "18446744073709551615"]) };
    default:
      return { f, w: 0, v: numberFor(chance, field) };
  }
}

function textField(chance: Chance, field: DescField, percent: number): WireField {
  const known = TEXTS.find(([name]) => name.test(field.name))?.[1] ?? ANY_TEXT;
  const f = field.number;
  if (!chance.odds(percent)) return { f, w: 2, s: chance.pick(known.slice(0, 8)) };
  if (chance.odds(10)) return { f, w: 2, s: "x", times: chance.pick([4096, 70_000, 1_000_000]) };
  if (chance.odds(10)) return { f, w: 2, h: chance.bytes(chance.between(1, 20)).toString("hex") };
  return { f, w: 2, s: chance.pick([...known, ...ANY_TEXT]) };
}

function numberFor(chance: Chance, field: DescField): string {
  if (/size_bytes/.test(field.name))
    return chance.pick([
      "1048576",
      "1048576",
      "0",
      "512",
      "1",
      "513",
      "2097152",
      "70368744177664",
      "70368744177665",
      "9223372036854775807",
      "9223372036854775808",
      "18446744073709551615",
    ]);
  if (/(offset|length)_bytes/.test(field.name))
    return chance.odds(60)
      ? chance.pick(["0", "512", "8192", "4096", "1048064", "1048576", "1"])
      : String(chance.boundary(64));
  if (/epoch|_id$/.test(field.name)) return chance.odds(60) ? String(chance.below(6)) : String(chance.boundary(64));
  if (/page_size|pace|lu/.test(field.name))
    return chance.odds(70) ? String(chance.below(20)) : String(chance.boundary(64));
  return String(chance.boundary(64));
}

function strangeField(chance: Chance): WireField {
  const f = chance.pick([1, 2, 3, 4, 7, 19_000, 536_870_911]);
  switch (chance.weighted({ number: 30, bytes: 30, fixed: 20, group: 20 })) {
    case "number":
      return { f, w: 0, v: String(chance.boundary(64)) };
    case "bytes":
      return { f, w: 2, h: chance.bytes(chance.below(12)).toString("hex") };
    case "fixed":
      return { f, w: chance.pick([1, 5]), v: String(chance.boundary(32)) };
    case "group":
      return { f, w: chance.pick([3, 4, 6, 7]) };
  }
}

/** The message with one of its fields changed, anywhere in it. */
export function changedFields(chance: Chance, type: DescMessage, fields: readonly WireField[]): WireField[] {
  const changed = [...fields];
  const at = chance.below(changed.length);
  const field = changed[at];
  switch (chance.weighted({ again: 40, remove: 10, repeat: 10, inner: 25, strange: 15 })) {
    case "again": {
      const desc = type.fields.length > 0 ? chance.pick(type.fields) : undefined;
      if (desc !== undefined) changed.push(anyField(chance, desc, 30));
      return changed;
    }
    case "remove":
      changed.splice(at, 1);
      return changed;
    case "repeat":
      if (field !== undefined) changed.splice(at, 0, field);
      return changed.slice(0, 60);
    case "inner": {
      const inner = type.fields.find(({ number }) => number === field?.f)?.message;
      if (field?.m !== undefined && inner !== undefined)
        changed[at] = { ...field, m: changedFields(chance, inner, field.m) };
      return changed;
    }
    case "strange":
      return [...changed, strangeField(chance)];
  }
}
