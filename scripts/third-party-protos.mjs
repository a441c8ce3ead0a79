// Collects the interface files of other projects from the installed packages, so that they are never committed.
import { cpSync, mkdirSync, rmSync } from "node:fs";

const FILES = [
  ["google-gax/build/protos/google/rpc/status.proto", "google/rpc/status.proto"],
  ["google-gax/build/protos/google/rpc/error_details.proto", "google/rpc/error_details.proto"],
  ["grpc-health-check/proto/health/v1/health.proto", "grpc/health/v1/health.proto"],
  ["@grpc/reflection/build/proto/grpc/reflection/v1/reflection.proto", "grpc/reflection/v1/reflection.proto"],
];
const root = new URL("../", import.meta.url);
rmSync(new URL("third-party/", root), { recursive: true, force: true });
for (const [from, to] of FILES) {
  const target = new URL(`third-party/${to}`, root);
  mkdirSync(new URL(".", target), { recursive: true });
  cpSync(new URL(`node_modules/${from}`, root), target);
}
