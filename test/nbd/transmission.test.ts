/** Every command with every flag, in both reply forms, on both paths; and every refusal by itself. */
import test from "ava";
import { type ErrorCode, TidemarkError } from "../../src/base/errors.ts";
import { pattern, startLab } from "./lab.ts";
import { CMD, FLAG, RawClient, type RequestFields, statusOf } from "./raw-client.ts";

const MiB = 1024 * 1024;
const FORMS = [true, false];
const PATHS = ["inline", "deferred"] as const;

for (const structured of FORMS) {
  for (const path of PATHS) {
    const title = `${structured ? "structured" : "simple"}, ${path}`;

    test(`${title}: reads of every kind of offset and length`, async (t) => {
      const { base, target } = await startLab(t, { sizeBytes: 5 * MiB + 77 });
      target.bytes.set(pattern(target.sizeBytes, 1));
      target.path = path;
      const client = await RawClient.open(base, "x", { structured });
      const ranges: [number, number][] = [
        [0, 1],
        [0, 512],
        [511, 2],
        [4095, 4097],
        [1, 65_537],
        [123_457, 512 * 1024],
        [7, 512 * 1024 + 1],
        [0, 5 * MiB + 77],
        [5 * MiB + 76, 1],
        [0, 0],
        [5 * MiB + 77, 0],
      ];
      for (const [offset, length] of ranges) {
        const answer = await client.request({ command: CMD.READ, offset, length });
        t.is(answer.error, "ok");
        t.is(answer.simple, !structured);
        t.is(Buffer.compare(answer.data, target.bytes.subarray(offset, offset + length)), 0, `${offset}+${length}`);
      }
    });

    test(`${title}: writes of every kind of offset and length`, async (t) => {
      const { base, target } = await startLab(t, { sizeBytes: 5 * MiB + 77 });
      target.path = path;
      const model = Buffer.alloc(target.sizeBytes);
      const client = await RawClient.open(base, "x", { structured });
      let seed = 10;
      for (const [offset, length] of [
        [0, 1],
        [511, 2],
        [4095, 4097],
        [1, 65_536],
        [99, 65_537],
        [123_457, 2 * MiB + 3],
        [5 * MiB, 77],
        [0, 0],
        [0, 5 * MiB + 77],
      ] as const) {
        const payload = pattern(length, seed++);
        model.set(payload, offset);
        t.is((await client.request({ command: CMD.WRITE, offset, payload })).error, "ok");
        t.is(Buffer.compare(target.bytes, model), 0, `${offset}+${length}`);
      }
    });

    test(`${title}: FUA is answered when the write is durable`, async (t) => {
      const { base, target } = await startLab(t);
      target.path = path;
      target.fastZero = true;
      const client = await RawClient.open(base, "x", { structured });
      const fua = FLAG.FUA;
      target.durable.fill(1);
      const durable = (offset: number, length: number) => target.durable.subarray(offset, offset + length);
      for (const length of [512, 100_000]) {
        const payload = pattern(length, 3);
        t.is((await client.request({ command: CMD.WRITE, flags: fua, offset: 4096, payload })).error, "ok");
        t.is(Buffer.compare(durable(4096, length), payload), 0);
      }
      await client.request({ command: CMD.WRITE_ZEROES, flags: fua, offset: 4096, length: 512 });
      t.true(durable(4096, 512).every((byte) => byte === 0));
      await client.request({ command: CMD.TRIM, flags: fua, offset: 8192, length: 512 });
      t.true(durable(8192, 512).every((byte) => byte === 0));
      target.held.add("flush");
      client.send(client.encode({ command: CMD.WRITE, flags: fua, payload: pattern(512, 4), cookie: 1 }));
      client.send(client.encode({ command: CMD.WRITE, offset: 512, payload: pattern(512, 5), cookie: 2 }));
      t.is((await client.answer()).cookie, 2n, "the write without FUA does not wait");
      await target.whenWaiting(1);
      target.letAllGo();
      t.is((await client.answer()).cookie, 1n);
    });

    test(`${title}: flush, trim, zero and cache`, async (t) => {
      const { base, target } = await startLab(t);
      target.bytes.fill(7);
      target.path = path;
      const client = await RawClient.open(base, "x", { structured });
      const ask = async (fields: RequestFields) => (await client.request(fields)).error;
      t.is(await ask({ command: CMD.FLUSH }), "ok");
      t.is(Buffer.compare(target.durable, target.bytes), 0);
      t.is(await ask({ command: CMD.TRIM, offset: 3, length: 5 }), "ok");
      t.is(await ask({ command: CMD.WRITE_ZEROES, offset: 100, length: 1 }), "ok");
      t.is(await ask({ command: CMD.WRITE_ZEROES, flags: FLAG.NO_HOLE, offset: 200, length: 9 }), "ok");
      t.is(await ask({ command: CMD.WRITE_ZEROES, flags: FLAG.FAST_ZERO, offset: 300, length: 9 }), "ENOTSUP");
      target.fastZero = true;
      t.is(await ask({ command: CMD.WRITE_ZEROES, flags: FLAG.FAST_ZERO, offset: 400, length: 9 }), "ok");
      t.is(await ask({ command: CMD.CACHE, offset: 4096, length: 8192 }), "ok");
      for (const command of [CMD.TRIM, CMD.WRITE_ZEROES, CMD.CACHE]) t.is(await ask({ command, length: 0 }), "ok");
      t.deepEqual(target.calls, ["trim", "zero allow", "zero keep", "zero allow", "cache 4096+8192"]);
      const zeros = [...target.bytes].filter((byte) => byte === 0).length;
      t.is(zeros, 5 + 1 + 9 + 9);
    });
  }
}

