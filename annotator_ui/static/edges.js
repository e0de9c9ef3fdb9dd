/**
 * The edge of a layer, seen apart from it: where it is half clear, and how far the colour of its rim is from the colour
 * of its inside. A fringe of another colour is bright in the half clear band, a halo on the opaque side of it.
 */

/** The longer side of a layer in cells, in which inside colours are averaged; what is called the rim is one or two wide. */
const CELLS = 128;
const SMALLEST_CELL = 3;
/** Alpha from which a pixel counts as opaque. */
const OPAQUE = 250;
/** Levels of difference that are shown as fully bright. */
const FULL = 96;
/** From the same as inside to wholly other: darker to lighter, so that it can be read without seeing colours. */
const RAMP = [[22, 38, 66], [38, 92, 130], [196, 128, 58], [255, 224, 128], [255, 255, 240]];

/**
 * @typedef {object} Edges
 * @property {ImageData} picture
 * @property {number} share of all visible pixels that are half clear, 0..1
 * @property {number | null} gap the mean difference of half clear pixels from the inside, weighed by alpha: levels of 255
 *
 * @typedef {object} Inside
 * @property {Float32Array} colour three levels a cell
 * @property {Uint8Array} full whether a cell is opaque throughout
 * @property {boolean} known whether there is any colour
 */

/** @param {ImageData} layer straight RGBA @returns {Edges} */
export function findEdges(layer) {
  const { width, height } = layer;
  const side = Math.max(SMALLEST_CELL, Math.round(Math.max(width, height) / CELLS));
  const across = Math.ceil(width / side);
  const words = new Uint32Array(layer.data.buffer); // a word a pixel, little-endian: alpha, blue, green, red
  const inside = insideColours(words, width, height, side);
  const picture = new ImageData(width, height);
  const out = new Uint32Array(picture.data.buffer);
  const colours = ramp();
  let [visible, half, weight, sum] = [0, 0, 0, 0];
  for (let y = 0, at = 0; y < height; y += 1) {
    const row = Math.floor(y / side) * across;
    for (let x = 0; x < width; x += 1, at += 1) {
      const word = /** @type {number} */ (words[at]);
      const alpha = word >>> 24;
      if (alpha === 0) continue;
      visible += 1;
      const cell = row + ((x / side) | 0);
      if (inside.full[cell] && alpha >= OPAQUE) {
        out[at] = faintGrey(word); // well inside: it says where the edge belongs
        continue;
      }
      // Of nearly clear pixels a browser keeps the colour to half of 255 / alpha levels: so much tells nothing.
      const gap = inside.known ? Math.max(0, distance(word, inside.colour, 3 * cell) - 127.5 / alpha) : 0;
      if (alpha < OPAQUE) {
        half += 1;
        weight += alpha;
        sum += alpha * gap;
      }
      out[at] = /** @type {number} */ (colours[Math.min(255, Math.round((255 * gap) / FULL))]);
    }
  }
  return { picture, share: visible ? half / visible : 0, gap: inside.known && weight ? sum / weight : null };
}

/** @param {number} word */
function faintGrey(word) {
  const grey = 16 + ((2 * (word & 255) + 5 * ((word >>> 8) & 255) + ((word >>> 16) & 255)) >> 5);
  return 0xff000000 | (grey << 16) | (grey << 8) | grey;
}

/** The largest difference of a channel. @param {number} word @param {Float32Array} colours @param {number} of */
function distance(word, colours, of) {
  const red = Math.abs((word & 255) - /** @type {number} */ (colours[of]));
  const green = Math.abs(((word >>> 8) & 255) - /** @type {number} */ (colours[of + 1]));
  const blue = Math.abs(((word >>> 16) & 255) - /** @type {number} */ (colours[of + 2]));
  return Math.max(red, green, blue);
}

/**
 * The mean colour of each cell that is opaque throughout, spread over the cells around; of thin layers that have no such
 * cell, of what is opaque in any.
 * @param {Uint32Array} words @param {number} width @param {number} height @param {number} side of a cell
 * @returns {Inside}
 */
function insideColours(words, width, height, side) {
  const [across, down] = [Math.ceil(width / side), Math.ceil(height / side)];
  const sums = new Float32Array(across * down * 4);
  for (let y = 0, at = 0; y < height; y += 1) {
    const row = Math.floor(y / side) * across;
    for (let x = 0; x < width; x += 1, at += 1) {
      const word = /** @type {number} */ (words[at]);
      if (word >>> 24 >= OPAQUE) add(sums, 4 * (row + ((x / side) | 0)), word & 255, (word >>> 8) & 255, (word >>> 16) & 255);
    }
  }
  const counts = Float32Array.from({ length: across * down }, (_, cell) => sums[4 * cell + 3] ?? 0);
  const full = Uint8Array.from(counts, (count, cell) => {
    const [column, line] = [cell % across, Math.floor(cell / across)];
    return Number(count === Math.min(side, width - column * side) * Math.min(side, height - line * side));
  });
  const known = full.includes(1) ? full.slice() : Uint8Array.from(counts, (count) => Number(count > 0));
  const colour = spread(sums, known, across);
  return { colour, full, known: known.includes(1) };
}

/** @param {Float32Array} sums @param {number} at @param {number} red @param {number} green @param {number} blue */
function add(sums, at, red, green, blue) {
  sums[at] = /** @type {number} */ (sums[at]) + red;
  sums[at + 1] = /** @type {number} */ (sums[at + 1]) + green;
  sums[at + 2] = /** @type {number} */ (sums[at + 2]) + blue;
  sums[at + 3] = /** @type {number} */ (sums[at + 3]) + 1;
}

/**
 * The means of the cells that are known; every other cell has the mean of its neighbours that have one, ring by ring.
 * @param {Float32Array} sums red, green, blue and how many, of each cell @param {Uint8Array} known @param {number} across
 */
function spread(sums, known, across) {
  const colour = new Float32Array(known.length * 3);
  const done = known.slice();
  for (let cell = 0; cell < known.length; cell += 1) if (!known[cell]) sums.fill(0, 4 * cell, 4 * cell + 4);
  /** @type {number[]} */
  let ring = [...known.keys()].filter((cell) => known[cell]);
  while (ring.length) {
    /** @type {number[]} */
    const next = [];
    for (const cell of ring) {
      done[cell] = 1;
      const count = sums[4 * cell + 3] || 1;
      for (let part = 0; part < 3; part += 1) colour[3 * cell + part] = (sums[4 * cell + part] ?? 0) / count;
    }
    for (const cell of ring) {
      for (const near of [cell - across, cell + across, cell % across ? cell - 1 : -1, (cell + 1) % across ? cell + 1 : -1]) {
        if (done[near] !== 0) continue;
        if (!sums[4 * near + 3]) next.push(near);
        add(sums, 4 * near, colour[3 * cell] ?? 0, colour[3 * cell + 1] ?? 0, colour[3 * cell + 2] ?? 0);
      }
    }
    ring = next;
  }
  return colour;
}

/** 256 colours as words of a little-endian canvas. */
function ramp() {
  return Uint32Array.from({ length: 256 }, (_, level) => {
    const place = (level / 255) * (RAMP.length - 1);
    const [from, to] = [RAMP[Math.floor(place)] ?? [], RAMP[Math.ceil(place)] ?? []];
    const [red = 0, green = 0, blue = 0] = from.map((value, channel) => value + ((to[channel] ?? 0) - value) * (place % 1));
    return (0xff000000 | (Math.round(blue) << 16) | (Math.round(green) << 8) | Math.round(red)) >>> 0;
  });
}
