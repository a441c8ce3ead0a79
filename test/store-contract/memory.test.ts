import { type MemoryDisk, openMemoryStore } from "../../src/store/memory/memory.ts";
import { fullDiskContract, storeContract } from "./contract.ts";

storeContract("memory", async () => {
  const disk: MemoryDisk = new Map();
  return {
    open: (schema) => openMemoryStore(disk, schema),
    async rewrite(key, change) {
      const value = change(Uint8Array.from(disk.get(key) ?? []));
      if (value === undefined) disk.delete(key);
      else disk.set(key, value);
    },
    async move(from, to) {
      const value = disk.get(from);
      if (value !== undefined) disk.set(to, value);
      disk.delete(from);
    },
  };
});

fullDiskContract("memory", async () => {
  const disk: MemoryDisk = new Map();
  let full = false;
  return {
    open: () =>
      openMemoryStore(disk, undefined, () => {
        if (full) throw new Error("no space left");
      }),
    fill: async () => {
      full = true;
    },
    makeRoom: async () => {
      full = false;
    },
  };
});
