/** Clients of NBD, unmodified, on volumes that are copied at the same time; and every door that says what changed. */

import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import test from "ava";
import { all, CopyKind, CopyPhase, call, codeOf, Daemon, program, sameBytes } from "../support/daemon.ts";
import { needTools } from "../support/tools.ts";

const MiB = 1 << 20;
const G = 8192;

test("fio verifies what it wrote to the source while copies start, run again, restore nothing and are cancelled", async (t) => {
  if (!needTools(t, ["fio"])) return;
  const daemon = await Daemon.start(t);
  for (const label of ["one", "two", "three"]) await daemon.volume(label, 48 * MiB);
  const uri = await daemon.uri("one");
  const fio = program(
    "fio",
    ...["--name=verify", "--ioengine=nbd", `--uri=${uri}`, "--rw=randwrite", "--bsrange=512-64k", "--size=48m"],
    ...[
      "--iodepth=16",
      "--verify=crc32c",
      "--verify_fatal=1",
      "--verify_state_save=0",
      "--verify_backlog=64",
      "--output-format=terse",
    ],
    ...["--randseed=7", "--loops=2"],
  );
  let written = false;
  const ended = fio.finally(() => {
    written = true;
  });
  let points = 0;
  while (!written || points < 8) {
    const { id } = await daemon.start("one", "two", CopyKind.QUICKOPC);
    await daemon.restart(id).catch(() => undefined);
    const plain = await daemon.start("one", "three", CopyKind.OPC);
    await call(daemon.clients.copies, "cancelCopy", { id: plain.id, requestId: "" }).catch((error: unknown) => {
      if (codeOf(error) !== "SESSION_NOT_FOUND") throw error;
    });
    await daemon.copied(id);
    if (++points % 4 === 0) await call(daemon.clients.copies, "cancelCopy", { id, requestId: "" });
  }
  await ended; // it ends with an error when it reads anything but what it wrote
  t.true(points >= 8);
  const { id } = await daemon.start("one", "two", CopyKind.QUICKOPC);
  t.is((await daemon.copied(id)).phase, CopyPhase.TRACKING);
  sameBytes(t, await daemon.image("two"), await daemon.image("one"), "the last point");
});

test("fio verifies what it wrote to the destination of a copy that is still running", async (t) => {
  if (!needTools(t, ["fio"])) return;
  const daemon = await Daemon.start(t);
  for (const label of ["one", "two"]) await daemon.volume(label, 32 * MiB);
  const source = await daemon.image("one");
  const { id } = await daemon.start("one", "two", CopyKind.QUICKOPC, 1);
  await program(
    "fio",
    ...["--name=verify", "--ioengine=nbd", `--uri=${await daemon.uri("two")}`, "--rw=randwrite", "--bs=4k"],
    ...[
      "--offset=8m",
      "--size=8m",
      "--iodepth=16",
      "--verify=crc32c",
      "--verify_fatal=1",
      "--verify_state_save=0",
      "--output-format=terse",
    ],
  );
  await call(daemon.clients.copies, "setCopyPace", { id, pace: 15, requestId: "" });
  t.is((await daemon.copied(id)).phase, CopyPhase.TRACKING);
  const copy = await daemon.image("two");
  sameBytes(t, copy.subarray(0, 8 * MiB), source.subarray(0, 8 * MiB), "before what fio wrote");
  sameBytes(t, copy.subarray(16 * MiB), source.subarray(16 * MiB), "behind it");
  sameBytes(t, await daemon.image("one"), source, "the source");
  t.is((await daemon.copy(id)).changedGranules, 1024n, "all that fio wrote, nothing else");
});

test("nbdcopy of a destination right after the point is the source at the point, whatever is written to the source", async (t) => {
  if (!needTools(t, ["nbdcopy"])) return;
  const daemon = await Daemon.start(t);
  for (const label of ["one", "two"]) await daemon.volume(label, 32 * MiB);
  const point = await daemon.image("one");
  await daemon.start("one", "two", CopyKind.OPC, 1);
  let over = false;
  const writer = (async () => {
    for (let at = 0; !over || at < 64; at++)
      await daemon.write("one", ((at * 37) % 512) * 65536 + 123, randomBytes(20_000));
  })();
  await program("nbdcopy", await daemon.uri("two"), daemon.path("taken.img"));
  over = true;
  await writer;
  sameBytes(t, await readFile(daemon.path("taken.img")), point, "taken over NBD");
});

test("qemu-img: convert and compare of source and destination, while copying and afterwards", async (t) => {
  if (!needTools(t, ["qemu-img"])) return;
  const daemon = await Daemon.start(t);
  for (const label of ["one", "two"]) await daemon.volume(label, 24 * MiB);
  const [source, destination] = [await daemon.uri("one"), await daemon.uri("two")];
  await daemon.start("one", "two", CopyKind.QUICKOPC, 1);
  const compare = (a: string, b: string) => program("qemu-img", "compare", "-f", "raw", "-F", "raw", a, b);
  t.regex(await compare(source, destination), /identical/, "while copying");
  await daemon.write("one", 5 * MiB, randomBytes(G));
  await t.throwsAsync(() => compare(source, destination), { message: /mismatch at offset 5242880/ });
  await program("qemu-img", "convert", "-f", "raw", "-O", "qcow2", destination, daemon.path("two.qcow2"));
  t.regex(
    await program("qemu-img", "compare", "-f", "raw", "-F", "qcow2", destination, daemon.path("two.qcow2")),
    /identical/,
  );
  await daemon.restart("c1");
  await daemon.copied("c1");
  t.regex(await compare(source, destination), /identical/, "after the next point");
});

