/** Random UUIDs. crypto.randomUUID needs a secure context, so it is missing on a plain-HTTP LAN. */

const VERSION_BYTE = 6;
const VARIANT_BYTE = 8;

/** Return a random UUID (RFC 9562, version 4). @returns {string} */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)).map((byte, index) => {
    if (index === VERSION_BYTE) return (byte & 0x0f) | 0x40;
    return index === VARIANT_BYTE ? (byte & 0x3f) | 0x80 : byte;
  });
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
