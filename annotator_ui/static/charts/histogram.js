/** Histogram of a measured value, as a small chart with a text summary. */

import { el } from "../lib/dom.js";
import { formatCount, formatNumber, humanize } from "../lib/format.js";
import { svg } from "../lib/svg.js";

const [WIDTH, HEIGHT, LEFT, TOP] = [280, 132, 44, 8];
const [PLOT_WIDTH, PLOT_HEIGHT] = [WIDTH - LEFT - 8, HEIGHT - TOP - 24];
const GAP = 1;
const DIGITS = 3;

/**
 * @param {string} name
 * @param {Histogram} histogram
 * @param {string} [unit]
 */
export function histogramChart(name, { low, high, median, counts }, unit = "") {
  const largest = Math.max(...counts, 1);
  const total = counts.reduce((sum, count) => sum + count, 0);
  const label = humanize(name);
  const [least, most, middle] = [low, high, median].map((value) => formatNumber(value, DIGITS));
  const summary = `median ${middle}${unit && ` ${unit}`}, ${formatCount(total)} samples`;

  const step = PLOT_WIDTH / counts.length;
  const bins = counts.map((count, index) => {
    const height = (PLOT_HEIGHT * count) / largest;
    return svg("rect", {
      class: "bin",
      x: (LEFT + index * step).toFixed(1),
      y: (TOP + PLOT_HEIGHT - height).toFixed(1),
      width: Math.max(step - GAP, 1).toFixed(1),
      height: height.toFixed(1),
    });
  });
  const levels = [0, largest].flatMap((count) => {
    const y = TOP + PLOT_HEIGHT * (1 - count / largest);
    return [
      svg("line", { class: "level", x1: LEFT, x2: LEFT + PLOT_WIDTH, y1: y, y2: y }),
      svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, [formatCount(count)]),
    ];
  });
  const ends = [
    svg("text", { x: LEFT, y: HEIGHT - 8, "text-anchor": "start" }, [least ?? ""]),
    low !== high &&
      svg("text", { x: LEFT + PLOT_WIDTH, y: HEIGHT - 8, "text-anchor": "end" }, [most ?? ""]),
  ];
  const chart = svg(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": `${label}: ${least} to ${most}, ${summary}`,
    },
    [...levels, ...bins, ...ends],
  );
  const caption = el("figcaption", {}, el("strong", {}, label), el("small", {}, summary));
  return el("figure", {}, caption, chart);
}
