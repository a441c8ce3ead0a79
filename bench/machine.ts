/** What the figures were measured on. */
import { cpus, release, totalmem } from "node:os";
import { GiB } from "./sizes.ts";
import { hasTool, run } from "./workspace.ts";

const TOOLS = ["qemu-nbd", "qemu-img", "nbdkit", "nbdcopy", "fio", "rsync", "cp"];

/** Lines for people. */
export async function describeMachine(directory: string): Promise<string[]> {
  const versions = await Promise.all(TOOLS.filter(hasTool).map(versionOf));
  const [system, source] = await fileSystemOf(directory);
  return [
    `processor    ${cpus()[0]?.model ?? "unknown"}, ${cpus().length} cores`,
    `memory       ${(totalmem() / GiB).toFixed(1)} GiB`,
    `kernel       Linux ${release()}`,
    `file system  ${system} on ${source}`,
    `node         ${process.version}`,
    `tools        ${versions.join(", ")}`,
  ];
}

async function versionOf(tool: string): Promise<string> {
  const text = await run(tool, ["--version"]).catch(() => "");
  return `${tool} ${/\d+\.\d+[\d.]*/.exec(text)?.[0] ?? "?"}`;
}

async function fileSystemOf(directory: string): Promise<[string, string]> {
  const lines = (await run("df", ["--output=fstype,source", directory])).trim().split("\n");
  const [system, source] = (lines[1] ?? "").trim().split(/\s+/);
  return [system ?? "unknown", source ?? "unknown"];
}