const SIZE = 1024 * 1024;

const REFUSED: readonly (RequestFields & {
  readonly title: string;
  readonly error: string;
  readonly readOnly?: true;
})[] = [
  { title: "unknown command 8", command: 8, error: "EINVAL" },
  { title: "unknown command 65535", command: 65_535, error: "EINVAL" },
  { title: "read beyond the end", command: CMD.READ, offset: SIZE - 1, length: 2, error: "EINVAL" },
  { title: "read far beyond the end", command: CMD.READ, offset: 2n ** 63n, length: 1, error: "EINVAL" },
  { title: "read at the last offset there is", command: CMD.READ, offset: 2n ** 64n - 1n, length: 1, error: "EINVAL" },
  { title: "empty read beyond the end", command: CMD.READ, offset: SIZE + 1, length: 0, error: "EINVAL" },
  { title: "read above the maximum block size", command: CMD.READ, length: 32 * MiB + 1, error: "EINVAL" },
  { title: "unfragmented read above it", command: CMD.READ, flags: FLAG.DF, length: 32 * MiB + 1, error: "EOVERFLOW" },
  { title: "read with NO_HOLE", command: CMD.READ, flags: FLAG.NO_HOLE, length: 1, error: "EINVAL" },
  { title: "read with REQ_ONE", command: CMD.READ, flags: FLAG.REQ_ONE, length: 1, error: "EINVAL" },
  { title: "read with an unknown flag", command: CMD.READ, flags: 1 << 15, length: 1, error: "EINVAL" },
  { title: "write beyond the end", command: CMD.WRITE, offset: SIZE - 1, payload: Buffer.alloc(2), error: "ENOSPC" },
  {
    title: "write at the last offset there is",
    command: CMD.WRITE,
    offset: 2n ** 64n - 1n,
    payload: Buffer.alloc(9),
    error: "ENOSPC",
  },
  { title: "long write beyond the end", command: CMD.WRITE, offset: 1, payload: Buffer.alloc(SIZE), error: "ENOSPC" },
  {
    title: "write above the maximum block size",
    command: CMD.WRITE,
    payload: Buffer.alloc(32 * MiB + 1),
    error: "EINVAL",
  },
  { title: "write with DF", command: CMD.WRITE, flags: FLAG.DF, payload: Buffer.alloc(512), error: "EINVAL" },
  {
    title: "write with a payload length flag",
    command: CMD.WRITE,
    flags: FLAG.PAYLOAD_LEN,
    payload: Buffer.alloc(9),
    error: "EINVAL",
  },
  {
    title: "write to a read-only export",
    command: CMD.WRITE,
    payload: Buffer.alloc(512),
    error: "EPERM",
    readOnly: true,
  },
  {
    title: "long write to a read-only export",
    command: CMD.WRITE,
    payload: Buffer.alloc(300_000),
    error: "EPERM",
    readOnly: true,
  },
  { title: "trim on a read-only export", command: CMD.TRIM, length: 512, error: "EPERM", readOnly: true },
  { title: "zero on a read-only export", command: CMD.WRITE_ZEROES, length: 512, error: "EPERM", readOnly: true },
  { title: "trim beyond the end", command: CMD.TRIM, offset: SIZE, length: 1, error: "EINVAL" },
  { title: "trim with NO_HOLE", command: CMD.TRIM, flags: FLAG.NO_HOLE, length: 1, error: "EINVAL" },
  { title: "zero beyond the end", command: CMD.WRITE_ZEROES, offset: SIZE, length: 1, error: "ENOSPC" },
  { title: "zero of 4 GiB", command: CMD.WRITE_ZEROES, length: 0xffffffff, error: "ENOSPC" },
  { title: "zero with REQ_ONE", command: CMD.WRITE_ZEROES, flags: FLAG.REQ_ONE, length: 1, error: "EINVAL" },
  { title: "cache beyond the end", command: CMD.CACHE, offset: SIZE, length: 1, error: "EINVAL" },
  { title: "cache with DF", command: CMD.CACHE, flags: FLAG.DF, length: 1, error: "EINVAL" },
  { title: "flush with a length", command: CMD.FLUSH, length: 1, error: "EINVAL" },
  { title: "flush with an offset", command: CMD.FLUSH, offset: 1, error: "EINVAL" },
  { title: "flush with REQ_ONE", command: CMD.FLUSH, flags: FLAG.REQ_ONE, error: "EINVAL" },
  { title: "block status without a context", command: CMD.BLOCK_STATUS, length: 512, error: "EINVAL" },
];

