/** The nearest accepted sample, to compare a candidate with: in its place while a key is held, or laid half over it. */

import { make, part } from "./elements.js";
import { counted } from "./words.js";

const REMEMBERED = 32;

export class Compare {
  #stage;
  #shown;
  #get;
  /** Answers by candidate. @type {Map<string, Promise<Nearest | null>>} */
  #known = new Map();
  /** Whether it was wanted lately: then it is fetched ahead. */
  #wanted = false;

  /**
   * @param {import("./stage.js").Stage} stage
   * @param {() => Card | null} shown
   * @param {(path: string) => Promise<any>} get
   */
  constructor(stage, shown, get) {
    this.#stage = stage;
    this.#shown = shown;
    this.#get = get;
    let before = "";
    stage.addEventListener("change", () => {
      const card = shown();
      part("nearest").hidden = stage.get("beside") === "";
      if (!card || card.id === before) return;
      before = card.id;
      if (this.#wanted) this.#find(card);
      this.#wanted = false;
    });
  }

  /** Shows the sample: "blink" in the place of the candidate, "onion" half over it, "" not at all. @param {string} way */
  async show(way) {
    const card = this.#shown();
    if (!card) return;
    this.#wanted = true;
    this.#stage.set("beside", way);
    if (!way) return;
    part("nearest").textContent = "Looking for the nearest accepted sample…";
    const found = await this.#find(card).catch(() => undefined);
    if (this.#shown()?.id !== card.id) return;
    part("nearest").textContent = told(found);
    const layer = found?.layers.blended ?? found?.layers.foreground;
    if (!layer) return;
    const image = make("img", { src: layer.url, alt: "", "data-role": "nearest", draggable: "false" });
    await image.decode().catch(() => null);
    if (this.#shown()?.id === card.id) this.#stage.lay(image);
  }

  /** @param {Card} card @returns {Promise<Nearest | null>} */
  #find(card) {
    const known = this.#known.get(card.id) ?? this.#get(`/api/review/nearest?candidate=${card.id}`);
    known.catch(() => this.#known.delete(card.id));
    this.#known.set(card.id, known);
    for (const id of [...this.#known.keys()].slice(0, -REMEMBERED)) this.#known.delete(id);
    return known;
  }
}

/** @param {Nearest | null | undefined} found */
function told(found) {
  if (found === undefined) return "The nearest accepted sample cannot be had now.";
  if (found === null) return "Nothing else is accepted yet.";
  const near = found.bits === null ? "latest accepted sample" : `nearest accepted sample, ${counted(found.bits, "bit")} of 192 apart`;
  return `The ${near}: ${found.caption}`;
}
