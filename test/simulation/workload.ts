/**
 * What happens in one history, as data: chosen from the seed before anything runs, so that steps can be left out of it.
 *
 * Each step has a seed of its own for everything that chance decides until the next one: a history from which steps were
 * dropped goes on much as before.
 */
import { type Chance, mixSeed } from "./chance.ts";
import { type Extent, SECTORS_A_GRANULE } from "./facts.ts";
import type { FailingStore } from "./virtual-store.ts";
import type { Feature, World } from "./world.ts";

export interface MemberStep {
  readonly source: Extent;
  readonly destination: Extent;
  readonly kind: "opc" | "quickopc";
  readonly pace: number;
}

/** `pick` chooses among the sessions that exist then. */
export type Action =
  | { readonly do: "write" | "zero" | "trim" | "read"; readonly extent: Extent }
  | { readonly do: "flush" | "reopen"; readonly volume: number }
  | { readonly do: "start"; readonly members: readonly MemberStep[] }
  | { readonly do: "restart"; readonly picks: readonly number[] }
  | { readonly do: "restore" | "cancel" | "stop-tracking" | "inspect" | "copy-on"; readonly pick: number }
  /** An answered request is sent once more. */
  | { readonly do: "repeat"; readonly pick: number }
  | { readonly do: "register-again"; readonly volume: number }
  | { readonly do: "pace"; readonly pick: number; readonly pace: number }
  | { readonly do: "quiesce" | "finish" }
  | { readonly do: "rest"; readonly ms: number }
  | { readonly do: "stop"; readonly cutOff: number | undefined }
  /** After so many turns each, the recovery is cut off as well. */
  | { readonly do: "kill" | "power"; readonly recoveries: readonly number[] }
  | FaultAction;

export type FaultAction =
  | { readonly do: "repair" }
  | { readonly do: "bad-sectors"; readonly extent: Extent }
  | {
      readonly do: "device-full" | "device-write-errors" | "device-flush-fails" | "device-away";
      readonly volume: number;
    }
  | { readonly do: "stalls"; readonly volume: number; readonly probability: number; readonly ms: number }
  | { readonly do: "state-full"; readonly storedBytes: number }
  /** After so many operations of its kind, on files whose path has `where` in it. */
  | { readonly do: "state-fails"; readonly operation: StateOperation; readonly where: string; readonly after: number }
  | { readonly do: "store-full" }
  | { readonly do: "store-fails"; readonly how: FailingStore["how"]; readonly after: number };

export type StateOperation = "open" | "read" | "write" | "sync" | "rename" | "remove" | "syncDirectory";

export interface Step {
  readonly action: Action;
  /** Turns that pass before the next step; "answer": until it is answered; "done": until the engine has done it. */
  readonly gap: number | "answer" | "done";
  readonly seed: number;
}

type Verb = Action["do"];

const WEIGHTS: Readonly<Record<Verb | "burst", number>> = {
  write: 22,
  /** Several writes to one volume, one right after the other. */
  burst: 4,
  zero: 4,
  trim: 3,
  read: 10,
  flush: 6,
  start: 10,
  restart: 9,
  restore: 4,
  cancel: 3,
  "stop-tracking": 2,
  pace: 2,
  inspect: 3,
  "copy-on": 3,
  quiesce: 4,
  finish: 3,
  reopen: 3,
  repair: 0,
  rest: 5,
  stop: 2,
  kill: 4,
  power: 4,
  "bad-sectors": 2,
  "device-full": 2,
  "device-write-errors": 1,
  "device-flush-fails": 2,
  "device-away": 1,
  stalls: 2,
  "state-full": 2,
  "state-fails": 2,
  repeat: 4,
  "register-again": 4,
  "store-full": 3,
  "store-fails": 3,
};

const NEEDS: Partial<Record<Verb, Feature>> = {
  zero: "zeroes",
  trim: "zeroes",
  restore: "restore",
  "copy-on": "cascade",
  reopen: "device-failure",
  stop: "clean-stop",
  kill: "kill",
  power: "power-loss",
  "bad-sectors": "bad-sectors",
  "device-full": "device-full",
  "device-write-errors": "device-full",
  "device-flush-fails": "device-failure",
  "device-away": "device-failure",
  stalls: "stalls",
  "state-full": "state-full",
  "state-fails": "state-failure",
  repeat: "whole-box",
  "register-again": "register-again",
  "store-full": "store-full",
  "store-fails": "store-failure",
};

