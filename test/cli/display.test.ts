import test from "ava";
import { Output } from "../../src/client/display/output.ts";
import { barText, Progress, percentOf, progressText, totalsOf } from "../../src/client/display/progress.ts";
import { type Column, renderRow, renderTable } from "../../src/client/display/table.ts";
import { executeCell, phaseWord, updateCell } from "../../src/client/display/words.ts";
import { Copy, CopyFailure, CopyKind, CopyPhase } from "../../src/gen/tidemark/v1/copy.ts";

class Recorder {
  text = "";
  readonly isTTY: boolean;
  constructor(kind: "terminal" | "pipe") {
    this.isTTY = kind === "terminal";
  }
  write(text: string): void {
    this.text += text;
  }
}

function outputOn(stderr: Recorder, format: "text" | "json" = "text"): Output {
  return new Output({ format, stdout: new Recorder("pipe"), stderr });
}

test("columns are aligned, numbers to the right, empty cells are ----", (t) => {
  const columns = [
    { title: "NAME", cell: (row: { name: string }) => row.name },
    { title: "SIZE", align: "right" as const, cell: (row: { name: string; size?: string }) => row.size ?? "" },
    { title: "PATH", cell: () => "/a" },
  ];
  const text = renderTable<{ name: string; size?: string }>(columns, [
    { name: "g1d1", size: "4GiB" },
    { name: "g1d10000" },
  ]);
  t.is(text, ["NAME      SIZE  PATH", "g1d1      4GiB  /a", "g1d10000  ----  /a", ""].join("\n"));
});

test("a table cannot be broken by what it shows", (t) => {
  const text = renderTable([{ title: "T", cell: (row: string) => row }], ["a\nb\u001b[31m", "表x"]);
  t.is(text, "T\na\\u{a}b\\u{1b}[31m\n表x\n");
});

const copying = Copy.fromPartial({
  id: "c1",
  kind: CopyKind.QUICKOPC,
  phase: CopyPhase.COPYING,
  tracking: true,
  plannedGranules: 1000n,
  pendingGranules: 501n,
  executePercent: 49,
});

test("words while copying and while tracking", (t) => {
  t.deepEqual([phaseWord(copying), executeCell(copying), updateCell(copying)], ["copying", "49%", ""]);
  const tracking = { ...copying, phase: CopyPhase.TRACKING, executePercent: 100, updatePercent: 12 };
  t.deepEqual([phaseWord(tracking), executeCell(tracking), updateCell(tracking)], ["tracking", "", "12%"]);
});

test("a failed copy says why", (t) => {
  const failed = { ...copying, phase: CopyPhase.FAILED, failure: CopyFailure.BAD_SECTOR };
  t.is(phaseWord(failed), "failed(bad sector)");
});

test("a copy that is out of service says so, and claims no progress", (t) => {
  for (const [phase, word] of [
    [CopyPhase.COPYING, "copying(out of service)"],
    [CopyPhase.TRACKING, "tracking(out of service)"],
  ] as const) {
    const copy = { ...copying, phase, failure: CopyFailure.OTHER };
    t.deepEqual([phaseWord(copy), executeCell(copy), updateCell(copy)], [word, "", ""]);
  }
});

test("rows that come one at a time stand under each other as far as their columns are wide", (t) => {
  const columns: Column<readonly string[]>[] = [
    { title: "TYPE", widthMin: 8, cell: (row) => row[0] ?? "" },
    { title: "SUBJECT", widthMin: 4, cell: (row) => row[1] ?? "" },
    { title: "MESSAGE", cell: (row) => row[2] ?? "" },
  ];
  t.is(renderRow(columns, ["started", "", "one"]), "started   ----  one");
  t.is(renderRow(columns, ["added", "g1d1", "two\nlines"]), "added     g1d1  two\\u{a}lines");
  t.is(renderRow(columns, ["unavailable", "g1d1", "three"]), "unavailable  g1d1  three");
});

test("percent is 100 only when nothing is left", (t) => {
  t.is(percentOf(totalsOf([{ ...copying, pendingGranules: 1n }])), 99);
  t.is(percentOf(totalsOf([{ ...copying, pendingGranules: 0n }])), 100);
  t.is(percentOf(totalsOf([{ ...copying, plannedGranules: 0n, pendingGranules: 0n, phase: CopyPhase.TRACKING }])), 100);
});

test("progress of several copies is their sum", (t) => {
  const totals = totalsOf([copying, { ...copying, id: "c2", pendingGranules: 0n, phase: CopyPhase.TRACKING }]);
  t.is(totals.copying, 1);
  t.is(percentOf(totals), 74);
  t.is(progressText(totals, 8192 * 501), "74% of 15.6MiB, 3.9MiB/s, eta 1s");
});

test("the bar is as wide as it is, whatever it shows", (t) => {
  const widths = new Set(Array.from({ length: 101 }, (_value, percent) => barText(percent).length));
  t.is(widths.size, 1);
  t.is(barText(100), `[${"=".repeat(24)}]`);
});

test("into a pipe at most a line every two seconds, and always the last", (t) => {
  const stderr = new Recorder("pipe");
  let nowMs = 0;
  const progress = new Progress(outputOn(stderr), () => nowMs);
  for (; nowMs < 5000; nowMs += 50) progress.update({ ...copying, pendingGranules: BigInt(1000 - nowMs / 10) });
  progress.update({ ...copying, pendingGranules: 0n, phase: CopyPhase.TRACKING });
  progress.finish();
  const lines = stderr.text.split("\n").filter((line) => line !== "");
  t.is(lines.length, 4, stderr.text);
  t.is(lines.at(-1), "c1 tracking 100% of 7.8MiB");
  t.notRegex(stderr.text, /\r/);
});

test("on a terminal one line is redrawn and fully covered", (t) => {
  const stderr = new Recorder("terminal");
  let nowMs = 0;
  const progress = new Progress(outputOn(stderr), () => nowMs);
  progress.update(copying);
  nowMs = 5000;
  progress.update({ ...copying, pendingGranules: 0n, phase: CopyPhase.TRACKING });
  progress.finish();
  const drawn = stderr.text.split("\r").slice(1);
  t.true(drawn.length >= 2);
  t.true((drawn[1]?.length ?? 0) >= (drawn[0]?.length ?? 0), "the shorter line covers the longer");
  t.is(stderr.text.split("\n").length, 2);
});

test("with --json there is no progress", (t) => {
  const stderr = new Recorder("terminal");
  const progress = new Progress(outputOn(stderr, "json"), () => 0);
  progress.update(copying);
  progress.finish();
  t.is(stderr.text, "");
});

test("a message is one line of protobuf JSON", (t) => {
  const stdout = new Recorder("pipe");
  new Output({ format: "json", stdout, stderr: new Recorder("pipe") }).message(Copy, copying);
  const value: unknown = JSON.parse(stdout.text);
  t.like(value, { id: "c1", kind: "COPY_KIND_QUICKOPC", plannedGranules: "1000", tracking: true });
  t.is(stdout.text.indexOf("\n"), stdout.text.length - 1);
});
