/** The "page not found" page: shows the signed-in reviewer and the navigation. */

import { request } from "../lib/http.js";
import { showSignedIn } from "../lib/shell.js";
import { installShortcutHelp } from "../lib/shortcut_help.js";
import { Shortcuts } from "../lib/shortcuts.js";

installShortcutHelp(new Shortcuts(document));
request("GET", "/api/me").then(showSignedIn, () => {});
