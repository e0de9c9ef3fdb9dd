/** Detection curve of a defect: reject rate by severity, as a small chart with a text summary. */

import { el } from "../lib/dom.js";
import { formatCount, humanize } from "../lib/format.js";
import { svg } from "../lib/svg.js";

const [WIDTH, HEIGHT, LEFT, TOP] = [240, 132, 42, 8];
const [PLOT_WIDTH, PLOT_HEIGHT] = [WIDTH - LEFT - 8, HEIGHT - TOP - 24];
/** Lapse rate of the psychometric function (curation/statistics/psychometric.py). */
const LAPSE = 0.02;
const STEPS = 50;

/** @param {DetectionCurve} curve */
export function detectionChart(curve) {
  const { threshold, low, high, n } = curve;
  const defect = humanize(curve.defect);
  const name = curve.kind === "pair" ? `${defect} (pair)` : defect;
  const detected =
    threshold > 1 ? "hardly ever noticed" : `50% noticed at severity ${threshold.toFixed(2)}`;
  const interval = `95% CI ${low.toFixed(2)}–${high.toFixed(2)}`;
  const summary = `${detected} (${interval}), ${formatCount(n)} reviewed`;

  // The confidence interval of the threshold, the fitted curve, and the threshold itself.
  const band = svg("rect", {
    class: "band",
    x: toX(low),
    y: TOP,
    width: Math.max(toX(high) - toX(low), 1),
    height: PLOT_HEIGHT,
  });
  const line = svg("polyline", { class: "curve", points: curvePoints(curve) });
  const center = { cx: toX(threshold), cy: toY(rejectRate(curve, threshold)), r: 3.5 };
  const chart = svg(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: "img",
      "aria-label": `${name}: ${summary}`,
    },
    [...axes(), band, line, threshold <= 1 && svg("circle", { class: "threshold", ...center })],
  );
  const caption = el("figcaption", {}, el("strong", {}, name), el("small", {}, summary));
  return el("figure", {}, caption, chart);
}

/**
 * Return the reject rate at a severity, as in curation/statistics/psychometric.py.
 * @param {DetectionCurve} curve
 * @param {number} severity
 */
function rejectRate({ guess, slope, threshold }, severity) {
  return guess + (1 - guess - LAPSE) / (1 + Math.exp(-slope * (severity - threshold)));
}

/** @param {DetectionCurve} curve */
function curvePoints(curve) {
  const severities = Array.from({ length: STEPS + 1 }, (_, step) => step / STEPS);
  return severities
    .map((severity) => {
      const [x, y] = [toX(severity), toY(rejectRate(curve, severity))];
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    })
    .join(" ");
}

function axes() {
  const levels = [0, 0.5, 1].flatMap((rate) => {
    const y = toY(rate);
    return [
      svg("line", { class: "level", x1: LEFT, x2: LEFT + PLOT_WIDTH, y1: y, y2: y }),
      svg("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, [`${100 * rate}%`]),
    ];
  });
  const ends = /** @type {[number, string, string][]} */ ([
    [0, "faint", "start"],
    [1, "severe", "end"],
  ]);
  const labels = ends.map(([severity, label, anchor]) =>
    svg("text", { x: toX(severity), y: HEIGHT - 8, "text-anchor": anchor }, [label]),
  );
  return [...levels, ...labels];
}

/** @param {number} severity */
function toX(severity) {
  return LEFT + PLOT_WIDTH * Math.min(Math.max(severity, 0), 1);
}

/** @param {number} rate */
function toY(rate) {
  return TOP + PLOT_HEIGHT * (1 - rate);
}
