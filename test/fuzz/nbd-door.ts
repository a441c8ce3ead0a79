/**
 * The NBD door: several clients over real unix sockets against the production server in this process.
 *
 * Rules (issue "bad input"): every connection is answered by legal replies or closed; nobody waits for ever; a good client on
 * another connection goes on working; no more is in flight than the limits allow; what must not change does not.
 */
import { connect, type Socket } from "node:net";
import {
  NBD_CONNECTIONS_MAX,
  NBD_IN_FLIGHT_BYTES_MAX,
  NBD_IN_FLIGHT_REQUESTS_MAX,
  NBD_REQUEST_BYTES_MAX,
} from "../../src/base/limits.ts";
import { MiB } from "../../src/base/units.ts";
import { CMD, RawClient } from "../nbd/raw-client.ts";
import { pattern } from "../support/copy-lab.ts";
import type { Chance } from "./chance.ts";
import type { Door, Violation } from "./door.ts";
import { GOOD_EXPORT, NbdLab } from "./nbd-exports.ts";
import { generateScript, mutateScript, smallerScripts } from "./nbd-generate.ts";
import { type Conversation, judge } from "./nbd-oracle.ts";
import { bytesOf, type NbdScript, type NbdStep, parseScript, printScript } from "./nbd-script.ts";

/** Nothing in this process takes this long, however busy the machine is; who still waits then waits for ever. */
const PATIENCE_MS = 30_000;
const GOOD_BYTES = 65_536;
/** A client that asks again and again for as much as it may is sent gigabytes: this much is judged, then it hangs up. */
const RECEIVED_BYTES_MAX = 256 * MiB;

/** One client of a case. */
class Player {
  readonly socket: Socket;
  readonly #sent: Buffer[] = [];
  readonly #received: Buffer[] = [];
  #receivedBytes = 0;
  readonly #beganMs: number;
  closed = false;
  /** The server's end was seen. */
  ended = false;
  failed = false;
  #ourEnd = false;
  serverFirst = false;
  #wake: (() => void)[] = [];

