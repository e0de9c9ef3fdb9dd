/** Curve of a training metric by images seen, as a small chart with a text summary. */

import { el } from "../lib/dom.js";
import { formatCount, formatNumber, humanize } from "../lib/format.js";
import { svg } from "../lib/svg.js";

const [WIDTH, HEIGHT, LEFT, TOP] = [280, 132, 52, 8];
const [PLOT_WIDTH, PLOT_HEIGHT] = [WIDTH - LEFT - 8, HEIGHT - TOP - 24];
const LEVELS = [0, 0.5, 1];
const DIGITS = 3;

/**
 * @param {string} metric
 * @param {[number, number][]} points images seen and value, by rising images; at least one
 */
export function lossCurve(metric, points) {
  const values = points.map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const end = points.at(-1)?.[0] ?? 1;
  const first = values[0] ?? 0;
  const last = values.at(-1) ?? 0;
  const name = humanize(metric);
  const summary = `${formatNumber(first, DIGITS)} → ${formatNumber(last, DIGITS)}`;

  // A constant curve is drawn in the middle.
  const range = high - low || 1;
  const toX = (/** @type {number} */ images) => LEFT + (PLOT_WIDTH * images) / end;
  const toY = (/** @type {number} */ value) =>
    TOP + PLOT_HEIGHT * (high === low ? 0.5 : 1 - (value - low) / range);
  const line = points
    .map(([images, value]) => `${toX(images).toFixed(1)},${toY(value).toFixed(1)}`)
    .join(" ");

  const levels = (high === low ? [0.5] : LEVELS).flatMap((share) => {
    const value = high === low ? low : low + share * range;
    const y = toY(value);
    return [
      svg("line", { class: "level", x1: LEFT, x2: LEFT + PLOT_WIDTH, y1: y, y2: y }),
      svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, [formatNumber(value, DIGITS)]),
    ];
  });
  const ends = [
    svg("text", { x: LEFT, y: HEIGHT - 8, "text-anchor": "start" }, ["0"]),
    svg("text", { x: LEFT + PLOT_WIDTH, y: HEIGHT - 8, "text-anchor": "end" }, [
      `${formatCount(end)} images`,
    ]),
  ];
  const chart = svg(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": `${name}: ${summary} after ${formatCount(end)} images`,
    },
    [...levels, ...ends, svg("polyline", { class: "curve", points: line })],
  );
  const caption = el("figcaption", {}, el("strong", {}, name), el("small", {}, summary));
  return el("figure", {}, caption, chart);
}
