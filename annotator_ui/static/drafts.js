/** What somebody has begun to say about a candidate, kept in the browser until it is decided. */

/** @typedef {{candidate: string, comment: string, reasons: string[]}} Draft */

/** Drafts that are kept; the oldest make room. */
const MOST = 20;

export class Drafts {
  #name;
  #storage;

  /** @param {string} reviewer whose they are @param {Storage} [storage] */
  constructor(reviewer, storage = localStorage) {
    this.#name = `layerloop.drafts.${reviewer}`;
    this.#storage = storage;
  }

  /** @param {string | null} candidate @returns {Draft | null} */
  of(candidate) {
    return this.#read().find((draft) => draft.candidate === candidate) ?? null;
  }

  /** Keeps a draft; an empty one is forgotten. @param {Draft} draft */
  keep(draft) {
    const others = this.#read().filter(({ candidate }) => candidate !== draft.candidate);
    const empty = !draft.comment && !draft.reasons.length;
    try {
      this.#storage.setItem(this.#name, JSON.stringify(empty ? others : [...others, draft].slice(-MOST)));
    } catch {
      // A full or forbidden storage: the text still stands in the page.
    }
  }

  /** @param {string} candidate */
  forget(candidate) {
    if (this.of(candidate)) this.keep({ candidate, comment: "", reasons: [] });
  }

  /** @returns {Draft[]} */
  #read() {
    try {
      const found = JSON.parse(this.#storage.getItem(this.#name) ?? "[]");
      return Array.isArray(found) ? found : [];
    } catch {
      return [];
    }
  }
}
