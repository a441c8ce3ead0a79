import test, { type ExecutionContext } from "ava";
import fc from "fast-check";
import { TidemarkError } from "../../src/base/errors.ts";
import type { BlockDevice } from "../../src/base/ports.ts";
import { MiB, SECTOR_SIZE_BYTES } from "../../src/base/units.ts";
import { crc32 } from "../../src/engine/device/crc32.ts";
import { MemoryDevice } from "../../src/engine/device/memory-device.ts";
import { readPartitions } from "../../src/engine/device/partition-table.ts";
import { opened, readBack, run, skippedWithoutPrograms, sparseFile, temporaryDirectory } from "./fixtures.ts";

function partitioned(t: ExecutionContext, script: string, sizeBytes = 128 * MiB): string {
  const path = sparseFile(temporaryDirectory(t), "disk", sizeBytes);
  run("sh", "-c", `printf '%s' "$1" | sfdisk -q "$2"`, "sh", script, path);
  return path;
}

/** What sfdisk itself reads from the image, containers left out. */
function bySfdisk(path: string) {
  const table = JSON.parse(run("sfdisk", "--json", path)).partitiontable as {
    partitions: { node: string; start: number; size: number; type: string; name?: string }[];
  };
  return table.partitions
    .filter((each) => !["5", "f", "85"].includes(each.type))
    .map((each) => ({
      number: Number(each.node.slice(path.length)),
      offsetBytes: each.start * SECTOR_SIZE_BYTES,
      sizeBytes: each.size * SECTOR_SIZE_BYTES,
      type: each.type.includes("-") ? each.type : each.type.padStart(2, "0"),
      label: each.name ?? "",
    }));
}

test("crc32 has its check value", (t) => {
  t.is(crc32(Buffer.from("123456789")), 0xcbf43926);
  t.is(crc32(Buffer.alloc(0)), 0);
});

test("MBR: primary, extended and logical partitions as sfdisk sees them", async (t) => {
  if (skippedWithoutPrograms(t, "sfdisk")) return;
  const path = partitioned(
    t,
    "label: dos\n2048,20480,L,*\n22528,20480,S\n43008,204800,E\nstart=45056,size=20480,type=83\nsize=10240,type=8e\nsize=8192,type=c\n",
  );
  const partitions = await readPartitions(await opened(t, path));
  t.deepEqual(partitions, bySfdisk(path));
  t.deepEqual(
    partitions.map((each) => each.number),
    [1, 2, 4, 5, 6],
    "sfdisk puts the last one beside the extended one",
  );
  t.is(partitions[0]?.type, "83");
});

test("MBR: eight logical partitions, one in the middle deleted", async (t) => {
  if (skippedWithoutPrograms(t, "sfdisk")) return;
  const logical = Array.from({ length: 8 }, () => "size=4096,type=83\n").join("");
  const path = partitioned(t, `label: dos\nstart=2048,size=200000,type=f\n${logical}`);
  run("sfdisk", "-q", "--delete", path, "7");
  const partitions = await readPartitions(await opened(t, path));
  t.is(partitions.length, 7);
  t.deepEqual(partitions, bySfdisk(path));
});

