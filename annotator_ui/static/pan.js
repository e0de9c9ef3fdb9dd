/** Dragging and zooming a picture by mouse, wheel or two fingers, around the point that is touched. */

const SMALLEST = 0.1;
const LARGEST = 32;

export class Pan {
  x = 0;
  y = 0;
  #root;
  #scale;
  #zoom;
  #moved;
  /** @type {Map<number, {x: number, y: number}>} */
  #pointers = new Map();

  /**
   * @param {HTMLElement} root
   * @param {() => number} scale the scale now
   * @param {(scale: number) => void} zoom asks for another scale
   * @param {() => void} moved
   */
  constructor(root, scale, zoom, moved) {
    this.#root = root;
    this.#scale = scale;
    this.#zoom = zoom;
    this.#moved = moved;
    root.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    root.addEventListener("pointerdown", (event) => this.#down(event));
    root.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of /** @type {const} */ (["pointerup", "pointercancel"])) {
      root.addEventListener(name, (event) => this.#pointers.delete(event.pointerId));
    }
  }

  /** Back to the middle. */
  centre() {
    this.x = 0;
    this.y = 0;
  }

  /** Zooms around the middle of what is seen. @param {number} factor */
  zoomBy(factor) {
    const box = this.#root.getBoundingClientRect();
    this.#zoomAround(box.left + box.width / 2, box.top + box.height / 2, factor);
  }

  /** @param {number} x @param {number} y */
  moveBy(x, y) {
    this.x += x;
    this.y += y;
    this.#moved();
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault();
    this.#zoomAround(event.clientX, event.clientY, 2 ** (-event.deltaY / (event.deltaMode ? 12 : 400)));
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.button !== 0 || (event.target instanceof Element && event.target.closest("button, a"))) return;
    this.#root.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const factor = distance(now, other) / Math.max(distance(before, other), 1);
      this.#zoomAround((now.x + other.x) / 2, (now.y + other.y) / 2, factor);
    } else {
      this.moveBy(now.x - before.x, now.y - before.y);
    }
    this.#pointers.set(event.pointerId, now);
  }

  /** The point under (x, y) stays where it is. @param {number} x @param {number} y @param {number} factor */
  #zoomAround(x, y, factor) {
    const before = this.#scale();
    const after = Math.min(Math.max(before * factor, SMALLEST), LARGEST);
    const box = this.#root.getBoundingClientRect();
    const fromMiddle = { x: x - box.left - box.width / 2, y: y - box.top - box.height / 2 };
    this.x = fromMiddle.x - ((fromMiddle.x - this.x) * after) / before;
    this.y = fromMiddle.y - ((fromMiddle.y - this.y) * after) / before;
    this.#zoom(Number(after.toPrecision(3)));
  }
}

/** @param {{x: number, y: number}} a @param {{x: number, y: number}} b */
function distance(a, b) {
  return Math.hypot(a.x - b.x, a.y - b.y);
}