test("qemu-io: zeros and discards on both sides of a running copy obey the same rules as writes", async (t) => {
  if (!needTools(t, ["qemu-io"])) return;
  const daemon = await Daemon.start(t);
  for (const label of ["one", "two"]) await daemon.volume(label, 32 * MiB);
  const point = await daemon.image("one");
  const { id } = await daemon.start("one", "two", CopyKind.QUICKOPC, 1);
  const act = async (name: string, ...commands: string[]) =>
    program("qemu-io", "-f", "raw", "-d", "unmap", ...commands.flatMap((one) => ["-c", one]), await daemon.uri(name));
  await act("one", "write -z 20M 1M", "write -z -u 22M 100k", "discard 24M 1M");
  sameBytes(t, await daemon.read("two"), point, "the destination keeps the point");
  const zeroed = Buffer.from(point);
  zeroed.fill(0, 20 * MiB, 21 * MiB).fill(0, 22 * MiB, 22 * MiB + 100 * 1024);
  const source = await daemon.read("one");
  const sides = (bytes: Buffer) => Buffer.concat([bytes.subarray(0, 24 * MiB), bytes.subarray(25 * MiB)]);
  sameBytes(t, sides(source), sides(zeroed), "the source");
  await act("two", "write -z 28M 12k");
  await call(daemon.clients.copies, "setCopyPace", { id, pace: 15, requestId: "" });
  await daemon.copied(id);
  sameBytes(t, await daemon.image("two"), Buffer.from(point).fill(0, 28 * MiB, 28 * MiB + 12 * 1024), "on its disk");
  // 1 MiB, 100 KiB over 13 blocks, 1 MiB at the source; 12 KiB over two blocks at the destination.
  t.is((await daemon.copy(id)).changedGranules, 128n + 13n + 128n + 2n);
  await daemon.restart(id);
  await daemon.copied(id);
  sameBytes(t, await daemon.image("two"), await daemon.image("one"), "the difference");
});

interface Run {
  readonly offset: number;
  readonly length: number;
}

/** Neighbouring runs as one, so that only the content of the answers is compared. */
function merged(runs: readonly Run[]): Run[] {
  const result: Run[] = [];
  for (const run of runs) {
    const last = result.at(-1);
    if (last && last.offset + last.length === run.offset)
      result[result.length - 1] = { offset: last.offset, length: last.length + run.length };
    else result.push(run);
  }
  return result;
}

test("what changed: nbdinfo, the CLI, gRPC and the bytes themselves say the same", async (t) => {
  if (!needTools(t, ["nbdinfo", "qemu-io"])) return;
  const daemon = await Daemon.start(t);
  const sizeBytes = 32 * MiB + 1536;
  for (const label of ["one", "two"]) await daemon.volume(label, sizeBytes);
  const { id } = await daemon.start("one", "two", CopyKind.QUICKOPC);
  const { sourceEpoch } = await daemon.copied(id);
  const uri = await daemon.uri("one");
  await program("qemu-io", "-f", "raw", "-c", "write -P 0x5a 1M 24k", "-c", "write -P 0xa5 20000k 512", uri);
  for (const at of [0, 777, 3 * MiB - 1, 9 * MiB + 4096, sizeBytes - 3])
    await daemon.write("one", at, randomBytes(at === sizeBytes - 3 ? 3 : 9000));

  const range = { name: "one", sinceEpoch: sourceEpoch, untilEpoch: 0n, offsetBytes: 0n, lengthBytes: 0n };
  const overRpc = (await all(daemon.clients.data.listChangedExtents(range))).flatMap(({ extents }) =>
    extents.map((extent: { offsetBytes: bigint; lengthBytes: bigint }) => ({
      offset: Number(extent.offsetBytes),
      length: Number(extent.lengthBytes),
    })),
  );
  const overCli = (await daemon.box.json(t, ["volume", "changes", "one", "--since", String(sourceEpoch)])).map(
    (extent: Record<string, unknown>) => ({
      offset: Number(extent["offsetBytes"] ?? 0),
      length: Number(extent["lengthBytes"]),
    }),
  );
  const map = JSON.parse(await program("nbdinfo", "--json", `--map=qemu:dirty-bitmap:${sourceEpoch}`, uri)) as {
    offset: number;
    length: number;
    type: number;
  }[];
  const overNbd = map.filter(({ type }) => type === 1).map(({ offset, length }) => ({ offset, length }));
  const bytes: Run[] = [];
  const [source, destination] = [await daemon.read("one"), await daemon.read("two")];
  for (let at = 0; at < sizeBytes; at += G) {
    const end = Math.min(sizeBytes, at + G);
    if (!source.subarray(at, end).equals(destination.subarray(at, end))) bytes.push({ offset: at, length: end - at });
  }
  t.true(bytes.length > 8);
  t.deepEqual(merged(overRpc), merged(bytes), "gRPC");
  t.deepEqual(merged(overCli), merged(bytes), "CLI");
  t.deepEqual(merged(overNbd), merged(bytes), "NBD");
  t.is(Number((await daemon.copy(id)).changedGranules), bytes.length, "Update");
  t.is(Number((await daemon.restart(id)).plannedGranules), bytes.length, "the next run");
});
