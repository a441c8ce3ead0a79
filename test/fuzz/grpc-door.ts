/**
 * The gRPC door: calls with messages that are wrong in one way or another, to every method the server says it has.
 *
 * Rules (issue "bad input"): every call ends; bad input never ends in INTERNAL or UNKNOWN; a refusal carries its reason, that
 * reason's status, and a hint; nothing is logged as an error; a decent client is served as before.
 */
import { status } from "@grpc/grpc-js";
import { ERROR_CODES, type ErrorCode } from "../../src/base/errors.ts";
import { RPC_MESSAGE_BYTES_MAX } from "../../src/base/limits.ts";
import { CreateVolumeRequest, RegisterVolumeRequest } from "../../src/gen/tidemark/v1/volume.ts";
import { ERROR_TABLE } from "../../src/server/error-table.ts";
import { refusalOf } from "../server/fixture.ts";
import { anyByteDamage, applyAll, type ByteDamage } from "./byte-damage.ts";
import type { Chance } from "./chance.ts";
import type { Door, Violation } from "./door.ts";
import { type Ending, GOOD_LABEL, GOOD_NAME, GrpcBox } from "./grpc-box.ts";
import { anyFields, changedFields, encodeFields, type WireField } from "./wire-message.ts";

export interface GrpcCall {
  readonly path: string;
  readonly messages: readonly { readonly fields: readonly WireField[]; readonly damage?: readonly ByteDamage[] }[];
  /** The client leaves at once. */
  readonly cancel?: boolean;
}

export interface GrpcCase {
  readonly calls: readonly GrpcCall[];
  /** All at once instead of one after the other. */
  readonly together: boolean;
}

const CALLS_MAX = 8;
const MESSAGES_MAX = 4;
/** A box has so many cases to itself; then it is stopped and a new one begins. */
const BOX_CASES = 1500;
/** Paths outside the box's own directory that may be tried: none of them can be written or taken over. */
const HARMLESS = new Set(["", "/", "/dev/null", "/proc/self/mem", "relative.img"]);

export class GrpcDoor implements Door<GrpcCase> {
  #box: GrpcBox;
  #round = 0;
  #cases = 0;
  readonly #statuses: Record<string, number> = {};

  private constructor(box: GrpcBox) {
    this.#box = box;
  }

  static async open(): Promise<GrpcDoor> {
    return new GrpcDoor(await GrpcBox.start());
  }

  print(input: GrpcCase): string {
    return `${input.together ? "together\n" : ""}${input.calls.map((one) => `${JSON.stringify(one)}\n`).join("")}`;
  }

  parse(text: string): GrpcCase {
    const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
    const together = lines[0] === "together";
    return { together, calls: lines.slice(together ? 1 : 0).map((line) => JSON.parse(line) as GrpcCall) };
  }