for (const structured of FORMS) {
  for (const { title, error, readOnly = false, ...fields } of REFUSED) {
    const expected = !structured && ((fields.flags ?? 0) & FLAG.DF) !== 0 ? "EINVAL" : error;
    test(`refused (${structured ? "structured" : "simple"}): ${title}: ${expected}`, async (t) => {
      const { base, target } = await startLab(t, { sizeBytes: SIZE });
      target.bytes.fill(9);
      target.readOnly = readOnly;
      const client = await RawClient.open(base, "x", { structured });
      const answer = await client.request({ ...fields, cookie: 0xfedcba9876543210n });
      t.is(answer.error, expected);
      t.is(answer.cookie, 0xfedcba9876543210n);
      if (structured) t.not(answer.text, "");
      t.true(
        target.bytes.every((byte) => byte === 9),
        "nothing was written",
      );
      t.deepEqual(target.calls, []);
      t.is((await client.request({ command: CMD.READ, length: 512 })).error, "ok", "the connection goes on");
    });
  }
}

const CODES: readonly [ErrorCode, string][] = [
  ["NO_SPACE", "ENOSPC"],
  ["READ_ONLY", "EPERM"],
  ["PERMISSION_DENIED", "EPERM"],
  ["INVALID_ARGUMENT", "EINVAL"],
  ["MEDIUM_ERROR", "EIO"],
  ["DEVICE_GONE", "EIO"],
  ["VOLUME_UNAVAILABLE", "EIO"],
  ["MEMORY_EXHAUSTED", "ENOMEM"],
  ["STOPPING", "ESHUTDOWN"],
  ["INTERNAL", "EIO"],
];

