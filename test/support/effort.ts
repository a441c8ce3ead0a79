/**
 * How much a test does whose cases chance chooses: `full`, the target of data-safety 3.3, where CI is set; `short` elsewhere,
 * so that a run of all tests takes a few minutes.
 */
export function effort({ short, full }: { readonly short: number; readonly full: number }): number {
  const { CI } = process.env;
  return CI === undefined || CI === "" || CI === "false" ? short : full;
}
