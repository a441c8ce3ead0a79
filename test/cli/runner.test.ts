/** The test runner's own reading of AVA's output: if it miscounted, every other result would be in doubt. */
import test from "ava";
import { splitTitle, TapReader } from "../../scripts/tap.mjs";

const TAP = `TAP version 13
ok 1 - cli › units › sizes
ok 2 - b logs
#   skipped: no /dev/fuse
#   more
not ok 3 - spec/11 \\#23: fails
  ---
    name: AssertionError
    message: ok 9 - not a test
  ...
ok 4 - d # SKIP
not ok 5 - e # TODO
ok 6 - mentions # 7 and goes on

1..6
# tests 5
# pass 3
`;

test("each test is counted once, with its reason", (t) => {
  const reader = new TapReader();
  for (const line of TAP.split("\n")) reader.line(line);
  t.deepEqual(
    reader.results.map(({ title, outcome, reason }) => [title, outcome, reason]),
    [
      ["cli › units › sizes", "passed", ""],
      ["b logs", "skipped", "no /dev/fuse"],
      ["spec/11 #23: fails", "failed", ""],
      ["d", "skipped", "skip"],
      ["e", "skipped", "todo"],
      ["mentions # 7 and goes on", "passed", ""],
    ],
  );
  t.deepEqual(reader.results[2]?.detail, ["    name: AssertionError", "    message: ok 9 - not a test"]);
});

test("a failing test stays failed whatever it logs", (t) => {
  const reader = new TapReader();
  for (const line of ["not ok 1 - x", "#   skipped: no"]) reader.line(line);
  t.is(reader.results[0]?.outcome, "failed");
});

test("the file of a title is found by its path", (t) => {
  const files = ["test/cli/units.test.ts", "test/architecture.test.ts"];
  t.deepEqual(splitTitle("cli › units › a › b", files), { file: "test/cli/units.test.ts", title: "a › b" });
  t.deepEqual(splitTitle("architecture › x", files), { file: "test/architecture.test.ts", title: "x" });
  t.deepEqual(splitTitle("x", ["test/one.test.ts"]), { file: "test/one.test.ts", title: "x" });
});
