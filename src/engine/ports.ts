/** What the engine is built on; production, tests and the simulator each give their own. */
import type { BlockDevice, Clock } from "../base/ports.ts";
import type { Mover } from "./device/mover.ts";
import type { StateFiles } from "./durable/state-files.ts";
import type { Core } from "./map/core.ts";

export interface OpenedDevice {
  readonly device: BlockDevice;
  /** Keys of everything the device's bytes live on; two volumes may not share one. */
  readonly identity: readonly string[];
}

/** Bounds of the activity logs; a simulator makes them small, so that a small world reaches them. */
export interface ActivityBounds {
  /** Regions of a volume that are hot at once. */
  readonly slots: number;
  /** A log that is longer is worth a checkpoint. */
  readonly checkpointBytes: number;
}

export interface EnginePorts {
  readonly clock: Clock;
  readonly core: Core;
  readonly mover: Mover;
  readonly files: StateFiles;
  readonly activity: ActivityBounds;
  /** Maps of one point that go into its record; more go into files. A simulator makes it small. */
  readonly pointMapsBytesMax: number;
  /** Opens exclusively. */
  openDevice(path: string): Promise<OpenedDevice>;
  /** The same keys without opening. */
  identityOf(path: string): Promise<readonly string[]>;
}