for (const path of PATHS) {
  for (const [code, errno] of [...CODES, ["RANGE_INVALID", "EINVAL"] as const]) {
    test(`errors (${path}): ${code} becomes ${errno}`, async (t) => {
      const { base, target } = await startLab(t);
      target.path = path;
      const error = new TidemarkError(code, { message: `the ${code} of g1d2` });
      for (const operation of ["read", "write", "flush", "zero", "trim", "cache"] as const) {
        target.failing.set(operation, { error });
      }
      const structured = await RawClient.open(base, "x");
      const simple = await RawClient.open(base, "x", { structured: false });
      for (const client of [structured, simple]) {
        for (const command of [CMD.READ, CMD.WRITE, CMD.TRIM, CMD.WRITE_ZEROES, CMD.CACHE]) {
          const payload = command === CMD.WRITE ? { payload: Buffer.alloc(512) } : { length: 512 };
          const answer = await client.request({ command, ...payload });
          const writes = command === CMD.WRITE || command === CMD.WRITE_ZEROES;
          t.is(answer.error, code === "RANGE_INVALID" && writes ? "ENOSPC" : errno);
          if (client === structured) t.is(answer.text, code === "INTERNAL" ? "internal error" : `the ${code} of g1d2`);
        }
        t.is((await client.request({ command: CMD.FLUSH })).error, errno);
      }
    });
  }
}

test("a failed flush fails the FUA write that needs it", async (t) => {
  const { base, target } = await startLab(t);
  target.failing.set("flush", { error: new TidemarkError("DEVICE_GONE", { message: "gone" }) });
  const client = await RawClient.open(base, "x");
  for (const path of PATHS) {
    target.path = path;
    for (const length of [512, 200_000]) {
      t.is((await client.request({ command: CMD.WRITE, flags: FLAG.FUA, payload: Buffer.alloc(length) })).error, "EIO");
    }
  }
});

for (const path of PATHS) {
  test(`a large structured read that fails midway says where (${path})`, async (t) => {
    const { base, target } = await startLab(t, { sizeBytes: 4 * MiB });
    target.bytes.set(pattern(target.sizeBytes, 2));
    target.path = path;
    const error = new TidemarkError("MEDIUM_ERROR", { message: "sector 5000 is bad" });
    target.failing.set("read", { error, at: 5000 * 512 });
    const client = await RawClient.open(base, "x");
    const answer = await client.request({ command: CMD.READ, offset: 1 * MiB, length: 3 * MiB });
    t.is(answer.error, "EIO");
    t.is(answer.text, "sector 5000 is bad");
    const failedAt = answer.errorOffset ?? -1;
    t.true(failedAt > 1 * MiB && failedAt <= 5000 * 512);
    const good = answer.chunks.filter(({ type }) => type === 1);
    t.is(
      good.reduce((sum, { payload }) => sum + payload.length - 8, 0),
      failedAt - 1 * MiB,
    );
    for (const { payload } of good) {
      const at = Number(payload.readBigUInt64BE(0));
      t.is(Buffer.compare(payload.subarray(8), target.bytes.subarray(at, at + payload.length - 8)), 0);
    }
    t.is((await client.request({ command: CMD.READ, length: 1 * MiB })).error, "ok");
  });

  test(`a large simple read that fails is an error without data (${path})`, async (t) => {
    const { base, target } = await startLab(t, { sizeBytes: 4 * MiB });
    target.path = path;
    target.failing.set("read", { error: new TidemarkError("MEDIUM_ERROR", { message: "bad" }), at: 3 * MiB });
    const client = await RawClient.open(base, "x", { structured: false });
    t.is((await client.request({ command: CMD.READ, length: 4 * MiB })).error, "EIO");
    t.is((await client.request({ command: CMD.READ, length: 3 * MiB })).data.length, 3 * MiB);
  });

  test(`an unfragmented read comes in one chunk (${path})`, async (t) => {
    const { base, target } = await startLab(t, { sizeBytes: 4 * MiB });
    target.bytes.set(pattern(target.sizeBytes, 2));
    target.path = path;
    const client = await RawClient.open(base, "x");
    for (const [length, flags, chunks] of [
      [65_536, FLAG.DF, 1],
      [4 * MiB, FLAG.DF, 1],
      [4 * MiB, 0, 8],
    ] as const) {
      const answer = await client.request({ command: CMD.READ, length, flags });
      t.is(answer.chunks.length, chunks);
      t.is(Buffer.compare(answer.data, target.bytes.subarray(0, length)), 0);
    }
  });
}

