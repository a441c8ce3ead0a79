/**
 * Pages of lists.
 *
 * A token says behind which key the next page begins: rows that exist throughout are seen once, whatever comes and goes
 * between two pages. It belongs to one list and one filter, which its checksum covers; anything else is
 * PAGE_TOKEN_INVALID.
 */
import { crc32 } from "node:zlib";
import { TidemarkError } from "../base/errors.ts";
import { PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX } from "../base/limits.ts";

export interface PageRequest {
  /** 0 means PAGE_SIZE_DEFAULT. */
  readonly pageSize: number;
  /** Empty for the first page. */
  readonly pageToken: string;
}

export interface Page<T> {
  readonly items: readonly T[];
  /** Empty on the last page. */
  readonly nextPageToken: string;
}

/** A list: `name` and `filter` tie tokens to it, `items` are in the order of `compare`. */
export interface Listing<T> {
  readonly name: string;
  readonly filter: string;
  readonly items: readonly T[];
  readonly keyOf: (item: T) => string;
  /** Negative when the item comes before the key, 0 when it has it. */
  readonly compare: (item: T, key: string) => number;
}

/** The asked page. INVALID_ARGUMENT, PAGE_TOKEN_INVALID. */
export function pageOf<T>(listing: Listing<T>, request: PageRequest): Page<T> {
  const limit = pageLimit(request.pageSize);
  const after = request.pageToken === "" ? undefined : openToken(listing, request.pageToken);
  let first = 0;
  if (after !== undefined) {
    let end = listing.items.length;
    while (first < end) {
      const middle = (first + end) >>> 1;
      if (listing.compare(listing.items[middle] as T, after) <= 0) first = middle + 1;
      else end = middle;
    }
  }
  const items = listing.items.slice(first, first + limit);
  const last = items.at(-1);
  const more = last !== undefined && first + limit < listing.items.length;
  return { items, nextPageToken: more ? makeToken(listing, listing.keyOf(last)) : "" };
}

function pageLimit(pageSize: number): number {
  if (pageSize > PAGE_SIZE_MAX)
    throw new TidemarkError("INVALID_ARGUMENT", {
      message: `a page has at most ${PAGE_SIZE_MAX} entries, ${pageSize} were asked for`,
      hint: `ask for ${PAGE_SIZE_MAX} or fewer and follow next_page_token`,
      field: "page_size",
    });
  return pageSize === 0 ? PAGE_SIZE_DEFAULT : pageSize;
}

function tokenSum(list: { name: string; filter: string }, key: string): string {
  return crc32(JSON.stringify([list.name, list.filter, key]))
    .toString(16)
    .padStart(8, "0");
}

function makeToken(list: { name: string; filter: string }, key: string): string {
  return `${tokenSum(list, key)}${Buffer.from(key).toString("base64url")}`;
}

function openToken(list: { name: string; filter: string }, token: string): string {
  const key = Buffer.from(token.slice(8), "base64url").toString();
  if (token !== makeToken(list, key))
    throw new TidemarkError("PAGE_TOKEN_INVALID", {
      message: "the page token does not belong to this list",
      hint: "use next_page_token of the previous answer with the same filter, or begin without a token",
      field: "page_token",
    });
  return key;
}
