/** Runs with TIDEMARK_NO_NATIVE=1: the device works with Node's own file calls, without holes and page-cache reads. */
import { systemClock } from "../../src/base/clock.ts";
import { asTidemarkError } from "../../src/base/errors.ts";
import { MemoryDevice } from "../../src/engine/device/memory-device.ts";
import { createMover } from "../../src/engine/device/mover.ts";
import { native } from "../../src/engine/device/native.ts";
import { openDevice } from "../../src/engine/device/open-device.ts";

const [, , path = ""] = process.argv;
const device = await openDevice(path, { clock: systemClock });
const second = await openDevice(path, { clock: systemClock }).then(
  () => "opened",
  (error: unknown) => asTidemarkError(error).code,
);
const data = Buffer.alloc(8192, 7);
const tried = device.tryWrite(0, data) || device.tryRead(0, Buffer.alloc(512));
await device.write(4096, data);
await device.flush();
const back = Buffer.alloc(8192);
await device.read(4096, back);
await device.zero(4096, 4096, { release: "allow" });
await device.trim(0, 4096);
const half = Buffer.alloc(8192);
await device.read(4096, half);
const mover = createMover({ workers: 1 });
const target = new MemoryDevice(device.sizeBytes);
const run = { fromOffsetBytes: 0, toOffsetBytes: 0, lengthBytes: device.sizeBytes };
const moved = await mover.move(device, target, [run], { budgetBytes: Number.MAX_SAFE_INTEGER });
await mover.close();
await device.close();
process.stdout.write(
  JSON.stringify({
    native: native !== undefined,
    tried,
    second,
    same: back.equals(data),
    zeroed: half.subarray(0, 4096).every((byte) => byte === 0) && half.subarray(4096).equals(data.subarray(4096)),
    moved: moved.doneBytes,
  }),
);
