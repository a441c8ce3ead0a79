/** Sizes every part of the core agrees on. */

/** A pool page, and a bitmap page. */
export const PAGE_BYTES: u32 = 4096;
export const PAGE_BITS: u32 = PAGE_BYTES * 8;
/** Addresses stay below this, so that they are positive 32-bit integers for the host. */
export const MEMORY_BYTES_MAX: u32 = 0x8000_0000;
/** The unit in which WebAssembly memory grows. */
export const WASM_PAGE_BYTES: u32 = 65_536;
