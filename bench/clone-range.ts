/** Two file volumes on one xfs or btrfs: the copy shares extents. Peers copy the bytes. Needs root, for the loop mounts. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Box } from "./box.ts";
import { datasync, denseFile } from "./files.ts";
import { type BenchContext, inTurn, OURS, rowOf } from "./series.ts";
import { GiB } from "./sizes.ts";
import { hasTool, run } from "./workspace.ts";

const BAR = 20;
const VOLUME_BYTES_MAX = GiB;
const MAKE: Readonly<Record<string, readonly string[]>> = {
  xfs: ["mkfs.xfs", "-q", "-m", "reflink=1"],
  btrfs: ["mkfs.btrfs", "-q"],
};

export async function cloneRange(context: BenchContext): Promise<void> {
  for (const [system, [program, ...args]] of Object.entries(MAKE)) {
    const name = `cloneRange ${system}`;
    if (!name.includes(context.options.case)) continue;
    if (!hasTool(program!) || process.getuid?.() !== 0) {
      context.note(`${name}: needs ${program} and root, left out`);
      continue;
    }
    await contest(context, name, system, program!, args);
  }
}

async function contest(
  { options, work, report }: BenchContext,
  name: string,
  system: string,
  program: string,
  args: readonly string[],
): Promise<void> {
  const sizeBytes = Math.min(options.sizeBytes, VOLUME_BYTES_MAX);
  const disk = work.path(`${system}.disk`);
  const mount = work.path(system);
  await mkdir(mount);
  await run("truncate", ["-s", String(6 * GiB), disk]);
  await run(program, [...args, disk]);
  await run("mount", ["-o", "loop", disk, mount]);
  work.defer(() => run("umount", [mount]).then(() => {}));
  const box = await Box.start(work, `box-${system}`);
  const [source, ours, peer] = ["source", "ours", "peer"].map((file) => join(mount, `${file}.img`)) as [
    string,
    string,
    string,
  ];
  await denseFile(source, sizeBytes);
  for (const path of [ours, peer]) await denseFile(path, sizeBytes);
  const [sourceName, destinationName] = [await box.register(source), await box.register(ours)];
  const copying = (copy: () => Promise<unknown>) => async () => {
    await datasync(peer);
    const begin = performance.now();
    await copy();
    await datasync(peer);
    return performance.now() - begin;
  };
  const series = await inTurn(
    {
      [OURS]: async () => (await box.fullCopy(sourceName, destinationName)).completeMs,
      "cp --reflink=never": copying(() => run("cp", ["--reflink=never", source, peer])),
      ...(hasTool("qemu-img") && {
        "qemu-img": copying(() => run("qemu-img", ["convert", "-U", "-n", "-f", "raw", "-O", "raw", source, peer])),
      }),
    },
    options.runs,
  );
  await run("cmp", [source, ours]);
  report(rowOf({ bench: "full-copy", case: name, unit: "ms", bar: BAR, higherIsBetter: false }, series));
  await box.stop();
}
