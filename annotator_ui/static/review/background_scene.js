/** A generated outdoor scene with light and dark, smooth and textured areas, used as background. */

const HILLS = [
  { base: 0.5, height: 0.1, waves: 2.3, color: "#7f9fb5" },
  { base: 0.56, height: 0.07, waves: 3.7, color: "#5b7f7a" },
  { base: 0.62, height: 0.04, waves: 5.1, color: "#3f6650" },
];
const HILL_STEP = 8;
const GRASS_BLADES = 900;

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} width
 * @param {number} height
 */
export function drawScene(context, width, height) {
  // Sky and sun.
  fillGradient(context, 0, height * 0.66, ["#3d6fb0", "#9cc3e6", "#f3dfc1"], width);
  fillCircle(context, width * 0.78, height * 0.2, height * 0.06);

  // Hills, from back to front.
  for (const [index, hill] of HILLS.entries()) {
    context.fillStyle = hill.color;
    context.beginPath();
    context.moveTo(0, height);
    for (let x = 0; x <= width + HILL_STEP; x += HILL_STEP) {
      const phase = (x / width) * Math.PI * hill.waves + index * 1.9;
      const relief = 0.6 * Math.sin(phase) + 0.4 * Math.sin(2.7 * phase);
      context.lineTo(x, height * (hill.base - hill.height * relief));
    }
    context.lineTo(width, height);
    context.fill();
  }

  // Water and grass.
  fillGradient(context, height * 0.66, height * 0.8, ["#8fb3c9", "#4d7b96"], width);
  fillGradient(context, height * 0.8, height, ["#6f8f3c", "#2f4a1d"], width);
  const random = seededRandom(7);
  for (let blade = 0; blade < GRASS_BLADES; blade += 1) {
    const [x, y] = [random() * width, height * (0.8 + 0.2 * random())];
    context.strokeStyle = `hsl(${80 + 30 * random()} 45% ${18 + 40 * random()}%)`;
    context.beginPath();
    context.moveTo(x, y + 6);
    context.lineTo(x + 6 * (random() - 0.5), y - 6 - 10 * random());
    context.stroke();
  }
}

/**
 * Fill a horizontal band with a vertical gradient.
 * @param {CanvasRenderingContext2D} context
 * @param {number} top
 * @param {number} bottom
 * @param {string[]} colors
 * @param {number} width
 */
function fillGradient(context, top, bottom, colors, width) {
  const gradient = context.createLinearGradient(0, top, 0, bottom);
  for (const [index, color] of colors.entries()) {
    gradient.addColorStop(index / (colors.length - 1), color);
  }
  context.fillStyle = gradient;
  context.fillRect(0, top, width, bottom - top);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} y
 * @param {number} radius
 */
function fillCircle(context, x, y, radius) {
  context.fillStyle = "#fff6d8";
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

/**
 * Return a seeded random number generator (mulberry32), so that every reviewer sees the same scene.
 * @param {number} seed
 */
function seededRandom(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