const FAULTS: ReadonlySet<Verb> = new Set<Verb>([
  "bad-sectors",
  "device-full",
  "device-write-errors",
  "device-flush-fails",
  "device-away",
  "stalls",
  "state-full",
  "state-fails",
  "store-full",
  "store-fails",
]);

const STORE_FAULTS: ReadonlySet<Verb> = new Set<Verb>(["store-full", "store-fails"]);

/** What changes something in a whole box, and has a request id there. */
const REQUESTS: ReadonlySet<Verb> = new Set<Verb>([
  "start",
  "restart",
  "restore",
  "copy-on",
  "cancel",
  "stop-tracking",
  "register-again",
]);

export function chooseSteps(world: World, chance: Chance): Step[] {
  const weights: Record<string, number> = {};
  for (const [verb, weight] of Object.entries(WEIGHTS)) {
    const feature = NEEDS[verb as Verb];
    if (feature === undefined || world.features.has(feature)) weights[verb] = weight * chance.pick([0.3, 1, 1, 2]);
  }
  const steps: Step[] = [];
  const hurry = chance.pick([0.2, 0.6, 0.9]);
  const put = (action: Action, gap = chooseGap(chance, hurry)) => {
    steps.push({ action, gap, seed: mixSeed(world.seed, steps.length + 1000) });
  };
  const add = (verb: Verb) => put(chooseAction(verb, world, chance));
  let fault: Action | undefined;
  let faulty = 0;
  add("write");
  if (chance.happens(0.8)) add("start");
  for (let left = chance.between(8, 50); left > 0; left--) {
    const verb = chance.weighted(weights) as Verb | "burst";
    if (verb === "burst") {
      const volume = chance.below(world.volumes.length);
      for (let more = chance.between(2, 6); more > 0; more--)
        put({ do: "write", extent: someSectors(world, volume, chance, "write") }, chance.below(4));
      continue;
    }
    const action = chooseAction(verb, world, chance);
    if (REQUESTS.has(verb) && world.features.has("whole-box") && chance.happens(0.15)) {
      // Cut off before it is answered, or just behind.
      const done = verb !== "register-again" && chance.happens(0.4);
      put(action, done ? "done" : chance.below(chance.pick([8, 25, 60])));
      const ends = (["kill", "power"] as const).filter((end) => weights[end] !== undefined);
      if (ends.length > 0) add(chance.pick(ends));
      continue;
    }
    put(action);
    if (FAULTS.has(verb)) {
      // What the store does not take is seen when something has to be recorded.
      if (STORE_FAULTS.has(verb) && chance.happens(0.7)) {
        const change = chance.pick([...REQUESTS]);
        if (weights[change] !== undefined) add(change);
      }
      fault = action;
      // A device that is back at once is one whose copies go on.
      faulty = chance.happens(0.4) ? 1 : chance.between(1, 8);
      if (action.do === "device-flush-fails" && chance.happens(0.5)) put({ do: "flush", volume: action.volume });
    } else if (fault && --faulty <= 0) {
      put({ do: "repair" });
      if (chance.happens(0.8)) put(afterRepair(fault, chance));
      fault = undefined;
    }
  }
  return steps;
}

/** A device that has failed is opened again, or the box is started again. */
function afterRepair(fault: Action, chance: Chance): Action {
  if ("volume" in fault && chance.happens(0.8)) return { do: "reopen", volume: fault.volume };
  const verb = chance.pick(["stop", "kill", "power"] as const);
  return verb === "stop" ? { do: verb, cutOff: undefined } : { do: verb, recoveries: [] };
}

function chooseGap(chance: Chance, hurry: number): Step["gap"] {
  if (!chance.happens(hurry)) return "answer";
  return chance.pick([0, 0, 1, 2, 3, 5, 8, 15, 40]);
}

