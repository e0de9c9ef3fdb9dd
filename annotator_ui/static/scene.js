/** A drawn scene to look at layers in: sky, hills, water and grass give light and dark, smooth and busy places. */

const HILLS = [
  { base: 0.5, height: 0.1, waves: 2.3, colour: "#7f9fb5" },
  { base: 0.56, height: 0.07, waves: 3.7, colour: "#5b7f7a" },
  { base: 0.62, height: 0.04, waves: 5.1, colour: "#3f6650" },
];
const BLADES = 900;

/** @param {CanvasRenderingContext2D} context @param {number} width @param {number} height */
export function drawScene(context, width, height) {
  slope(context, 0, height * 0.66, ["#3d6fb0", "#9cc3e6", "#f3dfc1"], width);
  disc(context, width * 0.78, height * 0.2, height * 0.06);
  for (const [index, hill] of HILLS.entries()) {
    context.fillStyle = hill.colour;
    context.beginPath();
    context.moveTo(0, height);
    for (let x = 0; x <= width + 8; x += 8) {
      const turn = (x / width) * Math.PI * hill.waves + index * 1.9;
      context.lineTo(x, height * (hill.base - hill.height * (0.6 * Math.sin(turn) + 0.4 * Math.sin(2.7 * turn))));
    }
    context.lineTo(width, height);
    context.fill();
  }
  slope(context, height * 0.66, height * 0.8, ["#8fb3c9", "#4d7b96"], width);
  slope(context, height * 0.8, height, ["#6f8f3c", "#2f4a1d"], width);
  const random = numbers(7);
  for (let blade = 0; blade < BLADES; blade += 1) {
    const [x, y] = [random() * width, height * (0.8 + 0.2 * random())];
    context.strokeStyle = `hsl(${80 + 30 * random()} 45% ${18 + 40 * random()}%)`;
    context.beginPath();
    context.moveTo(x, y + 6);
    context.lineTo(x + 6 * (random() - 0.5), y - 6 - 10 * random());
    context.stroke();
  }
}

/** @param {CanvasRenderingContext2D} context @param {number} top @param {number} bottom @param {string[]} colours @param {number} width */
function slope(context, top, bottom, colours, width) {
  const paint = context.createLinearGradient(0, top, 0, bottom);
  for (const [index, colour] of colours.entries()) paint.addColorStop(index / (colours.length - 1), colour);
  context.fillStyle = paint;
  context.fillRect(0, top, width, bottom - top);
}

/** @param {CanvasRenderingContext2D} context @param {number} x @param {number} y @param {number} radius */
function disc(context, x, y, radius) {
  context.fillStyle = "#fff6d8";
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

/** The same numbers for everybody (mulberry32): two people must see the same pixels. @param {number} seed */
function numbers(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
