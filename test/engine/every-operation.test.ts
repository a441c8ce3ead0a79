/**
 * One history, and each of its operations on the state files fails once: the n-th for every n (data-safety 3.3). Then the
 * process is killed, or the power fails. Whatever was answered holds, nothing else does, and no copy fails or becomes a
 * full one, because no failure here is one of the volumes.
 */
import test, { type ExecutionContext } from "ava";
import { asTidemarkError } from "../../src/base/errors.ts";
import { InjectedFailure, type MemoryOperation } from "../../src/engine/durable/memory-state-files.ts";
import type { SessionStatus } from "../../src/engine/engine-api.ts";
import { CopyLab, G, pattern } from "../support/copy-lab.ts";
import { effort } from "../support/effort.ts";

const SIZE = 6 * G;
const VOLUMES = ["v1", "v2", "v3"] as const;
const PAIRS = { c1: ["v1", "v2"], c2: ["v2", "v3"] } as const;
const OPERATIONS_MAX = 400;
/** One operation in so many; another one at each of the two ends. */
const STRIDE = effort({ short: 7, full: 1 });

interface Failure {
  readonly type: MemoryOperation["type"];
  readonly code: string;
  readonly storedBytes: number;
}

/** The history, what each volume may hold by it, and what is wrong. */
class Run {
  readonly wrong: string[] = [];
  /** Whether the operation that fails was met. */
  isMet = false;
  readonly #lab: CopyLab;
  readonly #contents = new Map<string, Uint8Array[]>(VOLUMES.map((uid, index) => [uid, [pattern(SIZE, index + 1)]]));
  #stamp = 500;

  constructor(lab: CopyLab) {
    this.#lab = lab;
  }

  get isLost(): boolean {
    return this.#lab.lab.lost !== undefined;
  }

  of(uid: string): Uint8Array[] {
    return this.#contents.get(uid) ?? [];
  }

