/**
 * data-safety 1.10 rule 3: after a kill the names that a start finds need not be durable yet; it makes them so before it reads
 * what they name, because everything it does from then on relies on them.
 */
import test from "ava";
import { CopyLab, G } from "../support/copy-lab.ts";

for (const directory of ["sessions/c1", "volumes/v1"])
  test(`data-safety 1.10: the names in ${directory} are durable before anything in it is read`, async (t) => {
    const lab = await CopyLab.start(t, [8 * G, 8 * G]);
    await lab.copy(t, "v1", "v2", "quickopc");
    await lab.lab.finish();
    await lab.lab.halt(3);
    const { stateFiles } = lab.lab;
    const seen: string[] = [];
    let goOn = () => {};
    const held = new Promise<void>((resolve) => {
      goOn = resolve;
    });
    stateFiles.intercept = async ({ type, path }) => {
      if (!path.startsWith(directory)) return;
      seen.push(`${type} ${path}`);
      if (type === "syncDirectory") await held;
    };
    const starting = lab.lab.boot();
    await lab.lab.settle();
    const before = [...seen];
    goOn();
    await starting;
    t.deepEqual(before, [`syncDirectory ${directory}`]);
    t.true(seen.includes(`open ${directory}/super`));
    stateFiles.intercept = undefined;
    await lab.lab.finish();
    await lab.reads(t, "v2", "after the start");
  });
