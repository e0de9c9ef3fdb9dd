/** The table of keys: a key cannot be bound without the words that explain it. */

/**
 * @typedef {{group: string, keys: string[], help: string, run: (event: KeyboardEvent, key: string) => void}} Binding
 */

export class Keys {
  /** @type {Binding[]} */
  table = [];

  /** @param {EventTarget} target where keys are heard */
  constructor(target) {
    target.addEventListener("keydown", (event) => this.#hear(/** @type {KeyboardEvent} */ (event)));
  }

  /**
   * @param {string} group @param {string[]} keys @param {string} help
   * @param {(event: KeyboardEvent, key: string) => void} run
   */
  bind(group, keys, help, run) {
    const taken = keys.find((key) => this.#find(key));
    if (taken) throw new Error(`the key ${taken} is bound twice`);
    this.table.push({ group, keys, help, run });
  }

  /** @param {KeyboardEvent} event */
  #hear(event) {
    const key = nameKey(event);
    const binding = key && !isTyping(event.target) && !document.querySelector("dialog[open]") ? this.#find(key) : null;
    if (!binding || !key) return;
    event.preventDefault();
    if (!event.repeat) binding.run(event, key); // a key held down is one key: it never decides a second candidate
  }

  /** @param {string} key */
  #find(key) {
    return this.table.find((binding) => binding.keys.includes(key)) ?? null;
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
  const digit = /^(?:Digit|Numpad)([0-9])$/.exec(event.code)?.[1];
  if (digit && (event.code.startsWith("Digit") || event.key === digit)) return shift + digit;
  if (/^[a-z]$/i.test(event.key)) return shift + event.key.toLowerCase();
  const letter = /^Key([A-Z])$/.exec(event.code)?.[1];
  if (letter && event.key.length === 1) return shift + letter.toLowerCase();
  return event.key.length === 1 ? event.key : shift + event.key;
}

/** @param {EventTarget | null} target */
function isTyping(target) {
  return (
    target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName))
  );
}
