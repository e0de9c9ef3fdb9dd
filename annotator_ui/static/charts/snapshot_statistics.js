/** Distributions of a snapshot's captions and signals. */

import { byId, el, replace } from "../lib/dom.js";
import { formatCount, pluralize } from "../lib/format.js";
import { bars } from "./bars.js";
import { histogramChart } from "./histogram.js";

/** @param {SnapshotStatistics} statistics */
export function showStatistics({ samples, measured, caption_lengths: lengths, words, signals }) {
  const all = measured === 1 ? "the only sample" : `all ${pluralize(samples, "sample")}`;
  byId("measured").textContent =
    measured < samples
      ? `Measured on ${formatCount(measured)} of ${pluralize(samples, "sample")}, chosen at random.`
      : `Measured on ${all}.`;
  const rows = words.map(({ word, captions }) => ({ name: word, value: captions }));
  replace(
    byId("words"),
    el("h3", {}, "Captions with a word"),
    rows.length ? bars(rows, measured) : el("p", { class: "muted" }, "No words."),
  );
  byId("lengths").hidden = lengths === null;
  replace(byId("lengths"), lengths && histogramChart("length of captions", lengths, "words"));
  const charts = Object.entries(signals).map(([name, found]) => histogramChart(name, found));
  replace(
    byId("signals"),
    charts.length
      ? charts
      : el("p", { class: "muted" }, "No sample was a candidate here, so that no signal is known."),
  );
}
