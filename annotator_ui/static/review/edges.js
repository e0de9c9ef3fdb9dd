/**
 * Edge analysis of a layer: where it is semi-transparent, and how far the color of its rim differs
 * from the color of its interior. A color fringe shows up bright in the semi-transparent band, a
 * halo on the opaque side of it.
 */

/** The layer is divided into this many cells per side; interior colors are averaged per cell. */
const CELLS = 128;
const MIN_CELL_SIZE = 3;
/** Minimum alpha of an opaque pixel. */
const OPAQUE = 250;
/** Color difference (in levels of 255) that is shown at full brightness. */
const FULL_DIFFERENCE = 96;
/**
 * Color ramp from "same as the interior" to "different color"; brightness increases monotonically,
 * so that the map is readable with color blindness.
 */
const RAMP = [
  [22, 38, 66],
  [38, 92, 130],
  [196, 128, 58],
  [255, 224, 128],
  [255, 255, 240],
];

/**
 * @typedef {object} Edges
 * @property {ImageData} image
 * @property {number} share semi-transparent share of all visible pixels, 0..1
 * @property {number | null} difference mean color difference between semi-transparent pixels and
 *   the interior, weighted by alpha, in levels of 255
 *
 * @typedef {object} Interior
 * @property {Float32Array} color RGB per cell
 * @property {Uint8Array} full whether a cell is entirely opaque
 * @property {boolean} known whether any cell has a color
 */

/**
 * Compute the edge map of a layer.
 * @param {ImageData} layer straight RGBA
 * @returns {Edges}
 */
export function findEdges(layer) {
  const { width, height } = layer;
  const cellSize = Math.max(MIN_CELL_SIZE, Math.round(Math.max(width, height) / CELLS));
  const columns = Math.ceil(width / cellSize);
  const pixels = new Uint32Array(layer.data.buffer); // little-endian: 0xAABBGGRR
  const interior = findInterior(pixels, width, height, cellSize);
  const image = new ImageData(width, height);
  const output = new Uint32Array(image.data.buffer);
  const ramp = createRamp();

  let [visible, semiTransparent, weight, sum] = [0, 0, 0, 0];
  for (let y = 0, index = 0; y < height; y += 1) {
    const rowStart = Math.floor(y / cellSize) * columns;
    for (let x = 0; x < width; x += 1, index += 1) {
      const pixel = /** @type {number} */ (pixels[index]);
      const alpha = pixel >>> 24;
      if (alpha === 0) continue;
      visible += 1;
      const cell = rowStart + ((x / cellSize) | 0);
      if (interior.full[cell] && alpha >= OPAQUE) {
        output[index] = dimGray(pixel); // interior, shown for orientation only
        continue;
      }
      // Premultiplied storage rounds colors to 255 / alpha levels: ignore half of that.
      const difference = interior.known
        ? Math.max(0, colorDistance(pixel, interior.color, 3 * cell) - 127.5 / alpha)
        : 0;
      if (alpha < OPAQUE) {
        semiTransparent += 1;
        weight += alpha;
        sum += alpha * difference;
      }
      const level = Math.min(255, Math.round((255 * difference) / FULL_DIFFERENCE));
      output[index] = /** @type {number} */ (ramp[level]);
    }
  }
  return {
    image,
    share: visible ? semiTransparent / visible : 0,
    difference: interior.known && weight ? sum / weight : null,
  };
}

/** Return a pixel as dark gray. @param {number} pixel */
function dimGray(pixel) {
  const luma = 2 * (pixel & 255) + 5 * ((pixel >>> 8) & 255) + ((pixel >>> 16) & 255);
  const gray = 16 + (luma >> 5);
  return 0xff000000 | (gray << 16) | (gray << 8) | gray;
}

/**
 * Return the largest channel difference between a pixel and the color at an offset.
 * @param {number} pixel
 * @param {Float32Array} colors
 * @param {number} offset
 */
function colorDistance(pixel, colors, offset) {
  const red = Math.abs((pixel & 255) - /** @type {number} */ (colors[offset]));
  const green = Math.abs(((pixel >>> 8) & 255) - /** @type {number} */ (colors[offset + 1]));
  const blue = Math.abs(((pixel >>> 16) & 255) - /** @type {number} */ (colors[offset + 2]));
  return Math.max(red, green, blue);
}

/**
 * Compute the mean color of each fully opaque cell and extend it to the cells around. A thin layer
 * without such cells uses the opaque pixels of every cell.
 * @param {Uint32Array} pixels
 * @param {number} width
 * @param {number} height
 * @param {number} cellSize
 * @returns {Interior}
 */
