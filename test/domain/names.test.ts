import test from "ava";
import fc from "fast-check";
import { TidemarkError } from "../../src/base/errors.ts";
import { LABEL_LENGTH_MAX } from "../../src/base/limits.ts";
import { compareNames } from "../../src/domain/catalog.ts";
import {
  checkLabel,
  copyId,
  parseCanonicalName,
  parseCopyId,
  partitionName,
  volumeName,
} from "../../src/domain/names.ts";

const CANONICAL = [
  ["g1d1", { box: 1, lu: 1, partition: 0 }],
  ["g0d7", { box: 0, lu: 7, partition: 0 }],
  ["g9999d99999p128", { box: 9999, lu: 99_999, partition: 128 }],
  ["g12d34p5", { box: 12, lu: 34, partition: 5 }],
] as const;
const NOT_CANONICAL = [
  "", "g1", "d1", "g1d0", "g01d1", "g1d01", "g1d1p0", "g1d1p01", "G1D1", "g1d1p", "g1d1 ", " g1d1", "g-1d1", "g1d1p1p1",
  "g10000d1", "g1d100000", "g1d1p1000", "g1d1\n",
]; // biome-ignore format: a table

for (const [text, parts] of CANONICAL)
  test(`canonical name ${text}`, (t) => {
    t.deepEqual(parseCanonicalName(text), parts);
  });
for (const text of NOT_CANONICAL)
  test(`no canonical name: ${JSON.stringify(text)}`, (t) => {
    t.is(parseCanonicalName(text), undefined);
  });

test("names that are made are understood", (t) => {
  const numbers = fc.record({
    box: fc.integer({ min: 0, max: 9999 }),
    lu: fc.integer({ min: 1, max: 99_999 }),
    partition: fc.integer({ min: 1, max: 128 }),
  });
  fc.assert(
    fc.property(numbers, ({ box, lu, partition }) => {
      t.deepEqual(parseCanonicalName(volumeName(box, lu)), { box, lu, partition: 0 });
      t.deepEqual(parseCanonicalName(partitionName(box, lu, partition)), { box, lu, partition });
      t.throws(() => checkLabel(volumeName(box, lu)), { instanceOf: TidemarkError });
    }),
  );
});

for (const label of [
  "",
  "a",
  "Z",
  "db-data_1.2#x",
  "g",
  "g1",
  "g1d",
  "d1",
  "g1d1p1x",
  "xg1d1",
  "a".repeat(LABEL_LENGTH_MAX),
])
  test(`label ${JSON.stringify(label.slice(0, 20))} is allowed`, (t) => {
    t.notThrows(() => checkLabel(label));
  });
for (const label of [
  "1a",
  "-a",
  "a b",
  "a/b",
  "ä",
  "a\n",
  "a:b",
  "g1d2",
  "g1d2p3",
  "G1D2",
  "g01d02",
  "a".repeat(LABEL_LENGTH_MAX + 1),
])
  test(`label ${JSON.stringify(label.slice(0, 20))} (${label.length}) is refused`, (t) => {
    const error = t.throws(() => checkLabel(label), { instanceOf: TidemarkError });
    t.is(error?.code, "INVALID_ARGUMENT");
    t.is(error?.detail.field, "label");
    t.truthy(error?.detail.hint);
  });

test("copy ids", (t) => {
  t.is(parseCopyId(copyId(12)), 12);
  for (const text of ["", "c", "c0", "c01", "12", "C1", "c1 ", "c9999999999999999"]) t.is(parseCopyId(text), undefined);
});

test("canonical names are ordered by their numbers", (t) => {
  const names = ["g1d1", "g1d1p1", "g1d1p2", "g1d1p10", "g1d2", "g1d10", "g1d100"];
  t.deepEqual([...names].reverse().sort(compareNames), names);
});
