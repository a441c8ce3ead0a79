/** Version of this program, as package.json has it. */
import { readFileSync } from "node:fs";

export function clientVersion(): string {
  const file = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  const { version } = JSON.parse(file) as { version: string };
  return version;
}
