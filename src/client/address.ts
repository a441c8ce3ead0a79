/** Addresses of a server as users write them: `unix:PATH`, a plain absolute path, or `HOST:PORT`. */
import { resolve } from "node:path";
import { usageError } from "./failure.ts";

/** Where `tidemark serve` listens and where clients look when nobody says otherwise. */
export const DEFAULT_ADDRESS = "unix:/run/tidemark/api.sock";
/** sun_path of Linux holds 108 bytes with its final zero. */
const SOCKET_PATH_BYTES_MAX = 107;

/** The address in its one form. Throws a usage error for anything that cannot be one. */
export function parseAddress(text: string): string {
  if (text.startsWith("/")) return parseAddress(`unix:${text}`);
  if (text.startsWith("unix:")) {
    const given = text.slice("unix:".length).replace(/^\/\/(?=\/)/, "");
    if (given === "") throw usageError("the address `unix:` has no path", "unix:/run/tidemark/api.sock");
    const path = resolve(given);
    if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX) {
      throw usageError(`the socket path ${path} is longer than ${SOCKET_PATH_BYTES_MAX} bytes`, "a shorter path");
    }
    return `unix:${path}`;
  }
  const port = /^(?:\[[0-9a-fA-F:.%]+\]|[^:/\s]+):(\d{1,5})$/.exec(text)?.[1];
  if (port === undefined || Number(port) < 1 || Number(port) > 65_535) {
    throw usageError(`\`${text}\` is not an address`, "unix:PATH or HOST:PORT");
  }
  return text;
}

/** Path of a unix socket address; `undefined` for TCP. */
export function socketPathOf(address: string): string | undefined {
  return address.startsWith("unix:") ? address.slice("unix:".length) : undefined;
}
