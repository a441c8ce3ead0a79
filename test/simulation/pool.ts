/**
 * Worker processes, one a processor: hands out seeds in pieces and adds up what comes back.
 *
 * A worker that dies, or does not answer in time, is a failure of the run: the seeds that it had are named.
 */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Histories } from "./history.ts";
import { NOTHING, type Report, sum, type Task } from "./messages.ts";
import type { Feature } from "./world.ts";

const SEEDS_PER_TASK = 25;
/** A piece takes about a second; a loaded machine takes longer, an endless loop for ever. */
const ANSWER_WITHIN_MS = 600_000;
const ROOT = fileURLToPath(new URL("../../", import.meta.url));

export interface PoolRun {
  readonly from: number;
  readonly seeds: number;
  /** One history of so many is run (1). */
  readonly stride?: number;
  readonly histories?: Histories;
  /** As Task. */
  readonly features?: readonly Feature[];
  readonly jobs: number;
  /** Folder of the tree to run: the project, or a mutant of it. */
  readonly tree: string;
  /** Stop handing out seeds after this much has come back. */
  readonly enough: (report: Report) => boolean;
  readonly minimise: Task["minimise"];
  readonly onProgress?: (report: Report) => void;
}

export async function runPool(run: PoolRun): Promise<Report> {
  let next = run.from;
  let total = NOTHING;
  const { stride = 1, histories = "seeded", features = [] } = run;
  const end = run.from + run.seeds * stride;
  const lane = async (): Promise<void> => {
    const worker = fork(`${run.tree}/test/simulation/worker.ts`, {
      cwd: ROOT,
      // Histories make much garbage that is short-lived.
      execArgv: ["--max-semi-space-size=64", "--import", "tsx"],
      stdio: ["ignore", "ignore", "inherit", "ipc"],
    });
    try {
      while (next < end && !run.enough(total)) {
        const count = Math.min(SEEDS_PER_TASK, (end - next) / stride);
        const minimise = total.failures.length === 0 ? run.minimise : "no";
        const task: Task = { from: next, count, stride, histories, features, minimise };
        next += count * stride;
        const report = await ask(worker, task);
        total = sum(total, report);
        run.onProgress?.(total);
      }
    } finally {
      worker.kill("SIGKILL");
    }
  };
  await Promise.all(Array.from({ length: Math.min(run.jobs, Math.ceil(run.seeds / SEEDS_PER_TASK)) }, lane));
  return total;
}

function ask(worker: ChildProcess, task: Task): Promise<Report> {
  return new Promise((resolve, reject) => {
    const which = `seeds ${task.from} to ${task.from + (task.count - 1) * task.stride}`;
    const timer = setTimeout(() => fail(`${which} are not answered`), ANSWER_WITHIN_MS);
    const answered = (report: Report) => settle(() => resolve(report));
    const exited = (code: number | null) => fail(`the worker with ${which} ended with code ${code}`);
    const fail = (message: string) => settle(() => reject(new Error(message)));
    const settle = (then: () => void) => {
      clearTimeout(timer);
      worker.off("message", answered).off("exit", exited);
      then();
    };
    worker.on("message", answered).on("exit", exited);
    worker.send(task);
  });
}
