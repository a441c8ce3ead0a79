/**
 * gRPC server: services, health and reflection on the given addresses.
 *
 * Role: owns the sockets of the API. Interceptors (identities, roles, audit, tracing) are handed in and run in order;
 * there are none by default, since each one costs a part of every call.
 * Limits: a message is at most RPC_MESSAGE_BYTES_MAX, a connection carries at most STREAMS_PER_CONNECTION_MAX calls.
 */
import {
  Server,
  ServerCredentials,
  type ServerInterceptor,
  type ServiceDefinition,
  type UntypedServiceImplementation,
} from "@grpc/grpc-js";
import { HealthImplementation } from "grpc-health-check";
import { TidemarkError } from "../base/errors.ts";
import { RPC_MESSAGE_BYTES_MAX, STOP_CALLS_MS } from "../base/limits.ts";
import { ServerReflectionService } from "../gen/grpc/reflection/v1/reflection.ts";
import { BoxServiceService } from "../gen/tidemark/v1/box.ts";
import { CopyServiceService } from "../gen/tidemark/v1/copy.ts";
import { ExportServiceService } from "../gen/tidemark/v1/export.ts";
import { VolumeServiceService } from "../gen/tidemark/v1/volume.ts";
import { addressText, type ListenAddress, openToGroup, removeStaleSocket } from "./addresses.ts";
import type { ProcessFacts } from "./convert.ts";
import { withReadableRequests } from "./readable-request.ts";
import { reflectionService } from "./reflection.ts";
import { boxService } from "./services/box-service.ts";
import { copyService } from "./services/copy-service.ts";
import { DATA_METHODS, dataService } from "./services/data-service.ts";
import { exportService } from "./services/export-service.ts";
import type { ServiceParts } from "./services/parts.ts";
import { volumeService } from "./services/volume-service.ts";

const STREAMS_PER_CONNECTION_MAX = 1024;
const KEEPALIVE_MS = 30_000;
const KEEPALIVE_TIMEOUT_MS = 20_000;
/** How long connections that are cut may take to close. */
const FORCED_MS = 500;
/** A message of a 1 MiB chunk has a few bytes more than its data. */
const MESSAGE_SLACK_BYTES = 64 * 1024;

export const SERVICES = [
  "tidemark.v1.BoxService",
  "tidemark.v1.CopyService",
  "tidemark.v1.DataService",
  "tidemark.v1.ExportService",
  "tidemark.v1.VolumeService",
] as const;

export interface GrpcServerOptions {
  readonly addresses: readonly ListenAddress[];
  readonly descriptorSet: Uint8Array;
  readonly interceptors: readonly ServerInterceptor[];
  readonly processFacts: (addresses: readonly string[]) => ProcessFacts;
}

export interface GrpcServer {
  /** Addresses in use, port 0 replaced by the port it got. */
  readonly addresses: readonly string[];
  /** Health says NOT_SERVING, no new calls; running ones get STOP_CALLS_MS, then they end with CANCELLED. Always resolves. */
  stop(): Promise<void>;
}

/** Serves a box. INVALID_ARGUMENT for an address that cannot be had. */
export async function startGrpcServer(parts: ServiceParts, options: GrpcServerOptions): Promise<GrpcServer> {
  const server = new Server({
    interceptors: [...options.interceptors],
    "grpc.max_receive_message_length": RPC_MESSAGE_BYTES_MAX,
    "grpc.max_send_message_length": RPC_MESSAGE_BYTES_MAX + MESSAGE_SLACK_BYTES,
    "grpc.max_concurrent_streams": STREAMS_PER_CONNECTION_MAX,
    "grpc.keepalive_time_ms": KEEPALIVE_MS,
    "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
  });
  const addresses: string[] = [];
  const health = addServices(server, parts, options, addresses);
  try {
    for (const address of options.addresses) addresses.push(await bind(server, address));
  } catch (error) {
    server.forceShutdown();
    throw error;
  }
  return {
    addresses,
    async stop() {
      for (const name of ["", ...SERVICES]) health.setStatus(name, "NOT_SERVING");
      await new Promise<void>((resolve) => {
        let timer = setTimeout(() => {
          server.forceShutdown();
          // A client that keeps its end of the connection open is not waited for any longer.
          timer = setTimeout(resolve, FORCED_MS);
        }, STOP_CALLS_MS);
        server.tryShutdown(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    },
  };
}

function addServices(
  server: Server,
  parts: ServiceParts,
  options: GrpcServerOptions,
  addresses: readonly string[],
): HealthImplementation {
  server.addService(
    withReadableRequests(BoxServiceService),
    boxService(parts, () => options.processFacts(addresses)),
  );
  server.addService(withReadableRequests(VolumeServiceService), volumeService(parts));
  server.addService(withReadableRequests(ExportServiceService), exportService(parts));
  server.addService(withReadableRequests(CopyServiceService), copyService(parts));
  server.addService(withReadableRequests(DATA_METHODS), dataService(parts));
  const health = new HealthImplementation(Object.fromEntries(["", ...SERVICES].map((name) => [name, "SERVING"])));
  health.addToServer({
    addService: (service, implementation) => server.addService(withKnownNames(service), implementation),
  });
  const listed = [...SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
  server.addService(
    withReadableRequests(ServerReflectionService),
    reflectionService(options.descriptorSet, listed, parts.log),
  );
  return health;
}

/**
 * The health service repeats the name that it does not know in its answer, and keeps it for those who watch: both are as large
 * as a client likes. Here all names that nobody has are one.
 */
function withKnownNames(
  service: ServiceDefinition<UntypedServiceImplementation>,
): ServiceDefinition<UntypedServiceImplementation> {
  const methods = Object.entries(service).map(([method, definition]) => {
    const requestDeserialize = (bytes: Buffer): unknown => {
      const request = definition.requestDeserialize(bytes) as { readonly service?: string };
      const { service: name = "" } = request;
      return name === "" || SERVICES.some((known) => known === name)
        ? request
        : { ...request, service: "of that name" };
    };
    return [method, { ...definition, requestDeserialize }];
  });
  return Object.fromEntries(methods) as ServiceDefinition<UntypedServiceImplementation>;
}

async function bind(server: Server, address: ListenAddress): Promise<string> {
  if (address.kind === "unix") await removeStaleSocket(address.path);
  const text = addressText(address);
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(text, ServerCredentials.createInsecure(), (error, bound) => {
      if (error === null) resolve(bound);
      else reject(bindFailed(text, error));
    });
  });
  if (address.kind === "tcp") return addressText({ ...address, port });
  await openToGroup(address.path);
  return text;
}

function bindFailed(address: string, error: Error): TidemarkError {
  return new TidemarkError(
    "INVALID_ARGUMENT",
    {
      message: `the API cannot listen on ${address}: ${error.message}`,
      hint: "name another address with --address, or stop what holds it",
      metadata: { address },
    },
    { cause: error },
  );
}
