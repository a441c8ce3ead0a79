/** Reads a stalled device far beyond its limit, then a healthy one; says which answered first. */
import { systemClock } from "../../src/base/clock.ts";
import { openDevice } from "../../src/engine/device/open-device.ts";

const [, , stalledPath = "", healthyPath = ""] = process.argv;
const stalled = await openDevice(stalledPath, { clock: systemClock });
const healthy = await openDevice(healthyPath, { clock: systemClock });
let stalledAnswers = 0;
for (let index = 0; index < 100; index++) {
  stalled.read(index * 128 * 1024, Buffer.alloc(4096)).then(
    () => stalledAnswers++,
    () => stalledAnswers++,
  );
}
for (let index = 0; index < 200; index++) await healthy.read((index * 4096) % healthy.sizeBytes, Buffer.alloc(4096));
await healthy.flush();
process.stdout.write(stalledAnswers === 0 ? "healthy first\n" : `stalled answered ${stalledAnswers} times before\n`);
process.exit(0);
