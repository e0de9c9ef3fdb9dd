/** Random names for decisions; crypto.randomUUID exists only on secure origins, and a tablet on a LAN has none. */

/** A random UUID (version 4). @returns {string} */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = /** @type {number} */ ((bytes[6]) & 0x0f) | 0x40;
  bytes[8] = /** @type {number} */ ((bytes[8]) & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