function findInterior(pixels, width, height, cellSize) {
  const [columns, rows] = [Math.ceil(width / cellSize), Math.ceil(height / cellSize)];

  // Sum the opaque pixels per cell: red, green, blue, count.
  const sums = new Float32Array(columns * rows * 4);
  for (let y = 0, index = 0; y < height; y += 1) {
    const rowStart = Math.floor(y / cellSize) * columns;
    for (let x = 0; x < width; x += 1, index += 1) {
      const pixel = /** @type {number} */ (pixels[index]);
      if (pixel >>> 24 < OPAQUE) continue;
      const cell = rowStart + ((x / cellSize) | 0);
      addColor(sums, 4 * cell, pixel & 255, (pixel >>> 8) & 255, (pixel >>> 16) & 255);
    }
  }

  // A cell is full if all of its pixels are opaque; cells at the border are smaller.
  const counts = Float32Array.from(
    { length: columns * rows },
    (_, cell) => sums[4 * cell + 3] ?? 0,
  );
  const full = Uint8Array.from(counts, (count, cell) => {
    const [column, row] = [cell % columns, Math.floor(cell / columns)];
    const cellWidth = Math.min(cellSize, width - column * cellSize);
    const cellHeight = Math.min(cellSize, height - row * cellSize);
    return Number(count === cellWidth * cellHeight);
  });
  const known = full.includes(1)
    ? full.slice()
    : Uint8Array.from(counts, (count) => Number(count > 0));
  return { color: extendColors(sums, known, columns), full, known: known.includes(1) };
}

/**
 * @param {Float32Array} sums
 * @param {number} offset
 * @param {number} red
 * @param {number} green
 * @param {number} blue
 */
function addColor(sums, offset, red, green, blue) {
  sums[offset] = /** @type {number} */ (sums[offset]) + red;
  sums[offset + 1] = /** @type {number} */ (sums[offset + 1]) + green;
  sums[offset + 2] = /** @type {number} */ (sums[offset + 2]) + blue;
  sums[offset + 3] = /** @type {number} */ (sums[offset + 3]) + 1;
}

/**
 * Return the mean color of every cell. Unknown cells take the mean of their known neighbors, ring
 * by ring outward.
 * @param {Float32Array} sums red, green, blue and count per cell
 * @param {Uint8Array} known
 * @param {number} columns
 */
function extendColors(sums, known, columns) {
  const color = new Float32Array(known.length * 3);
  const done = known.slice();
  for (let cell = 0; cell < known.length; cell += 1) {
    if (!known[cell]) sums.fill(0, 4 * cell, 4 * cell + 4);
  }
  /** @type {number[]} */
  let ring = [...known.keys()].filter((cell) => known[cell]);
  while (ring.length) {
    // Finish the colors of this ring.
    for (const cell of ring) {
      done[cell] = 1;
      const count = sums[4 * cell + 3] || 1;
      for (let channel = 0; channel < 3; channel += 1) {
        color[3 * cell + channel] = (sums[4 * cell + channel] ?? 0) / count;
      }
    }
    // Add them to the unknown neighbors, which form the next ring.
    /** @type {number[]} */
    const next = [];
    for (const cell of ring) {
      for (const neighbor of neighborsOf(cell, columns)) {
        if (done[neighbor] !== 0) continue;
        const offset = 4 * neighbor;
        if (!sums[offset + 3]) next.push(neighbor);
        const [red = 0, green = 0, blue = 0] = color.subarray(3 * cell, 3 * cell + 3);
        addColor(sums, offset, red, green, blue);
      }
    }
    ring = next;
  }
  return color;
}

/**
 * Return the cells above, below, left and right; cells outside of the layer have invalid indices.
 * @param {number} cell
 * @param {number} columns
 */
function neighborsOf(cell, columns) {
  const left = cell % columns ? cell - 1 : -1;
  const right = (cell + 1) % columns ? cell + 1 : -1;
  return [cell - columns, cell + columns, left, right];
}

/** Return the color ramp as 256 little-endian pixels. */
function createRamp() {
  return Uint32Array.from({ length: 256 }, (_, level) => {
    const position = (level / 255) * (RAMP.length - 1);
    const from = RAMP[Math.floor(position)] ?? [];
    const to = RAMP[Math.ceil(position)] ?? [];
    const [red = 0, green = 0, blue = 0] = from.map(
      (value, channel) => value + ((to[channel] ?? 0) - value) * (position % 1),
    );
    const rgb = (Math.round(blue) << 16) | (Math.round(green) << 8) | Math.round(red);
    return (0xff000000 | rgb) >>> 0;
  });
}
