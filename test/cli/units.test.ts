import test from "ava";
import fc from "fast-check";
import {
  formatDuration,
  formatSize,
  formatTime,
  parseDuration,
  parseSize,
  parseUint64,
  parseWhole,
} from "../../src/client/display/units.ts";
import { Failure } from "../../src/client/failure.ts";

const KiB = 1024n;

const SIZES: readonly (readonly [text: string, bytes: bigint])[] = [
  ["0", 0n],
  ["4096", 4096n],
  ["512B", 512n],
  ["4GiB", 4n * KiB ** 3n],
  ["512MiB", 512n * KiB ** 2n],
  ["10G", 10n * KiB ** 3n],
  ["10g", 10n * KiB ** 3n],
  ["10gib", 10n * KiB ** 3n],
  ["1.5T", (3n * KiB ** 4n) / 2n],
  ["0.5KiB", 512n],
  ["10GB", 10_000_000_000n],
  ["1 TiB", KiB ** 4n],
  ["18446744073709551615", 2n ** 64n - 1n],
];

for (const [text, bytes] of SIZES) test(`size ${text} is ${bytes} bytes`, (t) => t.is(parseSize(text), bytes));

for (const text of ["", "x", "-1", "1.", ".5", "1.5", "4XiB", "4Gi", "1e3", "0x10", "18446744073709551616", "16E"]) {
  test(`size \`${text}\` is refused as a usage error with a hint`, (t) => {
    const error = t.throws(() => parseSize(text), { instanceOf: Failure });
    t.is(error?.exitCode, 2);
    t.not(error?.hint, "");
  });
}

test("a shown size is exact or rounded down by less than a tenth of its unit", (t) => {
  fc.assert(
    fc.property(fc.bigInt({ min: 0n, max: 2n ** 63n }), (bytes) => {
      const shown = formatSize(bytes);
      t.regex(shown, /^\d{1,4}(\.[1-9])?(B|[KMGTPE]iB)$/);
      const [, number = "", unit = ""] = /^([\d.]+)(.*)$/.exec(shown) ?? [];
      const index = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].indexOf(unit);
      const step = 1n << BigInt(10 * index);
      const tenths = BigInt(Math.round(Number(number) * 10));
      return tenths === (bytes * 10n) / step && Number(number) < 1024;
    }),
  );
});

test("a size without a rest is read back exactly", (t) => {
  const whole = fc.record({ number: fc.bigInt({ min: 1n, max: 1023n }), exponent: fc.integer({ min: 0, max: 5 }) });
  fc.assert(
    fc.property(whole, ({ number, exponent }) => {
      const bytes = number << BigInt(10 * exponent);
      return parseSize(formatSize(bytes)) === bytes;
    }),
  );
  t.pass();
});

const DURATIONS: readonly (readonly [text: string, milliseconds: number])[] = [
  ["30", 30_000],
  ["30s", 30_000],
  ["500ms", 500],
  ["1.5s", 1500],
  ["5m", 300_000],
  ["2h", 7_200_000],
];

for (const [text, ms] of DURATIONS) test(`time ${text} is ${ms} ms`, (t) => t.is(parseDuration(text), ms));

for (const text of ["0", "-1", "soon", "1d", "0ms", "99999h"]) {
  test(`time \`${text}\` is refused`, (t) => {
    t.is(t.throws(() => parseDuration(text), { instanceOf: Failure })?.code, "USAGE");
  });
}

test("durations are shown with two units at most", (t) => {
  t.is(formatDuration(9.4), "9s");
  t.is(formatDuration(245), "4m05s");
  t.is(formatDuration(7380), "2h03m");
  t.is(formatDuration(3 * 86_400 + 4 * 3600), "3d04h");
});

test("whole numbers are kept inside their range", (t) => {
  const pace = { what: "a pace", min: 1, max: 15 };
  t.is(parseWhole("15", pace), 15);
  for (const text of ["0", "16", "1.5", "", "+3", "1e1", "９"]) {
    t.regex(t.throws(() => parseWhole(text, pace), { instanceOf: Failure })?.hint ?? "", /from 1 to 15/);
  }
});

test("epochs are 64-bit numbers", (t) => {
  t.is(parseUint64("18446744073709551615", "an epoch"), 2n ** 64n - 1n);
  for (const text of ["", "-1", "18446744073709551616", "1.0"]) t.throws(() => parseUint64(text, "an epoch"));
});

test("a time that is absent or out of range is empty", (t) => {
  t.is(formatTime(undefined), "");
  t.is(formatTime({ seconds: 2n ** 62n, nanos: 0 }), "");
  t.regex(formatTime({ seconds: 1_700_000_000n, nanos: 5 }), /^2023-11-1\d \d\d:\d\d:\d\d$/);
});
