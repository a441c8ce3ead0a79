/**
 * Calls to the server.
 *
 * Role: opens clients of the generated services on one address, gives every call its deadline and its cancellation,
 * and turns errors into Failures.
 * Invariants:
 *   1. Every unary call has a deadline; a stream has one only if the user asked for it.
 *   2. An interrupt (Ctrl-C) cancels every call that is under way.
 *   3. `close` closes every client that was opened.
 */
import {
  type CallOptions,
  type ChannelCredentials,
  type Client,
  type ClientDuplexStream,
  type ClientOptions,
  type ClientReadableStream,
  type ClientUnaryCall,
  type ClientWritableStream,
  credentials,
  Metadata,
  type ServiceError,
} from "@grpc/grpc-js";
import { PAGE_SIZE_MAX, RPC_MESSAGE_BYTES_MAX } from "../base/limits.ts";
import { Failure } from "./failure.ts";
import { failureOfCall } from "./rpc-failure.ts";

/** Longest wait for one unary answer when --timeout is not given: above the server's barrier limit of 10 s. */
const UNARY_TIMEOUT_MS_DEFAULT = 60_000;
const CHANNEL_OPTIONS: ClientOptions = {
  "grpc.enable_http_proxy": 0,
  "grpc.max_receive_message_length": RPC_MESSAGE_BYTES_MAX * 2,
  "grpc.max_send_message_length": RPC_MESSAGE_BYTES_MAX * 2,
};

export interface ConnectionOptions {
  readonly address: string;
  /** Moment (ms since 1970) at which the whole command must be done; undefined: no limit was asked for. */
  readonly deadlineMs: number | undefined;
  readonly signal: AbortSignal;
}

type ClientClass<C> = new (address: string, credentials: ChannelCredentials, options?: Partial<ClientOptions>) => C;
type UnaryMethod<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientUnaryCall;
type ServerStreamMethod<Request, Response> = (
  request: Request,
  metadata: Metadata,
  options: Partial<CallOptions>,
) => ClientReadableStream<Response>;
type ClientStreamMethod<Request, Response> = (
  metadata: Metadata,
  options: Partial<CallOptions>,
  callback: (error: ServiceError | null, response: Response) => void,
) => ClientWritableStream<Request>;

interface Cancellable {
  cancel(): void;
}

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #clients = new Map<unknown, Client>();

  constructor(options: ConnectionOptions) {
    this.#options = options;
  }

  /** The client of a generated service; one a connection. */
  client<C extends Client>(service: ClientClass<C>): C {
    const known = this.#clients.get(service);
    if (known !== undefined) return known as C;
    const client = new service(this.#options.address, credentials.createInsecure(), CHANNEL_OPTIONS);
    this.#clients.set(service, client);
    return client;
  }

  /** One question, one answer: `unary(client, client.getVolume, { name })`. Throws Failure. */
  unary<Request, Response>(
    client: Client,
    method: UnaryMethod<Request, Response>,
    request: Request,
  ): Promise<Response> {
    this.#throwIfInterrupted();
    const deadline = this.#options.deadlineMs ?? Date.now() + UNARY_TIMEOUT_MS_DEFAULT;
    return new Promise((resolve, reject) => {
      const call = method.call(client, request, new Metadata(), { deadline }, (error, response) => {
        release();
        if (error === null) resolve(response);
        else reject(this.#failure(error));
      });
      const release = this.#cancelOnInterrupt(call);
    });
  }

  /** A stream of answers. Leaving the loop early cancels the call. Throws Failure. */
  async *serverStream<Request, Response>(
    client: Client,
    method: ServerStreamMethod<Request, Response>,
    request: Request,
  ): AsyncGenerator<Response> {
    this.#throwIfInterrupted();
    const call = method.call(client, request, new Metadata(), this.#streamOptions());
    const release = this.#cancelOnInterrupt(call);
    try {
      yield* call as AsyncIterable<Response>;
    } catch (error) {
      throw this.#failure(error);
    } finally {
      release();
      call.cancel();
    }
  }

  /** A stream of requests with one answer. `requests` is only read as fast as the server takes it. Throws Failure. */
  async clientStream<Request, Response>(
    client: Client,
    method: ClientStreamMethod<Request, Response>,
    requests: AsyncIterable<Request>,
  ): Promise<Response> {
    this.#throwIfInterrupted();
    let call: ClientWritableStream<Request> | undefined;
    let ended = false;
    const answer = new Promise<Response>((resolve, reject) => {
      call = method.call(client, new Metadata(), this.#streamOptions(), (error, response) => {
        ended = true;
        if (error === null) resolve(response);
        else reject(this.#failure(error));
      });
    });
    answer.catch(() => {}); // awaited below; a refusal may come while requests are still being read
    const stream = call!;
    const release = this.#cancelOnInterrupt(stream);
    try {
      for await (const request of requests) {
        if (ended) break;
        if (!stream.write(request)) await Promise.race([drained(stream), answer]);
      }
      stream.end();
      return await answer;
    } catch (error) {
      stream.cancel();
      throw error;
    } finally {
      release();
    }
  }

  /** All items of a paged list, page by page. */
  async *pages<Response extends { nextPageToken: string }>(
    fetch: (page: { pageSize: number; pageToken: string }) => Promise<Response>,
  ): AsyncGenerator<Response> {
    let pageToken = "";
    do {
      const page = await fetch({ pageSize: PAGE_SIZE_MAX, pageToken });
      yield page;
      if (page.nextPageToken !== "" && page.nextPageToken === pageToken) {
        throw new Failure("INTERNAL", "the server sent the same page twice", { hint: "update the server" });
      }
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
  }

  close(): void {
    for (const client of this.#clients.values()) client.close();
    this.#clients.clear();
  }

  #streamOptions(): Partial<CallOptions> {
    return this.#options.deadlineMs === undefined ? {} : { deadline: this.#options.deadlineMs };
  }

  #throwIfInterrupted(): void {
    if (this.#options.signal.aborted) throw interrupted();
  }

  #cancelOnInterrupt(call: Cancellable): () => void {
    const { signal } = this.#options;
    const cancel = () => call.cancel();
    signal.addEventListener("abort", cancel, { once: true });
    return () => signal.removeEventListener("abort", cancel);
  }

  #failure(error: unknown): unknown {
    if (this.#options.signal.aborted) return interrupted(error);
    return failureOfCall(error, this.#options.address) ?? error;
  }
}

function interrupted(cause?: unknown): Failure {
  return new Failure("INTERRUPTED", "interrupted", {}, { cause });
}

function drained(
  stream: ClientWritableStream<never> | ClientWritableStream<unknown> | ClientDuplexStream<unknown, unknown>,
) {
  return new Promise<void>((resolve) => stream.once("drain", () => resolve()));
}
