/** fio as an NBD client. */
import type { ChildProcess } from "node:child_process";
import { run, type Workspace } from "./workspace.ts";

export interface Workload {
  readonly rw: "randread" | "randwrite" | "read" | "write" | "randrw";
  readonly depth: number;
  /** Of a request; 4k if absent. */
  readonly block?: string;
  /** Only the first bytes of the volume; all if absent. */
  readonly size?: string;
}

export interface FioResult {
  readonly iops: number;
  readonly bytesPerSecond: number;
  readonly p99Ms: number;
}

interface FioDirection {
  readonly iops: number;
  readonly bw_bytes: number;
  readonly clat_ns: { readonly percentile?: Readonly<Record<string, number>> };
}

function argumentsOf(uris: readonly string[], workload: Workload, seconds: number): string[] {
  const size = workload.size === undefined ? [] : [`--size=${workload.size}`];
  return [
    "--ioengine=nbd",
    `--rw=${workload.rw}`,
    `--bs=${workload.block ?? "4k"}`,
    `--iodepth=${workload.depth}`,
    ...size,
    "--time_based",
    `--runtime=${Math.round(seconds * 1000)}ms`,
    "--randrepeat=0",
    "--norandommap",
    ...uris.flatMap((uri, at) => [`--name=job${at}`, `--uri=${uri}`]),
  ];
}

/** One workload on one export. */
export async function fio(work: Workspace, uri: string, workload: Workload, seconds: number): Promise<FioResult> {
  const args = ["--output-format=json", `--aux-path=${work.directory}`, ...argumentsOf([uri], workload, seconds)];
  const text = await run("fio", args);
  const job = (JSON.parse(text.slice(text.indexOf("{"))) as { jobs: { read: FioDirection; write: FioDirection }[] })
    .jobs[0]!;
  const direction = workload.rw.endsWith("write") ? job.write : job.read;
  return {
    iops: direction.iops,
    bytesPerSecond: direction.bw_bytes,
    p99Ms: (direction.clat_ns.percentile?.["99.000000"] ?? Number.NaN) / 1e6,
  };
}

/** A workload that goes on until the workspace is closed or the process is stopped. */
export function fioLoad(work: Workspace, uris: readonly string[], workload: Workload): ChildProcess {
  return work.spawn("fio", [`--aux-path=${work.directory}`, ...argumentsOf(uris, workload, 600)]);
}
