/** Keyboard shortcuts: every shortcut is registered together with its help text. */

/**
 * @typedef {(event: KeyboardEvent, key: string) => void} Handler
 *
 * @typedef {object} Options
 * @property {string} [view] the view in which the shortcut is active; every view by default
 * @property {() => void} [release] called when the key is released
 * @property {boolean} [repeats] whether a held key calls the handler repeatedly
 *
 * @typedef {{group: string, keys: string[], help: string, run: Handler} & Options} Shortcut
 */

export class Shortcuts {
  /** The current view; only its shortcuts and the global ones are active. */
  view = "";
  /** @type {Shortcut[]} */
  all = [];
  /** Release handlers of held keys, by key code. @type {Map<string, () => void>} */
  #held = new Map();

  /** @param {EventTarget} target where to listen for key events */
  constructor(target) {
    target.addEventListener("keydown", (event) =>
      this.#onKeyDown(/** @type {KeyboardEvent} */ (event)),
    );
    target.addEventListener("keyup", (event) =>
      this.#release(/** @type {KeyboardEvent} */ (event).code),
    );
    addEventListener("blur", () => [...this.#held.keys()].forEach((code) => this.#release(code)));
  }

  /**
   * Register a shortcut. A key may be used twice only in different views.
   * @param {string} group heading in the shortcut list
   * @param {string[]} keys
   * @param {string} help
   * @param {Handler} run
   * @param {Options} [options]
   */
  bind(group, keys, help, run, options = {}) {
    const overlaps = (/** @type {Shortcut} */ other) =>
      !options.view || !other.view || options.view === other.view;
    const taken = keys.find((key) =>
      this.all.some((other) => other.keys.includes(key) && overlaps(other)),
    );
    if (taken) throw new Error(`the key ${taken} is bound twice`);
    this.all.push({ group, keys, help, run, ...options });
  }

  /** Shortcuts that are active in the current view. */
  get active() {
    return this.all.filter((shortcut) => !shortcut.view || shortcut.view === this.view);
  }

  /** @param {KeyboardEvent} event */
  #onKeyDown(event) {
    const key = keyName(event);
    if (!key || isTextInput(event.target) || activatesElement(event.target, key)) return;
    if (document.querySelector("dialog[open]")) return;
    const shortcut = this.active.find((candidate) => candidate.keys.includes(key));
    if (!shortcut) return;
    event.preventDefault();
    if (event.repeat && !shortcut.repeats) return; // a held key must not decide a second candidate
    if (shortcut.release) this.#held.set(event.code, shortcut.release);
    shortcut.run(event, key);
  }

  /** @param {string} code */
  #release(code) {
    const release = this.#held.get(code);
    this.#held.delete(code);
    release?.();
  }
}

/**
 * Return the name of a key: "a", "Shift+b", "1", "Shift+1", "ArrowLeft", "?"; null for browser
 * shortcuts. Letters and digits are also matched by their position, so that other alphabets and
 * layouts with shifted digits work.
 * @param {KeyboardEvent} event
 */
export function keyName(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return null;
  const shift = event.shiftKey ? "Shift+" : "";
  if (event.key === " ") return `${shift}Space`;
  const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code)?.[1];
  if (digit && (event.code.startsWith("Digit") || event.key === digit)) return shift + digit;
  if (/^[a-z]$/i.test(event.key)) return shift + event.key.toLowerCase();
  const letter = /^Key([A-Z])$/.exec(event.code)?.[1];
  if (letter && event.key.length === 1) return shift + letter.toLowerCase();
  return event.key.length === 1 ? event.key : shift + event.key;
}

/** @param {EventTarget | null} target */
function isTextInput(target) {
  if (target instanceof HTMLInputElement) return !/^(color|file)$/.test(target.type);
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable || /^(TEXTAREA|SELECT)$/.test(target.tagName))
  );
}

/**
 * Return whether the key activates the focused element: Space and Enter press buttons and links.
 * @param {EventTarget | null} target
 * @param {string} key
 */
function activatesElement(target, key) {
  if (!/^(Space|Enter)$/.test(key) || !(target instanceof Element)) return false;
  return target.closest("button, a, summary, input") !== null;
}
