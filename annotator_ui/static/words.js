/** Numbers, times and names as people read them. */

const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const relative = new Intl.RelativeTimeFormat("en-GB", { numeric: "auto" });
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** @param {number | null | undefined} number */
export function count(number) {
  return number === null || number === undefined ? "–" : whole.format(number);
}

/**
 * A measured figure: a fixed number of significant digits, never an exponent for ordinary sizes.
 * @param {number | null | undefined} number
 * @param {number} [digits]
 */
export function figure(number, digits = 4) {
  if (number === null || number === undefined || !Number.isFinite(number)) return "–";
  if (number !== 0 && Math.abs(number) < 1e-4) return number.toExponential(1);
  return new Intl.NumberFormat("en-GB", { maximumSignificantDigits: digits }).format(number);
}

/** @param {number | null | undefined} number one decimal below ten, none above */
export function rate(number) {
  if (number === null || number === undefined) return "–";
  return number < 10 ? number.toFixed(1) : whole.format(number);
}

/** @param {number | null | undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.round(hours / 24)} days`;
}

/** @param {string | null | undefined} iso */
export function ago(iso) {
  if (!iso) return "–";
  const seconds = (Date.parse(iso) - Date.now()) / 1000;
  if (Math.abs(seconds) < 45) return "just now";
  if (Math.abs(seconds) < 3600) return relative.format(Math.round(seconds / 60), "minute");
  if (Math.abs(seconds) < 86_400) return relative.format(Math.round(seconds / 3600), "hour");
  return relative.format(Math.round(seconds / 86_400), "day");
}

/** @param {string} iso */
export function date(iso) {
  return moment.format(new Date(iso));
}

/** The first digits of a long id, enough to tell it from its neighbours. @param {string} id */
export function short(id) {
  return id.slice(0, 10);
}

/** "prompt_miss" as "prompt miss". @param {string} name */
export function plain(name) {
  return name.replaceAll("_", " ");
}

/** @param {number} number @param {string} one @param {string} [many] */
export function counted(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** What one key of a snapshot's counts means: round 0 is the seeds. @param {string} group @param {string} key */
export function countedAs(group, key) {
  if (group === "round") return key === "0" ? "seeds" : `round ${key}`;
  return plain(key) || "unknown";
}

/** What one candidate of a round is made of. @param {string} kind */
export function kindOf(kind) {
  return kind === "pair" ? "layer pairs" : "single layers";
}

/** What the server says, as a sentence among others. @param {string} text */
export function sentence(text) {
  return text && text.charAt(0).toUpperCase() + text.slice(1).replace(/[.]?$/, ".");
}