test("GPT: partitions with type and name as sfdisk and sgdisk write them", async (t) => {
  if (skippedWithoutPrograms(t, "sfdisk", "sgdisk")) return;
  const path = partitioned(
    t,
    'label: gpt\nsize=20480,type=U,name="EFI Systempartition"\nsize=40960,type=L,name="Wurzel ä€"\n',
  );
  run("sgdisk", "--new=7:100000:120000", "--change-name=7:seven", "--typecode=7:8e00", path);
  const partitions = await readPartitions(await opened(t, path));
  t.deepEqual(partitions, bySfdisk(path));
  t.deepEqual(
    partitions.map((each) => [each.number, each.label]),
    [
      [1, "EFI Systempartition"],
      [2, "Wurzel ä€"],
      [7, "seven"],
    ],
  );
  t.is(partitions[0]?.type, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
});

const GPT = 'label: gpt\nsize=20480,name="one"\nsize=20480,name="two"\n';

test("GPT: the backup serves when the primary header or its entries are damaged", async (t) => {
  if (skippedWithoutPrograms(t, "sfdisk")) return;
  for (const damageAt of [512 + 20, 1024 + 60]) {
    const device = await opened(t, partitioned(t, GPT));
    const good = await readPartitions(device);
    await device.write(damageAt - (damageAt % 512), Buffer.alloc(512, 0x5a));
    t.deepEqual(await readPartitions(device), good);
  }
});

test("GPT: a backup that is not at the end of a grown file is found through the primary header", async (t) => {
  if (skippedWithoutPrograms(t, "sfdisk")) return;
  const device = await opened(t, partitioned(t, GPT));
  const good = await readPartitions(device);
  await device.resize(256 * MiB);
  t.deepEqual(await readPartitions(device), good);
  await device.write(1024, Buffer.alloc(512, 0x5a));
  t.deepEqual(await readPartitions(device), good);
});

test("GPT: both copies damaged is an error, not an empty disk", async (t) => {
  if (skippedWithoutPrograms(t, "sfdisk")) return;
  const device = await opened(t, partitioned(t, GPT));
  await device.write(512, Buffer.alloc(512));
  await device.write(device.sizeBytes - 512, Buffer.alloc(512));
  const error = await t.throwsAsync(readPartitions(device), { instanceOf: TidemarkError });
  t.is(error.code, "METADATA_CORRUPT");
  t.truthy(error.detail.hint);
});

test("GPT on 4096-byte sectors", async (t) => {
  if (skippedWithoutPrograms(t, "sfdisk")) return;
  const small = await opened(t, partitioned(t, GPT));
  // The same table, laid out as a disk with 4 KiB sectors has it: every structure at the same sector number.
  const large = new MemoryDevice(small.sizeBytes * 8);
  const header = await readBack(small, 512, 512);
  const lastSector = small.sizeBytes / 512 - 1;
  t.is(header.readBigUInt64LE(32), BigInt(lastSector));
  await large.write(0, await readBack(small, 0, 512));
  await large.write(4096, header);
  await large.write(8192, await readBack(small, 1024, 128 * 128));
  const expected = (await readPartitions(small)).map((each) => ({
    ...each,
    offsetBytes: each.offsetBytes * 8,
    sizeBytes: each.sizeBytes * 8,
  }));
  t.deepEqual(await readPartitions(large), expected);
});

test("what is no table has no partitions: empty, file systems, short devices", async (t) => {
  const directory = temporaryDirectory(t);
  t.deepEqual(await readPartitions(new MemoryDevice(512)), []);
  t.deepEqual(await readPartitions(new MemoryDevice(MiB)), []);
  const ext4 = sparseFile(directory, "ext4", 4 * MiB);
  run("mkfs.ext4", "-q", "-F", ext4);
  t.deepEqual(await readPartitions(await opened(t, ext4)), []);
  const code = new MemoryDevice(MiB);
  // A boot sector of a file system: the mark is there, the rest is code.
  const boot = Buffer.alloc(512, 0xc3);
  boot.writeUInt16LE(0xaa55, 510);
  await code.write(0, boot);
  t.deepEqual(await readPartitions(code), []);
});

function mbrEntry(record: Buffer, index: number, type: number, first: number, sectors: number): void {
  const at = 446 + index * 16;
  record.writeUInt8(type, at + 4);
  record.writeUInt32LE(first, at + 8);
  record.writeUInt32LE(sectors, at + 12);
  record.writeUInt16LE(0xaa55, 510);
}

test("MBR: a chain of logical partitions that bites its tail ends", async (t) => {
  const device = new MemoryDevice(4 * MiB);
  const first = Buffer.alloc(512);
  mbrEntry(first, 0, 0x05, 1000, 5000);
  await device.write(0, first);
  const record = Buffer.alloc(512);
  mbrEntry(record, 0, 0x83, 8, 100);
  mbrEntry(record, 1, 0x05, 0, 5000);
  await device.write(1000 * 512, record);
  t.deepEqual(await readPartitions(device), [
    { number: 5, offsetBytes: 1008 * 512, sizeBytes: 100 * 512, type: "83", label: "" },
  ]);
});

test("MBR: a long chain of records that name no partition is not followed to its end", async (t) => {
  const device = new MemoryDevice(64 * MiB);
  const first = Buffer.alloc(512);
  mbrEntry(first, 0, 0x05, 1000, 100_000);
  await device.write(0, first);
  const records = 20_000;
  for (let index = 0; index < records; index++) {
    const record = Buffer.alloc(512);
    mbrEntry(record, 1, 0x05, index + 1, 100_000);
    await device.write((1000 + index) * 512, record);
  }
  let reads = 0;
  const counting = new Proxy<BlockDevice>(device, {
    get: (target, property) => {
      if (property === "tryRead") reads++;
      const value = Reflect.get(target, property, target) as unknown;
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  t.deepEqual(await readPartitions(counting), []);
  t.true(reads < 1000, `${reads} reads`);
});

test("MBR: entries outside the device are left out", async (t) => {
  const device = new MemoryDevice(MiB);
  const record = Buffer.alloc(512);
  mbrEntry(record, 0, 0x83, 8, 100);
  mbrEntry(record, 1, 0x83, 2000, 100);
  mbrEntry(record, 2, 0x83, 100, 0xffffffff);
  mbrEntry(record, 3, 0x0f, 0xfffffff0, 0xffffffff);
  await device.write(0, record);
  t.deepEqual(
    (await readPartitions(device)).map((each) => each.number),
    [1],
  );
});

/** Nothing but METADATA_CORRUPT may come out, and every partition lies inside the device. */
async function survives(device: BlockDevice): Promise<void> {
  try {
    const partitions = await readPartitions(device);
    const wrong = partitions.find(
      (each) => each.offsetBytes <= 0 || each.sizeBytes <= 0 || each.offsetBytes + each.sizeBytes > device.sizeBytes,
    );
    if (wrong !== undefined) throw new Error(`outside: ${JSON.stringify(wrong)}`);
  } catch (error) {
    if (!(error instanceof TidemarkError) || error.code !== "METADATA_CORRUPT") throw error;
  }
}

test("garbage never throws anything else: random sectors, and tables with flipped bytes", async (t) => {
  if (skippedWithoutPrograms(t, "sfdisk")) return;
  const device = new MemoryDevice(MiB);
  const sector = fc.uint8Array({ minLength: 512, maxLength: 512 });
  const random = fc.asyncProperty(sector, sector, sector, async (boot, second, third) => {
    boot.set([0x55, 0xaa], 510);
    for (let index = 0; index < 4; index++) boot[446 + index * 16] = (boot[0] ?? 0) & 0x80;
    await device.write(0, boot);
    await device.write(512, second);
    await device.write(device.sizeBytes - 512, third);
    await survives(device);
  });
  await t.notThrowsAsync(fc.assert(random, { numRuns: 300 }));

  const tables = [partitioned(t, GPT), partitioned(t, "label: dos\n2048,20480,L\n43008,90000,E\n,4096,L\n,4096,L\n")];
  for (const path of tables) {
    const disk = await opened(t, path);
    const original = await readBack(disk, 0, 64 * 1024);
    const flip = fc.record({ at: fc.nat(3000), to: fc.nat(255) });
    const flipped = fc.asyncProperty(fc.array(flip, { minLength: 1, maxLength: 20 }), async (flips) => {
      const damaged = Buffer.from(original);
      for (const each of flips) damaged[each.at] = each.to;
      await disk.write(0, damaged);
      await survives(disk);
    });
    await t.notThrowsAsync(fc.assert(flipped, { numRuns: 200 }));
  }
});
