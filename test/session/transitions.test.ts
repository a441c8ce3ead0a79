import test from "ava";
import { type SessionEvent, type SessionState, TRANSITIONS } from "../../src/engine/session/transitions.ts";

// Typed again from spec/11 "Copy session", "swsrpmake" Table 14.9 and "swsrpcancel": next state / what is copied; `-` = refused.
const OPC = `
given        start-opc             start-quickopc          restart               copied     error       stop-tracking  cancel     restore  restore-quickopc
none         opc-copying/everything quick-copying/everything -                   -          -           -              -          -        -
opc-copying  opc-copying/everything quick-copying/everything opc-copying/everything none/nothing opc-failed/nothing - none/nothing - -
opc-failed   opc-copying/everything quick-copying/everything opc-copying/everything -        -           -              none/nothing -    -
`;
const QUICKOPC = `
given          start-opc              start-quickopc           restart                  copied                 error                stop-tracking       cancel       restore                    restore-quickopc
quick-copying  opc-copying/everything quick-copying/difference quick-copying/difference quick-tracking/nothing quick-failed/nothing opc-copying/nothing none/nothing -                          -
quick-tracking opc-copying/everything quick-copying/difference quick-copying/difference -                      quick-failed/nothing none/nothing        none/nothing quick-tracking/difference  -
quick-failed   opc-copying/everything quick-copying/everything quick-copying/everything -                      -                    -                   none/nothing -                          -
`;

function cells(table: string): { given: SessionState; when: SessionEvent; expected: string }[] {
  const [head = [], ...rows] = table
    .trim()
    .split("\n")
    .map((line) => line.trim().split(/\s+/));
  return rows.flatMap((row) => {
    if (row.length !== head.length) throw new Error(`row ${row[0]} has ${row.length} cells, ${head.length} expected`);
    return head.slice(1).map((when, index) => ({
      given: row[0] as SessionState,
      when: when as SessionEvent,
      expected: row[index + 1] ?? "",
    }));
  });
}

for (const [kind, table] of [
  ["OPC", OPC],
  ["QuickOPC", QUICKOPC],
] as const)
  test(`transition matrix of ${kind}: every cell`, (t) => {
    for (const { given, when, expected } of cells(table)) {
      const transition = TRANSITIONS[given][when];
      const actual = transition ? `${transition.to}/${transition.copies}` : "-";
      t.is(actual, expected, `given ${given}, when ${when}, then ${expected}`);
    }
  });

test("the matrices name every state and event", (t) => {
  const named = [...cells(OPC), ...cells(QUICKOPC)];
  t.deepEqual([...new Set(named.map((cell) => cell.given))].sort(), Object.keys(TRANSITIONS).sort());
  for (const [state, row] of Object.entries(TRANSITIONS))
    for (const event of Object.keys(row))
      t.true(
        named.some((cell) => cell.given === state && cell.when === event),
        `${state} × ${event}`,
      );
});

test("a full copy always says why", (t) => {
  for (const row of Object.values(TRANSITIONS))
    for (const transition of Object.values(row)) if (transition.copies !== "nothing") t.truthy(transition.reason);
});
