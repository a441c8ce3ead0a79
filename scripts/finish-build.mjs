// What the compiler does not do: the descriptor set beside the generated code, and executable entry points.
import { chmodSync, cpSync } from "node:fs";

const root = new URL("../", import.meta.url);
cpSync(new URL("src/gen/descriptors.binpb", root), new URL("dist/gen/descriptors.binpb", root));
for (const entry of ["client/main", "server/main"]) chmodSync(new URL(`dist/${entry}.js`, root), 0o755);
