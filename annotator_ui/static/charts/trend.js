/** The trend over rounds: a small chart for each figure, with interval bars, and comparisons. */

import { el } from "../lib/dom.js";
import { formatNumber, formatPercent } from "../lib/format.js";
import { svg } from "../lib/svg.js";

/** @typedef {RoundTrend["rounds"][number]} TrendRound */
/** @typedef {keyof TrendRound["figures"]} Figure */
/** @typedef {RoundTrend["comparisons"][number]} Comparison */

const [WIDTH, HEIGHT, LEFT, TOP] = [280, 148, 44, 10];
const [PLOT_WIDTH, PLOT_HEIGHT] = [WIDTH - LEFT - 12, HEIGHT - TOP - 26];
const RADIUS = 3.5;
const MAX_LABELS = 8;

/** @type {[Figure, string, (value: number) => string][]} */
const FIGURES = [
  ["acceptance", "Accepted of drawn", (value) => formatPercent(value, 2)],
  ["defects_per_100", "Defects per 100", (value) => formatNumber(value, 3)],
  ["shape_and_color", "Shape and color shown", (value) => formatPercent(value, 2)],
  ["vendi", "Diversity (Vendi score)", (value) => formatNumber(value, 3)],
];

/**
 * Return the charts of one kind of rounds, without figures that no round has.
 * @param {TrendRound[]} rounds oldest first
 * @param {Comparison[]} comparisons
 */
export function trendCharts(rounds, comparisons) {
  return FIGURES.filter(([name]) => rounds.some(({ figures }) => figures[name])).map(
    ([name, label, format]) => {
      const own = comparisons.filter(({ figure }) => figure === name);
      const notes = own.map((comparison) => el("small", {}, comparisonText(comparison)));
      const caption = el("figcaption", {}, el("strong", {}, label), notes);
      return el("figure", {}, caption, chart(name, label, format, rounds));
    },
  );
}

/**
 * Return rows of a table: each figure of a round beside those of earlier rounds.
 * @param {Comparison[]} comparisons
 */
export function comparisonRows(comparisons) {
  return comparisons.map((comparison) => {
    const { figure, earlier, before, after, verdict, p } = comparison;
    const [, label, format] = FIGURES.find(([name]) => name === figure) ?? FIGURES[0] ?? [];
    if (!label || !format) return null;
    const tone = verdict === "within chance" ? "" : verdict;
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, label, el("small", {}, `beside round ${earlier}`)),
      el("td", { class: "number" }, format(before)),
      el("td", { class: "number" }, format(after)),
      el("td", { class: tone }, el("small", {}, verdict), el("small", {}, probability(p))),
    );
  });
}

/** @param {Comparison} comparison */
function comparisonText({ earlier, verdict, p }) {
  return `Beside round ${earlier}: ${verdict} (${probability(p)})`;
}

/** @param {number} p */
function probability(p) {
  return p < 0.001 ? "p < 0.001" : `p = ${formatNumber(p, 2)}`;
}

/**
 * @param {Figure} name
 * @param {string} label
 * @param {(value: number) => string} format
 * @param {TrendRound[]} rounds
 */
function chart(name, label, format, rounds) {
  const largest = Math.max(...rounds.map(({ figures }) => figures[name]?.high ?? 0), 1e-9);
  const step = PLOT_WIDTH / rounds.length;
  const x = (/** @type {number} */ index) => LEFT + (index + 0.5) * step;
  const y = (/** @type {number} */ value) => TOP + PLOT_HEIGHT * (1 - value / largest);
  const levels = [0, largest].flatMap((value) => [
    svg("line", { class: "level", x1: LEFT, x2: LEFT + PLOT_WIDTH, y1: y(value), y2: y(value) }),
    svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, [format(value)]),
  ]);
  const marks = rounds.flatMap(({ round, figures }, index) => {
    const found = figures[name];
    if (!found) return [];
    const ends = `${format(found.low)}–${format(found.high)}`;
    const title = svg("title", {}, [`Round ${round}: ${format(found.value)} (${ends})`]);
    const [low, high] = [y(found.low), y(found.high)];
    return [
      svg("line", { class: "interval", x1: x(index), x2: x(index), y1: low, y2: high }),
      svg("circle", { class: "point", cx: x(index), cy: y(found.value), r: RADIUS }, [title]),
    ];
  });
  const every = Math.ceil(rounds.length / MAX_LABELS);
  const names = rounds.map(
    ({ round }, index) =>
      index % every === 0 &&
      svg("text", { x: x(index), y: HEIGHT - 8, "text-anchor": "middle" }, [String(round)]),
  );
  const values = rounds.flatMap(({ round, figures }) => {
    const found = figures[name];
    return found ? [`round ${round} ${format(found.value)}`] : [];
  });
  return svg(
    "svg",
    {
      class: "trend",
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": `${label}, with 95% intervals: ${values.join(", ")}`,
    },
    [...levels, ...marks, ...names],
  );
}
