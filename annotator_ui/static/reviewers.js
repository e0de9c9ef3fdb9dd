/** The figures of all reviewers in one table, and those of one in full. */

import { button, fill, make, part } from "./elements.js";
import { showMe } from "./frame.js";
import { installHelp } from "./help.js";
import { Keys } from "./keys.js";
import { keepFresh } from "./live.js";
import { read } from "./request.js";
import { percent, showStanding } from "./standing.js";
import { count, duration, rate } from "./words.js";

const PERIOD_MS = 15_000;

/** @type {Standing[]} */
let all = [];
let chosen = decodeURIComponent(location.hash.slice(1));

installHelp(new Keys(document));
const me = /** @type {Me | null} */ (await read("/api/me").catch(() => null));
if (me) showMe(me);
keepFresh(PERIOD_MS, async () => {
  all = /** @type {Standing[]} */ (await read("/api/reviewers"));
  show();
});

function show() {
  part("none").hidden = all.length > 0;
  part("table").hidden = all.length === 0;
  const focused = document.activeElement?.textContent;
  fill(part("rows"), all.map(row));
  for (const name of part("rows").querySelectorAll("button")) if (name.textContent === focused) name.focus();
  const one = all.find((standing) => standing.name === chosen);
  part("chosen").hidden = !one;
  if (!one) return;
  part("chosen-name").textContent = one.name;
  showStanding(part("standing"), one);
}

/** @param {string} name */
function choose(name) {
  chosen = name;
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  show();
  part("chosen").scrollIntoView({ block: "start" });
}

/** @param {Standing} one */
function row(one) {
  const { median } = one.dwell_ms;
  const numbers = [
    count(one.decisions),
    rate(one.decisions_per_hour),
    median === null ? "–" : duration(median / 1000),
    ...[one.accepted, one.agreement.alike, one.gold.noticed, one.gold.clean_accepted, one.undone].map(percent),
  ];
  const pressed = { class: "plain name", "aria-pressed": String(one.name === chosen) };
  return make(
    "tr",
    {},
    make(
      "th",
      { scope: "row" },
      button(one.name, () => choose(one.name), pressed),
      one.paused !== null && make("span", { class: "chip state-paused" }, "❙❙ paused"),
    ),
    numbers.map((value) => make("td", { class: "number" }, value)),
  );
}
