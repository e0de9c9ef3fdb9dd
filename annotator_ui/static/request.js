/** Talking to the API: JSON both ways, and every way it can fail is one of two errors. */

/** The server understood and said no. */
export class Refusal extends Error {
  /** @param {number} status @param {string} message @param {string} hint */
  constructor(status, message, hint) {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

/** No answer, or one that says "not now": the same request may be sent again. */
export class Unreachable extends Error {
  /** @param {string} message @param {number} [status] of the answer; 0 where there was none */
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const PATIENCE_MS = 20_000;

/**
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body]
 * @returns {Promise<any>} the answer's JSON
 */
export async function request(method, path, body) {
  const headers = new Headers({ Accept: "application/json" });
  if (method !== "GET") {
    headers.set("X-Layerloop", "1"); // a page elsewhere cannot send this header, so it cannot act in our name
    headers.set("Content-Type", "application/json");
  }
  const options = {
    method,
    headers,
    signal: AbortSignal.timeout(PATIENCE_MS),
    credentials: /** @type {const} */ ("same-origin"),
  };
  let response;
  try {
    response = await fetch(path, method === "GET" ? options : { ...options, body: JSON.stringify(body ?? {}) });
    if (response.ok) return response.status === 204 ? null : await response.json();
  } catch {
    throw new Unreachable("the server does not answer");
  }
  const error = await response.json().then(
    (answer) => answer.error ?? {},
    () => ({}),
  );
  const message = error.message ?? `the server said ${response.status}`;
  if (response.status >= 500 || response.status === 408 || response.status === 429)
    throw new Unreachable(message, response.status);
  throw new Refusal(response.status, message, error.hint ?? "");
}

/**
 * Sends a request that outlives the page, for whoever leaves it; nobody hears of its answer.
 * A beacon could not carry the header that shows the request to be ours.
 * @param {string} path @param {unknown} body
 */
export function sendOnLeaving(path, body) {
  const headers = { "X-Layerloop": "1", "Content-Type": "application/json" };
  const options = { method: "POST", headers, body: JSON.stringify(body), keepalive: true };
  fetch(path, { ...options, credentials: "same-origin" }).catch(() => {});
}

/**
 * Reads for a page that shows nothing without an answer: whoever is not signed in is sent to sign in.
 * @param {string} path
 */
export async function read(path) {
  try {
    return await request("GET", path);
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) toSignIn();
    throw error;
  }
}

/** Leaves for the sign-in page, which comes back here. */
export function toSignIn() {
  location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
}
