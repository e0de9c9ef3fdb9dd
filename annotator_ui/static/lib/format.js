/** Format numbers, durations, dates and names for display. */

const integerFormat = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const relativeFormat = new Intl.RelativeTimeFormat("en-GB", { numeric: "auto" });
const dateTimeFormat = new Intl.DateTimeFormat("en-GB", {
  dateStyle: "medium",
  timeStyle: "short",
});

/** @param {number | null | undefined} number */
export function formatCount(number) {
  return number === null || number === undefined ? "–" : integerFormat.format(number);
}

/** Format a change of a count with its sign. @param {number} number */
export function formatSigned(number) {
  return `${number > 0 ? "+" : "−"}${formatCount(Math.abs(number))}`;
}

/**
 * Format a measured value with a fixed number of significant digits; tiny values get an exponent.
 * @param {number | null | undefined} number
 * @param {number} [digits]
 */
export function formatNumber(number, digits = 4) {
  if (number === null || number === undefined || !Number.isFinite(number)) return "–";
  if (number !== 0 && Math.abs(number) < 1e-4) return number.toExponential(1);
  return new Intl.NumberFormat("en-GB", { maximumSignificantDigits: digits }).format(number);
}

/**
 * Format a proportion (0..1) as a percentage, with two significant digits unless stated otherwise.
 * @param {number} proportion
 * @param {number} [digits]
 */
export function formatPercent(proportion, digits = 2) {
  return `${formatNumber(100 * proportion, digits)}%`;
}

/**
 * Format a ratio of two counts as a whole percentage.
 * @param {number} part
 * @param {number} whole
 */
export function formatRatio(part, whole) {
  return `${Math.round((100 * part) / whole)}%`;
}

/** Format a rate: one decimal below ten, none above. @param {number | null | undefined} number */
export function formatRate(number) {
  if (number === null || number === undefined) return "–";
  return number < 10 ? number.toFixed(1) : integerFormat.format(number);
}

/** @param {number | null | undefined} seconds */
export function formatDuration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.round(hours / 24)} days`;
}

/** Format a time relative to now: "3 minutes ago". @param {string | null | undefined} iso */
export function formatAgo(iso) {
  if (!iso) return "–";
  const seconds = (Date.parse(iso) - Date.now()) / 1000;
  if (Math.abs(seconds) < 45) return "just now";
  if (Math.abs(seconds) < 3600) return relativeFormat.format(Math.round(seconds / 60), "minute");
  if (Math.abs(seconds) < 86_400) return relativeFormat.format(Math.round(seconds / 3600), "hour");
  return relativeFormat.format(Math.round(seconds / 86_400), "day");
}

/** @param {string} iso */
export function formatDate(iso) {
  return dateTimeFormat.format(new Date(iso));
}

/** Return the first digits of a long id, enough to identify it on a page. @param {string} id */
export function shortId(id) {
  return id.slice(0, 10);
}

/** Replace underscores with spaces: "prompt_miss" -> "prompt miss". @param {string} name */
export function humanize(name) {
  return name.replaceAll("_", " ");
}

/**
 * Format a count with its noun: "1 decision", "3 decisions".
 * @param {number} number
 * @param {string} singular
 * @param {string} [plural]
 */
export function pluralize(number, singular, plural = `${singular}s`) {
  return `${formatCount(number)} ${number === 1 ? singular : plural}`;
}

/**
 * Return the label of one key in a snapshot's counts. Round 0 stands for the seed samples.
 * @param {string} group
 * @param {string} key
 */
export function countLabel(group, key) {
  if (group === "round") return key === "0" ? "seeds" : `round ${key}`;
  return humanize(key) || "unknown";
}

/** Return the label of a group in a snapshot's counts. @param {string} group */
export function groupLabel(group) {
  return group === "licence" ? "license" : humanize(group);
}

/** Return the label of a round's kind of candidate. @param {string} kind */
export function kindLabel(kind) {
  return kind === "pair" ? "layer pairs" : "single layers";
}

/** Capitalize a server message and end it with a period. @param {string} text */
export function toSentence(text) {
  return text && text.charAt(0).toUpperCase() + text.slice(1).replace(/[.]?$/, ".");
}
