/** The background copier gives way: a job that is under way ends at its next piece when somebody waits for it. */
import test, { type ExecutionContext } from "ava";
import { MiB } from "../../src/base/units.ts";
import { CopyLab, FaultyDisk, G } from "../support/copy-lab.ts";

const SIZE = 4 * MiB;
/** Copying through the port goes in pieces of this size. */
const PIECE = 256 * 1024;
const stall = { kind: "stall" } as const;

/** A copy v1 -> v2 of one long job: its first piece is being read, and whatever follows would never end. */
async function longJob(t: ExecutionContext) {
  const source = new FaultyDisk(SIZE);
  const lab = await CopyLab.start(t, [source, SIZE, SIZE], { jobBytes: SIZE });
  const first = source.faults.inject({
    operation: "read",
    range: { offsetBytes: 0, lengthBytes: PIECE },
    effect: stall,
  });
  const rest = source.faults.inject({
    operation: "read",
    range: { offsetBytes: PIECE, lengthBytes: 2 * MiB },
    effect: stall,
  });
  await lab.copy(t, "v1", "v2", "opc", { pace: 15 });
  await first.reached(1);
  return { lab, first, rest };
}

test("data-safety 2.3: a host write to a granule of a long job waits for one piece of it, not for all", async (t) => {
  const { lab, first, rest } = await longJob(t);
  const writing = lab.write("v1", 3 * MiB, G);
  await lab.lab.settle();
  first.remove();
  await writing;
  t.is(rest.hits > 0, true, "the copy goes on with what it had left");
  rest.remove();
  await lab.lab.finish();
  await lab.holds(t, "v2");
});

test("a point on the source of a long job waits for one piece of it, not for all", async (t) => {
  const { lab, first, rest } = await longJob(t);
  const starting = lab.copy(t, "v1", "v3", "opc", { pace: 1 });
  await lab.lab.settle();
  first.remove();
  await starting;
  rest.remove();
  await lab.lab.finish();
  for (const volume of ["v2", "v3"]) await lab.holds(t, volume);
});

test("cancelling waits for one piece of a long job, not for all", async (t) => {
  const { lab, first, rest } = await longJob(t);
  const cancelling = lab.engine.cancelSession("c1");
  await lab.lab.settle();
  first.remove();
  await cancelling;
  t.is(rest.hits, 0);
  t.deepEqual(await lab.engine.sessions(), []);
});
