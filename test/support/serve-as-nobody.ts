/** `tidemark serve ...` as a user that may not do everything: root reads every file, whatever its mode. */
import { main } from "../../src/server/main.ts";

const NOBODY = 65_534;
if (process.geteuid?.() === 0) {
  process.setgroups?.([]);
  process.setegid?.(NOBODY);
  process.seteuid?.(NOBODY);
}
await main(process.argv.slice(2));
