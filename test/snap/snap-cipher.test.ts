/** Encryption of snap stores: the algorithm, the key file, a wrong key, and what is on the disk. */
import { randomBytes } from "node:crypto";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "ava";
import { GRANULE_SIZE_BYTES } from "../../src/base/units.ts";
import type { MemoryOperation } from "../../src/engine/durable/memory-state-files.ts";
import { SnapKey } from "../../src/engine/snap/snap-cipher.ts";
import { SnapStore } from "../../src/engine/snap/snap-store.ts";
import { createStore, granuleOf, OpenBudget, OWNER, openStore, PATH, snapFileIn, versionOf } from "./snap-lab.ts";

const keyOf = (first: number) => new SnapKey(Uint8Array.from({ length: 64 }, (_, index) => (first + index * 5) & 0xff));

test("it is AES-256-XTS: vector 10 of IEEE 1619", (t) => {
  const hex =
    "2718281828459045235360287471352662497757247093699959574966967627" +
    "3141592653589793238462643383279502884197169399375105820974944592";
  const plain = Uint8Array.from({ length: 512 }, (_, index) => index & 0xff);
  // The tweak of the vector is ff and zeros: slot 255 of a store whose uuid is zero.
  const cipher = new SnapKey(Buffer.from(hex, "hex")).cipher(new Uint8Array(16));
  const stored = cipher.seal(255, plain);
  t.is(
    Buffer.from(stored.subarray(0, 32)).toString("hex"),
    "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b",
  );
  t.deepEqual(Uint8Array.from(cipher.open(255, stored)), plain);
});

test("equal granules look different at another slot and in another store", (t) => {
  const plain = granuleOf(1, 1);
  const uuids = [1, 2].map((value) => new Uint8Array(16).fill(value));
  const key = keyOf(1);
  const seen = uuids.flatMap((uuid) =>
    [100, 102].map((slot) => Buffer.from(key.cipher(uuid).seal(slot, plain)).toString("hex")),
  );
  t.is(new Set(seen).size, 4);
  t.is(new Set(uuids.map((uuid) => Buffer.from(key.cipher(uuid).verifier).toString("hex"))).size, 2);
});

test("keys that are refused", (t) => {
  for (const length of [0, 32, 63, 65])
    t.throws(() => new SnapKey(randomBytes(length)), { code: "KEY_INVALID" } as object);
  const half = randomBytes(32);
  t.throws(() => new SnapKey(Buffer.concat([half, half])), { code: "KEY_INVALID", message: /halves/ } as object);
});

test("key files: a regular file of 64 bytes with mode 0600, and nothing else", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "snap-key-"));
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const fileOf = (name: string, bytes: Uint8Array, mode: number) => {
    const path = join(directory, name);
    writeFileSync(path, bytes);
    chmodSync(path, mode);
    return path;
  };
  const good = fileOf("good", randomBytes(64), 0o600);
  t.true((await SnapKey.fromFile(good)) instanceof SnapKey);
  for (const mode of [0o640, 0o604, 0o400, 0o700, 0o4600])
    await t.throwsAsync(SnapKey.fromFile(fileOf(`mode-${mode}`, randomBytes(64), mode)), {
      code: "KEY_INVALID",
      message: /mode/,
    });
  for (const length of [0, 63, 65, 4096])
    await t.throwsAsync(SnapKey.fromFile(fileOf(`length-${length}`, randomBytes(length), 0o600)), {
      code: "KEY_INVALID",
      message: new RegExp(`has ${length} bytes`),
    });
  const half = randomBytes(32);
  await t.throwsAsync(SnapKey.fromFile(fileOf("halves", Buffer.concat([half, half]), 0o600)), { code: "KEY_INVALID" });
  await t.throwsAsync(SnapKey.fromFile(join(directory, "missing")), { code: "PATH_NOT_FOUND" });
  symlinkSync(good, join(directory, "link"));
  await t.throwsAsync(SnapKey.fromFile(join(directory, "link")), { code: "PATH_NOT_USABLE" });
  mkdirSync(join(directory, "directory"), { mode: 0o700 });
  await t.throwsAsync(SnapKey.fromFile(join(directory, "directory")), {
    code: "KEY_INVALID",
    message: /no regular file/,
  });
});

test("nothing of the content is on the disk, and every granule comes back, also after compaction", async (t) => {
  const key = keyOf(7);
  const { files, store } = await createStore({ key });
  for (let version = 1; version < 80; version++)
    await store.append([{ granule: version % 9, data: granuleOf(version % 9, version) }], "copy");
  await store.close();
  const disk = Buffer.from(files.contents(PATH));
  for (let granule = 0; granule < 9; granule++) {
    const data = granuleOf(granule, granule < 8 ? 72 + granule : 71);
    for (let at = 0; at < GRANULE_SIZE_BYTES; at += 512) t.is(disk.indexOf(data.subarray(at, at + 32)), -1);
  }
  const again = await openStore(files, { key });
  for (let granule = 0; granule < 9; granule++) t.is(await versionOf(again, granule), granule < 8 ? 72 + granule : 71);
  await again.close();
});

test("a wrong key, no key, or one too many: refused before anything is read, and nothing is changed", async (t) => {
  const encrypted = await createStore({ key: keyOf(7) });
  const plain = await createStore();
  const cases = [
    [encrypted, { key: keyOf(8) }, /not the one it was made with/],
    [encrypted, {}, /no key is given/],
    [plain, { key: keyOf(7) }, /not encrypted/],
  ] as const;
  for (const { store } of [encrypted, plain]) {
    await store.append([{ granule: 0, data: granuleOf(0, 1) }], "copy");
    await store.close();
  }
  for (const [{ files }, given, message] of cases) {
    const before = files.contents(PATH);
    const operations: MemoryOperation[] = [];
    const file = await snapFileIn(files, "there");
    files.intercept = (operation) => {
      operations.push(operation);
    };
    await t.throwsAsync(SnapStore.open(file, { owner: OWNER, budget: new OpenBudget(), ...given }), {
      code: "KEY_INVALID",
      message,
    });
    files.intercept = undefined;
    t.true(operations.every(({ type }) => type === "sync" || type === "read"));
    t.true(operations.filter(({ type }) => type === "read").length <= 4, "two slots and their tables");
    t.deepEqual(files.contents(PATH), before);
    await file.close();
  }
});
