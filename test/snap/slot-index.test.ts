/** The index of a snap store against a map. */
import test from "ava";
import fc from "fast-check";
import { SlotIndex } from "../../src/engine/snap/slot-index.ts";

test("any granules below 2^33, however they are set again: the last slot counts", (t) => {
  const granule = fc.oneof(
    fc.nat(40),
    fc.nat(2 ** 31 - 1),
    fc.constantFrom(2 ** 32, 2 ** 32 + 1, 2 ** 33 - 1, 2 ** 32 - 1),
  );
  const put = fc.record({
    granule,
    slot: fc.integer({ min: 1, max: 2 ** 30 - 1 }),
    checksum: fc.nat(0xffffffff),
    class: fc.constantFrom("copy" as const, "host" as const),
  });
  fc.assert(
    fc.property(fc.array(put, { maxLength: 300 }), fc.array(granule, { maxLength: 30 }), (puts, others) => {
      const index = new SlotIndex();
      const model = new Map<number, { slot: number; checksum: number; class: "copy" | "host" }>();
      for (const { granule: at, ...entry } of puts) {
        t.is(index.set(at, entry), model.get(at)?.slot ?? 0);
        model.set(at, entry);
      }
      for (const [at, entry] of model) t.deepEqual(index.get(at), entry);
      for (const at of others) t.is(index.has(at), model.has(at));
      t.is(index.size, model.size);
      index.clear();
      t.is(index.size, 0);
      for (const at of model.keys()) t.is(index.get(at), undefined);
    }),
    { numRuns: 100 },
  );
});

test("16 to 32 bytes a granule, whatever the pattern", (t) => {
  for (const stride of [1, 8, 1024, 4_194_304]) {
    const index = new SlotIndex();
    const count = stride > 1024 ? 2000 : 20_000;
    for (let number = 0; number < count; number++)
      index.set((number * stride) % 2 ** 33, { slot: number + 1, checksum: number, class: "copy" });
    for (let number = 0; number < count; number++) t.is(index.get((number * stride) % 2 ** 33)?.slot, number + 1);
    const bytes = index.memoryBytes / index.size;
    t.true(bytes >= 16 && bytes <= 32, `${bytes}`);
  }
});
