import fs from "node:fs";
import { constants } from "node:os";
import { Worker } from "node:worker_threads";
import test from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import {
  EAGAIN,
  EINVAL,
  ENXIO,
  errnoName,
  ioErrorOf,
  isUnsupported,
  pathError,
} from "../../src/engine/device/errno.ts";
import { native, SEEK_DATA, SEEK_HOLE } from "../../src/engine/device/native.ts";
import { fileOf, loopDevice, pattern, skippedWithoutRoot, sparseFile, temporaryDirectory } from "./fixtures.ts";

test("errors of the calls are errno numbers, on this thread and from the pool", async (t) => {
  t.is(native?.seek(9999, 0, SEEK_DATA), -constants.errno.EBADF);
  t.is(await native?.seekAsync(9999, 0, SEEK_DATA), -constants.errno.EBADF);
  t.is(await native?.fallocateAsync(9999, 0, 0, 1), -constants.errno.EBADF);
  t.is(native?.preadNowait(9999, new Uint8Array(8), 0), -constants.errno.EBADF);
});

test("many asynchronous calls keep their own errors", async (t) => {
  const path = sparseFile(temporaryDirectory(t), "file", 8192);
  const fd = fs.openSync(path, "r+");
  const results = await Promise.all(
    Array.from({ length: 200 }, (_, index) => native?.seekAsync(index % 2 === 0 ? fd : 9999, 0, SEEK_HOLE)),
  );
  t.true(results.every((result, index) => result === (index % 2 === 0 ? 0 : -constants.errno.EBADF)));
  fs.closeSync(fd);
});

test("seek, copy_file_range and locks do what they say", async (t) => {
  const directory = temporaryDirectory(t);
  const from = fs.openSync(fileOf(directory, "from", pattern(65_536, 1)), "r+");
  const to = fs.openSync(sparseFile(directory, "to", 1 << 20), "r+");
  t.is(native?.seek(to, 0, SEEK_DATA), -ENXIO);
  t.is(native?.copyFileRange(from, 4096, to, 131_072, 32_768), 32_768);
  t.is(native?.seek(to, 0, SEEK_DATA), 131_072);
  const back = Buffer.alloc(32_768);
  fs.readSync(to, back, 0, back.length, 131_072);
  t.is(Buffer.compare(back, pattern(65_536, 1).subarray(4096, 36_864)), 0);
  const second = fs.openSync(`${directory}/to`, "r+");
  t.is(await native?.lockExclusiveAsync(to), 0);
  t.is(await native?.lockExclusiveAsync(second), -EAGAIN);
  fs.closeSync(to);
  t.is(await native?.lockExclusiveAsync(second), 0);
  t.is(native?.startWriteback(second, 0, 1 << 20), 0);
  for (const fd of [from, second]) fs.closeSync(fd);
});

test("block devices tell their size and discard whole sectors", async (t) => {
  if (skippedWithoutRoot(t)) return;
  const path = loopDevice(t, fileOf(temporaryDirectory(t), "file", pattern(1 << 20, 1)), "--sector-size", "4096");
  const fd = fs.openSync(path, "r+");
  t.is(native?.blockSize(fd), 1 << 20);
  t.is(await native?.blockDiscardAsync(fd, 512, 512), -EINVAL, "not a whole sector of this device");
  t.is(await native?.blockDiscardAsync(fd, 8192, 8192), 0);
  const back = Buffer.alloc(8192);
  fs.readSync(fd, back, 0, 8192, 8192);
  t.true(back.every((byte) => byte === 0));
  fs.closeSync(fd);
});

test("the calls work in a worker thread, several at once", async (t) => {
  const url = new URL("../../src/engine/device/native.ts", import.meta.url).href;
  const path = fileOf(temporaryDirectory(t), "file", pattern(65_536, 1));
  const code = `import("tsx/esm/api").then(async ({ register }) => {
    register();
    const { native } = await import(${JSON.stringify(url)});
    const fs = await import("node:fs");
    const fd = fs.openSync(${JSON.stringify(path)}, "r");
    let sum = 0;
    for (let at = 0; at < 65536; at += 4096) {
      const buffer = new Uint8Array(4096);
      if (native.preadNowait(fd, buffer, at) === 4096) sum += buffer.reduce((a, b) => a + b, 0);
    }
    const hole = await native.seekAsync(fd, 0, 4);
    require("node:worker_threads").parentPort.postMessage([sum, hole]);
  })`;
  const answers = await Promise.all(
    [1, 2, 3].map(
      () =>
        new Promise((resolve, reject) => {
          new Worker(code, { eval: true }).once("message", resolve).once("error", reject);
        }),
    ),
  );
  const sum = pattern(65_536, 1).reduce((a, b) => a + b, 0);
  t.deepEqual(answers, [
    [sum, 65_536],
    [sum, 65_536],
    [sum, 65_536],
  ]);
});

test("errno becomes a code in one place", (t) => {
  const place = { path: "/data/volume", action: "write", offsetBytes: 512, lengthBytes: 1024 };
  const codes: [string, string][] = [
    ["EIO", "MEDIUM_ERROR"],
    ["EUCLEAN", "MEDIUM_ERROR"],
    ["ENOSPC", "NO_SPACE"],
    ["EDQUOT", "NO_SPACE"],
    ["ENODEV", "DEVICE_GONE"],
    ["ENXIO", "DEVICE_GONE"],
    ["EBADF", "DEVICE_GONE"],
    ["ENOTCONN", "DEVICE_GONE"],
    ["EROFS", "READ_ONLY"],
    ["EACCES", "READ_ONLY"],
    ["EPERM", "READ_ONLY"],
    ["ENOMEM", "MEMORY_EXHAUSTED"],
    ["EWHATEVER", "INTERNAL"],
  ];
  for (const [errno, code] of codes) {
    const error = ioErrorOf({ code: errno }, place);
    t.is(error.code, code as TidemarkError["code"], errno);
    t.deepEqual(error.detail.metadata, { path: "/data/volume", errno, offsetBytes: "512", lengthBytes: "1024" });
    if (code !== "INTERNAL") t.truthy(error.detail.hint, errno);
  }
  const ours = new TidemarkError("NO_SPACE", { message: "full" });
  t.is(ioErrorOf(ours, place), ours);
  t.is(pathError(ours, "/x"), ours);
  t.is(pathError({ code: "EEXIST" }, "/x").code, "PATH_EXISTS");
  t.is(pathError({ code: "EMFILE" }, "/x").code, "LIMIT_EXCEEDED");
  t.is(errnoName(11), "EAGAIN");
  t.is(errnoName(95), "EOPNOTSUPP");
  t.is(errnoName(117), "EUCLEAN");
  t.is(errnoName(4000), "E4000");
  t.true(isUnsupported(95) && !isUnsupported(5));
});
