/**
 * A volume that comes and goes: created, enlarged, exported, deleted with its file.
 *
 * After a kill each of these has happened or not; the rows of the volume and its export, and the file, agree with each other
 * (data-safety 1.9 "Create", "Delete").
 */
import { statSync } from "node:fs";
import type { Export } from "../../src/gen/tidemark/v1/export.ts";
import { type Volume, VolumeState } from "../../src/gen/tidemark/v1/volume.ts";
import { call } from "../server/fixture.ts";
import type { Chance } from "./chance.ts";
import { ask } from "./commands.ts";
import type { KillableBox } from "./killable-box.ts";
import { require } from "./violations.ts";

export const SCRATCH_LU = 90;
export const SCRATCH_NAME = `g1d${SCRATCH_LU}`;
const STEP_BYTES = 1 << 20;
const STEPS_MAX = 8;

interface State {
  /** 0: there is none. */
  readonly sizeBytes: number;
  readonly exported: boolean;
}

const ABSENT: State = { sizeBytes: 0, exported: false };

export class ScratchVolume {
  readonly #box: KillableBox;
  readonly #chance: Chance;
  #state = ABSENT;
  /** What the state is if the command under way has happened. */
  #open: State | undefined;

  constructor(box: KillableBox, chance: Chance) {
    this.#box = box;
    this.#chance = chance;
  }

  get path(): string {
    return this.#box.path("scratch.img");
  }

  /** One command. */
  async step(): Promise<"lost" | "done"> {
    const { what, next, command } = this.#choose();
    this.#open = next;
    const answer = await ask(what, command());
    if (answer.type === "lost") return "lost";
    require(answer.type === "answer", () => `${what} was refused: ${answer.type === "refusal" ? answer.reason : ""}`);
    this.#state = next;
    this.#open = undefined;
    return "done";
  }

  #choose(): { readonly what: string; readonly next: State; readonly command: () => Promise<unknown> } {
    const { volumes, exports } = this.#box.clients;
    const { sizeBytes, exported } = this.#state;
    const name = SCRATCH_NAME;
    const requestId = "";
    if (sizeBytes === 0) {
      const next = { sizeBytes: STEP_BYTES, exported: false };
      const request = { path: this.path, sizeBytes: BigInt(next.sizeBytes), lu: SCRATCH_LU, label: "", requestId };
      return { what: `create ${name}`, next, command: () => call(volumes, "createVolume", request) };
    }
    if (exported) {
      const command = () => call(exports, "removeExport", { name, force: true, requestId });
      return { what: `export remove ${name}`, next: { sizeBytes, exported: false }, command };
    }
    if (sizeBytes < STEPS_MAX * STEP_BYTES && this.#chance.happens(0.3)) {
      const next = { sizeBytes: sizeBytes + STEP_BYTES, exported };
      const request = { name, sizeBytes: BigInt(next.sizeBytes), allowShrink: false, requestId };
      return { what: `resize ${name}`, next, command: () => call(volumes, "resizeVolume", request) };
    }
    if (this.#chance.happens(0.5)) {
      const command = () => call(exports, "addExport", { name, readOnly: false, requestId });
      return { what: `export add ${name}`, next: { sizeBytes, exported: true }, command };
    }
    const command = () => call(volumes, "deleteVolume", { name, deleteFile: true, requestId });
    return { what: `delete ${name}`, next: ABSENT, command };
  }

  /** What the box lists is what was, or what the command under way makes of it, in all places. */
  settle(volume: Volume | undefined, exported: Export | undefined): void {
    const found: State = { sizeBytes: Number(volume?.sizeBytes ?? 0), exported: exported !== undefined };
    const allowed = [this.#state, ...(this.#open === undefined ? [] : [this.#open])];
    require(allowed.some((state) => same(state, found)), () =>
      `${SCRATCH_NAME} is ${text(found)}, expected ${allowed.map(text).join(" or ")}`);
    const fileBytes = statSync(this.path, { throwIfNoEntry: false })?.size ?? 0;
    require(fileBytes === found.sizeBytes, () => `${SCRATCH_NAME} is ${text(found)}, its file has ${fileBytes} bytes`);
    require(volume === undefined || volume.state === VolumeState.ONLINE, () => `${SCRATCH_NAME} is not online`);
    this.#state = found;
    this.#open = undefined;
  }
}

function same(a: State, b: State): boolean {
  return a.sizeBytes === b.sizeBytes && a.exported === b.exported;
}

function text({ sizeBytes, exported }: State): string {
  return `${sizeBytes} bytes, ${exported ? "exported" : "not exported"}`;
}
