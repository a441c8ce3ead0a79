/** The order in which what happens around a point is recorded (domain/point-order.ts). */
import test from "ava";
import { PointOrder } from "../../src/domain/point-order.ts";

test("what is told of a session while a point is under way is recorded behind the point, an earlier run of it before", (t) => {
  const order = new PointOrder();
  const records: string[] = [];
  const record = (id: string, generation: number) =>
    order.record({ id, generation }, () => records.push(`${id} run ${generation}`));
  order.begin();
  record("c1", 1);
  record("c1", 2);
  record("c2", 1);
  t.deepEqual(records, []);
  order.fired([{ id: "c1", generation: 2 }]);
  t.deepEqual(records, ["c1 run 1"]);
  records.push("the point");
  order.end();
  t.deepEqual(records, ["c1 run 1", "the point", "c1 run 2", "c2 run 1"]);
  record("c3", 1);
  t.is(records.at(-1), "c3 run 1");
});

test("a session that changes by a command of its own is not written over by what was held back of it (found by the simulator)", (t) => {
  const order = new PointOrder();
  const records: string[] = [];
  order.begin(); // of other volumes
  order.record({ id: "c1", generation: 2 }, () => records.push("c1 tracks"));
  order.record({ id: "c2", generation: 1 }, () => records.push("c2 tracks"));
  order.release("c1");
  records.push("c1 goes on as opc");
  order.end();
  t.deepEqual(records, ["c1 tracks", "c1 goes on as opc", "c2 tracks"]);
});
