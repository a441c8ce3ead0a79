/**
 * Requests whose bytes are no message of their type.
 *
 * Left alone, the library answers them with INTERNAL, which says "our mistake". Here decoding never throws: what cannot be read
 * arrives in its place, and the handler refuses it like any other wrong argument.
 */
import type { ServiceDefinition, UntypedServiceImplementation } from "@grpc/grpc-js";
import { TidemarkError } from "../base/errors.ts";

/** Stands for a request that could not be decoded. */
class UnreadableRequest {
  readonly path: string;
  readonly reason: string;
  constructor(path: string, cause: unknown) {
    this.path = path;
    this.reason = cause instanceof Error ? cause.message : String(cause);
  }
}

/** The service, with requests that `requireReadable` has to look at. */
export function withReadableRequests<T extends ServiceDefinition<UntypedServiceImplementation>>(service: T): T {
  const methods = Object.entries(service).map(([name, method]) => {
    const decode = method.requestDeserialize;
    const requestDeserialize = (bytes: Buffer): unknown => {
      try {
        return decode(bytes);
      } catch (cause) {
        return new UnreadableRequest(method.path, cause);
      }
    };
    return [name, { ...method, requestDeserialize }];
  });
  return Object.fromEntries(methods) as T;
}

/** The request. INVALID_ARGUMENT when its bytes were none. */
export function requireReadable<Request>(request: Request): Request {
  if (!(request instanceof UnreadableRequest)) return request;
  throw new TidemarkError("INVALID_ARGUMENT", {
    message: `the request of ${request.path} cannot be read: ${request.reason}`,
    hint: "encode it as proto/tidemark/v1 describes it; the server's reflection gives the description",
  });
}
