/** The labeling part of the operations page: projects in Label Studio, and rounds without one. */

import { byId, el, replace } from "../lib/dom.js";
import { formatAgo, formatCount } from "../lib/format.js";

/** Columns of the table of projects: keys of their numbers. */
const COUNTS = /** @type {const} */ (["sending", "open", "annotated", "decisions", "refused"]);

/** Show the projects of open rounds. @param {OperationsState} state */
export function showLabeling({ labeling, projects, excluded_rounds: excluded }) {
  byId("labeling-tool").textContent =
    labeling === "pages"
      ? "Rounds are reviewed on the review page."
      : "Rounds are labeled in Label Studio, and every open round also on the review page.";
  byId("projects-table").hidden = projects.length === 0;
  replace(byId("projects"), projects.map(projectRow));
  replace(
    byId("excluded"),
    excluded.map(({ round, reason }) =>
      el(
        "li",
        {},
        el("a", { href: `/rounds/${round}` }, `Round ${round}`),
        ` is not pushed: ${reason}.`,
      ),
    ),
  );
}

/** @param {OperationsState["projects"][number]} project */
function projectRow(project) {
  const state = project.active ? "pushed and read" : "not pushed";
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      el("a", { href: `/rounds/${project.round}` }, `Round ${project.round}`),
      el("small", {}, `part ${project.part}, project ${project.remote_id ?? "not made yet"}`),
    ),
    el(
      "td",
      { class: "text" },
      project.error ? el("span", { class: "worse" }, project.error) : state,
      el("small", {}, ` ${project.server_url}`),
    ),
    COUNTS.map((name) => el("td", { class: "number" }, formatCount(project[name]))),
    el("td", {}, project.pulled_at ? formatAgo(project.pulled_at) : "never"),
  );
}
