/** The reviewer's own background photo, stored in this browser's IndexedDB and never uploaded. */

const DATABASE = "layerloop";
const STORE = "photos";
const KEY = "background";
const MAX_SIZE = 2048;

/** Return the saved photo, or null if there is none. @returns {Promise<ImageBitmap | null>} */
export async function loadPhoto() {
  try {
    const saved = await runTransaction("readonly", (store) => store.get(KEY));
    return saved instanceof Blob ? await createImageBitmap(saved) : null;
  } catch {
    return null; // no storage, or the saved file is no longer readable
  }
}

/**
 * Save a photo, scaled down to at most 2048 pixels per side. Without storage, it is available only
 * until the page is closed.
 * @param {File} file
 */
export async function savePhoto(file) {
  const original = await createImageBitmap(file);
  const scale = Math.min(1, MAX_SIZE / Math.max(original.width, original.height));
  const canvas = new OffscreenCanvas(
    Math.round(original.width * scale),
    Math.round(original.height * scale),
  );
  const context = canvas.getContext("2d");
  if (context) {
    context.imageSmoothingQuality = "high";
    context.drawImage(original, 0, 0, canvas.width, canvas.height);
  }
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
  await runTransaction("readwrite", (store) => store.put(blob, KEY)).catch(() => null);
  return createImageBitmap(blob);
}

/**
 * Run one request in a transaction and return its result.
 * @param {IDBTransactionMode} mode
 * @param {(store: IDBObjectStore) => IDBRequest} createRequest
 * @returns {Promise<unknown>}
 */
async function runTransaction(mode, createRequest) {
  const opening = indexedDB.open(DATABASE, 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
  const database = /** @type {IDBDatabase} */ (await toPromise(opening));
  try {
    return await toPromise(createRequest(database.transaction(STORE, mode).objectStore(STORE)));
  } finally {
    database.close();
  }
}

/**
 * @param {IDBRequest} request
 * @returns {Promise<unknown>}
 */
function toPromise(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
