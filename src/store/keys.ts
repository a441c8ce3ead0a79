/**
 * Keys: `!<table>!<key>`, the form that `level` gives sublevels, so that ordinary tools show tables as sublevels.
 *
 * Numbers are padded with zeros to 16 digits (2^53 has 16), so that their order as text is their order as numbers.
 */
import { assert } from "../base/assert.ts";

const NUMBER_DIGITS = 16;

/** Range that holds every key of a table, bounds excluded: `"` follows `!`. */
export function tableRange(table: string): { readonly after: string; readonly before: string } {
  return { after: `!${table}!`, before: `!${table}"` };
}

/** Range that holds every key of every table. */
export const EVERY_KEY = { after: "!", before: "\uffff" };

export function storeKey(table: string, key: string | number): string {
  return `!${table}!${typeof key === "number" ? paddedNumber(key) : key}`;
}

/** 16 decimal digits. */
export function paddedNumber(value: number): string {
  assert(Number.isSafeInteger(value) && value >= 0, "a numbered key is an exact, positive number");
  return String(value).padStart(NUMBER_DIGITS, "0");
}
