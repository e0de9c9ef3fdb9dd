/** Pan and zoom by mouse, wheel or two fingers, around the pointer position. */

const MIN_SCALE = 0.1;
const MAX_SCALE = 32;

export class PanZoom {
  x = 0;
  y = 0;
  #root;
  #getScale;
  #setScale;
  #onMove;
  /** Positions of the pressed pointers by id. @type {Map<number, {x: number, y: number}>} */
  #pointers = new Map();

  /**
   * @param {HTMLElement} root
   * @param {() => number} getScale
   * @param {(scale: number) => void} setScale
   * @param {() => void} onMove
   */
  constructor(root, getScale, setScale, onMove) {
    this.#root = root;
    this.#getScale = getScale;
    this.#setScale = setScale;
    this.#onMove = onMove;
    root.addEventListener("wheel", (event) => this.#onWheel(event), { passive: false });
    root.addEventListener("pointerdown", (event) => this.#onPointerDown(event));
    root.addEventListener("pointermove", (event) => this.#onPointerMove(event));
    for (const name of /** @type {const} */ (["pointerup", "pointercancel"])) {
      root.addEventListener(name, (event) => this.#pointers.delete(event.pointerId));
    }
  }

  /** Reset the position to the center. */
  center() {
    this.x = 0;
    this.y = 0;
  }

  /** Zoom around the center of the viewer. @param {number} factor */
  zoomBy(factor) {
    const box = this.#root.getBoundingClientRect();
    this.#zoomAround(box.left + box.width / 2, box.top + box.height / 2, factor);
  }

  /**
   * @param {number} x
   * @param {number} y
   */
  moveBy(x, y) {
    this.x += x;
    this.y += y;
    this.#onMove();
  }

  /** @param {WheelEvent} event */
  #onWheel(event) {
    event.preventDefault();
    const factor = 2 ** (-event.deltaY / (event.deltaMode ? 12 : 400));
    this.#zoomAround(event.clientX, event.clientY, factor);
  }

  /** @param {PointerEvent} event */
  #onPointerDown(event) {
    const { target } = event;
    if (event.button !== 0 || (target instanceof Element && target.closest("button, a"))) return;
    this.#root.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  /** @param {PointerEvent} event */
  #onPointerMove(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      // Two fingers zoom around their midpoint.
      const factor = distance(now, other) / Math.max(distance(before, other), 1);
      this.#zoomAround((now.x + other.x) / 2, (now.y + other.y) / 2, factor);
    } else {
      this.moveBy(now.x - before.x, now.y - before.y);
    }
    this.#pointers.set(event.pointerId, now);
  }

  /**
   * Zoom so that the point under (x, y) stays in place.
   * @param {number} x
   * @param {number} y
   * @param {number} factor
   */
  #zoomAround(x, y, factor) {
    const before = this.#getScale();
    const after = Math.min(Math.max(before * factor, MIN_SCALE), MAX_SCALE);
    const box = this.#root.getBoundingClientRect();
    const offset = { x: x - box.left - box.width / 2, y: y - box.top - box.height / 2 };
    this.x = offset.x - ((offset.x - this.x) * after) / before;
    this.y = offset.y - ((offset.y - this.y) * after) / before;
    this.#setScale(Number(after.toPrecision(3)));
  }
}

/**
 * @param {{x: number, y: number}} a
 * @param {{x: number, y: number}} b
 */
function distance(a, b) {
  return Math.hypot(a.x - b.x, a.y - b.y);
}
