/** The API beside a bare grpc-js server: the same client, messages of the same size, each server in its own process. */
import { fileURLToPath } from "node:url";
import { CopyKind, CopyServiceClient, GetCopyResponse } from "../src/gen/tidemark/v1/copy.ts";
import { DataServiceClient } from "../src/gen/tidemark/v1/data.ts";
import { GetVolumeResponse, VolumeServiceClient } from "../src/gen/tidemark/v1/volume.ts";
import { Box, call, connect } from "./box.ts";
import { denseFile } from "./files.ts";
import { type BenchContext, inTurn, OURS, rowOf } from "./series.ts";
import { GiB, MiB } from "./sizes.ts";
import type { Workspace } from "./workspace.ts";

const BENCH = "rpc";
const BAR = 0.7;
const OUTSTANDING = 64;
const SECONDS = 2;

export async function rpc({ options, work, report }: BenchContext): Promise<void> {
  const sizeBytes = Math.min(options.sizeBytes, GiB);
  const box = await Box.start(work);
  const path = work.path("source.img");
  await denseFile(path, sizeBytes);
  const name = await box.register(path);
  const destination = await box.create(work.path("destination.img"), sizeBytes);
  const started = await box.timed(
    async () => (await box.start([{ source: name, destination }], CopyKind.QUICKOPC))[0]!,
  );
  const id = started.copy.id;
  const wanted = (of: string) => of.includes(options.case);

  const getVolume = (client: VolumeServiceClient) => () => call(client, client.getVolume, { name });
  const getCopy = (client: CopyServiceClient) => () => call(client, client.getCopy, { id });
  const form = { bench: BENCH, bar: BAR, higherIsBetter: true };
  if (wanted("GetVolume, 64 outstanding")) {
    const answer = GetVolumeResponse.encode(await getVolume(box.volumes)()).finish();
    const bare = connect(VolumeServiceClient, await bareServer(work, "volume", answer, sizeBytes));
    const contestants = { [OURS]: rate(getVolume(box.volumes)), "bare grpc-js": rate(getVolume(bare)) };
    const series = await inTurn(contestants, options.runs);
    report(rowOf({ ...form, case: "GetVolume, 64 outstanding", unit: "calls/s" }, series));
  }
  if (wanted("GetCopy, 64 outstanding")) {
    const answer = GetCopyResponse.encode(await getCopy(box.copies)()).finish();
    const bare = connect(CopyServiceClient, await bareServer(work, "copy", answer, sizeBytes));
    const contestants = { [OURS]: rate(getCopy(box.copies)), "bare grpc-js": rate(getCopy(bare)) };
    const series = await inTurn(contestants, options.runs);
    report(rowOf({ ...form, case: "GetCopy, 64 outstanding", unit: "calls/s" }, series));
  }
  if (wanted("ReadBlocks stream")) {
    const bare = connect(DataServiceClient, await bareServer(work, "data", Buffer.alloc(0), sizeBytes));
    const contestants = {
      [OURS]: () => stream(box.data, name, sizeBytes),
      "bare grpc-js": () => stream(bare, name, sizeBytes),
    };
    const series = await inTurn(contestants, options.runs);
    report(rowOf({ ...form, case: "ReadBlocks stream", unit: "GB/s" }, series));
  }
}

/** Calls a second with 64 outstanding. */
function rate(once: () => Promise<unknown>): () => Promise<number> {
  return async () => {
    const begin = performance.now();
    const end = begin + SECONDS * 1000;
    let calls = 0;
    const caller = async () => {
      for (; performance.now() < end; calls++) await once();
    };
    await Promise.all(Array.from({ length: OUTSTANDING }, caller));
    return calls / ((performance.now() - begin) / 1000);
  };
}

async function stream(client: DataServiceClient, name: string, sizeBytes: number): Promise<number> {
  const begin = performance.now();
  let received = 0;
  await new Promise<void>((resolve, reject) => {
    client
      .readBlocks({ name, offsetBytes: 0n, lengthBytes: 0n })
      .on("data", ({ data }: { data: Uint8Array }) => {
        received += data.length;
      })
      .once("end", resolve)
      .once("error", reject);
  });
  if (received !== sizeBytes) throw new Error(`the stream had ${received} bytes instead of ${sizeBytes}`);
  return received / ((performance.now() - begin) / 1000) / 1e9;
}

/** Its address. */
async function bareServer(work: Workspace, name: string, answer: Uint8Array, streamBytes: number): Promise<string> {
  const socket = work.path(`bare-${name}.sock`);
  const program = fileURLToPath(new URL("./bare-server.ts", import.meta.url));
  const hex = Buffer.from(answer).toString("hex");
  const args = [...process.execArgv, program, socket, hex, String(MiB), String(streamBytes)];
  const child = work.spawn(process.execPath, args, "pipe");
  await new Promise<void>((resolve, reject) => {
    child.stdout!.once("data", () => resolve());
    child.once("exit", () => reject(new Error("the bare server did not start")));
  });
  return `unix:${socket}`;
}
