/** Places the faults of a step on disks, state files and database, and tells the judge that there is a reason from now on. */
import type { Stage } from "./stage.ts";
import type { FaultAction } from "./workload.ts";

type DeviceFault = Exclude<FaultAction, { do: "repair" | "state-full" | "state-fails" | "store-full" | "store-fails" }>;

export function placeFault({ box, judge }: Stage, action: FaultAction): void {
  switch (action.do) {
    case "repair":
      box.repair();
      return;
    case "state-full":
      judge.fault("state-full");
      box.stateFaults.full = { storedBytes: action.storedBytes };
      return;
    case "state-fails":
      box.stateFaults.failing = { operation: action.operation, where: action.where, left: action.after };
      return;
    case "store-full":
      judge.fault("store-full");
      box.database.faults.full = true;
      return;
    case "store-fails":
      box.database.faults.failing = { how: action.how, left: action.after };
      return;
    default:
      judge.fault(action.do === "stalls" ? "stall" : "device");
      placeOnDevice(box.disks, action);
  }
}

function placeOnDevice(disks: Stage["box"]["disks"], action: DeviceFault): void {
  const disk = disks[action.do === "bad-sectors" ? action.extent.volume : action.volume];
  if (!disk) return;
  if (action.do === "bad-sectors")
    for (let index = 0; index < action.extent.count; index++) disk.faults.badSectors.add(action.extent.first + index);
  else if (action.do === "stalls") {
    disk.faults.stallProbability = action.probability;
    disk.faults.stallMs = action.ms;
  } else if (action.do === "device-full") disk.faults.writes = "no-space";
  else if (action.do === "device-write-errors") disk.faults.writes = "medium-error";
  else if (action.do === "device-flush-fails") disk.faults.flushFails = true;
  else {
    disk.present = false;
    disk.fail();
  }
}
