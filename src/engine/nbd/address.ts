/**
 * Addresses of the front door: `unix:PATH`, `HOST:PORT`, `[IPV6]:PORT`, and their NBD URIs.
 *
 * Role: parsing, URIs, and binding with the two old problems of unix sockets: one left behind by a killed server is
 * removed, one that a living server answers on is not.
 * Specification: doc/uri.md of the NBD project.
 */
import { chmodSync, existsSync, lstatSync, unlinkSync } from "node:fs";
import { type AddressInfo, connect, type Server } from "node:net";
import { dirname } from "node:path";
import { TidemarkError } from "../../base/errors.ts";

export type Address =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number };

/** `sun_path` of Linux has 108 bytes, the last one 0. */
const UNIX_PATH_BYTES_MAX = 107;
const SOCKET_MODE = 0o660;
/** A killed server's socket is removed and bound again; more rounds mean that somebody else wants the same path. */
const BIND_ATTEMPTS_MAX = 2;

/** Throws INVALID_ARGUMENT. */
export function parseAddress(text: string): Address {
  if (text.startsWith("unix:")) return { kind: "unix", path: checkedPath(text.slice("unix:".length)) };
  const match = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65_535) {
    throw new TidemarkError("INVALID_ARGUMENT", {
      message: `"${text}" is not an NBD address`,
      hint: "Use unix:PATH, HOST:PORT or [IPV6]:PORT; port 0 picks a free one.",
    });
  }
  return { kind: "tcp", host, port };
}

function checkedPath(path: string): string {
  const length = Buffer.byteLength(path);
  if (length > 0 && length <= UNIX_PATH_BYTES_MAX && !path.includes("\0")) return path;
  throw new TidemarkError("INVALID_ARGUMENT", {
    message: `"${path}" cannot be the path of a unix socket`,
    hint: `Use a path of 1 to ${UNIX_PATH_BYTES_MAX} bytes.`,
  });
}

/** URI of the server without an export name. */
export function baseUri(address: Address): string {
  if (address.kind === "unix") return `nbd+unix:///?socket=${encodePath(address.path)}`;
  const host = address.host.includes(":") ? `[${address.host}]` : address.host;
  return `nbd://${host}:${address.port}`;
}

/** URI of one export of the server at `base`, a URI as `listen` returns it. */
export function exportUri(base: string, name: string): string {
  const path = `/${encodeURIComponent(name)}`;
  const unix = "nbd+unix:///";
  return base.startsWith(unix) ? `nbd+unix://${path}${base.slice(unix.length)}` : `${base.replace(/\/$/, "")}${path}`;
}

function encodePath(path: string): string {
  return path.split("/").map(encodeURIComponent).join("/");
}

/**
 * Starts listening; returns the address in use. PATH_HELD: another server answers there. PATH_EXISTS: the path is not a
 * socket. PATH_NOT_FOUND: its directory does not exist. PERMISSION_DENIED, INVALID_ARGUMENT: the system refuses it.
 */
export async function bind(server: Server, address: Address): Promise<Address> {
  for (let attempt = 1; ; attempt++) {
    try {
      await listenOnce(server, address);
      break;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      const stale = code === "EADDRINUSE" && address.kind === "unix" && (await isStale(address.path));
      if (!stale || attempt >= BIND_ATTEMPTS_MAX) {
        server.close();
        throw bindError(error, address);
      }
      unlinkSync(address.path);
    }
  }
  if (address.kind === "unix") return address;
  return { ...address, port: (server.address() as AddressInfo).port };
}

function listenOnce(server: Server, address: Address): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (error?: Error) => {
      server.off("error", settle);
      server.off("listening", settle);
      if (error) reject(error);
      else resolve();
    };
    server.once("error", settle);
    server.once("listening", settle);
    if (address.kind === "tcp") server.listen({ host: address.host, port: address.port });
    else {
      server.listen({ path: address.path });
      // Bound within the call above, so nobody can connect before the mode is right.
      if (server.listening) chmodSync(address.path, SOCKET_MODE);
    }
  });
}

/** True when the socket's owner is gone. A path that is not a socket is never stale. */
async function isStale(path: string): Promise<boolean> {
  if (!lstatSync(path).isSocket()) return false;
  return new Promise((resolve) => {
    const probe = connect({ path });
    probe.once("connect", () => {
      probe.destroy();
      resolve(false);
    });
    probe.once("error", (error: NodeJS.ErrnoException) => resolve(error.code === "ECONNREFUSED"));
  });
}

function bindError(cause: unknown, address: Address): TidemarkError {
  const where = address.kind === "unix" ? address.path : `${address.host}:${address.port}`;
  const code = (cause as NodeJS.ErrnoException).code;
  if (code === "EADDRINUSE") {
    if (address.kind === "unix" && !lstatSync(address.path).isSocket()) {
      return new TidemarkError(
        "PATH_EXISTS",
        { message: `${where} exists and is not a socket`, hint: "Choose another path for the NBD socket." },
        { cause },
      );
    }
    return new TidemarkError(
      "PATH_HELD",
      { message: `another server listens on ${where}`, hint: "Stop it, or choose another address." },
      { cause },
    );
  }
  // Node reports EACCES for a directory that does not exist, too.
  if (address.kind === "unix" && !existsSync(dirname(address.path))) {
    return new TidemarkError(
      "PATH_NOT_FOUND",
      { message: `the directory of ${where} does not exist`, hint: "Create the directory first." },
      { cause },
    );
  }
  const denied = code === "EACCES" || code === "EPERM";
  return new TidemarkError(
    denied ? "PERMISSION_DENIED" : "INVALID_ARGUMENT",
    {
      message: `cannot listen on ${where}: ${cause instanceof Error ? cause.message : String(cause)}`,
      hint: denied ? "Choose an address this user may use." : "Check that the host is one of this machine.",
    },
    { cause },
  );
}
