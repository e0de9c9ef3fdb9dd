/**
 * The edge of a layer, seen apart from it: where it is half clear, and how far the colour of its rim is from the colour
 * of its inside. A fringe of another colour is bright in the half clear band, a halo on the opaque side of it.
 */

/** Side of the cells, in pixels, in which inside colours are averaged; the rim is a cell or two wide. */
const CELL = 8;
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
 */

/** @param {ImageData} layer straight RGBA @returns {Edges} */
export function findEdges(layer) {
  const { width, height, data } = layer;
  const across = Math.ceil(width / CELL);
  const inside = insideColours(layer, across, Math.ceil(height / CELL));
  const picture = new ImageData(width, height);
  const out = new Uint32Array(picture.data.buffer);
  const colours = ramp();
  let [visible, half, weight, sum] = [0, 0, 0, 0];
  for (let y = 0, at = 0; y < height; y += 1) {
    const row = Math.floor(y / CELL) * across;
    for (let x = 0; x < width; x += 1, at += 1) {
      const alpha = /** @type {number} */ (data[4 * at + 3]);
      if (alpha === 0) continue;
      visible += 1;
      const cell = row + ((x / CELL) | 0);
      const full = inside.full[cell];
      if (full && alpha >= OPAQUE) {
        // Well inside: shown faintly, as grey, to say where the edge belongs.
        const grey = 16 + (((data[4 * at] ?? 0) * 2 + (data[4 * at + 1] ?? 0) * 5 + (data[4 * at + 2] ?? 0)) >> 5);
        out[at] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
        continue;
      }
      // Of nearly clear pixels a browser keeps the colour to half of 255 / alpha levels: so much tells nothing.
      const gap = inside.known ? Math.max(0, distance(data, 4 * at, inside.colour, 3 * cell) - 127.5 / alpha) : 0;
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

/** The largest difference of a channel. @param {Uint8ClampedArray} data @param {number} at @param {Float32Array} colours @param {number} of */
function distance(data, at, colours, of) {
  const red = Math.abs(/** @type {number} */ (data[at]) - /** @type {number} */ (colours[of]));
  const green = Math.abs(/** @type {number} */ (data[at + 1]) - /** @type {number} */ (colours[of + 1]));
  const blue = Math.abs(/** @type {number} */ (data[at + 2]) - /** @type {number} */ (colours[of + 2]));
  return Math.max(red, green, blue);
}

/**
 * The mean colour of each cell that is opaque throughout, spread over the cells around; of thin layers that have no such
 * cell, of what is opaque in any.
 * @param {ImageData} layer @param {number} across @param {number} down
 */
function insideColours({ width, height, data }, across, down) {
  const sums = new Float32Array(across * down * 4);
  for (let y = 0; y < height; y += 1) {
    const row = Math.floor(y / CELL) * across;
    for (let x = 0; x < width; x += 1) {
      const at = 4 * (y * width + x);
      if (/** @type {number} */ (data[at + 3]) < OPAQUE) continue;
      const cell = 4 * (row + ((x / CELL) | 0));
      for (let part = 0; part < 3; part += 1) sums[cell + part] = (sums[cell + part] ?? 0) + (data[at + part] ?? 0);
      sums[cell + 3] = (sums[cell + 3] ?? 0) + 1;
    }
  }
  const cells = across * down;
  const full = new Uint8Array(cells);
  for (let cell = 0; cell < cells; cell += 1) {
    const [column, line] = [cell % across, Math.floor(cell / across)];
    const size = Math.min(CELL, width - column * CELL) * Math.min(CELL, height - line * CELL);
    full[cell] = Number(sums[4 * cell + 3] === size);
  }
  const thick = full.includes(1);
  const colour = new Float32Array(cells * 3);
  const known = new Uint8Array(cells);
  for (let cell = 0; cell < cells; cell += 1) {
    const number = /** @type {number} */ (sums[4 * cell + 3]);
    if (thick ? !full[cell] : !number) continue;
    known[cell] = 1;
    for (let channel = 0; channel < 3; channel += 1) colour[3 * cell + channel] = /** @type {number} */ (sums[4 * cell + channel]) / number;
  }
  return { colour, full, known: spread(colour, known, across, down) };
}

/**
 * Gives every cell without a colour the mean of its neighbours that have one, ring by ring.
 * @param {Float32Array} colour @param {Uint8Array} known @param {number} across @param {number} down
 * @returns {boolean} whether there is any colour
 */
function spread(colour, known, across, down) {
  let ring = [...known.keys()].filter((cell) => known[cell]);
  const any = ring.length > 0;
  while (ring.length) {
    /** @type {Map<number, number[]>} */
    const next = new Map();
    for (const cell of ring) {
      for (const near of around(cell, across, down)) {
        if (known[near]) continue;
        const sum = next.get(near) ?? [0, 0, 0, 0];
        next.set(near, [0, 1, 2].map((channel) => (sum[channel] ?? 0) + (colour[3 * cell + channel] ?? 0)).concat((sum[3] ?? 0) + 1));
      }
    }
    for (const [cell, sum] of next) {
      known[cell] = 1;
      for (let channel = 0; channel < 3; channel += 1) colour[3 * cell + channel] = (sum[channel] ?? 0) / (sum[3] ?? 1);
    }
    ring = [...next.keys()];
  }
  return any;
}

/** @param {number} cell @param {number} across @param {number} down */
function around(cell, across, down) {
  const [column, line] = [cell % across, Math.floor(cell / across)];
  const near = [];
  if (column > 0) near.push(cell - 1);
  if (column < across - 1) near.push(cell + 1);
  if (line > 0) near.push(cell - across);
  if (line < down - 1) near.push(cell + across);
  return near;
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
