import test from "ava";
import { TidemarkError } from "../../src/base/errors.ts";
import { GRANULE_SIZE_BYTES } from "../../src/base/units.ts";
import type { CopyKind, ExtentRef } from "../../src/engine/engine-api.ts";
import { planStart, type SessionView } from "../../src/engine/session/rules.ts";
import type { SessionState } from "../../src/engine/session/transitions.ts";

const SIZE = 100 * GRANULE_SIZE_BYTES;
const lu = (name: string, lengthBytes = SIZE, offsetBytes = 0): ExtentRef => ({
  volumeUid: name.split("p")[0] ?? name,
  name,
  offsetBytes,
  lengthBytes,
});
const session = (from: string, to: string, state: SessionState, pending: "pending" | "complete"): SessionView => ({
  id: `${from}-${to}`,
  source: lu(from),
  destination: lu(to),
  state,
  unfinished: pending === "pending",
});

interface Row {
  readonly sessions: SessionView[];
  readonly source: ExtentRef;
  readonly destination: ExtentRef;
  readonly kind: CopyKind;
  /** Refusal, or reason of the copy. */
  readonly expected: string;
}

const tracking = session("a", "b", "quick-tracking", "complete");
const ROWS: Record<string, Row> = {
  "a first copy": { sessions: [], source: lu("a"), destination: lu("b"), kind: "opc", expected: "FIRST_COPY" },
  "destination smaller": {
    sessions: [],
    source: lu("a"),
    destination: lu("b", SIZE - 1),
    kind: "opc",
    expected: "DESTINATION_TOO_SMALL",
  },
  "destination larger": {
    sessions: [],
    source: lu("a"),
    destination: lu("b", SIZE * 2),
    kind: "opc",
    expected: "FIRST_COPY",
  },
  "source is destination": {
    sessions: [],
    source: lu("a"),
    destination: lu("a"),
    kind: "opc",
    expected: "SOURCE_IS_DESTINATION",
  },
  "overlapping parts of one LU": {
    sessions: [],
    source: lu("ap1", SIZE, 0),
    destination: lu("ap2", SIZE, SIZE - GRANULE_SIZE_BYTES),
    kind: "opc",
    expected: "SOURCE_IS_DESTINATION",
  },
  "neighbouring parts of one LU": {
    sessions: [],
    source: lu("ap1", SIZE, 0),
    destination: lu("ap2", SIZE, SIZE),
    kind: "opc",
    expected: "FIRST_COPY",
  },
  "unaligned partition": {
    sessions: [],
    source: lu("ap1", SIZE, 512),
    destination: lu("b", SIZE * 2),
    kind: "opc",
    expected: "PARTITION_UNALIGNED",
  },
  "spec/11 #31: OPC again while it runs": {
    sessions: [session("a", "b", "opc-copying", "pending")],
    source: lu("a"),
    destination: lu("b"),
    kind: "opc",
    expected: "NOT_TRACKED",
  },
  "spec/11 #32: QuickOPC again": {
    sessions: [tracking],
    source: lu("a"),
    destination: lu("b"),
    kind: "quickopc",
    expected: "DIFFERENCE",
  },
  "OPC over tracking ends it": {
    sessions: [tracking],
    source: lu("a"),
    destination: lu("b"),
    kind: "opc",
    expected: "KIND_CHANGED",
  },
  "spec/11 #34: reverse QuickOPC while tracking": {
    sessions: [tracking],
    source: lu("b"),
    destination: lu("a"),
    kind: "quickopc",
    expected: "REVERSE_NOT_OPC",
  },
  "spec/11 #34: reverse OPC while tracking": {
    sessions: [tracking],
    source: lu("b"),
    destination: lu("a"),
    kind: "opc",
    expected: "RESTORE_DIFFERENCE",
  },
  "restore from a larger destination": {
    sessions: [tracking],
    source: lu("b", SIZE * 3),
    destination: lu("a"),
    kind: "opc",
    expected: "RESTORE_DIFFERENCE",
  },
  "reverse while copying": {
    sessions: [session("a", "b", "quick-copying", "pending")],
    source: lu("b"),
    destination: lu("a"),
    kind: "opc",
    expected: "DESTINATION_COPYING",
  },
  "reverse while another pair of the source tracks": {
    sessions: [tracking, session("a", "c", "quick-tracking", "complete")],
    source: lu("b"),
    destination: lu("a"),
    kind: "opc",
    expected: "RESTORE_DIFFERENCE",
  },
  "reverse while another pair of the source copies": {
    sessions: [tracking, session("a", "c", "opc-copying", "pending")],
    source: lu("b"),
    destination: lu("a"),
    kind: "opc",
    expected: "DESTINATION_COPYING",
  },
  "several destinations of one source": {
    sessions: [tracking],
    source: lu("a"),
    destination: lu("c"),
    kind: "quickopc",
    expected: "FIRST_COPY",
  },
  "two sources into one destination": {
    sessions: [tracking],
    source: lu("c"),
    destination: lu("b"),
    kind: "opc",
    expected: "DESTINATION_IN_USE",
  },
  "a cascade": {
    sessions: [session("a", "b", "opc-copying", "pending")],
    source: lu("b"),
    destination: lu("c"),
    kind: "opc",
    expected: "FIRST_COPY",
  },
  "a circle of two": {
    sessions: [session("a", "b", "quick-tracking", "complete"), session("b", "c", "quick-tracking", "complete")],
    source: lu("c"),
    destination: lu("a"),
    kind: "opc",
    expected: "COPY_CYCLE",
  },
  "restore into the middle of a cascade": {
    sessions: [session("a", "b", "quick-tracking", "complete"), session("b", "c", "quick-tracking", "complete")],
    source: lu("c"),
    destination: lu("b"),
    kind: "opc",
    expected: "RESTORE_DIFFERENCE",
  },
  "restart upstream while the destination is still copied on": {
    sessions: [tracking, session("b", "c", "opc-copying", "pending")],
    source: lu("a"),
    destination: lu("b"),
    kind: "quickopc",
    expected: "DESTINATION_COPYING",
  },
  "restart while a restore runs": {
    sessions: [tracking, session("b", "a", "opc-copying", "pending")],
    source: lu("a"),
    destination: lu("b"),
    kind: "quickopc",
    expected: "DESTINATION_COPYING",
  },
  "a restore again while it runs": {
    sessions: [tracking, session("b", "a", "opc-copying", "pending")],
    source: lu("b"),
    destination: lu("a"),
    kind: "opc",
    expected: "RESTORE_DIFFERENCE",
  },
  "source is an incomplete failed copy": {
    sessions: [session("a", "b", "opc-failed", "pending")],
    source: lu("b"),
    destination: lu("c"),
    kind: "opc",
    expected: "SOURCE_UNREADABLE",
  },
  "restore from a failed but complete copy": {
    sessions: [session("a", "b", "quick-failed", "complete")],
    source: lu("b"),
    destination: lu("a"),
    kind: "opc",
    expected: "FIRST_COPY",
  },
  "again after a failure": {
    sessions: [session("a", "b", "quick-failed", "pending")],
    source: lu("a"),
    destination: lu("b"),
    kind: "quickopc",
    expected: "AFTER_FAILURE",
  },
};

for (const [title, row] of Object.entries(ROWS))
  test(`rules: ${title}`, (t) => {
    let outcome: string;
    try {
      outcome = planStart(row.sessions, row).transition.reason ?? "";
    } catch (error) {
      if (!(error instanceof TidemarkError)) throw error;
      t.truthy(error.detail.hint, "a refusal says what to do next");
      outcome = error.code;
    }
    t.is(outcome, row.expected);
  });