  generate(chance: Chance): GrpcCase {
    const calls = Array.from({ length: chance.pick([1, 1, 2, 3, 6]) }, () => this.#anyCall(chance));
    return { calls, together: chance.odds(30) };
  }

  #anyCall(chance: Chance): GrpcCall {
    const paths = [...this.#box.methods.keys()];
    if (chance.odds(1)) return { path: chance.pick(["/tidemark.v1.BoxService/Nothing", "/x", "/a/b/c"]), messages: [] };
    const path = chance.odds(92) ? chance.pick(paths.filter((one) => !one.startsWith("/grpc."))) : chance.pick(paths);
    const method = this.#box.methods.get(path);
    if (method === undefined) throw new Error(`no method ${path}`);
    const streams = method.methodKind === "client_streaming" || method.methodKind === "bidi_streaming";
    const percent = chance.pick([0, 5, 15, 40]);
    const messages = Array.from({ length: streams ? chance.below(MESSAGES_MAX) : 1 }, () => {
      const fields = anyFields(chance, method.input, percent);
      return chance.odds(8) ? { fields, damage: [anyByteDamage(chance, 40, 1)] } : { fields };
    });
    return chance.odds(5) ? { path, messages, cancel: true } : { path, messages };
  }

  mutate(input: GrpcCase, other: GrpcCase, chance: Chance): GrpcCase {
    const calls = chance.odds(30) ? [...input.calls, ...other.calls] : [...input.calls];
    for (let left = chance.between(1, 3); left > 0; left--) {
      const at = chance.below(calls.length);
      const one = calls[at];
      if (one === undefined || chance.odds(20)) calls.splice(at, 0, this.#anyCall(chance));
      else calls[at] = this.#changedCall(one, chance);
    }
    return { calls: calls.slice(-CALLS_MAX), together: chance.odds(10) ? !input.together : input.together };
  }

  #changedCall(one: GrpcCall, chance: Chance): GrpcCall {
    const method = this.#box.methods.get(one.path);
    if (method === undefined || one.messages.length === 0) return this.#anyCall(chance);
    const at = chance.below(one.messages.length);
    const messages = one.messages.map((message, index) =>
      index === at ? { ...message, fields: changedFields(chance, method.input, message.fields) } : message,
    );
    return { ...one, messages };
  }

  *smaller(input: GrpcCase): IterableIterator<GrpcCase> {
    const { calls } = input;
    if (input.together) yield { ...input, together: false };
    for (let at = 0; at < calls.length && calls.length > 1; at++)
      yield { ...input, calls: calls.filter((_, index) => index !== at) };
    for (const [at, one] of calls.entries()) {
      const replace = (smaller: GrpcCall) => ({
        ...input,
        calls: calls.map((kept, index) => (index === at ? smaller : kept)),
      });
      for (const [place, message] of one.messages.entries()) {
        const put = (fields: readonly WireField[]) =>
          replace({
            ...one,
            messages: one.messages.map((kept, index) => (index === place ? { ...kept, fields } : kept)),
          });
        if (message.damage === undefined)
          for (let field = 0; field < message.fields.length; field++)
            yield put(message.fields.filter((_, index) => index !== field));
      }
    }
  }

  async run(input: GrpcCase): Promise<readonly Violation[]> {
    this.#cases++;
    const violations: Violation[] = [];
    const one = async (given: GrpcCall) => {
      violations.push(...(await this.#call(given)));
    };
    if (input.together) await Promise.all(input.calls.map(one));
    else for (const given of input.calls) await one(given);
    violations.push(...this.#logged());
    return violations;
  }

  async #call(given: GrpcCall): Promise<Violation[]> {
    const { directory } = this.#box.fixture;
    const messages = given.messages.map(({ fields, damage }) =>
      applyAll(encodeFields(fields, directory), damage ?? []),
    );
    if (!messages.every((bytes) => harmless(given.path, bytes, directory))) return [];
    const ending = await this.#box.run(given.path, messages, given.cancel ? "cancel" : "stay");
    const name = status[ending.code] ?? String(ending.code);
    this.#statuses[name] = (this.#statuses[name] ?? 0) + 1;
    const largest = Math.max(0, ...messages.map(({ length }) => length));
    return judge(given.path, ending, { largest, known: this.#box.methods.has(given.path) }).map(
      (text) => `${text} (${given.path})`,
    );
  }

  #logged(): Violation[] {
    return this.#box.fixture.logged.splice(0).map((line) => `logged: ${line.slice(0, 500)}`);
  }

  async check(): Promise<readonly Violation[]> {
    const violations: Violation[] = [];
    try {
      await this.#box.good(++this.#round);
    } catch (error) {
      violations.push(`good client: ${error instanceof Error ? error.message : String(error)}`);
    }
    violations.push(...this.#logged());
    if (this.#cases >= BOX_CASES) await this.restart();
    return violations;
  }

  async restart(): Promise<void> {
    this.#cases = 0;
    await this.#box.close();
    this.#box = await GrpcBox.start();
  }

  close(): Promise<void> {
    return this.#box.close();
  }

  figures(): Record<string, unknown> {
    return { statuses: this.#statuses, methods: this.#box.methods.size };
  }
}

/** Whether the call stays inside the box's directory and leaves the decent client's volume alone. */
function harmless(path: string, bytes: Buffer, directory: string): boolean {
  if (bytes.includes(GOOD_LABEL) || bytes.includes(GOOD_NAME)) return false;
  const request = path.endsWith("/CreateVolume") ? CreateVolumeRequest : RegisterVolumeRequest;
  if (!/\/(Create|Register)Volume$/.test(path)) return true;
  let wanted: string;
  try {
    wanted = request.decode(bytes).path;
  } catch {
    return true; // the server cannot read it either
  }
  if (HARMLESS.has(wanted) || !wanted.startsWith("/")) return true;
  return wanted === directory || wanted.startsWith(`${directory}/`);
}

function judge(path: string, ending: Ending, sent: { readonly largest: number; readonly known: boolean }): Violation[] {
  const { code, details, metadata, left } = ending;
  const name = status[code] ?? String(code);
  if (code === status.OK || (left && code === status.CANCELLED)) return [];
  if (!sent.known) return code === status.UNIMPLEMENTED ? [] : [`unknown method: ${name}: ${details}`];
  // The health service is the library's own, and so is its answer to what is no message.
  if (path.startsWith("/grpc.health.") && details === "Error deserializing request") return [];
  if (code === status.INTERNAL || code === status.UNKNOWN) return [`not typed: ${name}: ${details}`];
  if (code === status.DEADLINE_EXCEEDED || code === status.UNAVAILABLE) return [`not answered: ${name}: ${details}`];
  // grpc-js itself refuses what is larger than a message may be, before anybody of ours sees it.
  if (sent.largest > RPC_MESSAGE_BYTES_MAX && code === status.RESOURCE_EXHAUSTED) return [];
  // Health and reflection are not ours.
  if (path.startsWith("/grpc.")) return [];
  if (metadata === undefined) return [`no reason: ${name}: ${details}`];
  const refusal = refusalOf({ code, details, metadata });
  const reason = ERROR_CODES.find((known) => known === refusal.reason);
  if (reason === undefined) return [`no reason: ${name}: ${details}`];
  const found: Violation[] = [];
  if (refusal.domain !== "tidemark") found.push(`domain: ${refusal.domain}`);
  if (statusOf(reason) !== code) found.push(`status: ${reason} came as ${name}`);
  if ((refusal.metadata["hint"] ?? "") === "") found.push(`no hint: ${reason}: ${details.slice(0, 200)}`);
  return found;
}

function statusOf(reason: ErrorCode): number {
  return status[ERROR_TABLE[reason].status];
}
