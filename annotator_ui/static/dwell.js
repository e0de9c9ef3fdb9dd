/** How long a candidate was really looked at: time counts only while the page is visible. */

export class Dwell {
  #counted = 0;
  /** @type {number | null} */
  #since = null;

  constructor() {
    document.addEventListener("visibilitychange", () => {
      const now = performance.now();
      if (document.hidden) this.#stop(now);
      else this.#since ??= now;
    });
  }

  /** A new candidate stands before the reviewer. */
  start() {
    this.#counted = 0;
    this.#since = document.hidden ? null : performance.now();
  }

  /** Milliseconds since then, without those in which the page was hidden. */
  read() {
    const running = this.#since === null ? 0 : performance.now() - this.#since;
    return Math.max(0, Math.round(this.#counted + running));
  }

  /** @param {number} now */
  #stop(now) {
    if (this.#since !== null) this.#counted += now - this.#since;
    this.#since = null;
  }
}
