/** The table of keys: a key cannot be bound without the words that explain it. */

/**
 * @typedef {(event: KeyboardEvent, key: string) => void} Run
 * @typedef {object} How
 * @property {string} [where] the view in which the key means this; everywhere if left out
 * @property {() => void} [release] what happens when the key goes up again
 * @property {boolean} [repeats] whether holding it down runs it again and again
 * @typedef {{group: string, keys: string[], help: string, run: Run} & How} Binding
 */

export class Keys {
  /** The view that is open now: of keys with two meanings its own is heard. */
  where = "";
  /** @type {Binding[]} */
  table = [];
  /** Keys that are down and have something to do when they go up, by their place. @type {Map<string, () => void>} */
  #down = new Map();

  /** @param {EventTarget} target where keys are heard */
  constructor(target) {
    target.addEventListener("keydown", (event) => this.#hear(/** @type {KeyboardEvent} */ (event)));
    target.addEventListener("keyup", (event) => this.#release(/** @type {KeyboardEvent} */ (event).code));
    addEventListener("blur", () => [...this.#down.keys()].forEach((code) => this.#release(code)));
  }

  /** @param {string} group @param {string[]} keys @param {string} help @param {Run} run @param {How} [how] */
  bind(group, keys, help, run, how = {}) {
    const meets = (/** @type {Binding} */ other) => !how.where || !other.where || how.where === other.where;
    const taken = keys.find((key) => this.table.some((other) => other.keys.includes(key) && meets(other)));
    if (taken) throw new Error(`the key ${taken} is bound twice`);
    this.table.push({ group, keys, help, run, ...how });
  }

  /** What can be done by keys now. */
  get here() {
    return this.table.filter((binding) => !binding.where || binding.where === this.where);
  }

  /** @param {KeyboardEvent} event */
  #hear(event) {
    const key = nameKey(event);
    if (!key || isTyping(event.target) || isPressing(event.target, key) || document.querySelector("dialog[open]")) return;
    const binding = this.here.find((one) => one.keys.includes(key));
    if (!binding) return;
    event.preventDefault();
    if (event.repeat && !binding.repeats) return; // a key held down is one key: it never decides a second candidate
    if (binding.release) this.#down.set(event.code, binding.release);
    binding.run(event, key);
  }

  /** @param {string} code */
  #release(code) {
    const release = this.#down.get(code);
    this.#down.delete(code);
    release?.();
  }
}

/**
 * The name of a key: "a", "Shift+b", "1", "Shift+1", "ArrowLeft", "?"; null for the browser's own shortcuts.
 * Letters and digits are found by their place too, so that other alphabets and layouts with shifted digits work.
 * @param {KeyboardEvent} event
 */
export function nameKey(event) {
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
function isTyping(target) {
  if (target instanceof HTMLInputElement) return !/^(color|file)$/.test(target.type);
  return target instanceof HTMLElement && (target.isContentEditable || /^(TEXTAREA|SELECT)$/.test(target.tagName));
}

/** Space and Enter on a button or a link press it, whatever else they mean. @param {EventTarget | null} target @param {string} key */
function isPressing(target, key) {
  return /^(Space|Enter)$/.test(key) && target instanceof Element && target.closest("button, a, summary, input") !== null;
}
