/** The page for addresses that are no page: it shows who is signed in, so that the links above fit. */

import { showMe } from "./frame.js";
import { installHelp } from "./help.js";
import { Keys } from "./keys.js";
import { request } from "./request.js";

installHelp(new Keys(document));
request("GET", "/api/me").then(showMe, () => {});
