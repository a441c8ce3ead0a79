/**
 * The kernel's own NBD client: /dev/nbdN, set up by nbd-client.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename } from "node:path";
import { Failure } from "../failure.ts";
import { runTool, waitUntil } from "./process.ts";

const RELEASE_TIMEOUT_MS = 10_000;

/** True when the kernel has the nbd module loaded. */
export function hasKernelNbd(): boolean {
  return existsSync("/dev/nbd0");
}

/** Connects the first free /dev/nbdN to `uri` and returns its path. */
export async function attachKernelNbd(uri: string, access: { readOnly: boolean }): Promise<string> {
  const device = freeDevice();
  const readOnly = access.readOnly ? ["-readonly"] : [];
  await runTool("nbd-client", [...nbdClientArguments(uri, device), "-block-size", "512", ...readOnly]);
  return device;
}

export async function detachKernelNbd(device: string): Promise<void> {
  await runTool("nbd-client", ["-d", device]);
  if (await waitUntil(() => !isConnected(basename(device)), RELEASE_TIMEOUT_MS)) return;
  throw new Failure("FAILED_PRECONDITION", `${device} is still connected`, {
    reason: "DEVICE_BUSY",
    hint: `fuser -v ${device}`,
  });
}

export function isKernelNbdConnected(device: string): boolean {
  return isConnected(basename(device));
}

/** Server, device and export name as nbd-client takes them. */
export function nbdClientArguments(uri: string, device: string): string[] {
  const url = new URL(uri);
  const name = decodeURIComponent(url.pathname.replace(/^\//, ""));
  if (url.protocol === "nbd+unix:") return ["-unix", url.searchParams.get("socket") ?? "", device, "-name", name];
  if (url.protocol === "nbd:")
    return [url.hostname.replace(/^\[|\]$/g, ""), url.port || "10809", device, "-name", name];
  throw new Failure("UNIMPLEMENTED", `nbd-client cannot use ${uri}`, {
    reason: "URI_NOT_SUPPORTED",
    hint: "nbdfuse: apt-get install libnbd-bin",
  });
}

function freeDevice(): string {
  const names = readdirSync("/sys/block").filter((name) => /^nbd\d+$/.test(name));
  names.sort((left, right) => Number(left.slice(3)) - Number(right.slice(3)));
  const free = names.find((name) => !isConnected(name));
  if (free !== undefined) return `/dev/${free}`;
  throw new Failure("RESOURCE_EXHAUSTED", "all /dev/nbd devices are in use", {
    reason: "NO_FREE_DEVICE",
    hint: "detach a volume, or load the module with a larger nbds_max",
  });
}

/** A connected device has a size; `pid` is there only while an old-style client runs. */
function isConnected(name: string): boolean {
  if (existsSync(`/sys/block/${name}/pid`)) return true;
  return readFileSync(`/sys/block/${name}/size`, "utf8").trim() !== "0";
}
