/**
 * Reflection v1: serves the files of the descriptor set as they are, with what they import, so that `buf curl` and its
 * like can list and call without the .proto files.
 *
 * Own implementation: the ready-made package drops imports and proto3 `optional` (toolchain pitfall 2). Extensions are
 * answered with "none": the contract has none.
 */
import { createFileRegistry, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { status } from "@grpc/grpc-js";
import type {
  ServerReflectionRequest,
  ServerReflectionResponse,
  ServerReflectionServer,
} from "../gen/grpc/reflection/v1/reflection.ts";
import type { LogError } from "./handlers.ts";
import { requireReadable } from "./readable-request.ts";
import { toRpcError } from "./rich-errors.ts";

type Answer = ServerReflectionResponse["messageResponse"];

/** Reflection over a FileDescriptorSet, naming `services`. Throws on a set that does not parse: a broken build. */
export function reflectionService(
  descriptorSet: Uint8Array,
  services: readonly string[],
  log: LogError,
): ServerReflectionServer {
  const answer = answers(descriptorSet, services);
  return {
    serverReflectionInfo(call) {
      let isRefused = false;
      call.on("data", (given: ServerReflectionRequest) => {
        if (isRefused) return;
        let request: ServerReflectionRequest;
        try {
          request = requireReadable(given);
        } catch (error) {
          // The library ends the call with this, behind the answers that are on their way.
          isRefused = true;
          call.emit("error", toRpcError(error, log));
          return;
        }
        const response = { validHost: request.host, originalRequest: request, messageResponse: answer(request) };
        // Requests are small, files are not: a client that does not read gets no further answers until it does.
        if (!call.write(response)) {
          call.pause();
          call.once("drain", () => call.resume());
        }
      });
      call.on("end", () => {
        if (!isRefused) call.end();
      });
      // A vanished client ends its call; there is nobody to tell.
      call.on("error", () => {
        if (!isRefused) call.destroy();
      });
    },
  };
}

function answers(descriptorSet: Uint8Array, services: readonly string[]): (request: ServerReflectionRequest) => Answer {
  const set = fromBinary(FileDescriptorSetSchema, descriptorSet);
  const registry = createFileRegistry(set);
  const files = new Map(
    set.file.map((file) => [
      file.name,
      { bytes: Buffer.from(toBinary(FileDescriptorProtoSchema, file)), imports: file.dependency },
    ]),
  );

  const withImports = (name: string, seen: Map<string, Buffer>): Map<string, Buffer> => {
    const file = files.get(name);
    if (file === undefined || seen.has(name)) return seen;
    seen.set(name, file.bytes);
    for (const needed of file.imports) withImports(needed, seen);
    return seen;
  };
  const fileNamed = (name: string | undefined): Answer => {
    if (name === undefined || !files.has(name)) return refusal(status.NOT_FOUND, "there is no such file or symbol");
    const fileDescriptorProto = [...withImports(name, new Map()).values()];
    return { $case: "fileDescriptorResponse", value: { fileDescriptorProto } };
  };
  // A method or field is found through the type that holds it.
  const fileOf = (symbol: string): string | undefined => {
    for (let name = symbol; name !== ""; name = name.slice(0, Math.max(0, name.lastIndexOf(".")))) {
      const found = registry.get(name);
      if (found !== undefined) return `${found.file.name}.proto`;
    }
    return undefined;
  };

  return ({ messageRequest }) => {
    switch (messageRequest?.$case) {
      case "listServices":
        return { $case: "listServicesResponse", value: { service: services.map((name) => ({ name })) } };
      case "fileByFilename":
        return fileNamed(messageRequest.value);
      case "fileContainingSymbol":
        return fileNamed(fileOf(messageRequest.value));
      case "allExtensionNumbersOfType":
        return {
          $case: "allExtensionNumbersResponse",
          value: { baseTypeName: messageRequest.value, extensionNumber: [] },
        };
      case "fileContainingExtension":
        return refusal(status.NOT_FOUND, "the contract has no extensions");
      default:
        return refusal(status.INVALID_ARGUMENT, "the request asks for nothing");
    }
  };
}

function refusal(errorCode: number, errorMessage: string): Answer {
  return { $case: "errorResponse", value: { errorCode, errorMessage } };
}