  constructor(path: string, nowMs: number) {
    this.#beganMs = nowMs;
    this.socket = connect({ path, allowHalfOpen: true });
    this.socket.on("data", (bytes: Buffer) => {
      this.#received.push(bytes);
      this.#receivedBytes += bytes.length;
      if (this.#receivedBytes > RECEIVED_BYTES_MAX) this.vanish();
    });
    this.socket.on("error", () => {
      this.failed = true;
    });
    this.socket.on("end", () => {
      this.ended = true;
      if (!this.#ourEnd) this.serverFirst = true;
      this.socket.end();
      this.#stir();
    });
    this.socket.on("close", () => {
      this.closed = true;
      if (!this.#ourEnd) this.serverFirst = true;
      this.#stir();
    });
  }

  send(bytes: Buffer): void {
    if (this.closed || this.ended || this.#ourEnd) return;
    this.#sent.push(bytes);
    this.socket.write(bytes);
  }

  end(): void {
    this.#ourEnd = true;
    if (!this.closed) this.socket.end();
  }

  vanish(): void {
    this.#ourEnd = true;
    this.failed = true;
    this.socket.destroy();
  }

  /** Resolves when the connection is over; false when it is not after a long time. */
  async over(): Promise<boolean> {
    const until = performance.now() + PATIENCE_MS;
    while (!this.closed) {
      if (performance.now() > until) return false;
      await new Promise<void>((resolve) => {
        this.#wake.push(resolve);
        setTimeout(resolve, 1000).unref();
      });
    }
    return true;
  }

  conversation(nowMs: number, crowded: boolean): Conversation {
    return {
      sent: Buffer.concat(this.#sent),
      received: Buffer.concat(this.#received),
      end: this.failed ? "vanished" : "ended",
      serverFirst: this.serverFirst,
      elapsedMs: nowMs - this.#beganMs,
      crowded,
    };
  }

  #stir(): void {
    for (const wake of this.#wake.splice(0)) wake();
  }
}

export class NbdDoor implements Door<NbdScript> {
  #lab: NbdLab;
  #good: RawClient;
  #goodRound = 0;
  #connections = 0;

  private constructor(lab: NbdLab, good: RawClient) {
    this.#lab = lab;
    this.#good = good;
  }

  static async open(): Promise<NbdDoor> {
    const lab = await NbdLab.start();
    return new NbdDoor(lab, await RawClient.open(lab.base, GOOD_EXPORT));
  }

  print(input: NbdScript): string {
    return printScript(input);
  }

  parse(text: string): NbdScript {
    return parseScript(text);
  }

  generate(chance: Chance): NbdScript {
    return generateScript(chance);
  }

  mutate(input: NbdScript, other: NbdScript, chance: Chance): NbdScript {
    return mutateScript(input, other, chance);
  }

  smaller(input: NbdScript): Iterable<NbdScript> {
    return smallerScripts(input);
  }

  async run(script: NbdScript): Promise<Violation[]> {
    const { slow, lab } = this.#lab;
    slow.release("hold");
    slow.forget();
    const players = new Map<number, Player>();
    const crowd: Player[] = [];
    for (const step of script.steps) await this.#step(step, players, crowd);
    slow.release("pass");
    const violations: Violation[] = [];
    for (const player of players.values()) player.socket.resume();
    for (const player of [...players.values(), ...crowd]) player.end();
    for (const player of [...players.values(), ...crowd]) {
      if (!(await player.over())) {
        violations.push("hanging: the server neither answers nor closes");
        player.vanish();
      }
    }
    const crowded = crowd.length + players.size >= NBD_CONNECTIONS_MAX - 1;
    const now = lab.clock.nowMs();
    for (const [client, player] of players)
      for (const text of judge(player.conversation(now, crowded))) violations.push(`${text}, client ${client}`);
    violations.push(...this.#limits(players.size));
    return violations;
  }

  async #step(step: NbdStep, players: Map<number, Player>, crowd: Player[]): Promise<void> {
    const player = "client" in step ? players.get(step.client) : undefined;
    switch (step.do) {
      case "open":
        if (player === undefined) players.set(step.client, this.#connect());
        return turns(1);
      case "send":
        if (player !== undefined) await send(player, step);
        return;
      case "end":
        return player?.end();
      case "vanish":
        return player?.vanish();
      case "stall":
        player?.socket.pause();
        return;
      case "take":
        player?.socket.resume();
        return;
      case "turns":
        return turns(step.count);
      case "clock":
        this.#lab.lab.clock.advance(step.ms);
        return turns(2);
      case "release":
        this.#lab.slow.release("hold");
        return turns(2);
      case "crowd":
        for (let left = Math.min(step.count, 2 * NBD_CONNECTIONS_MAX); left > 0; left--) crowd.push(this.#connect());
        return turns(20);
    }
  }

  #connect(): Player {
    this.#connections++;
    const path = new URL(this.#lab.base).searchParams.get("socket") ?? "";
    return new Player(path, this.#lab.lab.clock.nowMs());
  }

  #limits(clients: number): Violation[] {
    const { slow } = this.#lab;
    const bytesMax = clients * (NBD_IN_FLIGHT_BYTES_MAX + NBD_REQUEST_BYTES_MAX);
    const found: Violation[] = [];
    if (slow.requestsMax > clients * NBD_IN_FLIGHT_REQUESTS_MAX)
      found.push(`limit: ${slow.requestsMax} requests of ${clients} clients were in flight`);
    if (slow.bytesMax > bytesMax) found.push(`limit: ${slow.bytesMax} bytes of ${clients} clients were in flight`);
    return found;
  }

  async check(): Promise<Violation[]> {
    const found = await this.#lab.untouched();
    const data = pattern(GOOD_BYTES, ++this.#goodRound);
    const offset = (this.#goodRound * 8192) % (2 ** 20 - GOOD_BYTES);
    const written = await this.#good.request({ command: CMD.WRITE, offset, payload: data });
    const read = await this.#good.request({ command: CMD.READ, offset, length: GOOD_BYTES });
    if (written.error !== "ok" || read.error !== "ok") found.push(`good client: ${written.error}, ${read.error}`);
    else if (Buffer.compare(read.data, data) !== 0) found.push("good client: what it wrote is not what it reads");
    for (const { name, connections } of await this.#lab.lab.engine.exportStatus())
      if (connections !== (name === GOOD_EXPORT ? 1 : 0)) found.push(`connections: ${connections} are left on ${name}`);
    await this.#lab.renewCopy();
    this.#lab.lab.events.length = 0;
    return found;
  }

  async restart(): Promise<void> {
    await this.close();
    this.#lab = await NbdLab.start();
    this.#good = await RawClient.open(this.#lab.base, GOOD_EXPORT);
  }

  async close(): Promise<void> {
    this.#good.close();
    await this.#lab.stop();
  }

  figures(): Record<string, unknown> {
    return { connections: this.#connections };
  }
}

async function send(player: Player, step: Extract<NbdStep, { do: "send" }>): Promise<void> {
  const bytes = bytesOf(step.message);
  if (step.cut !== undefined) player.send(bytes.subarray(0, step.cut));
  else if (step.split !== undefined) {
    player.send(bytes.subarray(0, step.split));
    await turns(2);
    player.send(bytes.subarray(step.split));
  } else player.send(step.times === undefined ? bytes : Buffer.concat(Array.from({ length: step.times }, () => bytes)));
  await turns(1);
}

async function turns(count: number): Promise<void> {
  for (let left = count; left > 0; left--) await new Promise((resolve) => setImmediate(resolve));
}
