/** What tests of `fsck` and `scrub` share: the state of a copy lab, checked and damaged. */
import { checkState, type StateCheck } from "../../src/engine/check/check-state.ts";
import type { MetadataFinding, VolumeSpec } from "../../src/engine/engine-api.ts";
import type { CopyLab } from "./copy-lab.ts";

/** The volumes as the database would name them. */
export function specsOf(lab: CopyLab): VolumeSpec[] {
  return [...lab.lab.disks].map(([name, disk]) => ({
    uid: name,
    name,
    path: name,
    sizeBytes: disk.registeredBytes ?? disk.memory.sizeBytes,
  }));
}

export function checkLab(lab: CopyLab): Promise<StateCheck> {
  return checkState(lab.lab.stateFiles, specsOf(lab));
}

/** Every file of the state directory. */
export async function filesOf(lab: CopyLab, directory = ""): Promise<string[]> {
  const { stateFiles } = lab.lab;
  const found: string[] = [];
  for (const name of await stateFiles.list(directory)) {
    const path = directory === "" ? name : `${directory}/${name}`;
    const inside = await stateFiles.list(path).catch(() => undefined);
    if (inside === undefined) found.push(path);
    else found.push(...(await filesOf(lab, path)));
  }
  return found;
}

/** `kind path` of each finding. */
export function brief(findings: readonly MetadataFinding[]): string[] {
  return findings.map(({ kind, path }) => `${kind} ${path}`);
}

export type Snapshot = ReadonlyMap<string, Uint8Array>;

export async function snapshotOf(lab: CopyLab): Promise<Snapshot> {
  const { stateFiles } = lab.lab;
  return new Map((await filesOf(lab)).map((path) => [path, stateFiles.contents(path)]));
}

/** The state directory as it was, whatever has become of it; nothing runs on it. */
export async function restore(lab: CopyLab, snapshot: Snapshot): Promise<void> {
  await lab.lab.halt(1);
  const { stateFiles } = lab.lab;
  for (const path of await filesOf(lab)) if (!snapshot.has(path)) await stateFiles.remove(path);
  for (const [path, content] of snapshot) {
    const parts = path.split("/").slice(0, -1);
    for (let depth = 1; depth <= parts.length; depth++) await stateFiles.makeDirectory(parts.slice(0, depth).join("/"));
    stateFiles.damage(path, content);
  }
}

/** What a start on the state makes of it. */
export async function outcomeOfStart(lab: CopyLab): Promise<Record<string, string>> {
  await lab.lab.kill(1);
  return outcomeOf(lab);
}

/** For each copy its phase, and why its next run copies what it copies. */
export async function outcomeOf(lab: CopyLab): Promise<Record<string, string>> {
  const outcome: Record<string, string> = {};
  for (const { id, phase, kind, source, destination } of await lab.engine.sessions()) {
    const { reason } = await lab.engine.explain({ source, destination, kind });
    outcome[id] = `${phase} ${reason}`;
  }
  return outcome;
}
