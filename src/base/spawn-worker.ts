import { Worker, type WorkerOptions } from "node:worker_threads";

/**
 * Starts a worker thread from a module beside the caller: `spawnWorker(import.meta, "./copier-worker")`.
 * In a source run on Node 20 the TypeScript loader does not reach a worker's entry file, so it is registered by hand.
 */
export function spawnWorker(meta: ImportMeta, name: string, options: WorkerOptions = {}): Worker {
  const typescript = meta.url.endsWith(".ts");
  const url = new URL(`${name}.${typescript ? "ts" : "js"}`, meta.url);
  if (!typescript || Number(process.versions.node.split(".")[0]) >= 22) return new Worker(url, options);
  const boot = `import("tsx/esm/api").then((m) => { m.register(); return import(${JSON.stringify(url.href)}); })`;
  return new Worker(boot, { ...options, eval: true });
}
