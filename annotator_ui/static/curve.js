/** A curve of noticing as a small chart, with its numbers in words below it. */

import { make } from "./elements.js";
import { count, plain } from "./words.js";

const SPACE = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, TOP] = [240, 132, 42, 8];
const [INNER_WIDTH, INNER_HEIGHT] = [WIDTH - LEFT - 8, HEIGHT - TOP - 24];
const LAPSE = 0.02;
const STEPS = 50;

/** @param {NoticedDefect} curve */
export function chart(curve) {
  const name = curve.kind === "pair" ? `${plain(curve.defect)} in a pair` : plain(curve.defect);
  const half = curve.threshold > 1 ? "hardly ever noticed" : `half noticed at ${curve.threshold.toFixed(2)}`;
  const words = `${half} (95 %: ${curve.low.toFixed(2)} to ${curve.high.toFixed(2)}), ${count(curve.n)} looks`;
  const picture = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${name}: ${words}` }, [
    ...axes(),
    draw("rect", { class: "band", x: x(curve.low), y: TOP, width: Math.max(x(curve.high) - x(curve.low), 1), height: INNER_HEIGHT }),
    draw("polyline", { class: "curve", points: line(curve) }),
    curve.threshold <= 1 && draw("circle", { class: "half", cx: x(curve.threshold), cy: y(rejected(curve, curve.threshold)), r: 3.5 }),
  ]);
  return make("figure", {}, make("figcaption", {}, make("strong", {}, name), make("small", {}, words)), picture);
}

/** The share rejected at a severity: curation/statistics/psychometric.py. @param {NoticedDefect} curve @param {number} severity */
function rejected({ guess, slope, threshold }, severity) {
  return guess + (1 - guess - LAPSE) / (1 + Math.exp(-slope * (severity - threshold)));
}

/** @param {NoticedDefect} curve */
function line(curve) {
  const severities = Array.from({ length: STEPS + 1 }, (_, step) => step / STEPS);
  return severities.map((severity) => `${x(severity).toFixed(1)},${y(rejected(curve, severity)).toFixed(1)}`).join(" ");
}

function axes() {
  const levels = [0, 0.5, 1].flatMap((share) => [
    draw("line", { class: "level", x1: LEFT, x2: LEFT + INNER_WIDTH, y1: y(share), y2: y(share) }),
    draw("text", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, [`${100 * share} %`]),
  ]);
  const ends = /** @type {[number, string, string][]} */ ([[0, "faint", "start"], [1, "grave", "end"]]);
  const names = ends.map(([at, name, anchor]) => draw("text", { x: x(at), y: HEIGHT - 8, "text-anchor": anchor }, [name]));
  return [...levels, ...names];
}

/** @param {number} severity */
function x(severity) {
  return LEFT + INNER_WIDTH * Math.min(Math.max(severity, 0), 1);
}

/** @param {number} share */
function y(share) {
  return TOP + INNER_HEIGHT * (1 - share);
}

/** @param {string} tag @param {Record<string, string | number>} attributes @param {(Node | string | false)[]} [children] */
function draw(tag, attributes, children = []) {
  const element = document.createElementNS(SPACE, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children.filter((child) => child !== false));
  return element;
}
