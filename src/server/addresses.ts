/**
 * Addresses the daemon may listen on: `unix:PATH`, or `HOST:PORT` on the loopback interface.
 *
 * Until TLS and identities exist, whatever leaves the machine is refused: the API can read and destroy every volume.
 */

import { chmod, lstat, unlink } from "node:fs/promises";
import { createConnection, isIPv4, isIPv6 } from "node:net";
import { TidemarkError } from "../base/errors.ts";
import { absolutePath } from "./absolute-path.ts";

export type ListenAddress =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number };

/** sun_path of Linux holds 108 bytes with its final zero. */
const SOCKET_PATH_BYTES_MAX = 107;

/** INVALID_ARGUMENT unless the text is an address that may be listened on; `option` is named in the message. */
export function parseListenAddress(text: string, option: string): ListenAddress {
  const refuse = (message: string, hint: string) =>
    new TidemarkError("INVALID_ARGUMENT", { message: `${option} ${text}: ${message}`, hint });
  if (text.startsWith("unix:") || text.startsWith("/")) {
    const given = text.replace(/^unix:/, "").replace(/^\/\/(?=\/)/, "");
    if (given === "") throw refuse("the path is missing", "use unix:PATH");
    const path = absolutePath(given, option);
    if (path.includes("\0")) throw refuse("the path has a zero byte", "use another path");
    if (Buffer.byteLength(path) > SOCKET_PATH_BYTES_MAX)
      throw refuse(
        `the path of a unix socket has at most ${SOCKET_PATH_BYTES_MAX} bytes`,
        `name a shorter one: ${option} unix:/run/tidemark.sock`,
      );
    return { kind: "unix", path };
  }
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65_535) throw refuse("this is no address", "use unix:PATH or 127.0.0.1:PORT");
  if (!isLoopback(host))
    throw refuse(
      "plain TCP is served on the loopback interface only",
      "use 127.0.0.1:PORT or unix:PATH, and a tunnel such as `ssh -L` from other machines",
    );
  return { kind: "tcp", host, port };
}

function isLoopback(host: string): boolean {
  if (host === "localhost") return true;
  if (isIPv4(host)) return host.startsWith("127.");
  return isIPv6(host) && host === "::1";
}

/** `unix:PATH` or `HOST:PORT`, as gRPC and EngineApi.listenNbd take it. */
export function addressText(address: ListenAddress): string {
  if (address.kind === "unix") return `unix:${address.path}`;
  return isIPv6(address.host) ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/** How long a socket is asked whether somebody answers. */
const PROBE_MS = 2000;

/**
 * Removes a socket that a killed daemon left behind, so that it can be bound again. INVALID_ARGUMENT when somebody
 * answers there, or when it is no socket.
 */
export async function removeStaleSocket(path: string): Promise<void> {
  const facts = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (facts === undefined) return;
  if (!facts.isSocket())
    throw new TidemarkError("INVALID_ARGUMENT", {
      message: `${path} exists and is no socket`,
      hint: "name another path, or move it away",
      metadata: { path },
    });
  if ((await probe(path)) === "answers")
    throw new TidemarkError("INVALID_ARGUMENT", {
      message: `another program listens on ${path}`,
      hint: "stop it, or name another path",
      metadata: { path },
    });
  await unlink(path);
}

function probe(path: string): Promise<"answers" | "silent"> {
  return new Promise((settle, reject) => {
    const socket = createConnection({ path });
    const end = (result: "answers" | "silent") => {
      socket.destroy();
      settle(result);
    };
    socket.setTimeout(PROBE_MS, () => end("answers"));
    socket.once("connect", () => end("answers"));
    socket.once("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "ECONNREFUSED" || error.code === "ENOENT") end("silent");
      else reject(error);
    });
  });
}

/** Lets the group in: 0660. The directory decides who gets that far. */
export function openToGroup(path: string): Promise<void> {
  return chmod(path, 0o660);
}
