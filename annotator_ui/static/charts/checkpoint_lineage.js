/** What a checkpoint was made from, and what was made with it, read when it is opened. */

import { el, replace } from "../lib/dom.js";
import { formatCount, pluralize, shortId } from "../lib/format.js";
import { read } from "../lib/http.js";
import { showError } from "../lib/shell.js";

/** @param {string} checkpoint */
export function checkpointLineage(checkpoint) {
  const list = el("dl", { class: "properties" });
  const details = el("details", { class: "checkpoint-uses" }, el("summary", {}, "Used for"), list);
  details.addEventListener("toggle", async () => {
    if (!details.open || list.hasChildNodes()) return;
    try {
      replace(list, rows(await read(`/api/checkpoints/${checkpoint}/lineage`)));
    } catch (error) {
      showError(error);
    }
  });
  return details;
}

/** @param {CheckpointLineage} lineage */
function rows({ snapshot, samples, ancestors, rounds, children }) {
  const trained = snapshot && [
    snapshotLink(snapshot),
    samples === null ? " (not in this instance)" : ` (${pluralize(samples, "sample")})`,
  ];
  const continued = ancestors.flatMap((one, index) => [
    index > 0 && ", ",
    el("a", { href: `/checkpoints#${one.id}` }, el("code", {}, shortId(one.id))),
    one.snapshot && [" on ", snapshotLink(one.snapshot)],
  ]);
  const generated = rounds.map(({ id, candidates, accepted }) =>
    el(
      "div",
      {},
      el("a", { href: `/rounds/${id}` }, `round ${id}`),
      `: ${pluralize(candidates, "candidate")}, ${formatCount(accepted)} accepted`,
    ),
  );
  const next = children.map((id) =>
    el("div", {}, el("a", { href: `/checkpoints#${id}` }, el("code", {}, shortId(id)))),
  );
  const values = {
    "Trained on": trained ?? ["nothing here (imported weights)"],
    Continues: continued.length ? continued.flat() : ["no other checkpoint"],
    Generated: generated.length ? generated : ["no round yet"],
    "Continued by": next.length ? next : ["no checkpoint yet"],
  };
  return Object.entries(values).flatMap(([name, value]) => [
    el("dt", {}, name),
    el("dd", {}, value),
  ]);
}

/** @param {string} id */
function snapshotLink(id) {
  return el("a", { href: `/snapshots/${id}` }, el("code", {}, shortId(id)));
}