test("block status tells holes and changes, in one answer", async (t) => {
  const { base, target } = await startLab(t, { sizeBytes: 1 * MiB });
  target.beginEpoch(1);
  const client = await RawClient.open(base, "x", { contexts: ["base:allocation", "qemu:dirty-bitmap:"] });
  await client.request({ command: CMD.WRITE, offset: 65_536, payload: pattern(8192, 1) });
  const later = await (async () => {
    target.beginEpoch(2);
    await client.request({ command: CMD.WRITE, offset: 131_072, payload: pattern(100, 1) });
    return RawClient.open(base, "x", { contexts: ["base:allocation", "qemu:dirty-bitmap:1", "qemu:dirty-bitmap:2"] });
  })();
  const status = async (fields: Partial<RequestFields>) => {
    const answer = await later.request({ command: CMD.BLOCK_STATUS, offset: 0, length: 1 * MiB, ...fields });
    t.is(answer.error, "ok");
    return answer.chunks.map((chunk) => statusOf(chunk).extents);
  };
  t.deepEqual(await status({}), [
    [
      [65_536, 3],
      [8192, 0],
      [57_344, 3],
      [4096, 0],
      [913_408, 3],
    ],
    [
      [65_536, 0],
      [8192, 1],
      [57_344, 0],
      [8192, 1],
      [909_312, 0],
    ],
    [
      [131_072, 0],
      [8192, 1],
      [909_312, 0],
    ],
  ]);
  t.deepEqual(await status({ flags: FLAG.REQ_ONE }), [[[65_536, 3]], [[65_536, 0]], [[131_072, 0]]]);
  t.deepEqual(await status({ offset: 65_537, length: 1 }), [[[1, 0]], [[1, 1]], [[1, 0]]]);
  t.deepEqual(await status({ offset: 70_000, length: 10_000, flags: FLAG.REQ_ONE }), [
    [[3728, 0]],
    [[3728, 1]],
    [[10_000, 0]],
  ]);
  t.is((await later.request({ command: CMD.BLOCK_STATUS, length: 0 })).error, "EINVAL");
  t.is((await later.request({ command: CMD.BLOCK_STATUS, offset: 1 * MiB, length: 1 })).error, "EINVAL");
  target.endEpoch(2);
  t.is((await later.request({ command: CMD.BLOCK_STATUS, length: 512 })).error, "EINVAL", "the epoch is gone");
});

test("block status of more runs than one answer holds goes on where the last ended", async (t) => {
  const granules = 5000;
  const { base, target } = await startLab(t, { sizeBytes: granules * 8192 });
  target.beginEpoch(1);
  const client = await RawClient.open(base, "x", { contexts: ["base:allocation", "qemu:dirty-bitmap:1"] });
  for (let granule = 1; granule < granules; granule += 2) target.tryWrite(granule * 8192, Buffer.alloc(8192));
  for (const context of [0, 1]) {
    let at = 0;
    let flips = 0;
    let answers = 0;
    while (at < target.sizeBytes) {
      const length = target.sizeBytes - at;
      const { chunks } = await client.request({ command: CMD.BLOCK_STATUS, offset: at, length });
      for (const [extent, flags] of statusOf(chunks[context]!).extents) {
        t.is(extent, 8192);
        t.is(flags !== 0, ((at / 8192) % 2 === 0) === (context === 0));
        at += extent;
        flips++;
      }
      answers++;
    }
    t.is(flips, granules);
    t.true(answers > 1);
  }
});

test("block status errors are answers, not ends", async (t) => {
  const { base, target } = await startLab(t);
  const client = await RawClient.open(base, "x", { contexts: ["base:allocation"] });
  target.failing.set("allocation", { error: new TidemarkError("MEDIUM_ERROR", { message: "bad" }) });
  t.is((await client.request({ command: CMD.BLOCK_STATUS, length: 512 })).error, "EIO");
  target.failing.clear();
  t.is((await client.request({ command: CMD.BLOCK_STATUS, length: 512 })).error, "ok");
});