  /** Undefined when the engine has ended before it answered. */
  async #answer<T>(call: Promise<T>): Promise<{ readonly value: T } | { readonly error: unknown } | undefined> {
    let answer: { readonly value: T } | { readonly error: unknown } | undefined;
    call.then(
      (value) => {
        answer = { value };
      },
      (error: unknown) => {
        answer = { error };
      },
    );
    for (let turn = 0; turn < 400 && answer === undefined && !this.isLost; turn++) {
      await this.#lab.lab.settle();
      if (turn > 20) this.#lab.lab.clock.advance(1000);
    }
    if (answer === undefined && !this.isLost) this.wrong.push("a call is not answered");
    return answer;
  }

  async write(uid: string, granule: number): Promise<void> {
    const offsetBytes = granule * G + 1024;
    const data = pattern(512, this.#stamp++, offsetBytes);
    const answer = await this.#answer(this.#lab.engine.write(this.#lab.extent(uid), offsetBytes, data));
    const written = this.of(uid).map((content) => {
      const next = content.slice();
      next.set(data, offsetBytes);
      return next;
    });
    if (answer === undefined) this.#contents.set(uid, [...this.of(uid), ...written]);
    else if ("value" in answer) this.#contents.set(uid, written);
  }

  async point(id: keyof typeof PAIRS, how: "first" | "again"): Promise<void> {
    const [source, destination] = PAIRS[id];
    const { engine } = this.#lab;
    const pair = { source: this.#lab.extent(source), destination: this.#lab.extent(destination) };
    const request = { id, ...pair, kind: "quickopc", pace: 15 } as const;
    const answer = await this.#answer(how === "first" ? engine.startSessions([request]) : engine.restartSessions([id]));
    const copied = this.of(source).map((content) => content.slice());
    if (answer === undefined) this.#contents.set(destination, [...this.of(destination), ...copied]);
    else if ("value" in answer) {
      this.#contents.set(destination, copied);
      this.#lookAt(answer.value, how);
    }
  }

  #lookAt(sessions: readonly SessionStatus[], how: "first" | "again"): void {
    for (const { id, reason } of sessions)
      if (how === "again" && reason !== "DIFFERENCE" && reason !== "MAP_WIDENED") this.wrong.push(`${id}: ${reason}`);
  }

  async pace(): Promise<void> {
    await this.#answer(this.#lab.engine.setPace("c1", 7));
  }

  async finish(): Promise<void> {
    for (let turn = 0; turn < 60; turn++) {
      if (this.isLost) return;
      const sessions = await this.#lab.engine.sessions();
      if (!sessions.some(({ phase }) => phase === "copying")) return;
      this.#lab.lab.clock.advance(3000);
      await this.#lab.lab.settle();
    }
    this.wrong.push("copying does not end");
  }

  /** Every copy that exists, once more. */
  async again(): Promise<void> {
    for (const id of ["c1", "c2"] as const) {
      const sessions = await this.#lab.engine.sessions();
      if (!sessions.some((session) => session.id === id)) continue;
      await this.finish();
      await this.point(id, "again");
    }
    await this.finish();
  }

  async check(when: string): Promise<void> {
    for (const { id, phase, failure } of await this.#lab.engine.sessions())
      if (phase === "failed") this.wrong.push(`${when}: ${id} has failed: ${failure?.message}`);
    for (const uid of VOLUMES) {
      const answer = await this.#answer(this.#lab.engine.read(this.#lab.extent(uid), 0, SIZE));
      if (answer === undefined || "error" in answer) {
        this.wrong.push(`${when}: ${uid} cannot be read: ${answer && asTidemarkError(answer.error).message}`);
        continue;
      }
      if (!this.of(uid).some((content) => Buffer.compare(content, answer.value) === 0))
        this.wrong.push(`${when}: ${uid} holds what it must not`);
      this.#contents.set(uid, [answer.value]);
    }
    for (const event of this.#lab.lab.events)
      if (event.type === "engine.trouble") this.wrong.push(`${when}: trouble: ${event.message}`);
  }
}

async function history(failure: Failure, operation: number, end: "kill" | "power loss"): Promise<Run> {
  const lab = await CopyLab.start(
    { teardown: () => undefined },
    VOLUMES.map(() => SIZE),
    { jobBytes: G },
  );
  const run = new Run(lab);
  lab.lab.activity = { slots: 1024, checkpointBytes: 4500 };
  await lab.lab.reboot();
  let seen = 0;
  lab.lab.stateFiles.intercept = ({ type, lengthBytes }) => {
    if (type !== failure.type || ++seen !== operation) return;
    run.isMet = true;
    throw new InjectedFailure(failure.code, Math.min(failure.storedBytes, lengthBytes));
  };
  for (const step of [
    () => run.point("c1", "first"),
    () => run.write("v1", 1),
    () => run.finish(),
    () => run.point("c2", "first"),
    () => run.write("v2", 4),
    () => run.finish(),
    () => run.point("c1", "again"),
    () => run.write("v1", 2),
    () => run.finish(),
    () => run.pace(),
    () => run.point("c2", "again"),
    () => run.finish(),
    () => run.write("v1", 3),
    () => run.write("v2", 5),
    () => run.point("c1", "again"),
  ]) {
    if (run.isLost) break;
    await step();
  }
  await lab.lab.halt(operation);
  if (end === "power loss") lab.lab.stateFiles.crash(operation);
  lab.lab.stateFiles.intercept = undefined;
  lab.lab.events.length = 0; // what did not work while something failed was told then
  await lab.lab.boot();
  await run.check("afterwards");
  await run.again();
  await run.check("after another run");
  await lab.lab.reboot();
  await run.again();
  await run.check("after a clean stop");
  await lab.engine.stop();
  return run;
}

const FAILURES: readonly Failure[] = [
  { type: "write", code: "ENOSPC", storedBytes: 0 },
  { type: "write", code: "ENOSPC", storedBytes: 100 },
  { type: "write", code: "ENOSPC", storedBytes: Number.MAX_SAFE_INTEGER },
  { type: "write", code: "EIO", storedBytes: 100 },
  { type: "sync", code: "EIO", storedBytes: 0 },
  { type: "syncDirectory", code: "EIO", storedBytes: 0 },
  { type: "makeDirectory", code: "EIO", storedBytes: 0 },
  { type: "open", code: "EMFILE", storedBytes: 0 },
  { type: "rename", code: "EIO", storedBytes: 0 },
  { type: "remove", code: "EIO", storedBytes: 0 },
  { type: "truncate", code: "EIO", storedBytes: 0 },
];

for (const failure of FAILURES)
  test.serial(
    `data-safety 3.3: the n-th ${failure.type} fails with ${failure.code}, ${failure.storedBytes} bytes stored`,
    async (t: ExecutionContext) => {
      t.timeout(600_000);
      let met = 0;
      for (const [start, end] of [
        [1, "kill"],
        [2, "power loss"],
      ] as const)
        for (let operation = start; operation < OPERATIONS_MAX; operation += STRIDE) {
          const run = await history(failure, operation, end);
          t.deepEqual(run.wrong, [], `operation ${operation}, then a ${end}`);
          if (!run.isMet) break;
          met++;
        }
      t.true(met > 0);
      t.log(`${met} failures`);
    },
  );
