/** Two viewers that act as one: zoom, position, view and layer are the same on both sides. */

/** @typedef {import("../review/viewer.js").Viewer} Viewer */

export class LinkedViewers extends EventTarget {
  #left;
  #right;
  /** Whether one side is following the other, which must not be followed in turn. */
  #following = false;

  /**
   * @param {Viewer} left
   * @param {Viewer} right
   */
  constructor(left, right) {
    super();
    this.#left = left;
    this.#right = right;
    for (const [source, other] of /** @type {const} */ ([
      [left, right],
      [right, left],
    ])) {
      for (const name of ["change", "move"]) {
        source.addEventListener(name, () => this.#follow(source, other));
      }
    }
  }

  /** Time at which both images were painted; null if none is visible. */
  get visibleSince() {
    const times = [this.#left.visibleSince, this.#right.visibleSince];
    return times.some((time) => time === null) ? null : Math.max(...times.map(Number));
  }

  /** @param {import("../review/viewer.js").Setting} name */
  get(name) {
    return this.#left.get(name);
  }

  /**
   * @param {import("../review/viewer.js").Setting} name
   * @param {string} value
   */
  set(name, value) {
    this.#left.set(name, value);
  }

  /** @param {number} factor */
  zoomBy(factor) {
    this.#left.zoomBy(factor);
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  moveBy(x, y) {
    this.#left.moveBy(x, y);
  }

  /** Extra images are not shown in comparisons. @param {Element} _image */
  addImage(_image) {}

  /**
   * Show the decoded images of an item on both sides in this frame.
   * @param {import("./queue.js").QueuedComparison} held
   */
  show({ item, left, right }) {
    this.#following = true;
    this.#left.show({ card: item, images: left });
    this.#right.show({ card: item, images: right });
    this.#following = false;
    this.#follow(this.#left, this.#right);
  }

  /** Remove the images. */
  clear() {
    this.#left.clear();
    this.#right.clear();
  }

  /**
   * @param {Viewer} source
   * @param {Viewer} other
   */
  #follow(source, other) {
    if (this.#following) return;
    this.#following = true;
    other.follow(source);
    this.#following = false;
    this.dispatchEvent(new Event("change"));
  }
}
