/** Makes and changes cases for the NBD door. */
import { OPT } from "../nbd/raw-client.ts";
import { anyByteDamage } from "./byte-damage.ts";
import type { Chance } from "./chance.ts";
import { EXPORT_NAMES, exportSize } from "./nbd-exports.ts";
import { bytesOf, type NbdMessage, type NbdScript, type NbdStep } from "./nbd-script.ts";

const CLIENTS_MAX = 4;
const STEPS_MAX = 80;
/** What all reads of one case may ask for together, so that a case stays short. */
const READ_BYTES_MAX = 48 * 2 ** 20;

export function generateScript(chance: Chance): NbdScript {
  const steps: NbdStep[] = [];
  const clients = chance.weighted({ 1: 60, 2: 25, 3: 10, 4: 5 });
  const maker = new MessageMaker(chance);
  const lives = Array.from({ length: Number(clients) }, (_, client) => lifeOf(chance, client, maker));
  // Interleaved in their own order.
  while (lives.some((life) => life.length > 0) && steps.length < STEPS_MAX) {
    const life = chance.pick(lives.filter((one) => one.length > 0));
    steps.push(...life.splice(0, chance.between(1, 4)));
  }
  if (chance.odds(2))
    steps.splice(chance.below(steps.length), 0, { do: "crowd", count: chance.pick([3, 40, 254, 300]) });
  return { steps };
}

/** What one client does from its connection to its end. */
function lifeOf(chance: Chance, client: number, maker: MessageMaker): NbdStep[] {
  const steps: NbdStep[] = [{ do: "open", client }];
  const say = (message: NbdMessage) => steps.push(sending(chance, client, message));
  say(maker.flags());
  for (let left = chance.pick([0, 0, 1, 2, 5]); left > 0; left--) say(maker.option());
  if (chance.odds(85)) {
    const name = maker.exportName();
    if (chance.odds(75)) steps.push(...maker.negotiation(client, name));
    say(maker.choice(name));
    maker.chosen = name;
    for (let left = chance.pick([1, 3, 8, 20]); left > 0; left--) {
      say(maker.request());
      if (chance.odds(8)) steps.push(interlude(chance, client));
    }
  }
  if (chance.odds(30)) steps.push({ do: chance.pick(["end", "vanish"]), client });
  return steps;
}

function sending(chance: Chance, client: number, message: NbdMessage): NbdStep {
  const step = { do: "send", client, message } as const;
  if (!chance.odds(12))
    return message.is === "request" && chance.odds(4) ? { ...step, times: chance.pick([3, 64, 600, 1500]) } : step;
  const length = bytesOf(message).length;
  return chance.odds(70) ? { ...step, split: chance.below(length + 1) } : { ...step, cut: chance.below(length + 1) };
}

function interlude(chance: Chance, client: number): NbdStep {
  switch (chance.weighted({ turns: 40, stall: 15, take: 15, release: 20, clock: 10 })) {
    case "turns":
      return { do: "turns", count: chance.pick([1, 3, 10]) };
    case "stall":
      return { do: "stall", client };
    case "take":
      return { do: "take", client };
    case "release":
      return { do: "release" };
    case "clock":
      return { do: "clock", ms: chance.pick([1, 9_999, 10_001, 60_000]) };
  }
}

class MessageMaker {
  chosen: string = "scratch";
  readonly #chance: Chance;
  #cookie = 1n;
  #readBytes = 0;

  constructor(chance: Chance) {
    this.#chance = chance;
  }

  flags(): NbdMessage {
    const chance = this.#chance;
    const value = chance.odds(90) ? chance.pick([3, 3, 3, 1, 2, 0]) : Number(chance.boundary(32));
    return this.#damaged({ is: "flags", value });
  }

  exportName(): string {
    const chance = this.#chance;
    if (chance.odds(88)) return chance.pick(EXPORT_NAMES);
    return chance.pick(["", "nobody", "x".repeat(4096), "x".repeat(4097), "sti\0ll", "\ufffd", "../still"]);
  }