function chooseAction(verb: Verb, world: World, chance: Chance): Action {
  const volume = chance.below(world.volumes.length);
  const pick = chance.below(12);
  switch (verb) {
    case "write":
    case "zero":
    case "trim":
    case "read":
    case "bad-sectors":
      return { do: verb, extent: someSectors(world, volume, chance, verb) } as Action;
    case "start":
      return { do: verb, members: someMembers(world, chance) };
    case "restart":
      return { do: verb, picks: world.features.has("group-points") && chance.happens(0.4) ? [pick, pick + 1] : [pick] };
    case "pace":
      return { do: verb, pick, pace: chance.between(1, 15) };
    case "rest":
      return { do: verb, ms: chance.pick([1, 500, 1500, 6000, 20_000]) };
    case "stop":
      return { do: verb, cutOff: chance.happens(0.2) ? chance.below(60) : undefined };
    case "kill":
    case "power":
      return { do: verb, recoveries: world.features.has("recovery-crash") ? someRecoveries(chance) : [] };
    case "stalls":
      return { do: verb, volume, probability: chance.pick([0.05, 0.3]), ms: chance.pick([50, 2000, 15_000]) };
    case "state-full":
      return { do: verb, storedBytes: chance.pick([0, 100, 4096, 5000]) };
    case "state-fails":
      return stateFailure(chance);
    case "store-fails":
      return { do: verb, how: chance.pick(["once", "once", "lasting", "unreadable"]), after: chance.below(4) };
    case "flush":
    case "reopen":
    case "register-again":
    case "device-full":
    case "device-write-errors":
    case "device-flush-fails":
    case "device-away":
      return { do: verb, volume };
    case "quiesce":
    case "finish":
    case "repair":
    case "store-full":
      return { do: verb };
    default:
      return { do: verb, pick };
  }
}

const STATE_OPERATIONS: Readonly<Record<StateOperation, number>> = {
  open: 1,
  read: 1,
  write: 3,
  sync: 5,
  rename: 1,
  remove: 1,
  syncDirectory: 1,
};

function stateFailure(chance: Chance): Action {
  const operation = chance.weighted(STATE_OPERATIONS);
  const writes = operation === "write" || operation === "sync";
  const where = writes ? chance.pick(["", "points-", "/super", "/copied-", "/al-", ".map"]) : "";
  return { do: "state-fails", operation, where, after: chance.below(where === "" ? 12 : 2) };
}

function someSectors(world: World, volume: number, chance: Chance, verb: Verb): Extent {
  const window = chance.pick(world.windows[volume] as readonly Extent[]);
  const most = verb === "bad-sectors" ? 2 : chance.pick([1, 8, SECTORS_A_GRANULE, 3 * SECTORS_A_GRANULE]);
  // Half of them lie on the borders of granules, where one too much or too few is seen.
  const start = chance.below(window.count);
  const first = chance.happens(0.5) ? Math.floor(start / SECTORS_A_GRANULE) * SECTORS_A_GRANULE : start;
  const count = Math.min(chance.between(1, most), window.count - first);
  return { volume, first: window.first + first, count };
}

function someMembers(world: World, chance: Chance): MemberStep[] {
  const count = world.features.has("group-points") ? chance.pick([1, 1, 2, 3]) : 1;
  const members: MemberStep[] = [];
  for (let index = 0; index < count; index++) {
    const from = chance.below(world.volumes.length);
    const to = (from + chance.between(1, world.volumes.length - 1)) % world.volumes.length;
    members.push({
      source: someExtent(world, from, chance),
      destination: someExtent(world, to, chance),
      kind: chance.weighted({ quickopc: 3, opc: 1 }),
      pace: chance.pick([1, 1, 7, 15, 15]),
    });
  }
  return members;
}

function someExtent(world: World, volume: number, chance: Chance): Extent {
  const extents = world.extents[volume] as readonly Extent[];
  return world.features.has("parts") ? chance.pick(extents) : (extents[0] as Extent);
}

function someRecoveries(chance: Chance): number[] {
  const recoveries: number[] = [];
  while (recoveries.length < 4 && chance.happens(0.5)) recoveries.push(chance.pick([0, 1, 3, 8, 20, 50]));
  return recoveries;
}
