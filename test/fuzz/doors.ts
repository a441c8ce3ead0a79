/** The doors by name; each brings its own production parts. */
import type { Door } from "./door.ts";
import { NbdDoor } from "./nbd-door.ts";
import type { DoorName } from "./options.ts";

/** A door whose cases are opaque to the caller: only the door itself makes them and takes them back. */
export type AnyDoor = Door<unknown>;

export async function openDoor(name: DoorName): Promise<AnyDoor> {
  return (await OPENERS[name]()) as unknown as AnyDoor;
}

const OPENERS: Readonly<Record<DoorName, () => Promise<object>>> = {
  nbd: () => NbdDoor.open(),
  grpc: async () => (await import("./grpc-door.ts")).GrpcDoor.open(),
  files: async () => (await import("./files-door.ts")).FilesDoor.open(),
  pages: async () => (await import("./pages-door.ts")).PagesDoor.open(),
};