  /** Structured replies and contexts, as a client that wants them asks for them. */
  negotiation(client: number, name: string): NbdStep[] {
    const chance = this.#chance;
    const steps: NbdStep[] = [];
    const option = (code: number, data: Buffer) =>
      steps.push({ do: "send", client, message: { is: "option", code, data: data.toString("hex") } });
    option(OPT.STRUCTURED_REPLY, Buffer.alloc(0));
    if (chance.odds(60)) option(OPT.SET_META_CONTEXT, this.#metaData(name, "plain"));
    return steps;
  }

  choice(name: string): NbdMessage {
    const chance = this.#chance;
    const plain = chance.odds(20)
      ? { code: OPT.EXPORT_NAME, data: Buffer.from(name) }
      : { code: OPT.GO, data: this.#infoData(name, chance.odds(90) ? "plain" : "odd") };
    return this.#damaged({ is: "option", code: plain.code, data: plain.data.toString("hex") }, 6);
  }

  option(): NbdMessage {
    const chance = this.#chance;
    const code = chance.odds(85) ? chance.pick(Object.values(OPT)) : Number(chance.boundary(32));
    const data = this.#optionData(code);
    const message = { is: "option", code, data: data.toString("hex") } as const;
    if (chance.odds(8)) return { ...message, length: Number(chance.boundary(32)) };
    if (chance.odds(5)) return { ...message, length: Math.max(0, data.length + chance.between(-3, 3)) };
    if (chance.odds(3)) return { ...message, magic: chance.pick(["IHAVEOPU", "ihaveopt", "\0\0\0\0\0\0\0\0"]) };
    return this.#damaged(message, 25);
  }

  request(): NbdMessage {
    const chance = this.#chance;
    const command = chance.odds(92)
      ? chance.pick([0, 0, 0, 1, 1, 1, 3, 4, 5, 6, 7, 7, 2])
      : Number(chance.boundary(16));
    const flags = chance.odds(70) ? 0 : chance.odds(80) ? 1 << chance.below(6) : Number(chance.boundary(16));
    const { offset, length } = this.#range(command);
    let payload = command === 1 ? Math.min(length, 200_000) : 0;
    if (command === 1 && length > payload) payload = chance.pick([0, 1, payload]);
    if (chance.odds(2)) payload += chance.pick([1, 28, 4096]);
    const cookie = chance.odds(97) ? String(this.#cookie++) : String(chance.boundary(64));
    const message = { is: "request", command, flags, cookie, offset, length, payload } as const;
    if (chance.odds(1)) return { ...message, magic: Number(chance.boundary(32)) };
    return this.#damaged(message, 4);
  }

  #range(command: number): { offset: string; length: number } {
    const chance = this.#chance;
    if (command === 3 && chance.odds(90)) return { offset: "0", length: 0 };
    const size = exportSize(this.chosen);
    const kind = chance.weighted({ inside: 55, atEnd: 20, boundary: 15, wild: 10 });
    let length = chance.pick([0, 1, 511, 512, 513, 4096, 8191, 8192, 65_536, 65_537, 200_000, 524_288, 524_289]);
    if (kind === "boundary") length = chance.pick([2 ** 25, 2 ** 25 + 1, 2 ** 26, 2 ** 26 + 1, 2 ** 31, 2 ** 32 - 1]);
    if (kind === "wild") length = Number(chance.boundary(32));
    if (command === 0 && length <= 2 ** 25) {
      if (this.#readBytes + length > READ_BYTES_MAX) length = 512;
      this.#readBytes += length;
    }
    const offsets = {
      inside: () => BigInt(chance.below(Math.max(1, size - length))),
      atEnd: () => BigInt(Math.max(0, size - length + chance.between(-1, 1))),
      boundary: () => BigInt(chance.pick([0, 1, size, 512])),
      wild: () => chance.boundary(64),
    };
    return { offset: String(offsets[kind]()), length };
  }

  #optionData(code: number): Buffer {
    const chance = this.#chance;
    const form = chance.odds(60) ? "plain" : "odd";
    if (code === OPT.INFO || code === OPT.GO) return this.#infoData(this.exportName(), form);
    if (code === OPT.LIST_META_CONTEXT || code === OPT.SET_META_CONTEXT) return this.#metaData(this.exportName(), form);
    if (code === OPT.EXPORT_NAME) return Buffer.from(this.exportName());
    if (chance.odds(80)) return Buffer.alloc(0);
    return chance.odds(90)
      ? chance.bytes(chance.below(64))
      : Buffer.alloc(chance.pick([65_536, 65_537, 70_000, 300_000]));
  }

  #infoData(name: string, form: "plain" | "odd"): Buffer {
    const chance = this.#chance;
    const infos = Array.from({ length: chance.pick([0, 1, 3, 4]) }, () => chance.below(6));
    const count = form === "plain" ? infos.length : Number(chance.boundary(16));
    return Buffer.concat([this.#text(name, form), uint16(count), ...infos.map(uint16)]);
  }

  #metaData(name: string, form: "plain" | "odd"): Buffer {
    const chance = this.#chance;
    const known = ["base:allocation", "qemu:dirty-bitmap:1", "qemu:", "base:", "qemu:dirty-bitmap:"];
    const strange = ["", "x", "base:", ":", "qemu:dirty-bitmap:99", "a:".repeat(2048), "base:allocation\0"];
    const queries = Array.from({ length: chance.pick([0, 1, 1, 2, 5]) }, () =>
      chance.pick(form === "plain" ? known : strange),
    );
    const count = form === "plain" || chance.odds(50) ? queries.length : Number(chance.boundary(32));
    return Buffer.concat([this.#text(name, form), uint32(count), ...queries.map((query) => this.#text(query, form))]);
  }

  #text(value: string, form: "plain" | "odd"): Buffer {
    const bytes = Buffer.from(value);
    const length = form === "odd" && this.#chance.odds(15) ? Number(this.#chance.boundary(32)) : bytes.length;
    return Buffer.concat([uint32(length), bytes]);
  }

  #damaged<M extends Exclude<NbdMessage, { is: "raw" }>>(message: M, percent = 5): NbdMessage {
    const chance = this.#chance;
    if (!chance.odds(percent)) return message;
    return { ...message, damage: [anyByteDamage(chance, Math.min(bytesOf(message).length, 64))] };
  }
}

/** A case with steps of two others, and some of its messages changed. */
export function mutateScript(script: NbdScript, other: NbdScript, chance: Chance): NbdScript {
  const steps = [...script.steps];
  for (let left = chance.between(1, 4); left > 0; left--) {
    const at = chance.below(steps.length);
    const lent = other.steps[chance.below(other.steps.length)];
    switch (chance.weighted({ change: 50, remove: 12, repeat: 12, insert: 12, swap: 8, interlude: 6 })) {
      case "change":
        steps[at] = changed(steps[at] as NbdStep, chance);
        break;
      case "remove":
        if (steps.length > 1) steps.splice(at, 1);
        break;
      case "repeat":
        steps.splice(at, 0, steps[at] as NbdStep);
        break;
      case "insert":
        if (lent !== undefined) steps.splice(at, 0, lent);
        break;
      case "swap": {
        const to = chance.below(steps.length);
        [steps[at], steps[to]] = [steps[to] as NbdStep, steps[at] as NbdStep];
        break;
      }
      case "interlude":
        steps.splice(at, 0, interlude(chance, chance.below(CLIENTS_MAX)));
        break;
    }
  }
  return { steps: steps.slice(0, STEPS_MAX) };
}

function changed(step: NbdStep, chance: Chance): NbdStep {
  if (step.do !== "send") return step;
  const { message } = step;
  const length = Math.min(bytesOf(message).length, 4096);
  if (chance.odds(20)) return sending(chance, step.client, message);
  if (message.is === "request" && chance.odds(60)) return { ...step, message: changedRequest(message, chance) };
  if (message.is === "raw") return { ...step, message: { is: "raw", hex: bytesOf(message).toString("hex") } };
  return {
    ...step,
    message: { ...message, damage: [...(message.damage ?? []), anyByteDamage(chance, length)].slice(-4) },
  };
}

function changedRequest(request: Extract<NbdMessage, { is: "request" }>, chance: Chance): NbdMessage {
  switch (chance.pick(["command", "flags", "cookie", "offset", "length", "payload"] as const)) {
    case "command":
      return { ...request, command: chance.below(9) };
    case "flags":
      return { ...request, flags: request.flags ^ (1 << chance.below(16)) };
    case "cookie":
      return { ...request, cookie: String(chance.boundary(64)) };
    case "offset":
      return { ...request, offset: String(chance.boundary(64)) };
    case "length":
      return { ...request, length: Number(chance.boundary(32)) };
    case "payload":
      return { ...request, payload: chance.pick([0, 1, 27, 28, 512, 70_000]) };
  }
}

/** First fewer steps, then simpler ones. */
export function* smallerScripts(script: NbdScript): IterableIterator<NbdScript> {
  const { steps } = script;
  for (let size = Math.floor(steps.length / 2); size >= 1; size = Math.floor(size / 2))
    for (let at = 0; at < steps.length; at += size) {
      const fewer = [...steps.slice(0, at), ...steps.slice(at + size)];
      if (fewer.length > 0) yield { steps: fewer };
    }
  for (const [at, step] of steps.entries()) {
    if (step.do !== "send") continue;
    const { split, cut, times, ...rest } = step;
    const replace = (simpler: NbdStep) => ({ steps: steps.map((kept, index) => (index === at ? simpler : kept)) });
    if (split !== undefined || cut !== undefined || times !== undefined) yield replace(rest);
    if (times !== undefined && times > 2) yield replace({ ...step, times: Math.floor(times / 2) });
    if (step.message.is !== "raw" && step.message.damage !== undefined) {
      const { damage, ...message } = step.message;
      yield replace({ ...step, message });
    }
    if (step.message.is === "request" && step.message.payload > 0)
      yield replace({ ...step, message: { ...step.message, payload: Math.floor(step.message.payload / 2) } });
  }
}

function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
