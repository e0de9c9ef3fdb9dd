/** Drafts of reasons and comments, kept in the browser until the candidate is decided. */

/** @typedef {{candidate: string, comment: string, reasons: string[]}} Draft */

/** Maximum number of drafts; the oldest ones are dropped. */
const MAX_DRAFTS = 20;

export class Drafts {
  #storageKey;
  #storage;

  /**
   * @param {string} reviewer name of the signed-in reviewer
   * @param {Storage} [storage]
   */
  constructor(reviewer, storage = localStorage) {
    this.#storageKey = `layerloop.drafts.${reviewer}`;
    this.#storage = storage;
  }

  /**
   * @param {string | null} candidate
   * @returns {Draft | null}
   */
  find(candidate) {
    return this.#load().find((draft) => draft.candidate === candidate) ?? null;
  }

  /** Save a draft; an empty draft is removed. @param {Draft} draft */
  save(draft) {
    const others = this.#load().filter(({ candidate }) => candidate !== draft.candidate);
    const empty = !draft.comment && !draft.reasons.length;
    const drafts = empty ? others : [...others, draft].slice(-MAX_DRAFTS);
    try {
      this.#storage.setItem(this.#storageKey, JSON.stringify(drafts));
    } catch {
      // Storage is full or blocked: the text stays on the page.
    }
  }

  /** @param {string} candidate */
  remove(candidate) {
    if (this.find(candidate)) this.save({ candidate, comment: "", reasons: [] });
  }

  /** @returns {Draft[]} */
  #load() {
    try {
      const drafts = JSON.parse(this.#storage.getItem(this.#storageKey) ?? "[]");
      return Array.isArray(drafts) ? drafts : [];
    } catch {
      return [];
    }
  }
}
