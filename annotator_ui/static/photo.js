/** The reviewer's own photograph as a background: read from a file, kept in this browser's IndexedDB, never sent. */

const NAME = "layerloop";
const STORE = "photos";
const LARGEST = 2048;

/** The photograph that was kept, or null. @returns {Promise<ImageBitmap | null>} */
export async function readPhoto() {
  try {
    const kept = await run("readonly", (store) => store.get("background"));
    return kept instanceof Blob ? await createImageBitmap(kept) : null;
  } catch {
    return null; // no storage, or not a picture any more: there is no photograph
  }
}

/**
 * Keeps a photograph, at most 2,048 pixels on a side. Where nothing can be stored it is there until the page is left.
 * @param {File} file
 */
export async function keepPhoto(file) {
  const whole = await createImageBitmap(file);
  const scale = Math.min(1, LARGEST / Math.max(whole.width, whole.height));
  const canvas = new OffscreenCanvas(Math.round(whole.width * scale), Math.round(whole.height * scale));
  const context = canvas.getContext("2d");
  if (context) Object.assign(context, { imageSmoothingQuality: "high" }).drawImage(whole, 0, 0, canvas.width, canvas.height);
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
  await run("readwrite", (store) => store.put(blob, "background")).catch(() => null);
  return createImageBitmap(blob);
}

/**
 * @param {IDBTransactionMode} mode @param {(store: IDBObjectStore) => IDBRequest} ask
 * @returns {Promise<unknown>}
 */
async function run(mode, ask) {
  const opening = indexedDB.open(NAME, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
  const database = /** @type {IDBDatabase} */ (await answer(opening));
  try {
    return await answer(ask(database.transaction(STORE, mode).objectStore(STORE)));
  } finally {
    database.close();
  }
}

/** @param {IDBRequest} request @returns {Promise<unknown>} */
function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
