/** My own figures, and nobody else's. */

import { part } from "./elements.js";
import { showMe } from "./frame.js";
import { installHelp } from "./help.js";
import { Keys } from "./keys.js";
import { keepFresh } from "./live.js";
import { read } from "./request.js";
import { showStanding } from "./standing.js";

const PERIOD_MS = 15_000;

installHelp(new Keys(document));
const me = /** @type {Me | null} */ (await read("/api/me").catch(() => null));
if (me) showMe(me);
keepFresh(PERIOD_MS, async () => showStanding(part("standing"), /** @type {Standing} */ (await read("/api/me/stats"))));
