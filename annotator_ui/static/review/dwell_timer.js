/** Measures how long a candidate is on display, not counting the time the page is hidden. */

export class DwellTimer {
  #accumulatedMs = 0;
  /** Start of the current visible interval. @type {number | null} */
  #visibleSince = null;

  constructor() {
    document.addEventListener("visibilitychange", () => {
      const now = performance.now();
      if (document.hidden) this.#pause(now);
      else this.#visibleSince ??= now;
    });
  }

  /** Restart the timer for a new candidate. */
  start() {
    this.#accumulatedMs = 0;
    this.#visibleSince = document.hidden ? null : performance.now();
  }

  /** Return the visible time since `start`, in milliseconds. */
  elapsed() {
    const running = this.#visibleSince === null ? 0 : performance.now() - this.#visibleSince;
    return Math.max(0, Math.round(this.#accumulatedMs + running));
  }

  /** @param {number} now */
  #pause(now) {
    if (this.#visibleSince !== null) this.#accumulatedMs += now - this.#visibleSince;
    this.#visibleSince = null;
  }
}
