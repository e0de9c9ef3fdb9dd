/** HTTP client of the JSON API. Every failure is either a `Refusal` or an `Unreachable`. */

/** The server rejected the request; repeating it does not help. */
export class Refusal extends Error {
  /**
   * @param {number} status
   * @param {string} message
   * @param {string} hint
   */
  constructor(status, message, hint) {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

/** No response, or a temporary error (408, 429, 5xx): the same request may be sent again. */
export class Unreachable extends Error {
  /**
   * @param {string} message
   * @param {number} [status] status of the response; 0 if there was none
   */
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const TIMEOUT_MS = 20_000;

/**
 * Send a request and return the JSON of its response.
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body]
 * @returns {Promise<any>}
 */
export async function request(method, path, body) {
  return (await send(method, path, body)).json;
}

/**
 * Send a request and return the headers and the JSON of its response.
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body]
 * @returns {Promise<{headers: Headers, json: any}>}
 */
async function send(method, path, body) {
  const headers = new Headers({ Accept: "application/json" });
  if (method !== "GET") {
    headers.set("X-Layerloop", "1"); // CSRF protection: other sites cannot send this header
    headers.set("Content-Type", "application/json");
  }
  const options = {
    method,
    headers,
    signal: AbortSignal.timeout(TIMEOUT_MS),
    credentials: /** @type {const} */ ("same-origin"),
  };

  let response;
  try {
    response = await fetch(
      path,
      method === "GET" ? options : { ...options, body: JSON.stringify(body ?? {}) },
    );
    if (response.ok) {
      const json = response.status === 204 ? null : await response.json();
      return { headers: response.headers, json };
    }
  } catch {
    throw new Unreachable("the server is not responding");
  }

  // Classify the error response as temporary or final.
  const error = await response.json().then(
    (json) => json.error ?? {},
    () => ({}),
  );
  const message = error.message ?? `the server returned status ${response.status}`;
  if (response.status >= 500 || response.status === 408 || response.status === 429) {
    throw new Unreachable(message, response.status);
  }
  throw new Refusal(response.status, message, error.hint ?? "");
}

/**
 * Send a POST request that outlives the page; its response is ignored. `navigator.sendBeacon` is
 * not an option, because it cannot set the CSRF header.
 * @param {string} path
 * @param {unknown} body
 */
export function sendOnLeaving(path, body) {
  const headers = { "X-Layerloop": "1", "Content-Type": "application/json" };
  const options = { method: "POST", headers, body: JSON.stringify(body), keepalive: true };
  fetch(path, { ...options, credentials: "same-origin" }).catch(() => {});
}

/**
 * GET data that the page cannot do without; redirect to the sign-in page on status 401.
 * @param {string} path
 */
export async function read(path) {
  return (await readResponse(path)).json;
}

/**
 * GET a page of a list; `next` is the value of `after` that continues it, null on the last page.
 * @param {string} path
 * @returns {Promise<{rows: any[], next: string | null}>}
 */
export async function readPage(path) {
  const { headers, json } = await readResponse(path);
  const target = /<([^>]*)>; rel="next"/.exec(headers.get("Link") ?? "")?.[1];
  const next = target ? new URL(target, location.origin).searchParams.get("after") : null;
  return { rows: json, next };
}

/** @param {string} path */
async function readResponse(path) {
  try {
    return await send("GET", path);
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) redirectToSignIn();
    throw error;
  }
}

let isSigningOut = false;

/**
 * Say whether the reviewer signs out; other requests may then be refused, and must not lead away.
 * @param {boolean} value
 */
export function setSigningOut(value) {
  isSigningOut = value;
}

/** Go to the sign-in page, which returns to the current page afterwards. */
export function redirectToSignIn() {
  if (!isSigningOut) location.assign(signInUrl());
}

/** Return the address of the sign-in page with the current page as its target. */
export function signInUrl() {
  return `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`;
}
