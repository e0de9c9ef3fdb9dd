/** The page with the statistics of the signed-in reviewer. */

import { showReviewerStats } from "../charts/reviewer_stats.js";
import { byId } from "../lib/dom.js";
import { read } from "../lib/http.js";
import { poll } from "../lib/polling.js";
import { showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

const PERIOD_MS = 15_000;

installShortcutHelp(new Shortcuts(document));
const me = /** @type {CurrentReviewer | null} */ (await read("/api/me").catch(() => null));
if (me) showSignedIn(me);
poll(PERIOD_MS, async () => {
  const stats = /** @type {ReviewerStats} */ (await read("/api/me/stats"));
  showReviewerStats(byId("stats"), stats);
});
