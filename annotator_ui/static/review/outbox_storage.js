/** Browser storage of outbox entries: one item per entry, named by a prefix and the entry's key. */

/** @typedef {import("./outbox.js").Entry} Entry */

/** Length of an entry's key, a UUID. */
const KEY_LENGTH = 36;

export class OutboxStorage {
  #storage;
  #prefix;

  /**
   * @param {Storage} storage
   * @param {string} prefix
   */
  constructor(storage, prefix) {
    this.#storage = storage;
    this.#prefix = prefix;
  }

  /** Return the stored entries in order. Unreadable items are skipped. */
  load() {
    /** @type {Entry[]} */
    const entries = [];
    for (const name of Object.keys(this.#storage)) {
      // The length check separates reviewers: "ann" must not send the decisions of "ann.lee".
      if (!name.startsWith(this.#prefix) || name.length !== this.#prefix.length + KEY_LENGTH) {
        continue;
      }
      try {
        entries.push(JSON.parse(this.#storage.getItem(name) ?? ""));
      } catch {
        // Truncated, or written by another version: it must not block the other entries.
      }
    }
    return entries.sort((a, b) => a.order - b.order);
  }

  /** @param {Entry} entry */
  save(entry) {
    try {
      this.#storage.setItem(this.#prefix + entry.key, JSON.stringify(entry));
    } catch {
      // Storage is full or blocked: the entry stays in memory and is sent from there.
    }
  }

  /** @param {Entry} entry */
  remove(entry) {
    this.#storage.removeItem(this.#prefix + entry.key);
  }
}
